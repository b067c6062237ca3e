"""Alerts on error budgets: each pair of windows, too little, too few, and over already."""

from typing import Final

from tests.alerts.case import Case, Cases, counter, requests, requests_series


def slow(stem: str, le: str, *parts: tuple[float, int], each: float = 60) -> dict[str, str]:
    """Shares of slow requests, each for so many steps."""
    return {
        f'{stem}_count{{use_case="answers"}}': counter(*((each, steps) for _, steps in parts)),
        f'{stem}_bucket{{use_case="answers",le="{le}"}}': counter(
            *((each * (1 - share), steps) for share, steps in parts)
        ),
    }


def failing(*parts: tuple[float, int], each: float = 60) -> dict[str, str]:
    """Shares of failed requests, each for so many steps."""
    return {
        requests_series("ok"): counter(*((each * (1 - share), steps) for share, steps in parts)),
        requests_series("error"): counter(*((each * share, steps) for share, steps in parts)),
    }


UP: Final = 'up{job="gateway"}'


SEEN: Final = "gpufleet_gateway_worker_seen_timestamp_seconds"


def scraped(up: str) -> dict[str, str]:
    """A gateway whose workers work, and whose control process answers or not, each half minute."""
    return {UP: up, SEEN: "0+30x3100"}


def every_half_minute(outcome: str, per_min: float) -> dict[str, str]:
    """Requests with one outcome."""
    return {requests_series(outcome): counter((per_min / 2, 200))}


def burning(stem: str, le: str, slo: str) -> dict[tuple[str, str], Cases]:
    """Cases of a latency's two alerts: each pair of windows, below, too few, and over already."""
    name = "LatencyBudgetBurn" if slo == "latency" else "TtftBudgetBurn"
    labels = {"use_case": "answers", "team": "support", "slo": slo}
    return {
        (name, "page"): Cases(
            fires=(
                Case(slow(stem, le, (0, 300), (0.8, 70)), labels, 365),
                Case(slow(stem, le, (0.4, 420)), labels, 400),
            ),
            quiet=(
                Case(slow(stem, le, (0.2, 420)), None, 400),
                Case(slow(stem, le, (0.8, 120), each=0.05), None, 90),
                # Most of the last hour was bad, and it is over: the short windows say so.
                Case(slow(stem, le, (1, 55), (0, 40)), None, 94),
            ),
        ),
        (name, "ticket"): Cases(
            fires=(Case(slow(stem, le, (0.2, 312)), labels, 1500, 5),),
            quiet=(
                Case(slow(stem, le, (0.04, 312)), None, 1500, 5),
                Case(slow(stem, le, (0.2, 312), each=0.03), None, 1500, 5),
            ),
        ),
    }


LATENCY: Final = {"use_case": "answers", "team": "support", "slo": "latency"}
ERRORS: Final = {"use_case": "answers", "team": "support", "slo": "errors"}
AVAILABILITY: Final = {"use_case": "answers", "team": "support", "slo": "availability"}

CASES: Final[dict[tuple[str, str], Cases]] = {
    **burning("gpufleet_gateway_request_seconds", "2.0", "latency"),
    **burning("gpufleet_gateway_ttft_seconds", "0.5", "ttft"),
    ("ErrorBudgetBurn", "page"): Cases(
        fires=(
            Case(failing((0, 300), (0.02, 70)), ERRORS, 365),
            Case(failing((0.008, 420)), ERRORS, 400),
            # Twelve an hour, and all fail.
            Case(failing((0, 300), (1, 70), each=0.2), ERRORS, 365),
        ),
        quiet=(
            Case(failing((0.004, 420)), None, 400),
            # One of 50 requests failed: the share is 2 %, and says nothing.
            Case(failing((0.02, 120), each=0.8), None, 60),
            Case(requests("ok", 60), None),
        ),
    ),
    ("ErrorBudgetBurn", "ticket"): Cases(
        fires=(Case(failing((0.004, 312)), ERRORS, 1500, 5),),
        quiet=(Case(failing((0.0008, 312)), None, 1500, 5),),
    ),
    # Time is counted by evaluations, one each half minute.
    ("AvailabilityBudgetBurn", "page"): Cases(
        fires=(
            Case(scraped("1x120 0x40"), AVAILABILITY, 75, 0.5),
            # What was answered is still in the window, and it is down.
            Case(
                scraped("1x120 0x40") | every_half_minute("ok", 60),
                AVAILABILITY,
                75,
                0.5,
            ),
            Case(scraped("1x200") | every_half_minute("refused", 30), AVAILABILITY, 60, 0.5),
            # 3.5 % of six hours, and over: the half hour still holds it.
            Case(scraped("1x760 0x26 1x40"), AVAILABILITY, 400, 0.5),
        ),
        quiet=(
            Case(scraped("1x200") | every_half_minute("ok", 60), None, 60, 0.5),
            # Two failures in the window say nothing.
            Case(scraped("1x200") | every_half_minute("error", 1), None, 60, 0.5),
            # Most are refused by the limits of their own keys, or as requests.
            Case(
                scraped("1x200") | every_half_minute("limited", 30) | every_half_minute("ok", 10),
                None,
                60,
                0.5,
            ),
            # Single scrapes fail, one in two.
            Case(
                {UP: "1 0 " * 60, SEEN: " ".join(f"{60 * n} _" for n in range(60))}, None, 58, 0.5
            ),
            # It starts for the first time.
            Case(scraped("0x4 1x40"), None, 3, 0.5),
        ),
    ),
    ("AvailabilityBudgetBurn", "ticket"): Cases(
        fires=(Case(scraped("1x2880 0x160"), AVAILABILITY, 1500, 0.5),),
        quiet=(Case(scraped("1x3040"), None, 1500, 0.5),),
    ),
}

ON_CLUSTER: Final[dict[tuple[str, str], Cases]] = {
    # The pair of three days and six hours, which a day of retention cannot hold.
    ("LatencyBudgetBurn", "ticket"): Cases(
        fires=(
            Case(
                slow("gpufleet_gateway_request_seconds", "2.0", (0.08, 900)),
                LATENCY,
                4440,
                5,
            ),
        ),
        quiet=(Case(slow("gpufleet_gateway_request_seconds", "2.0", (0.04, 900)), None, 4440, 5),),
    ),
}
