"""What containers of gpufleet's own image are told to run, as the program itself parses it.

On embedded sites no container runs, so that nothing else would find a task that is not there.
"""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pulumi
import pytest
from invoke import Collection, Config
from invoke.exceptions import ParseError
from invoke.loader import FilesystemLoader
from invoke.parser import Parser, ParserContext
from tests.drill_stages import placed_once
from tests.recorded import Recorder, declare
from tests.watched_fleets import on_clusters, with_a_peak

from gpufleet.components.admission import Admission
from gpufleet.components.batch_pod import BatchWork, batch_job
from gpufleet.components.gateway_deployment import deploy_gateway
from gpufleet.components.monitoring import Monitoring
from gpufleet.components.restore_job import RestoreWork, restore_job
from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.components.site import DeclaredSite
from gpufleet.components.site_platform import SitePlatform
from gpufleet.components.worker_deployment import deploy_worker
from gpufleet.core.drills.stage import stage_fleet
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import pools_at
from gpufleet.core.weights import store_access
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.drills.objects import contents
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.batches import BatchOrder, Priority
from gpufleet.spec.governance import SnapshotKeys
from gpufleet.spec.hardware import AddressingStyle, ObjectStorage
from gpufleet.spec.serving import ServingClass
from gpufleet.spec.snapshot_schedule import ScheduledRevision, SnapshotSchedule

FILE = PROJECT_ROOT / "fleets/sample/production.yaml"
SAMPLE = load_fleet(FILE)
STORE = ObjectStorage(
    endpoint="https://s3.example.com:9000",
    region="fra1",
    style=AddressingStyle.VIRTUAL,
    certificate_authority="ca.pem",
)
REVISIONS = {"chat-v7": ScheduledRevision(source="/v7", claim="models", site="fra1")}
BARE = on_clusters(with_a_peak(SAMPLE)).model_copy(
    update={
        "images": SAMPLE.images.model_copy(
            update={"gateway": "ghcr.io/gpufleet/gateway@sha256:" + "ab" * 32}
        ),
        "snapshot_schedule": SnapshotSchedule(revisions=REVISIONS),
    }
)
FULL = BARE.model_copy(
    update={
        "sites": {
            name: site.model_copy(update={"object_store": STORE})
            for name, site in BARE.sites.items()
        },
        "snapshot_keys": SnapshotKeys(encryption_key="k1"),
    }
)
TASKS = {
    "batch.answer",
    "dr.protect",
    "gateway.control",
    "snapshot.fill",
    "snapshot.take",
    "snapshot.weights",
    "worker",
}
_VARIABLE = re.compile(r"\$\([A-Z_]+\)")


@pytest.fixture(scope="module")
def known() -> Parser:
    """The program's own parser, with every task of the project."""
    module, _ = FilesystemLoader(start=str(PROJECT_ROOT), config=Config()).load("tasks")
    tasks = Collection.from_module(module)
    return Parser(contexts=tasks.to_contexts(), initial=ParserContext())


def parsed(known: Parser, arguments: list[str]) -> ParserContext:
    """The one task that the arguments are of; a variable has a number, as a Job's index does."""
    given = [_VARIABLE.sub("0", each) for each in arguments]
    (task,) = [each for each in known.parse_argv(given) if each.name]
    # An unknown flag counts as the value of what has none yet.
    strange = [each for each in given[1:] if each.split("=")[0] not in task.flags]
    if strange:
        raise ParseError(f"no option of {task.name}: {strange}", task)
    return task


def containers(thing: object, image: str) -> Iterator[dict[str, Any]]:
    """Every container of an image, wherever it stands in Kubernetes' data."""
    if isinstance(thing, dict):
        if thing.get("image") == image:
            yield thing
        for value in thing.values():
            yield from containers(value, image)
    elif isinstance(thing, list):
        for value in thing:
            yield from containers(value, image)


def declared(fleet: Fleet, file: Path, recorder: Recorder) -> list[dict[str, Any]]:
    """What the stacks of every site make."""
    context = PoolContext(fleet, pulumi.Output.from_input("http://prometheus"))

    def program() -> None:
        for site in fleet.sites:
            at = DeclaredSite(fleet, file, site)
            Admission(f"admission-{site}", fleet)
            SitePlatform(SitePlan.of(fleet, site))
            deploy_worker(at, pulumi.ResourceOptions())
            deploy_gateway(at, pulumi.ResourceOptions())
            Monitoring(f"monitoring-{site}", fleet, site)
            for pool in pools_at(fleet, site):
                ServingPool(pool, context)

    declare(program)
    return [each.inputs for each in recorder.made]


def by_flows(fleet: Fleet) -> Iterator[dict[str, Any]]:
    """What flows make beside the stacks: batches, restores to nodes, stages of drills."""
    now, image = datetime(2026, 11, 26, tzinfo=UTC), fleet.images.gpufleet
    pools = [pool for site in fleet.sites for pool in pools_at(fleet, site)]
    pool = next(each for each in pools if each.class_ is ServingClass.BATCH)
    order = BatchOrder(
        id="batch-20261126-101500-a1b2c3",
        team="finance",
        use_case="documents",
        owner="mara",
        pool=pool.name,
        priority=Priority.HIGH,
        endpoint="",
        input_file="file-1",
        input_site=pool.site,
        input_key="files/file-1.jsonl",
        requests=3,
        created_at=now,
        expires_at=now,
    )
    yield batch_job(order, pool, BatchWork(fleet.slug, image, "b", "https://s3", "fra1", 3))
    store = store_access(FULL, pool.site)
    assert store is not None
    work = RestoreWork(
        job="restore-h100-x-1",
        fleet=fleet.slug,
        image=image,
        snapshot="20261126T101500Z-3fa9c1d2",
        revision="chat-v7",
        node_group="h100",
        nodes=1,
        parallelism=1,
        bucket="b",
        store=store,
        encrypted=fleet is FULL,
    )
    yield restore_job(work, json.dumps(["a"]))
    stage = stage_fleet(fleet, placed_once(pools))
    for site in fleet.sites:
        yield from contents(stage, site, "drill-20260301-101500-a1b2c3", started=True)


@pytest.mark.parametrize("fleet", [BARE, FULL], ids=["bare", "with stores of its own"])
def test_every_container_of_our_image_runs_a_task_with_options_that_there_are(
    fleet: Fleet, recorder: Recorder, known: Parser, tmp_path: Path
) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(FILE.parent, folder)
    (folder / "ca.pem").touch()
    made = [*declared(fleet, folder / FILE.name, recorder), *by_flows(fleet)]
    found = {
        tuple(each["args"]) for thing in made for each in containers(thing, fleet.images.gpufleet)
    }
    ran = set()
    for arguments in found:
        task = parsed(known, [*arguments])
        ran.add(task.name)
        # What would only show its plan does nothing in a pod.
        assert "apply" not in task.args or task.args["apply"].value is True, arguments
    assert ran == TASKS


@pytest.mark.parametrize(
    "arguments",
    [
        ["restore", "--source=s3://models/chat"],
        ["snapshot.weights", "--source=s3://models/chat", "--into=/models"],
        ["snapshot.weights", "--source=s3://models/chat", "--apply"],
    ],
    ids=["no such task", "no such option", "not all that it needs"],
)
def test_what_the_program_would_refuse_is_found(known: Parser, arguments: list[str]) -> None:
    with pytest.raises((ParseError, ValueError)):
        parsed(known, arguments)
