"""What a freeze holds back waits with a real worker, is shown, and goes by itself."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.contract.frozen_worker import ground_in
from tests.contract.test_overrides import NOON, frozen_fleet

from gpufleet.flows import operations, overrides
from gpufleet.flows.approvals import Signer, give
from gpufleet.flows.change import CHANGE
from gpufleet.flows.freeze_queue import waiting
from gpufleet.flows.ground import Ground
from gpufleet.flows.overrides import Wish
from gpufleet.spec.changes import ChangePlan
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.overrides import QueueRow

ROOT = Path(__file__).resolve().parents[2]
FLOW = "change-20260331-120000-a1b2c3"
ELSE = "is not the one that was planned"
"""How the flow ends once it is past its window: the plan is of another fleet file."""


@pytest.fixture
def folder(tmp_path: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet in a freeze that asks for no approval of a change."""
    monkeypatch.delenv("GPUFLEET_DATABASE_URL", raising=False)
    file = frozen_fleet(tmp_path, keys)
    file.write_text(file.read_text().replace("approvals_required: 2", "approvals_required: 0"))
    (tmp_path / "now").write_text(NOON.isoformat())
    return tmp_path


@pytest.fixture
def ground(folder: Path) -> Iterator[Ground]:
    """The environment, with a worker, and a change that was handed to it in the freeze."""
    made = ground_in(folder)
    with (folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.frozen_worker", str(folder)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ,
        )
    plan = ChangePlan(
        fleet="sample",
        environment="production",
        fleet_digest=f"sha256:{'0' * 64}",
        pools=[],
        stacks=[],
        openings=[],
        expected_s=600,
        rollback_s=600,
        approvals_needed=0,
    )
    order = {
        "actor": "jonas",
        "plan": plan.model_dump(mode="json"),
        "fleet_file": str(made.fleet_file),
    }
    operations.submit(made, CHANGE, FLOW, order)
    yield made
    made.close()
    worker.kill()
    worker.wait()


def held(ground: Ground, until: Until) -> QueueRow:
    [row] = until(lambda: waiting(ground))
    return row


def test_a_change_in_a_freeze_waits_and_says_since_when_and_until_when(
    ground: Ground, folder: Path, until: Until
) -> None:
    row = held(ground, until)
    assert (row.flow, row.kind, row.actor) == (FLOW, CHANGE, "jonas")
    assert row.waits_since == NOON.isoformat(timespec="seconds")
    assert row.sites == ["dub1", "fra1"]
    assert "Quarter end" in row.reason
    assert row.opens.startswith("2026-04-02T00:00")
    (folder / "now").write_text((NOON + timedelta(days=2)).isoformat())
    with pytest.raises(PolicyRefused, match=ELSE):
        operations.attach(ground, FLOW, lambda _: None)
    assert waiting(ground) == []


def test_an_override_lets_what_waits_go_on(
    ground: Ground, keys: dict[str, Path], until: Until
) -> None:
    held(ground, until)
    wish = Wish(
        sites=["fra1", "dub1"],
        changes=["stacks"],
        why="mends it",
        pools=[],
        node_groups=[],
        flow=FLOW,
        hours="1",
    )
    override = overrides.planned(ground, wish, "jonas")
    overrides.ask(ground, Signer("jonas", keys["jonas"]), override)
    assert held(ground, until).sites == ["dub1", "fra1"]
    give(ground, Signer("mara", keys["mara"]), override.id)
    with pytest.raises(PolicyRefused, match=ELSE):
        operations.attach(ground, FLOW, lambda _: None)


def test_a_change_that_was_cancelled_waits_no_more(ground: Ground, until: Until) -> None:
    held(ground, until)
    operations.cancel(ground, FLOW)
    assert waiting(ground) == []
