"""Replicas of a pool are found and asked themselves: for a token each, and for their speed."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.openai_server import OpenAiServer, served

from gpufleet.core import vocabulary as names
from gpufleet.core.prewarming import Window
from gpufleet.core.serving import pools_at
from gpufleet.edges.clock import OFFSET_FILE
from gpufleet.edges.replica_probe import Replica, ask_each
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import prewarm, serving_bench
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import Retryable, TargetMissed

FLEET_FILE = PROJECT_ROOT / "fleets/article/production.yaml"
LOOPBACK = "127.0.0.1"


@dataclass
class Api:
    """As much of an API server as lists pods, and passes requests on to them."""

    pods: list[dict[str, Any]] = field(default_factory=list)
    engine: str = ""
    proxied: list[str] = field(default_factory=list)
    url: str = ""

    def application(self) -> web.Application:
        made = web.Application()
        made.router.add_get("/api/v1/pods", self._list)
        made.router.add_post(
            "/api/v1/namespaces/{space}/pods/{pod}/proxy/v1/completions", self._proxy
        )
        return made

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"items": self.pods, "metadata": {"resourceVersion": "1"}})

    async def _proxy(self, request: web.Request) -> web.Response:
        self.proxied.append(request.match_info["pod"])
        return web.json_response({"usage": {"completion_tokens": 1}})


@pytest.fixture
def engine() -> Iterator[OpenAiServer]:
    with OpenAiServer(0.0, 0.0).serving() as made:
        yield made


def replica(engine: OpenAiServer, model: str = "model", **changes: Any) -> Replica:  # noqa: ANN401 - fields
    fields = {
        "pod": "chat-0",
        "namespace": names.INTERACTIVE_NAMESPACE,
        "address": LOOPBACK,
        "port": engine.port,
        "model": model,
    }
    return Replica(**{**fields, **changes})


def test_a_replica_that_gives_a_token_is_warm(engine: OpenAiServer) -> None:
    (proof,) = ask_each([replica(engine)], 5.0)
    assert proof.warm
    assert proof.seconds is not None
    assert proof.why_not == ""
    assert engine.asked[0]["max_tokens"] == 1


@pytest.mark.parametrize(
    ("model", "why_not"),
    [("hangs", "no token within"), ("busy", "answers 429"), ("broken", "not JSON")],
)
def test_a_replica_that_gives_none_is_not(engine: OpenAiServer, model: str, why_not: str) -> None:
    (proof,) = ask_each([replica(engine, model)], 0.5)
    assert not proof.warm
    assert why_not in proof.why_not


def test_one_that_hangs_does_not_hide_the_others(engine: OpenAiServer) -> None:
    asked = [replica(engine, "hangs"), *[replica(engine)] * 20, replica(engine, address="")]
    proofs = ask_each(asked, 1.0)
    assert [each.warm for each in proofs] == [False, *[True] * 20, False]


@dataclass
class Prewarmed:
    """An environment whose one pool has a peak, and what its worker tells."""

    ground: Ground
    api: Api
    told: list[tuple[str, int | None]]
    keeper: prewarm.PrewarmKeeper

    def at(self, moment: datetime) -> None:
        offset_s = (moment - datetime.now(UTC)).total_seconds()
        (self.ground.state.root / OFFSET_FILE).write_text(f"{offset_s}")
        self.told.clear()
        self.keeper.keep()

    def events(self) -> list[str]:
        return [each.event for each in self.ground.journal.records()]


@pytest.fixture
def prewarmed(
    engine: OpenAiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Prewarmed]:
    monkeypatch.setattr(prewarm, "ENGINE_PORT", engine.port)
    file = tmp_path / "fleets" / "article" / "production.yaml"
    file.parent.mkdir(parents=True)
    (file.parent / "calendars").symlink_to(FLEET_FILE.parent / "calendars")
    declared = load_fleet(FLEET_FILE)
    pool = pools_at(declared, next(iter(declared.sites)))[0]
    peak = json.dumps(
        {
            "name": "morning",
            "recurrence": "FREQ=DAILY;BYHOUR=8",
            "lead_s": 600,
            "duration_s": 3600,
            "replicas": {pool.group_name: 2},
        }
    )
    head = f"  {pool.name}:\n"
    assert head in FLEET_FILE.read_text()
    pools, text = FLEET_FILE.read_text().split("\npools:\n")
    file.write_text(
        f"{pools}\npools:\n{text.replace(head, f'{head}    prewarm: [{peak}]' + chr(10), 1)}"
    )
    workspace = Workspace(tmp_path)
    ground = Ground.open(workspace, file)
    api = Api()
    with served(api.application()) as port:
        _kubeconfig(ground.state, pool.site, port)
        told: list[tuple[str, int | None]] = []

        def set_missing(window: Window, count: int | None) -> None:
            told.append((window.pool.name, count))

        yield Prewarmed(ground, api, told, prewarm.PrewarmKeeper(ground, "worker", set_missing))
    ground.database.close()


def _kubeconfig(state: EnvironmentDir, site: str, port: int) -> None:
    state.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    state.kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": site, "cluster": {"server": f"http://{LOOPBACK}:{port}"}}],
                "users": [{"name": site, "user": {}}],
                "contexts": [{"name": site, "context": {"cluster": site, "user": site}}],
                "current-context": site,
            }
        )
    )


def pod(prewarmed: Prewarmed, name: str) -> dict[str, Any]:
    fleet = prewarmed.ground.fleet
    pool = pools_at(fleet, next(iter(fleet.sites)))[0]
    return {
        "metadata": {
            "name": name,
            "namespace": pool.namespace,
            "labels": {names.POOL: pool.name},
            "annotations": {names.REVISION_DIGEST: pool.model.digest},
        },
        "status": {"podIP": LOOPBACK, "conditions": [{"type": "Ready", "status": "True"}]},
    }


DAY = datetime(2026, 12, 1, tzinfo=UTC)
OPENS = DAY.replace(hour=8)


def test_missing_replicas_are_told_in_time_and_then_found(prewarmed: Prewarmed) -> None:
    prewarmed.at(DAY)
    assert prewarmed.told == []
    prewarmed.api.pods = [pod(prewarmed, "a")]
    prewarmed.at(OPENS - timedelta(seconds=20))
    assert [count for _, count in prewarmed.told] == [1]
    prewarmed.at(OPENS - timedelta(seconds=15))
    assert prewarmed.events().count("prewarm.missing") == 1
    prewarmed.api.pods = [pod(prewarmed, "a"), pod(prewarmed, "b")]
    prewarmed.at(OPENS - timedelta(seconds=5))
    assert [count for _, count in prewarmed.told] == [0]
    assert prewarmed.events().count("prewarm.verified") == 1
    prewarmed.at(OPENS + timedelta(seconds=5))
    assert prewarmed.told == [], "what was proven is not asked again"
    prewarmed.at(OPENS + timedelta(hours=2))
    assert [count for _, count in prewarmed.told] == [None]


def test_replicas_that_were_not_even_started_are_told_before_they_are_asked(
    prewarmed: Prewarmed,
) -> None:
    starts = OPENS - timedelta(seconds=600)
    prewarmed.api.pods = [pod(prewarmed, "a")]
    prewarmed.at(starts + timedelta(seconds=20))
    assert prewarmed.told == [], "the autoscaler has not looked yet"
    prewarmed.at(starts + timedelta(seconds=120))
    assert [count for _, count in prewarmed.told] == [1]
    assert prewarmed.events().count("prewarm.missing") == 1
    loads = pod(prewarmed, "b")
    loads["status"] = {"phase": "Running"}
    prewarmed.api.pods.append(loads)
    prewarmed.at(starts + timedelta(seconds=140))
    assert [count for _, count in prewarmed.told] == [0]
    assert "prewarm.verified" not in prewarmed.events()
    prewarmed.at(OPENS - timedelta(seconds=5))
    assert [count for _, count in prewarmed.told] == [1], "it is there and not warm"


def test_a_worker_that_is_started_again_does_not_ask_what_an_earlier_one_has_proven(
    prewarmed: Prewarmed,
) -> None:
    prewarmed.api.pods = [pod(prewarmed, "a"), pod(prewarmed, "b")]
    prewarmed.at(OPENS - timedelta(seconds=5))
    assert [count for _, count in prewarmed.told] == [0]
    prewarmed.api.pods = []
    told: list[int | None] = []
    again = prewarm.PrewarmKeeper(prewarmed.ground, "worker", lambda _, count: told.append(count))
    prewarmed.keeper = again
    prewarmed.at(OPENS + timedelta(minutes=5))
    assert told == []
    prewarmed.at(OPENS + timedelta(days=1) - timedelta(seconds=5))
    assert told == [2], "the next window is asked for"


def test_a_site_that_does_not_answer_proves_nothing(prewarmed: Prewarmed) -> None:
    state = prewarmed.ground.state
    _kubeconfig(state, next(iter(prewarmed.ground.fleet.sites)), 1)
    prewarmed.at(OPENS - timedelta(seconds=5))
    assert [count for _, count in prewarmed.told] == [2]


def test_a_site_that_hangs_proves_nothing_and_is_not_waited_for_longer_than_the_deadline(
    prewarmed: Prewarmed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prewarm, "SITE_WITHIN_S", 0.5)
    with socket.socket() as hanging:
        # It listens and never accepts.
        hanging.bind((LOOPBACK, 0))
        hanging.listen()
        site = next(iter(prewarmed.ground.fleet.sites))
        _kubeconfig(prewarmed.ground.state, site, hanging.getsockname()[1])
        ground = prewarmed.ground
        found = prewarm.verify(ground.fleet, ground.state, DAY, at="2026-12-01T07:59:55Z")
    assert [each.missing for each in found.proofs] == [2]
    assert "has not answered within" in found.proofs[0].problem


def test_the_task_names_what_is_missing(prewarmed: Prewarmed) -> None:
    prewarmed.api.pods = [pod(prewarmed, "a")]
    ground = prewarmed.ground
    found = prewarm.verify(ground.fleet, ground.state, DAY, at="2026-12-01T07:59:55Z")
    assert [(each.ready, each.warm, each.missing) for each in found.proofs] == [(1, 1, 1)]
    with pytest.raises(TargetMissed, match=r"1 of 2 warm"):
        prewarm.demand_warm(found)
    none_due = prewarm.verify(ground.fleet, ground.state, DAY)
    assert none_due.proofs == []
    assert none_due.next is not None
    prewarm.demand_warm(none_due)


def test_a_pod_out_of_reach_is_asked_through_its_api_server(
    engine: OpenAiServer, prewarmed: Prewarmed
) -> None:
    fleet = prewarmed.ground.fleet
    cluster = cluster_of(fleet, prewarmed.ground.state, next(iter(fleet.sites)))
    # Nobody listens at port 1.
    (proof,) = ask_each([replica(engine, port=1)], 5.0, cluster)
    cluster.close()
    assert proof.warm
    assert prewarmed.api.proxied == ["chat-0:1"]


def test_a_pools_speed_is_measured_at_one_replica_and_kept_as_evidence(
    prewarmed: Prewarmed, engine: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_bench, "ENGINE_PORT", engine.port)
    ground = prewarmed.ground
    ready = pod(prewarmed, "a")
    ready["status"]["conditions"][0]["lastTransitionTime"] = "2026-11-26T10:00:45Z"
    ready["status"]["containerStatuses"] = [
        {"name": "engine", "state": {"running": {"startedAt": "2026-11-26T10:00:00Z"}}}
    ]
    prewarmed.api.pods = [ready]
    pool = next(iter(ground.fleet.pools))
    asked = serving_bench.Asked(
        pool=pool, concurrency="1,3", duration_s="1", save="measured-here", output_tokens="20"
    )
    order = serving_bench.order_of(ground.workspace, ground.fleet_file, asked)
    assert order.target.model == ground.fleet.pools[pool].model
    report = serving_bench.run_load(order, lambda _: None)
    assert [each.in_flight for each in report.levels] == ["1", "3"]
    assert [each.seconds for each in report.load_times] == [45.0]
    assert report.simulated
    shown = serving_bench.save(order, report, ground.fleet_file, apply=False)
    assert not Path(shown.file).exists()
    kept = serving_bench.save(order, report, ground.fleet_file, apply=True)
    assert kept.include_missing
    text = ground.fleet_file.read_text()
    ground.fleet_file.write_text(f"include: [measured]\n{text}")
    found = load_fleet(ground.fleet_file).measurements["measured-here"]
    assert [each.concurrency for each in found.points] == [1, 3]
    assert "SIMULATED" in found.source
    assert not serving_bench.save(order, report, ground.fleet_file, apply=True).include_missing


def test_a_pool_without_a_ready_replica_is_not_measured(prewarmed: Prewarmed) -> None:
    ground = prewarmed.ground
    asked = serving_bench.Asked(pool=next(iter(ground.fleet.pools)))
    with pytest.raises(Retryable, match="no ready replica"):
        serving_bench.order_of(ground.workspace, ground.fleet_file, asked)
