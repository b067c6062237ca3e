"""Batches against real object stores and databases: files, shards, the API's answers."""

import asyncio
import hashlib
import json
import os
import socket
import stat
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import ClientSession, UnixConnector, web
from tests.conftest import Until

from gpufleet.core import batch_jobs
from gpufleet.core import vocabulary as names
from gpufleet.core.batch_api import ApiRefused
from gpufleet.core.batch_jobs import ShardKeys
from gpufleet.core.gateway.routes import routes_of
from gpufleet.edges import batch_shard
from gpufleet.edges.batch_shard import Engine, Shard
from gpufleet.edges.batch_table import BatchTable
from gpufleet.edges.database import Database
from gpufleet.edges.engines import Binaries
from gpufleet.edges.gateway_environment import gateway_python
from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import batch_api, batches, operations
from gpufleet.flows.batch import new_batch
from gpufleet.flows.batch_answer import FORM
from gpufleet.flows.batch_files import Caller, store_of, sweep, table_of
from gpufleet.flows.batch_http import BatchServer
from gpufleet.flows.ground import Ground
from gpufleet.local.engine.batch_run import BatchRuns, finished_status, stopped_status
from gpufleet.spec import load_fleet
from gpufleet.spec.batches import (
    BATCH_SOCKET,
    CALLER_KEY_HEADER,
    CALLER_TEAM_HEADER,
    BatchOrder,
    BatchState,
)
from gpufleet.spec.errors import BadInput, Failed, PolicyRefused, Retryable
from gpufleet.spec.gateway import KEYS_FILE, ROUTES_FILE, Key, Keys

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
FINANCE = Caller("key-1", "finance", frozenset({"document-extraction"}))
KEY = f"gf-finance00000-{'k' * 43}"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that a test sets."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def places(
    binaries: Binaries, tmp_path_factory: pytest.TempPathFactory, until: Until
) -> Iterator[dict[str, Place]]:
    """A running object store for each site of the sample fleet."""
    found, processes = {}, []
    for site in FLEET.sites:
        folder = tmp_path_factory.mktemp(site)
        for part in ("data", "versions"):
            (folder / part).mkdir()
        port = free_port()
        processes.append(
            subprocess.Popen(
                [
                    *(str(binaries.paths["versitygw"]), f"--port=127.0.0.1:{port}"),
                    *(f"--region={site}", "--quiet", "posix"),
                    *(f"--versioning-dir={folder / 'versions'}", str(folder / "data")),
                ],
                env={"ROOT_ACCESS_KEY_ID": "access", "ROOT_SECRET_ACCESS_KEY": "secret"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        found[site] = Place(f"http://127.0.0.1:{port}", site, "access", "secret")
        until(partial(_listens, port))
    yield found
    for process in processes:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ground(
    places: dict[str, Place], database: Database, clock: Clock, tmp_path: Path
) -> Iterator[Ground]:
    """The sample environment on an empty database, in buckets of this test alone."""
    state = EnvironmentDir(tmp_path / "state").make()
    for site, place in places.items():
        state.site(site).mkdir(parents=True)
        (state.site(site) / "s3.json").write_text(json.dumps(vars(place)))
    fleet = FLEET.model_copy(update={"fleet": f"t{datetime.now(UTC):%H%M%S%f}"})
    made = Ground(Workspace(tmp_path), tmp_path / "fleet.yaml", fleet, state, database, clock)
    yield made
    made.close()


def line(custom_id: str, **body: object) -> bytes:
    request = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": custom_id}], **body},
    }
    return json.dumps(request).encode() + b"\n"


def upload(ground: Ground, content: bytes, caller: Caller = FINANCE) -> str:
    made = batch_api.create_file(ground, caller, "requests.jsonl", "batch", content)
    return str(made["id"])


def asked(file: str, **more: object) -> dict[str, Any]:
    endpoint = "/v1/chat/completions"
    return {"input_file_id": file, "endpoint": endpoint, "completion_window": "24h", **more}


def order(batch: str, **fields: Any) -> BatchOrder:  # noqa: ANN401 - fields of an order
    given = {
        "id": batch,
        "use_case": "document-extraction",
        "team": "finance",
        "owner": "key-1",
        "pool": "documents",
        "endpoint": "",
        "input_file": "file-1",
        "input_site": "fra1",
        "input_key": "k",
        "requests": 2,
        "created_at": START,
        "expires_at": START + timedelta(hours=1),
        **fields,
    }
    return BatchOrder.model_validate(given)


def test_a_batch_is_kept_once_and_changed_only_where_it_may_be(database: Database) -> None:
    table = BatchTable(database)
    table.add(new_batch(order("batch-1")))
    table.change("batch-1", state=BatchState.IN_PROGRESS, completed=1)
    table.add(new_batch(order("batch-1")))
    table.add(new_batch(order("batch-2", team="legal", created_at=START + timedelta(1))))
    kept = table.find("batch-1")
    assert kept is not None
    assert (kept.state, kept.completed, kept.expires_at.tzinfo) == (
        BatchState.IN_PROGRESS,
        1,
        UTC,
    )
    unchanged = table.change(
        "batch-1", only_in={BatchState.VALIDATING}, state=BatchState.CANCELLING
    )
    assert unchanged == kept
    assert table.change("batch-0", completed=3) is None
    assert [each.id for each in table.listed()] == ["batch-2", "batch-1"]
    assert [each.id for each in table.listed(team="finance")] == ["batch-1"]
    assert table.listed(team="finance", use_cases={"other"}) == []


def test_a_file_is_there_until_its_time_is_over_and_then_it_is_gone(
    ground: Ground, clock: Clock
) -> None:
    content = line("a")
    file = upload(ground, content)
    assert batch_api.file_content(ground, FINANCE, file) == content
    stored = table_of(ground).find_file(file)
    assert stored is not None
    clock.now = stored.expires_at - timedelta(seconds=1)
    assert sweep(ground) == 0
    clock.now = stored.expires_at
    assert sweep(ground) == 1
    with pytest.raises(ApiRefused, match="No file found"):
        batch_api.file_content(ground, FINANCE, file)
    bucket = batch_jobs.bucket_of(ground.fleet)
    store = store_of(ground, stored.site)
    assert store.keys(bucket, "") == []
    # Nothing of it stays below as a version.
    assert store.versions(bucket, "") == []
    assert [record.event for record in ground.journal.records()] == ["batch.file.deleted"]


def test_a_file_that_was_deleted_is_gone_and_one_that_a_batch_needs_stays(ground: Ground) -> None:
    needed, other = upload(ground, line("a")), upload(ground, line("b"))
    batch_api.create_batch(ground, FINANCE, asked(needed))
    with pytest.raises(ApiRefused, match="needs this file"):
        batch_api.delete_file(ground, FINANCE, needed)
    assert batch_api.delete_file(ground, FINANCE, other)["deleted"] is True
    with pytest.raises(ApiRefused, match="No file found"):
        batch_api.retrieve_file(ground, FINANCE, other)


def test_a_file_is_kept_within_the_residency_of_every_use_case_of_its_key(ground: Ground) -> None:
    irish = ground.fleet.use_cases["document-extraction"].model_copy(update={"residency": ["ie"]})
    use_cases = {**ground.fleet.use_cases, "document-extraction": irish}
    elsewhere = Ground(
        ground.workspace,
        ground.fleet_file,
        ground.fleet.model_copy(update={"use_cases": use_cases}),
        ground.state,
        ground.database,
        ground.clock,
    )
    stored = table_of(elsewhere).find_file(upload(elsewhere, line("a")))
    assert stored is not None
    assert stored.site == "dub1"


def test_a_batch_is_what_openais_client_expects(ground: Ground) -> None:
    file = upload(ground, line("a") + line("b", model="document-extraction"))
    made = batch_api.create_batch(ground, FINANCE, asked(file, metadata={"run": "7"}))
    assert made["object"] == "batch"
    assert (made["status"], made["completion_window"]) == ("validating", "24h")
    assert made["input_file_id"] == file
    assert made["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert made["metadata"] == {"run": "7"}
    assert made["expires_at"] - made["created_at"] == 86_400
    assert batch_api.retrieve_batch(ground, FINANCE, made["id"]) == made
    assert operations.shown(ground, made["id"]).state == "queued"
    [second, first] = [
        batch_api.create_batch(ground, FINANCE, asked(file))["id"],
        made["id"],
    ]
    page = batch_api.list_batches(ground, FINANCE, limit=1)
    assert page["has_more"] is True
    rest = batch_api.list_batches(ground, FINANCE, after=page["last_id"])
    assert {page["first_id"], rest["first_id"]} == {first, second}
    assert rest["has_more"] is False
    cancelled = batch_api.cancel_batch(ground, FINANCE, first)
    assert cancelled["status"] == "cancelling"
    assert batch_api.cancel_batch(ground, FINANCE, first) == cancelled
    events = [record.event for record in ground.journal.records()]
    assert events.count("batch.cancelled") == 1


@pytest.mark.parametrize(
    "other",
    [
        Caller("key-2", "legal", frozenset({"document-extraction"})),
        Caller("key-1", "finance", frozenset({"mail-classification"})),
    ],
)
def test_no_other_team_and_no_key_for_another_use_case_sees_a_batch_or_its_files(
    ground: Ground, other: Caller
) -> None:
    file = upload(ground, line("a"))
    batch = batch_api.create_batch(ground, FINANCE, asked(file))["id"]
    for call in (
        lambda: batch_api.retrieve_batch(ground, other, batch),
        lambda: batch_api.cancel_batch(ground, other, batch),
        lambda: batch_api.retrieve_file(ground, other, file),
        lambda: batch_api.file_content(ground, other, file),
        lambda: batch_api.delete_file(ground, other, file),
        lambda: batch_api.create_batch(ground, other, asked(file)),
    ):
        with pytest.raises(ApiRefused) as error:
            call()
        assert (error.value.status, error.value.code) == (404, "not_found")
    assert batch_api.list_batches(ground, other)["data"] == []
    assert batch_api.list_files(ground, other)["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({}, "input_file_id"),
        (asked("file", endpoint="/v1/embeddings"), "endpoint"),
        (asked("file", metadata={"a": 1}), "metadata"),
        (asked("file", metadata={"a": "\ud800"}), "metadata"),
    ],
)
def test_a_wrong_request_for_a_batch_names_its_field(
    ground: Ground, body: object, param: str | None
) -> None:
    with pytest.raises(ApiRefused) as error:
        batch_api.create_batch(ground, FINANCE, body)
    assert (error.value.status, error.value.param) == (400, param)
    assert error.value.as_json()["error"]["type"] == "invalid_request_error"


def test_nothing_of_a_wrong_file_is_submitted(ground: Ground) -> None:
    file = upload(ground, line("a") + b"nope\n")
    with pytest.raises(ApiRefused, match="Line 2: is not JSON"):
        batch_api.create_batch(ground, FINANCE, asked(file))
    other = upload(ground, line("a", model="mail-classification"))
    with pytest.raises(ApiRefused, match="may not use the model"):
        batch_api.create_batch(ground, FINANCE, asked(other))
    with pytest.raises(ApiRefused, match="completion_window"):
        batch_api.create_batch(ground, FINANCE, asked(file, completion_window="1s"))
    wish, too_long = batches.Wish("document-extraction"), line("b", max_tokens=10**6)
    with pytest.raises(BadInput, match="f:2: asks for"):
        batches.submit_content(ground, wish, line("a") + too_long, "f")
    assert table_of(ground).listed() == []
    assert operations.listed(ground) == []


def test_an_interactive_use_case_gets_no_batch(ground: Ground) -> None:
    person = Caller("key-3", "support", frozenset({"support-chat"}))
    with pytest.raises(ApiRefused) as error:
        upload(ground, line("a"), person)
    assert error.value.status == 403
    with pytest.raises(PolicyRefused, match="never run in interactive pools"):
        batches.submit_content(ground, batches.Wish("support-chat"), line("a"), "f")


def test_a_submission_by_the_command_line_is_planned_first(ground: Ground) -> None:
    wish = batches.wish_of("document-extraction", "high", "2h")
    plan = batches.plan(ground, wish, line("a") * 1, "f.jsonl")
    assert (plan.requests, plan.shards, plan.gpus_per_shard) == (1, 1, 4)
    assert {site.site for site in plan.sites} == {"fra1", "dub1"}
    assert table_of(ground).listed() == []
    made = batches.submit_content(ground, wish, line("a"), "f.jsonl")
    assert made.expires_at - made.created_at == timedelta(hours=2)
    with pytest.raises(BadInput, match="has not ended yet"):
        batches.results(ground, made.id)
    batches.cancel(ground, made.id, "mara")
    table_of(ground).change(made.id, state=BatchState.CANCELLED)
    with pytest.raises(BadInput, match="has ended: cancelled"):
        batches.cancel(ground, made.id, "mara")


@dataclass
class FakeApi:
    """A server of OpenAI's protocol whose answers a test decides."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    status: Callable[[str, int], int] = lambda _name, _nth: 200
    """By what was said, and how often it was."""
    held: set[str] = field(default_factory=set)
    """Not answered at all."""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["messages"][0]["content"]
        self.asked.append(body)
        nth = sum(each["messages"][0]["content"] == name for each in self.asked)
        if name in self.held:
            await asyncio.Event().wait()
        status = self.status(name, nth)
        return web.json_response({"said": name}, status=status, headers={"x-request-id": name})


@pytest.fixture
def api(until: Until) -> Iterator[FakeApi]:
    fake, loop, ready = FakeApi(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", fake.answer)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert runner.addresses
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()

    loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    until(ready.is_set)
    yield fake
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def store(places: dict[str, Place]) -> ObjectStore:
    made = ObjectStore(places["fra1"])
    made.make_bucket("shards")
    return made


@pytest.fixture
def shard(store: ObjectStore) -> Shard:
    """Four requests a, b, c, d in a shard of this test's own."""
    keys = ShardKeys(f"batch-{uuid.uuid4().hex[:12]}", 0)
    content = b"".join(
        json.dumps({"custom_id": id_, "url": "/v1/chat/completions", "body": body}).encode() + b"\n"
        for id_ in "abcd"
        for body in [{"messages": [{"role": "user", "content": id_}]}]
    )
    store.put("shards", keys.requests, content)
    return Shard("b-0", store, "shards", keys, FORM)


def answered(shard: Shard) -> dict[str, int]:
    content = shard.store.get(shard.bucket, shard.keys.answers)
    return {each["custom_id"]: each["response"]["status_code"] for each in FORM.answers(content)}


def test_a_shard_is_answered_whole_and_then_left_alone(shard: Shard, api: FakeApi) -> None:
    api.status = lambda name, _nth: 400 if name == "c" else 200
    assert shard.left() == 4
    assert shard.answer(Engine(api.url, 2))
    assert answered(shard) == {"a": 200, "b": 200, "c": 400, "d": 200}
    assert shard.left() == 0
    assert shard.answer(Engine("http://127.0.0.1:9", 2))
    assert len(api.asked) == 4
    assert shard.store.keys("shards", shard.keys.partial) == []


def test_whoever_is_stopped_keeps_what_it_has_and_the_next_goes_on_from_there(
    shard: Shard, api: FakeApi
) -> None:
    api.held = {"c", "d"}
    stopped = lambda: len(api.asked) == 4  # noqa: E731 - a condition
    assert not shard.answer(Engine(api.url, 4), stopped)
    assert shard.left() == 2
    api.held = set()
    api.asked.clear()
    assert shard.answer(Engine(api.url, 4))
    assert sorted(each["messages"][0]["content"] for each in api.asked) == ["c", "d"]
    assert answered(shard) == dict.fromkeys("abcd", 200)


@pytest.mark.parametrize("status", [429, 503])
def test_an_engine_that_is_busy_is_asked_again(shard: Shard, api: FakeApi, status: int) -> None:
    api.status = lambda _name, nth: status if nth < 3 else 200
    assert shard.answer(Engine(api.url, 4))
    assert answered(shard) == dict.fromkeys("abcd", 200)


def test_a_lost_engine_fails_the_shard_with_what_was_answered_kept(
    shard: Shard, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_shard, "ENGINE_LOST_AFTER_S", 0.0)
    api.status = lambda name, _nth: 503 if name == "d" else 200
    with pytest.raises(Retryable, match="engine does not answer: HTTP 503"):
        shard.answer(Engine(api.url, 1))
    assert shard.left() == 1


def test_a_store_that_is_away_for_a_while_does_not_end_a_shards_work(
    shard: Shard, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_shard, "_KEEP_EVERY_S", 0.0)
    api.status = lambda name, nth: 503 if name == "d" and nth < 4 else 200
    kept: list[int] = []

    def keep(lines: list[batch_shard.Line]) -> None:
        kept.append(len(lines))
        if len(kept) == 1:
            raise Retryable("the object store does not answer")

    asks = FORM.requests(shard.store.get(shard.bucket, shard.keys.requests))
    numbered = [(str(number), ask) for number, ask in enumerate(asks)]
    assert Engine(api.url, 4).work_through(numbered, FORM.answer, keep, lambda: False)
    assert kept[0] < kept[-1] == 4


def test_a_shard_that_is_not_there_is_told(store: ObjectStore, api: FakeApi) -> None:
    missing = Shard("b-9", store, "shards", ShardKeys("batch-none", 9), FORM)
    with pytest.raises(Failed, match="is not in the object store"):
        missing.answer(Engine(api.url, 1))


def pod_of(shard: Shard) -> dict[str, Any]:
    """A pod as the batch's Job makes it, without what its node does not look at."""
    batch = str(shard.keys.requests).split("/")[1]
    return {
        "metadata": {
            "uid": batch,
            "name": f"{batch}-0",
            "labels": {names.BATCH_JOB: batch},
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
        },
        "spec": {
            "containers": [
                {
                    "name": "answer",
                    "image": "gpufleet@sha256:1",
                    "args": [
                        "batch.answer",
                        "--bucket=shards",
                        f"--endpoint={shard.store.endpoint}",
                        "--region=fra1",
                        "--concurrency=4",
                        "--apply",
                    ],
                }
            ]
        },
        "status": {"phase": "Running", "startTime": "2026-03-01T12:00:00Z"},
    }


def test_a_simulated_node_runs_a_batchs_pod_once_and_tells_how_it_ended(
    shard: Shard, places: dict[str, Place], api: FakeApi, until: Until
) -> None:
    ended: list[str | None] = []
    runs = BatchRuns(places["fra1"], lambda _pod, why: ended.append(why))
    api.held = {"d"}
    runs.begin(pod_of(shard), api.url)
    runs.begin(pod_of(shard), api.url)
    until(lambda: len(api.asked) == 4)
    assert runs.stop(pod_of(shard)["metadata"]["uid"])
    until(lambda: ended == [None])
    assert shard.left() == 1
    assert not runs.stop(pod_of(shard)["metadata"]["uid"])
    api.held = set()
    runs.begin(pod_of(shard), api.url)
    until(lambda: ended == [None, ""])
    assert answered(shard) == dict.fromkeys("abcd", 200)
    assert len(api.asked) == 5


def test_a_simulated_node_tells_why_a_batchs_pod_failed(
    shard: Shard, places: dict[str, Place], api: FakeApi, until: Until
) -> None:
    ended: list[str | None] = []
    runs = BatchRuns(places["fra1"], lambda _pod, why: ended.append(why))
    lost = pod_of(shard)
    lost["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": "7"}
    runs.begin(lost, api.url)
    until(lambda: ended)
    assert "is not in the object store" in str(ended[0])
    strange = pod_of(shard)
    strange["spec"]["containers"][0]["args"] = []
    runs.begin(strange, api.url)
    until(lambda: len(ended) == 2)
    assert "not one of ours" in str(ended[1])


def test_the_status_of_a_batchs_pod_says_what_its_job_needs_to_know(shard: Shard) -> None:
    pod = pod_of(shard)
    phases = {
        each["phase"]: each["containerStatuses"][0]["state"]["terminated"]
        for each in (finished_status(pod, "", START), stopped_status(pod, START))
    }
    assert phases["Succeeded"]["exitCode"] == 0
    # What the Job's failure policy takes for no failure.
    assert phases["Failed"]["exitCode"] == batch_jobs.EXIT_TOLD_TO_END
    assert finished_status(pod, "no engine", START)["containerStatuses"][0]["state"]["terminated"][
        "exitCode"
    ] not in {0, batch_jobs.EXIT_TOLD_TO_END}


@pytest.fixture
def served(ground: Ground, tmp_path: Path, until: Until) -> Iterator[str]:
    """The real gateway with one key of the finance team, and batches behind it."""
    folder = tmp_path / "gateway"
    folder.mkdir(mode=0o700)
    routes = routes_of(ground.fleet)
    gateway = routes.gateway.model_copy(update={"workers": 1})
    key = Key(
        id="finance00000",
        hash=hashlib.sha256(KEY.encode()).hexdigest(),
        team="finance",
        use_cases=["document-extraction"],
        rate_rpm=None,
        concurrency_limit=None,
        expires_at=None,
    )
    for name, content in (
        (ROUTES_FILE, routes.model_copy(update={"gateway": gateway})),
        (KEYS_FILE, Keys(at=0, keys=[key])),
    ):
        (folder / name).write_text(content.model_dump_json(by_alias=True))
    server = BatchServer(lambda: ground, folder).start()
    port = free_port()
    with (tmp_path / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(gateway_python(lambda _progress: None)), "-P", "-m", "gpufleet_gateway"),
                *("--folder", str(folder), "--port", str(port)),
            ],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{PROJECT_ROOT / 'modules'}:{PROJECT_ROOT / 'gateway'}",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(partial(_answers, f"{url}/health/readiness"), within_s=120)
        yield url
    finally:
        process.terminate()
        process.wait(60)
        server.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_openais_official_client_works_at_the_gateway(served: str, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(line("a") + line("b"))
    client = PROJECT_ROOT / "tests" / "contract" / "batch_client.py"
    python = gateway_python(lambda _progress: None)
    done = subprocess.run(
        [str(python), "-P", str(client), served, KEY, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["file"]["filename"] == "requests.jsonl"
    assert seen["content"] == file.read_text()
    assert seen["batch"]["status"] == "validating"
    assert seen["batch"] == seen["again"]
    assert seen["batch"]["request_counts"] == {"total": 2, "completed": 0, "failed": 0}
    assert seen["listed"] == [seen["batch"]["id"]]
    assert seen["files"] == [seen["file"]["id"]]
    assert (seen["cancelled"], seen["in_use"], seen["missing"], seen["deleted"]) == (
        "cancelling",
        "file_in_use",
        "not_found",
        True,
    )
    assert "Line 1: is not JSON" in seen["wrong"]
    denied = httpx.get(f"{served}/v1/batches", headers={"Authorization": "Bearer gf-nobody"})
    assert (denied.status_code, denied.json()["error"]["code"]) == (401, "invalid_api_key")
    smuggled = {"Authorization": f"Bearer {KEY}", CALLER_TEAM_HEADER: "legal"}
    refused = httpx.get(f"{served}/v1/batches", headers=smuggled)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_header")


def test_the_gateways_workers_reach_batches_by_a_private_socket_alone(
    ground: Ground, tmp_path: Path
) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir(mode=0o700)
    (folder / BATCH_SOCKET).touch()
    server = BatchServer(lambda: ground, folder).start()
    assert stat.S_IMODE((folder / BATCH_SOCKET).stat().st_mode) == 0o600

    async def ask(headers: dict[str, str]) -> tuple[int, Any]:
        descriptor = os.open(folder, os.O_PATH)
        connector = UnixConnector(f"/proc/self/fd/{descriptor}/{BATCH_SOCKET}")
        async with (
            ClientSession(connector=connector) as session,
            session.get("http://control/v1/batches", headers=headers) as response,
        ):
            return response.status, await response.json()

    named = {CALLER_KEY_HEADER: "k", CALLER_TEAM_HEADER: "finance"}
    loop = asyncio.new_event_loop()
    try:
        status, body = loop.run_until_complete(ask(named))
        assert (status, body["data"]) == (200, [])
        status, body = loop.run_until_complete(ask({}))
        assert (status, body["error"]["code"]) == (401, "missing_api_key")
    finally:
        loop.close()
        server.stop()
