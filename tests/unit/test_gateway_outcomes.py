"""What a request counts as, and that counters are told before their first event."""

import pytest
from prometheus_client import REGISTRY
from tests.gateway_situations import route

from gpufleet.core.gateway import series
from gpufleet_gateway import meters
from gpufleet_gateway.answers import CLIENT_GONE, Refused
from gpufleet_gateway.record import Record


def outcome(refused: Refused) -> str:
    record = Record("req-1", status=refused.status, error=refused.code)
    record.limited = refused.is_callers
    return record.outcome


@pytest.mark.parametrize(
    ("refused", "counted"),
    [
        (Refused(429, "overloaded", ""), "refused"),
        (Refused(429, "concurrency_limit", ""), "refused"),
        (Refused(429, "concurrency_limit", "", of_key=True), "limited"),
        (Refused(429, "rate_limit_exceeded", "", of_key=True), "limited"),
        (Refused(400, "invalid_request", ""), "limited"),
        (Refused(503, "engine_error", ""), "error"),
        (Refused(504, "timeout", ""), "error"),
    ],
)
def test_only_what_the_service_could_not_take_is_refused(refused: Refused, counted: str) -> None:
    assert outcome(refused) == counted


def test_an_answer_that_broke_off_is_an_error_and_one_that_nobody_waits_for_is_cancelled() -> None:
    assert Record("req-1", status=200).outcome == "ok"
    assert Record("req-1", status=200, error="engine_error").outcome == "error"
    assert Record("req-1", status=CLIENT_GONE, error="client_gone").outcome == "cancelled"


def test_counters_of_a_use_case_are_told_from_0_on() -> None:
    declared = route(team="begins", fallback="small")

    def told(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, labels)

    assert told(series.AUDIT_GAPS, use_case="begins") is None
    meters.begin("begins", declared)
    assert told(series.AUDIT_GAPS, use_case="begins") == 0
    assert told(f"{series.REQUEST_S}_count", use_case="begins") == 0
    assert told(f"{series.TTFT_S}_count", use_case="begins") == 0
    of = {"use_case": "begins", "team": "begins"}
    for way, name in (
        ("primary", "ok"),
        ("primary", "error"),
        ("fallback", "ok"),
        ("none", "error"),
        ("none", "refused"),
    ):
        assert told(series.REQUESTS, **of, route=way, outcome=name) == 0
    assert told(series.REQUESTS, **of, route="summary", outcome="ok") is None
