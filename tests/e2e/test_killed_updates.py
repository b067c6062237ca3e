"""`kill -9` of an update at any point: the next finishes it; nothing is made twice or lost."""

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.conftest import Until
from tests.e2e.cloned import Clone, copy_project

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
]

FLEET = "fleets/killed/production.yaml"
POOLS = 5
KINDS = "deployments,services,serviceaccounts,networkpolicies,poddisruptionbudgets,scaledobjects"
SEED = 20261125


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone whose site has more than one stack of pools; its platform runs, nothing stands."""
    clone = Clone(tmp_path_factory.mktemp("killed") / "gpufleet")
    copy_project(clone.root)
    shards = clone.root / "modules/gpufleet/core/shards.py"
    text = shards.read_text()
    assert text.count("POOLS_OF_A_STACK: Final = ") == 1
    shards.write_text(text.replace("POOLS_OF_A_STACK: Final = ", "POOLS_OF_A_STACK: Final = 3 or "))
    declare(clone.root, POOLS, replicas=2)
    try:
        clone.fleet("preview", "--fleet", FLEET)
        clone.use(FLEET)
        yield clone
    finally:
        clone.variables = {}
        declare(clone.root, POOLS, replicas=2)
        clone.fleet("down", "--purge", "--fleet", FLEET)


def declare(root: Path, pools: int, replicas: int) -> None:
    """Write the fleet file: the article's, with its pool, node group and use case several times."""
    fleet = yaml.safe_load((root / "fleets/article/production.yaml").read_text())
    group, use_case = fleet["node_groups"]["h100"], fleet["use_cases"]["answers"]
    pool = fleet["pools"]["answers"]
    del fleet["freeze_calendars"]
    fleet["governance"] = {"calendar_required": False}
    placement = {"replicas": replicas, "max_replicas": 4, "gpus_per_node": 1}
    numbers = range(pools)
    fleet |= {
        "fleet": "killed",
        "governance": {"calendar_required": False},
        "racks": {f"r{n}": {"site": "main", "power_limit_w": 30000} for n in range(POOLS)},
        "node_groups": {f"g{n}": {**group, "racks": [f"r{n}"], "nodes": 1} for n in range(POOLS)},
        "use_cases": {f"u{n}": use_case for n in numbers},
        "pools": {
            f"p{n}": {**pool, "use_cases": [f"u{n}"], "placements": {f"g{n}": placement}}
            for n in numbers
        },
    }
    file = root / FLEET
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(fleet, default=str))


def states(clone: Clone) -> list[dict[str, Any]]:
    """The last state of each stack."""
    folder = clone.root / ".fleet/killed/production/pulumi/state/.pulumi/stacks"
    files = sorted(folder.glob("*/*.json"))
    return [json.loads(file.read_text())["checkpoint"].get("latest") or {} for file in files]


def recorded(clone: Clone) -> dict[str, str]:
    """UID by kind and name of every object of a pool that the states hold."""
    return {
        f"{resource['outputs']['kind']}/{resource['outputs']['metadata']['name']}": resource[
            "outputs"
        ]["metadata"]["uid"]
        for state in states(clone)
        for resource in state.get("resources", [])
        if "ServingPool$" in resource["urn"]
    }


def standing(clone: Clone) -> dict[str, str]:
    """UID by kind and name of every object of a pool in the cluster."""
    listed = clone.kubectl("main", "get", KINDS, "-A", "-l", "gpufleet.dev/pool")["items"]
    return {
        f"{thing['kind']}/{thing['metadata']['name']}": thing["metadata"]["uid"] for thing in listed
    }


def steps(clone: Clone) -> int:
    """Resources that the states hold or that are being made."""
    return sum(
        len(state.get("resources", [])) + len(state.get("pending_operations") or [])
        for state in states(clone)
    )


def updating(clone: Clone) -> bool:
    """Whether anything of an update still runs."""
    stacks = str(clone.root / "stacks")
    return any((each.info["cwd"] or "").startswith(stacks) for each in psutil.process_iter(["cwd"]))


def kill_at(clone: Clone, count: int, until: Until) -> None:
    """Begin an update, and end all of it at once when so many resources have been begun."""
    task = subprocess.Popen(
        ["./fleet", "up", "--fleet", FLEET],
        cwd=clone.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **clone.variables},
    )
    begun = psutil.Process(task.pid)

    def reached() -> bool:
        return task.poll() is not None or steps(clone) >= count

    until(reached, 120)
    victims: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        victims = [begun, *begun.children(recursive=True)]
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    output, _ = task.communicate()
    assert task.returncode in {0, -signal.SIGKILL}, output.decode()
    # One that was started in between goes on, and ends.
    until(lambda: not updating(clone), 120)


def test_an_update_killed_at_many_points_is_finished_by_the_next(
    killed: Clone, until: Until
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - where to kill, the same each time
    for count in sorted(chance.sample(range(5, 90), 7)):
        kill_at(killed, count, until)
    done = killed.json("up", "--fleet", FLEET)

    assert len([stack for stack in done["stacks"] if stack["stack"].startswith("pools")]) == 2
    assert recorded(killed) == standing(killed)
    assert len(standing(killed)) == 6 * POOLS
    assert not any(state.get("pending_operations") for state in states(killed))
    assert killed.json("status", "--fleet", FLEET)["drift"] == []
    for stack in killed.json("up", "--fleet", FLEET)["stacks"]:
        assert stack["created"] == stack["updated"] == stack["replaced"] == stack["deleted"] == 0
    for stack in ("platform/killed-production-main", "pools/killed-production-main.2"):
        project, name = stack.split("/")
        plain = killed.pulumi(project, "preview", "--stack", name, "--expect-no-changes")
        assert plain.returncode == 0, plain.stdout


def test_what_a_killed_update_made_can_be_changed_and_removed(killed: Clone, until: Until) -> None:
    declare(killed.root, POOLS, replicas=3)
    killed.fleet("up", "--fleet", FLEET)
    assert all(
        row["replicas_ready"] == 3 for row in killed.json("status", "--fleet", FLEET)["pools"]
    )

    declare(killed.root, 1, replicas=3)
    killed.fleet("up", "--fleet", FLEET)
    before = steps(killed)
    declare(killed.root, POOLS, replicas=3)
    kill_at(killed, before + 12, until)
    # Nobody wants them any more: what the killed update had made of them has to go.
    declare(killed.root, 1, replicas=3)
    killed.fleet("up", "--fleet", FLEET)
    assert {name.rpartition("/")[2].removesuffix("-scale") for name in standing(killed)} == {"p0"}
    assert recorded(killed) == standing(killed)
