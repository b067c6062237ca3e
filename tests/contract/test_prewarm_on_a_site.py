"""Weights are pulled ahead of a peak on an embedded site: its agent ends the pods, as nodes do."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.conftest import Embedded, Until
from tests.contract.pulling_worker import pulling_fleet
from tests.snapshot_bench import quiet

from gpufleet.core import vocabulary as names
from gpufleet.core.inventory import expand_site
from gpufleet.core.prewarming import Window
from gpufleet.edges.database import open_database
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.flows.prewarm_weights import PULLED, WeightsKeeper
from gpufleet.flows.snapshots.requests import TakeWish, taken

pytestmark = pytest.mark.timeout(400)
SITE = "solo"
BEFORE = datetime(2027, 3, 3, 7, 45, tzinfo=UTC)
"""Of a peak at eight, whose replicas start ten minutes ahead."""


def test_a_site_with_a_snapshot_has_it_on_every_node_before_the_replicas_start(
    another: Embedded, tmp_path: Path, until: Until
) -> None:
    another.up()
    database = open_database(another.state)
    database.migrate()
    file = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
    fleet = pulling_fleet("small", f"sha256:{0:064}")
    ground = Ground(Workspace(PROJECT_ROOT), file, fleet, another.state, database, lambda: BEFORE)
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": names.CACHE_NAMESPACE, "labels": dict(names.CACHE_SECURITY)},
    }
    cluster = another.cluster(SITE)
    cluster.create("/api/v1/namespaces", body)
    cluster.close()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_bytes(b"weights")
    report = taken(ground, TakeWish(tmp_path / "source", "llama-3.1-8b"), SITE, quiet)
    ground = replace(ground, fleet=pulling_fleet("small", report.digest))
    missing: list[int | None] = []

    def set_missing(_: Window, count: int | None) -> None:
        missing.append(count)

    keeper = WeightsKeeper(LiveGround(ground), "worker", set_missing)

    def is_told() -> bool:
        keeper.keep()
        return bool(ground.journal.latest(PULLED, 1))

    until(is_told)
    (record,) = ground.journal.latest(PULLED, 1)
    assert record.body["done"] == sorted(node.name for node in expand_site(fleet, SITE))
    assert set(missing) == {0}
    database.close()
