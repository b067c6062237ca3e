"""What users see while something is broken behind the gateway: an answer, or a clear no."""

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from openai import APIStatusError
from tests.e2e.cloned import Clone
from tests.e2e.serving import FLEET, SITE, SPIKE_RPS, Users, fleet, write_fleet
from tests.stand_in_engine import StandIn

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
QUIET_RPS = 2.0
LOAD_S = 20
CLEAR = {"http_429"}
"""A refusal that says when to try again."""


@pytest.fixture(scope="module")
def hosted() -> Iterator[StandIn]:
    """Stands where a hosted API would answer."""
    server = StandIn()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def users(clone: Clone, hosted: StandIn) -> Users:
    clone.variables = {"GPUFLEET_HOSTED_KEY": "not-a-secret-of-anybody"}
    write_fleet(clone, fleet(degrades=True, hosted_url=f"{hosted.url}/v1"))
    clone.fleet("up", "--fleet", FLEET)
    found = Users(clone)
    found.key("support")
    found.key("legal")
    return found


@pytest.fixture(autouse=True)
def mended(users: Users, hosted: StandIn) -> Iterator[None]:
    """Each fault ends with its test, and the next begins when every replica is ready again."""
    yield
    hosted.reset()
    users.clone.fleet("simulate.clear", "--fleet", FLEET, "--apply")
    until(lambda: all(ready >= 1 for ready in ready_replicas(users).values()), within_s=180)


