"""What a simulated engine tells Prometheus: vLLM's series, by the names of a chosen version.

Written by hand: an engine is asked several times a second, and there are hundreds of them.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

from gpufleet.core import engine_metrics as names

EARLIER_NAMES: Final = "0.10"
"""The last vLLM version with the names before `core.engine_metrics.RENAMED`."""
TODAY: Final = "0.11"
SIMULATED: Final = "gpufleet_simulated_engine"
"""Gauge, always 1: whoever looks at the series sees what they come from."""
_SPELLED: Final = {
    TODAY: {},
    EARLIER_NAMES: {today: earlier for earlier, today in names.RENAMED.items()},
}
METRIC_NAMES: Final = tuple(_SPELLED)
"""The versions whose names an engine may use."""
_FINISHED: Final = ("stop", "length", "abort")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(eq=False)
class Histogram:
    """Counts of observations by fixed bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def lines(self, name: str, label: str) -> list[str]:
        """In Prometheus' text format."""
        lines = [f"# TYPE {name} histogram"]
        seen = 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            seen += count
            le = "+Inf" if bound is None else repr(float(bound))
            lines.append(f'{name}_bucket{{{label},le="{le}"}} {seen}')
        return [
            *lines,
            f"{name}_sum{{{label}}} {self.total}",
            f"{name}_count{{{label}}} {seen}",
        ]


@dataclass(eq=False)
class Series:
    """The counters and histograms of one engine since it started."""

    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FINISHED, 0))
    prompt_tokens: int = 0
    ttft: Histogram = field(default_factory=lambda: Histogram(names.TTFT_BOUNDS_S))
    token_time: Histogram = field(default_factory=lambda: Histogram(names.TOKEN_BOUNDS_S))
    e2e: Histogram = field(default_factory=lambda: Histogram(names.REQUEST_BOUNDS_S))
    queue_time: Histogram = field(default_factory=lambda: Histogram(names.REQUEST_BOUNDS_S))
    prefill_time: Histogram = field(default_factory=lambda: Histogram(names.REQUEST_BOUNDS_S))
    decode_time: Histogram = field(default_factory=lambda: Histogram(names.REQUEST_BOUNDS_S))

    def text(
        self,
        model: str,
        *,
        gauges: dict[str, float],
        preemptions: int,
        generation_tokens: int,
        version: str = TODAY,
    ) -> str:
        """Everything in Prometheus' text format.

        Args:
            model: the label `model_name`.
            gauges: by name, what is true now.
            preemptions: so far.
            generation_tokens: of all answers so far.
            version: vLLM's, by whose names.
        """
        label = f'model_name="{model}"'
        spelled = _SPELLED[version]
        lines = [f"# TYPE {SIMULATED} gauge", f"{SIMULATED}{{{label}}} 1"]
        for name, value in gauges.items():
            name = spelled.get(name, name)  # noqa: PLW2901 - the same series, as it is called
            lines += [f"# TYPE {name} gauge", f"{name}{{{label}}} {value}"]
        for name, count in (
            (names.PREEMPTIONS, preemptions),
            (names.PROMPT_TOKENS, self.prompt_tokens),
            (names.GENERATION_TOKENS, generation_tokens),
        ):
            lines += [f"# TYPE {name} counter", f"{name}{{{label}}} {count}"]
        lines.append(f"# TYPE {names.FINISHED} counter")
        lines += [
            f'{names.FINISHED}{{{label},finished_reason="{reason}"}} {count}'
            for reason, count in self.finished.items()
        ]
        for name, histogram in (
            (names.TTFT, self.ttft),
            (names.TOKEN_TIME, self.token_time),
            (names.E2E, self.e2e),
            (names.QUEUE_TIME, self.queue_time),
            (names.PREFILL_TIME, self.prefill_time),
            (names.DECODE_TIME, self.decode_time),
        ):
            lines += histogram.lines(spelled.get(name, name), label)
        return "\n".join(lines) + "\n"
