"""A batch's flow against a real object store that comes and goes, and a small Jobs API.

The real API server with Kueue is in `test_batches_on_a_site`.
"""

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from dbos import DBOS
from pydantic import JsonValue
from tests.conftest import Until
from tests.contract.batch_worker import SITE, USE_CASE, batch_fleet
from tests.contract.test_batches import _listens, free_port, line
from tests.contract.test_gateway_control import Server

from gpufleet.core import batch_jobs
from gpufleet.core.batch_answers import answer, written
from gpufleet.core.batch_jobs import ShardKeys
from gpufleet.edges.database import Database
from gpufleet.edges.engines import Binaries
from gpufleet.edges.workspace import EnvironmentDir, Workspace
from gpufleet.flows.batch import batch
from gpufleet.flows.batch_files import Caller, put_input, store_of, table_of
from gpufleet.flows.durable import CancelledError, Run
from gpufleet.flows.ground import Ground
from gpufleet.spec.batches import BatchOrder, BatchState
from gpufleet.spec.errors import FleetError

pytestmark = pytest.mark.timeout(120)
FASTER = 100
"""A minute of the environment's clock is 0.6 s."""
ANA = Caller("ana", "support", frozenset({USE_CASE}))


@dataclass
class FastClock:
    """A clock on which patience is over soon."""

    started: float = field(default_factory=time.monotonic)

    def __call__(self) -> datetime:
        passed_s = FASTER * (time.monotonic() - self.started)
        return datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(seconds=passed_s)


@dataclass
class Alone:
    """What a run asks of its worker, where nothing else runs."""

    cancelled: bool = False

    def demand_own(self) -> None:
        """It always has."""

    def is_cancelled(self, flow: str) -> bool:
        return bool(flow) and self.cancelled


@dataclass
class Site:
    """A Jobs API whose pods answer one shard, and keep what they have when they are ended."""

    ground: Ground
    ends_by_itself: bool = False
    at_end: Callable[[], None] = lambda: None
    job: dict[str, Any] | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the pods are gone."""

    def app(self) -> web.Application:
        jobs = "/apis/batch/v1/namespaces/gpufleet-batch/jobs"
        app = web.Application()
        app.router.add_get("/apis/kueue.x-k8s.io/v1beta1/clusterqueues/{name}", self._queue)
        app.router.add_post(jobs, self._create)
        app.router.add_get(f"{jobs}/{{name}}", self._get)
        app.router.add_delete(f"{jobs}/{{name}}", self._delete)
        return app

    async def _queue(self, _: web.Request) -> web.Response:
        return web.json_response({"spec": {"resourceGroups": []}})

    async def _create(self, request: web.Request) -> web.Response:
        self.job = await request.json()
        if self.ends_by_itself:
            await asyncio.to_thread(self._keep, "answers")
            done = {"type": "Complete", "status": "True"}
            self.job["status"] = {"conditions": [done], "completedIndexes": "0"}
        return web.json_response(self.job, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        del request
        if self.job is None:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response(self.job)

    async def _delete(self, request: web.Request) -> web.Response:
        if self.job is None:
            return web.json_response({"message": "not found"}, status=404)
        made = self.job
        if request.query["propagationPolicy"] == "Background":
            self.job = None
        if not self.ends_by_itself:
            threading.Timer(1.5, self._end_pods).start()
        else:
            self._gone()
        return web.json_response(made)

    def _end_pods(self) -> None:
        self._keep("partial")
        self._gone()

    def _gone(self) -> None:
        self.at_end()
        self.job = None
        self.ended.set()

    def _keep(self, what: str) -> None:
        keys = ShardKeys("batch-1", 0)
        made = [answer("batch-1", each, 200, each, {"said": each}) for each in ("a", "b")]
        bucket = batch_jobs.bucket_of(self.ground.fleet)
        store_of(self.ground, SITE).put(bucket, getattr(keys, what), written(made))


@pytest.fixture
def ground(
    binaries: Binaries, database: Database, tmp_path: Path, until: Until
) -> Iterator[Ground]:
    """An environment of one site with its object store."""
    state = EnvironmentDir(tmp_path / "state").make()
    for part in ("data", "versions"):
        (tmp_path / part).mkdir()
    port = free_port()
    process = subprocess.Popen(
        [
            *(str(binaries.paths["versitygw"]), f"--port=127.0.0.1:{port}", f"--region={SITE}"),
            *("--quiet", "posix", f"--versioning-dir={tmp_path / 'versions'}"),
            str(tmp_path / "data"),
        ],
        env={"ROOT_ACCESS_KEY_ID": "access", "ROOT_SECRET_ACCESS_KEY": "secret"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(partial(_listens, port))
    state.site(SITE).mkdir(parents=True)
    place(state, port)
    file = tmp_path / "fleet.yaml"
    made = Ground(Workspace(tmp_path), file, batch_fleet(), state, database, FastClock())
    yield made
    made.close()
    process.kill()
    process.wait()


def place(state: EnvironmentDir, port: int) -> None:
    """Where the site's store is told to be."""
    told = {"region": SITE, "access_key": "access", "secret_key": "secret"}
    endpoint = {"endpoint": f"http://127.0.0.1:{port}"}
    (state.site(SITE) / "s3.json").write_text(json.dumps(told | endpoint))


