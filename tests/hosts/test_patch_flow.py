"""Patches of real hosts by the flow and its own playbooks: a canary, a version that breaks."""

from collections.abc import Iterator

import pytest
from tests.conftest import Until
from tests.contract.patch_runs import Flow, first_wave, steps  # noqa: F401 - a fixture
from tests.contract.patch_site import order
from tests.hosts.packages import CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.patched import PatchedLab, patched_lab

from gpufleet.flows.patch_plan import plan_patch
from gpufleet.spec.errors import TargetMissed
from gpufleet.spec.patching import HostState, PatchReport

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]
HOLDER = "gpu-008"
"""The host that all replicas stand on, and that no early wave takes."""


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[PatchedLab]:
    """Eight hosts, and the replicas of their pool on one of them."""
    with (
        pytest.MonkeyPatch.context() as patch,
        patched_lab(tmp_path_factory.mktemp("flow"), until, holder=HOLDER) as made,
    ):
        for name, value in made.lab.environment.items():
            patch.setenv(name, value)
        yield made


def run_first_wave(patched: PatchedLab, flow: str, version: str) -> tuple[Flow, PatchReport]:
    """The first wave of a patch."""
    plan = plan_patch(patched.ground, order(version=version))
    # No Prometheus stands here: its gates are tried elsewhere.
    cut = {**first_wave(plan), "gates": []}
    made = Flow(patched.ground, plan.model_copy(update=cut), flow)
    return made, made.end(1500)


def test_a_canary_gets_the_driver_and_serves_again(patched: PatchedLab) -> None:
    flow, report = run_first_wave(patched, "patch-good", GOOD)
    assert flow.error is None
    [canary] = report.hosts
    outcome = report.hosts[canary]
    assert (outcome.state, outcome.before, outcome.after) == (HostState.DONE, CURRENT, GOOD)
    assert patched.lab[canary].driver() == GOOD
    assert not patched.is_cordoned(canary)


def test_a_version_that_breaks_is_rolled_back_by_itself(patched: PatchedLab) -> None:
    flow, report = run_first_wave(patched, "patch-bad", FAILS_TO_INSTALL)
    assert isinstance(flow.error, TargetMissed)
    [canary] = report.hosts
    assert report.hosts[canary].state is HostState.ROLLED_BACK
    assert report.outcome == "rolled-back"
    assert patched.lab[canary].driver() == report.hosts[canary].before
    assert not patched.is_cordoned(canary)
    assert {"patch.requested", "patch.ended"} <= {
        record.event for record in patched.ground.journal.records()
    }
