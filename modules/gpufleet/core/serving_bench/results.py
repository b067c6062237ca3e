"""From the outcomes of a load to its report: each time apart, and by requests in flight."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from gpufleet.spec.serving_bench import Distribution, LevelRow, Outcome

LATE_S: Final = 0.05
"""A request that leaves the generator this much after its time is late."""
LATE_SHARE: Final = 0.01
"""More late requests than this, and the generator has not sent the declared load."""
PROMISED: Final = 0.95
"""Share of requests for which a target of the 95th percentile has to hold."""
_DIGITS: Final = 6
_FIRST_ERROR: Final = 400


@dataclass(frozen=True)
class Targets:
    """What an answer has to keep to count as good; none where nothing is promised."""

    latency_s: float | None = None
    ttft_s: float | None = None

    @property
    def given(self) -> bool:
        """Whether anything is promised."""
        return self.latency_s is not None or self.ttft_s is not None

    def kept_by(self, outcome: Outcome) -> bool:
        """Whether a request was answered within the targets."""
        if outcome.error:
            return False
        ttft_s = outcome.ttft_s
        return (self.latency_s is None or outcome.latency_s <= self.latency_s) and (
            self.ttft_s is None or ttft_s is None or ttft_s <= self.ttft_s
        )


def distribution(values_s: Iterable[float | None]) -> Distribution | None:
    """Mean and percentiles, s, of the values that are there; none where there is none."""
    found = np.array([value for value in values_s if value is not None])
    if not len(found):
        return None
    p50, p90, p95, p99 = (float(each) for each in np.percentile(found, [50, 90, 95, 99]))
    numbers = {
        "mean": float(found.mean()),
        "p50": p50,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "max": float(found.max()),
    }
    rounded = {name: round(value, _DIGITS) for name, value in numbers.items()}
    return Distribution(count=len(found), **rounded)


def summary(outcomes: Sequence[Outcome], duration_s: float, targets: Targets) -> dict[str, Any]:
    """The fields of a report that follow from the outcomes.

    Rates are over the time from the load's begin to its end or the last answer, whichever is later:
    answers that come after the last request was sent take their time.

    Args:
        outcomes: of every request that was to be sent.
        duration_s: how long requests were sent.
        targets: of goodput.
    """
    good = [each for each in outcomes if not each.error]
    kept = sum(targets.kept_by(each) for each in outcomes)
    behind_s = [each.sent_s - each.scheduled_s for each in outcomes]
    late = sum(each > LATE_S for each in behind_s)
    span_s = max([duration_s, *(each.ended_s for each in outcomes)])
    count = len(outcomes)
    return {
        "requests": count,
        "answered": len(good),
        "failed": count - len(good),
        "errors": dict(Counter(each.error for each in outcomes if each.error).most_common()),
        "routes": dict(Counter(each.route for each in good if each.route).most_common()),
        "late": late,
        "late_worst_s": round(max([0.0, *behind_s]), _DIGITS),
        "kept_up": late <= LATE_SHARE * count,
        "latency_s": distribution(each.latency_s for each in good),
        "first_byte_s": distribution(
            each.first_byte_s - each.scheduled_s for each in good if each.first_byte_s is not None
        ),
        "ttft_s": distribution(each.ttft_s for each in good),
        "tpot_s": distribution(each.tpot_s for each in good),
        "answers_per_s": len(good) / span_s,
        "output_tokens_per_s": sum(each.output_tokens for each in good) / span_s,
        "prompt_tokens_per_s": sum(each.prompt_tokens for each in good) / span_s,
        "goodput_per_s": kept / span_s,
        "within_slo": kept / count if count else 0.0,
        "slo_p95_s": targets.latency_s,
        "slo_ttft_s": targets.ttft_s,
        "slo_kept": _kept(outcomes, targets) if targets.given and count else None,
    }


def _kept(outcomes: Sequence[Outcome], targets: Targets) -> bool:
    """Whether each target holds for its 95 of 100; a failed request holds none."""
    streamed = [each for each in outcomes if each.streamed]
    return all(
        sum(Targets(latency_s, ttft_s).kept_by(each) for each in asked) >= PROMISED * len(asked)
        for latency_s, ttft_s, asked in (
            (targets.latency_s, None, outcomes),
            (None, targets.ttft_s, streamed),
        )
    )


def observed_levels(outcomes: Sequence[Outcome]) -> list[LevelRow]:
    """Outcomes by the requests in flight when they were sent, in bands that double."""
    bands: dict[int, list[Outcome]] = {}
    for each in outcomes:
        bands.setdefault(max(1, each.in_flight).bit_length() - 1, []).append(each)
    return [level(_band(1 << power, (2 << power) - 1), bands[power]) for power in sorted(bands)]


def level(name: str, outcomes: Sequence[Outcome], held_s: float | None = None) -> LevelRow:
    """One row of a report.

    Args:
        name: of the level.
        outcomes: of requests that were sent at it.
        held_s: how long it was held; none where it only passed.
    """
    good = [each for each in outcomes if not each.error]
    output_tokens = sum(each.output_tokens for each in good)
    prompt_tokens = sum(each.prompt_tokens for each in good)
    return LevelRow(
        in_flight=name,
        requests=len(outcomes),
        failed=len(outcomes) - len(good),
        ttft_s=distribution(each.ttft_s for each in good),
        tpot_s=distribution(each.tpot_s for each in good),
        latency_s=distribution(each.latency_s for each in good),
        requests_per_s=len(good) / held_s if held_s else None,
        output_tokens_per_s=output_tokens / held_s if held_s else None,
        prompt_tokens_mean=prompt_tokens / len(good) if good else None,
        output_tokens_mean=output_tokens / len(good) if good else None,
    )


def _band(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def vegeta_lines(
    outcomes: Iterable[Outcome], begun: datetime, *, url: str, name: str
) -> Iterator[str]:
    """Each outcome as a line of JSON that `vegeta report` reads.

    Its latencies are from when a request was due. Source: tsenart/vegeta, lib/results.go (MIT).

    Args:
        outcomes: in any order.
        begun: the load's begin.
        url: that was asked.
        name: of the load.
    """
    for sequence, each in enumerate(sorted(outcomes, key=lambda one: one.scheduled_s)):
        due = begun + timedelta(seconds=each.scheduled_s)
        yield json.dumps(
            {
                "attack": name,
                "seq": sequence,
                "code": each.status if not each.error or each.status >= _FIRST_ERROR else 0,
                "timestamp": due.isoformat(),
                "latency": round(each.latency_s * 1e9),
                "bytes_out": 0,
                "bytes_in": 0,
                "error": each.error,
                "body": None,
                "method": "POST",
                "url": url,
                "headers": None,
            }
        )