def until(condition: Callable[[], object], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def ready_replicas(users: Users) -> dict[str, int]:
    told = users.clone.json("gateway.status", "--fleet", FLEET)
    return {pool["pool"]: pool["ready"] for pool in told["pools"]}


def in_flight(users: Users) -> int:
    told = users.clone.json("gateway.status", "--fleet", FLEET)
    return sum(row["in_flight"] for row in told["use_cases"])


def fault(users: Users, kind: str, **options: str) -> None:
    more = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    users.clone.fleet(
        *("simulate.fault", "--fleet", FLEET, "--pool", "large", "--kind", kind, "--apply"), *more
    )


def under_load(
    users: Users,
    happens: Callable[[], object],
    rate_rps: float = QUIET_RPS,
    duration_s: int = LOAD_S,
    **options: str,
) -> dict[str, Any]:
    """The report of a load in whose midst something happens."""
    with ThreadPoolExecutor(1) as threads:
        load = threads.submit(users.load, rate_rps, duration_s, **options)
        until(lambda: in_flight(users))
        happens()
        return load.result()


def recorded_once(users: Users, report: dict[str, Any]) -> list[dict[str, Any]]:
    records = users.records(use_case="answers", since=report["begun"])
    twice = [name for name, times in Counter(r["request_id"] for r in records).items() if times > 1]
    assert not twice
    return records


@contextmanager
def stopped(users: Users, process: str) -> Iterator[None]:
    """A process that answers nobody, as behind a lost network."""
    rows = users.clone.json("status", "--fleet", FLEET)["processes"]
    (pid,) = (row["pid"] for row in rows if row["process"] == process and row["site"] == SITE)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def restarts(users: Users) -> dict[str, tuple[int, str]]:
    """Restarts and the last reason by pod of the large pool."""
    users.clone.use(FLEET)
    pods = users.clone.kubectl(
        SITE, "-n", "gpufleet-interactive", "get", "pods", "-l", "gpufleet.dev/pool=large"
    )
    found = {}
    for pod in pods["items"]:
        (container,) = pod["status"]["containerStatuses"]
        last = container.get("lastState", {}).get("terminated", {})
        found[pod["metadata"]["name"]] = (container["restartCount"], last.get("reason", ""))
    return found


@pytest.mark.parametrize(("kind", "reason"), [("crash", "Error"), ("oom", "OOMKilled")])
def test_a_replica_that_dies_costs_its_own_requests_at_most(
    users: Users, kind: str, reason: str
) -> None:
    report = under_load(users, lambda: fault(users, kind, share="0.3"))
    assert report["answered"] >= 0.9 * report["requests"]
    assert len(recorded_once(users, report)) == report["requests"]
    until(lambda: reason in {why for times, why in restarts(users).values() if times})


def test_a_replica_that_hangs_is_taken_out_and_tried_again(users: Users) -> None:
    def is_out() -> bool:
        pools = users.clone.json("gateway.status", "--fleet", FLEET)["pools"]
        # Ejected by the gateway, and a few seconds later not ready by its own probe.
        return any(pool["ejected"] or pool["ready"] < pool["replicas"] for pool in pools)

    def hang() -> None:
        fault(users, "hang", share="0.3")
        until(is_out)

    report = under_load(users, hang, duration_s=3 * LOAD_S)
    assert report["answered"] >= 0.9 * report["requests"]
    users.clone.fleet("simulate.clear", "--fleet", FLEET, "--apply")
    until(lambda: not is_out(), within_s=120)


@pytest.mark.slow
def test_a_slow_replica_gets_less(users: Users) -> None:
    report = under_load(users, lambda: fault(users, "slow", share="0.3", factor="8"))
    failed = [record for record in recorded_once(users, report) if record["error"]]
    assert report["errors"].keys() <= CLEAR, failed
    assert report["answered"] >= 0.9 * report["requests"]


@pytest.mark.slow
def test_an_error_of_an_engine_is_tried_elsewhere(users: Users) -> None:
    report = under_load(users, lambda: fault(users, "errors", share="0.3"))
    assert report["answered"] >= 0.95 * report["requests"]


def test_without_prometheus_an_overload_still_degrades(users: Users) -> None:
    with stopped(users, "prometheus"):
        report = users.load(SPIKE_RPS, LOAD_S)
    assert report["errors"].keys() <= CLEAR
    assert report["routes"]["fallback"]


def test_without_the_object_store_requests_go_on_and_their_records_follow(users: Users) -> None:
    with stopped(users, "s3"):
        report = users.load(QUIET_RPS, LOAD_S)
    assert report["answered"] == report["requests"]
    assert len(recorded_once(users, report)) == report["requests"]
    users.clone.fleet("audit.verify", "--fleet", FLEET)


def test_without_the_database_known_keys_open(users: Users) -> None:
    database = sqlite3.connect(users.folder / "fleet.db", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    try:
        report = users.load(QUIET_RPS, LOAD_S)
    finally:
        database.execute("ROLLBACK")
        database.close()
    assert report["answered"] == report["requests"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["errors", "hangs"])
def test_a_hosted_api_that_fails_is_left_for_the_next_step(
    users: Users, hosted: StandIn, mode: str
) -> None:
    hosted.mode = mode
    report = users.load(SPIKE_RPS, LOAD_S)
    assert "hosted" not in report["routes"]
    assert "http_504" not in report["errors"]
    if mode == "hangs":
        assert report["routes"].get("summary") or report["errors"].get("http_429")
    assert report["answered"] + report["failed"] == report["requests"]
    assert len(recorded_once(users, report)) == report["requests"]


@pytest.mark.slow
def test_a_slow_hosted_api_answers_late_and_nothing_is_lost(users: Users, hosted: StandIn) -> None:
    hosted.gap_s = 0.3
    report = users.load(SPIKE_RPS, LOAD_S)
    assert report["routes"]["hosted"]
    assert report["errors"].keys() <= CLEAR
    assert len(recorded_once(users, report)) == report["requests"]


def test_a_hosted_api_over_its_cap_is_asked_no_more(users: Users, hosted: StandIn) -> None:
    cap = 0.002
    url = f"{hosted.url}/v1"
    write_fleet(users.clone, fleet(degrades=True, hosted_url=url, monthly_cap=cap))
    users.clone.fleet("up", "--fleet", FLEET)
    try:
        report = users.load(SPIKE_RPS, LOAD_S)
        spent = sum(
            float(record["cost"])
            for record in recorded_once(users, report)
            if record["route"] == "hosted"
        )
        assert spent <= cap
        assert report["routes"].get("summary") or report["errors"].get("http_429")
        assert report["errors"].keys() <= CLEAR
    finally:
        write_fleet(users.clone, fleet(degrades=True, hosted_url=url))
        users.clone.fleet("up", "--fleet", FLEET)


def test_restricted_data_is_refused_before_it_leaves(users: Users, hosted: StandIn) -> None:
    client = users.client("legal")
    secret = "clause 7 of a contract"

    def ask() -> int:
        try:
            client.chat.completions.create(
                model="contracts", messages=[{"role": "user", "content": secret}]
            )
        except APIStatusError as error:
            return error.status_code
        return 200

    # So that there is too much to do, however many replicas the tests before have started.
    fault(users, "slow", factor="20")
    with ThreadPoolExecutor(16) as threads:
        load = threads.submit(users.load, SPIKE_RPS, LOAD_S)
        seen = [asked.result() for asked in [threads.submit(ask) for _ in range(60)]]
        load.result()
    # Engines that are so slow do not answer in time; there is still nowhere else to go.
    assert set(seen) <= {200, 429, 503, 504}
    assert secret not in json.dumps(hosted.asked)
    assert hosted.asked


def gateway_process(users: Users) -> psutil.Process:
    rows = users.clone.json("status", "--fleet", FLEET)["processes"]
    (pid,) = (row["pid"] for row in rows if row["process"] == "gateway")
    return psutil.Process(pid)


@pytest.mark.slow
def test_a_gateway_that_is_restarted_lets_its_answers_end(users: Users) -> None:
    report = under_load(
        users, lambda: gateway_process(users).terminate(), rate_rps=4.0, stream_share="0.5"
    )
    # Whoever comes between the two finds nobody; what was begun is ended.
    assert report["errors"].keys() <= {"connect", "disconnected", *CLEAR}
    whole = sum(report["routes"].values())
    answered = [each for each in recorded_once(users, report) if each["status"] == 200]
    assert len(answered) == whole > 0
    users.clone.fleet("audit.verify", "--fleet", FLEET)


def test_a_gateway_that_is_killed_loses_and_doubles_no_record(users: Users) -> None:
    def kill() -> None:
        first = gateway_process(users)
        for process in [first, *first.children(recursive=True)]:
            process.kill()

    report = under_load(users, kill, rate_rps=4.0, stream_share="0.5")
    whole = sum(report["routes"].values())
    assert whole
    records = recorded_once(users, report)
    answered = [record for record in records if record["status"] == 200]
    assert len(answered) >= whole
    users.clone.fleet("audit.verify", "--fleet", FLEET)
