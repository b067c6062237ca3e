"""A patch while the clock of its worker's machine jumps."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.contract.patch_runs import (
    first_wave,
    skip_soak,
    states,
    told,
    write_calendar,
)
from tests.contract.patch_site import Site, did, ground_in, order, unproven, write_site
from tests.jumping_clock import JumpingClock, jumping_clock

from gpufleet.edges.playbooks import end_left
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows import operations
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_plan import plan_patch
from gpufleet.flows.patch_requests import request_patch
from gpufleet.spec.patching import HostState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
HOSTS = ["h100-001", "h100-002"]
HOUR_S = 3600
SOAKS_UNTIL = re.compile(r"it soaks until ([0-9-]+ [0-9:]+) UTC")


@pytest.fixture
def clock(tmp_path: Path) -> JumpingClock:
    """The worker's clock."""
    (tmp_path / "clock").mkdir()
    return jumping_clock(tmp_path / "clock")


@pytest.fixture
def ground(tmp_path: Path, clock: JumpingClock) -> Iterator[Ground]:
    """Two hosts, a freeze ten hours from now, and a worker."""
    declared = {"company": {"file": "company.ics", "stale_after_s": "2y"}}
    governance = {"calendar_required": True}
    file = write_site(tmp_path, hosts=2, governance=governance, freeze_calendars=declared)
    write_calendar(file, begins_in_s=10 * HOUR_S)
    made, site = ground_in(tmp_path), Site(HOSTS)
    site.place(made)
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.patch_worker", str(tmp_path)],
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **clock.variables},
        )
    yield made
    worker.kill()
    worker.wait()
    for batch in made.state.patches.glob("*/*"):
        end_left(batch)
    assert unproven(tmp_path) == {}
    site.stop()
    made.close()


def test_a_freeze_that_the_clock_jumps_into_holds_the_next_batch_and_keeps_the_lease(
    ground: Ground, tmp_path: Path, clock: JumpingClock, until: Until
) -> None:
    plan = plan_patch(ground, order())
    canary = plan.waves[0].hosts[0]
    waits = tmp_path / "faults" / f"{canary}-{plan.order.version}-waits"
    waits.touch()
    flow = request_patch(ground, plan, None)
    until(lambda: did(tmp_path), 200)
    clock.jump(11 * HOUR_S)
    waits.unlink()
    until(lambda: any("frozen" in held for held in ground.patches.report(flow).held), 200)
    assert states(ground.patches.report(flow)) == {canary: HostState.DONE}
    assert len(did(tmp_path)) == 1
    # Back to where it was: the lease that was taken in the future is still its own.
    clock.jump(0)
    assert operations.attach(ground, flow, lambda _: None)["outcome"] == "done"
    assert len(did(tmp_path)) == 2
    assert not [lease for lease in ground.leases.held() if lease.target.startswith("patch:")]


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_makes_a_soak_neither_shorter_nor_longer(
    ground: Ground, clock: JumpingClock, until: Until, by_s: int
) -> None:
    plan = plan_patch(ground, order(soak_s=600))
    flow = request_patch(ground, plan.model_copy(update=first_wave(plan)), None)

    def ends() -> datetime | None:
        found = SOAKS_UNTIL.match(told(ground, "wave 1: soak", flow))
        return datetime.fromisoformat(found[1]) if found else None

    before = until(ends, 200)
    clock.jump(by_s)
    moved = timedelta(seconds=by_s)
    until(lambda: (ends() or before) != before)
    assert abs((ends() or before) - before - moved) < timedelta(seconds=60)
    assert operations.shown(ground, flow).state == "running"
    skip_soak(ground)
    assert operations.attach(ground, flow, lambda _: None)["outcome"] == "done"
