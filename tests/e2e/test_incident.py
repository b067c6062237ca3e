"""The quarter's end: a pool that is sized for the mean, a spike of three times as much, and what
burst, a smaller model, a hosted API and shorter answers make of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.cloned import Clone
from tests.e2e.serving import FLEET, MEAN_RPS, SPIKE_RPS, Users, fleet, write_fleet
from tests.openai_server import OpenAiServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
SPIKE_S = 60
SIZED_REPLICAS = 3


@pytest.fixture(scope="module")
def users(clone: Clone) -> Users:
    """Users of the fleet as it was sized: for the mean."""
    write_fleet(clone, fleet(degrades=False))
    report = clone.json("up", "--fleet", FLEET)
    assert {row["use_case"]: row["route"] for row in report["answers"]} == {
        "answers": "primary",
        "contracts": "primary",
        "triage": "primary",
    }
    return Users(clone)


@pytest.fixture(scope="module")
def hosted() -> Iterator[OpenAiServer]:
    """Stands where a hosted API would answer."""
    with OpenAiServer(ttft_s=0.3, tpot_s=0.01).serving() as server:
        yield server


def accounted(users: Users, report: dict[str, Any]) -> None:
    """Nothing was dropped silently: every request has an answer, and one record of it."""
    assert report["answered"] + report["failed"] == report["requests"]
    assert report["errors"].keys() <= {"http_429"}
    records = users.records(use_case="answers", since=report["begun"])
    assert len({record["request_id"] for record in records}) == report["requests"]


def test_a_pool_that_is_sized_for_the_mean_holds_the_mean(users: Users) -> None:
    report = users.load(MEAN_RPS * 0.6, 30)
    assert report["routes"] == {"primary": report["requests"]}
    accounted(users, report)


def test_it_turns_most_of_a_spike_away_and_says_so(users: Users) -> None:
    report = users.load(SPIKE_RPS, SPIKE_S)
    accounted(users, report)
    assert report["routes"].keys() == {"primary"}
    assert report["answered"] < 0.6 * report["requests"]
    refused = users.records(use_case="answers", status="429", since=report["begun"])
    assert len(refused) == report["failed"]
    assert all(record["route"] == "none" and record["reason"] for record in refused)


def test_with_burst_and_fallback_the_same_spike_is_answered(
    users: Users, hosted: OpenAiServer
) -> None:
    users.clone.variables = {"GPUFLEET_HOSTED_KEY": "not-a-secret-of-anybody"}
    content = fleet(degrades=True, hosted_url=hosted.url)
    write_fleet(users.clone, content)
    users.clone.fleet("up", "--fleet", FLEET)
    report = users.load(SPIKE_RPS, SPIKE_S)
    accounted(users, report)
    assert report["answered"] > 0.95 * report["requests"]
    assert {"primary", "fallback", "hosted"} <= report["routes"].keys()
    target_s = content["use_cases"]["answers"]["slo"]["p95_s"]
    assert report["latency_s"]["p95"] <= float(target_s.removesuffix("s"))
    # The spike was seen by Prometheus, what went elsewhere too, and the pool has more than doubled.
    users.clone.use(FLEET)
    pods = users.clone.kubectl("main", "-n", "gpufleet-interactive", "get", "deployment", "large")
    assert pods["spec"]["replicas"] > 2 * SIZED_REPLICAS


def test_restricted_data_stayed_in_its_pool(users: Users) -> None:
    assert {record["route"] for record in users.records(use_case="contracts")} <= {
        "primary",
        "none",
    }


def test_the_records_of_all_of_it_are_whole(users: Users) -> None:
    users.clone.fleet("audit.verify", "--fleet", FLEET)


def test_nothing_is_left_to_change(users: Users) -> None:
    stacks = users.clone.json("preview", "--fleet", FLEET)["stacks"]
    assert [stack["changes"] for stack in stacks] == [[] for _ in stacks]