@pytest.fixture(autouse=True)
def steps(tmp_path: Path) -> Iterator[None]:
    """Steps outside of a worker: each is done, and none is kept."""
    DBOS(config={"name": "test", "system_database_url": f"sqlite:///{tmp_path / 'dbos.sqlite'}"})
    yield
    DBOS.destroy()


@pytest.fixture
def site(ground: Ground) -> Iterator[Site]:
    """The site's API."""
    server, made = Server(), Site(ground)
    port = server.start(made.app(), "127.0.0.1", 0)
    ground.state.kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": SITE, "context": {"cluster": "c", "user": "u"}}],
                "current-context": SITE,
            }
        )
    )
    yield made
    server.stop("127.0.0.1", port)


def ordered(ground: Ground) -> dict[str, Any]:
    stored = put_input(ground, ANA, "file-1", "r.jsonl", line("a") + line("b"))
    order = BatchOrder(
        id="batch-1",
        use_case=USE_CASE,
        team=ANA.team,
        owner=ANA.owner,
        pool="nightly",
        endpoint="",
        input_file="file-1",
        input_site=stored.site,
        input_key=stored.key,
        requests=2,
        created_at=ground.clock(),
        expires_at=ground.clock() + timedelta(days=1),
    )
    return {"batch": order.model_dump(mode="json")}


@dataclass
class Flow:
    """A batch's flow in a thread."""

    ground: Ground
    host: Alone = field(default_factory=Alone)
    result: dict[str, JsonValue] | None = None
    error: FleetError | None = None

    def __post_init__(self) -> None:
        order = ordered(self.ground)
        run = Run(self.ground, "batch-1", ANA.owner, self.host)  # type: ignore[arg-type]

        def work() -> None:
            try:
                self.result = batch(run, order)
            except FleetError as error:
                self.error = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def end(self) -> None:
        self._thread.join(90)
        assert not self._thread.is_alive()


def left(ground: Ground) -> list[str]:
    """What is in the store below the batch's prefix."""
    bucket = batch_jobs.bucket_of(ground.fleet)
    return store_of(ground, SITE).keys(bucket, batch_jobs.shards_prefix("batch-1"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_cancelled_batch_keeps_the_last_answers_of_its_pods_and_leaves_nothing(
    ground: Ground, site: Site, until: Until
) -> None:
    flow = Flow(ground)
    until(lambda: site.job)
    table_of(ground).change("batch-1", state=BatchState.CANCELLING)
    flow.end()
    assert site.ended.wait(20)
    assert flow.result
    assert (flow.result["state"], flow.result["completed"]) == ("cancelled", 2)
    assert left(ground) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_batch_whose_flow_is_cancelled_leaves_nothing(
    ground: Ground, site: Site, until: Until
) -> None:
    flow = Flow(ground)
    until(lambda: site.job)
    flow.host.cancelled = True
    flow.end()
    assert site.ended.wait(20)
    assert isinstance(flow.error, CancelledError)
    assert left(ground) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_store_that_is_away_when_a_batch_ends_costs_no_answer(
    ground: Ground, site: Site, until: Until
) -> None:
    site.ends_by_itself = True
    port = int(store_of(ground, SITE).endpoint.rpartition(":")[2])
    site.at_end = partial(place, ground.state, free_port())
    flow = Flow(ground)
    until(site.ended.is_set)
    away_since = ground.clock()
    until(lambda: ground.clock() > away_since + timedelta(minutes=10))
    place(ground.state, port)
    flow.end()
    assert flow.error is None
    assert flow.result
    assert (flow.result["state"], flow.result["completed"]) == ("completed", 2)
    assert left(ground) == []
