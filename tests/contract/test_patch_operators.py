"""Two operators at once: a flow, and a playbook that somebody runs by hand."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.contract.patch_runs import (  # noqa: F401 - a fixture
    HOSTS,
    Flow,
    environment,
    first_wave,
    steps,
    told,
)
from tests.contract.patch_site import SITE, did, order

from gpufleet.core.freeze import Purpose
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import plan_patch
from gpufleet.flows.playbook_guard import GuardOrder, admit
from gpufleet.spec.windows import ChangeKind


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """Four hosts; the process that keeps a playbook's lease finds the same database."""
    monkeypatch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{tmp_path / 'fleet.db'}")
    with environment(tmp_path, HOSTS) as made:
        yield made


def test_a_flow_waits_for_a_playbook_that_somebody_runs_by_hand(
    ground: Ground, until: Until
) -> None:
    playbook = subprocess.Popen(["sleep", "600"])
    try:
        asked = GuardOrder(
            hosts=["h100-001"],
            change=ChangeKind.DRIVER,
            purpose=Purpose.CHANGE,
            needs_s=60,
            process=playbook.pid,
            playbook="drivers",
            actor="jonas",
        )
        assert SITE in admit(ground, asked).fences
        plan = plan_patch(ground, order())
        flow = Flow(ground, plan.model_copy(update=first_wave(plan)))
        until(lambda: "held by drivers by jonas" in told(ground, "window: wave 1 batch 1"))
        assert did(ground.workspace.root) == []
    finally:
        playbook.kill()
        playbook.wait()
    # Whoever keeps its lease has seen it end.
    assert flow.end().outcome == "done"
