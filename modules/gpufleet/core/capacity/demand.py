"""What a pool has to hold: its use cases' traffic in the busiest hours, and their targets."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gpufleet.core.capacity.arrivals import Stream, Trace
from gpufleet.core.capacity.bounds import Target
from gpufleet.core.capacity.traffic import BusiestHour, busiest_hour
from gpufleet.core.cost.serving import work_of_request
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import UseCase

_NEARLY: Final = 0.9
"""Share of a use case's busiest hour from which the pool's busiest hour speaks for it too."""


@dataclass(frozen=True)
class PoolDemand:
    """The traffic and the targets of one pool."""

    names: tuple[str, ...]
    """Its use cases, in the order of every index below."""
    use_cases: tuple[UseCase, ...]
    traces: tuple[Trace | None, ...]

    @classmethod
    def of(cls, fleet: Fleet, pool: str, traces: Mapping[str, Trace]) -> "PoolDemand":
        """The demand on a pool.

        Args:
            fleet: declares it.
            pool: with use cases.
            traces: recorded arrivals by use case, where it names some.
        """
        names = tuple(fleet.pools[pool].use_cases)
        return cls(
            names,
            tuple(fleet.use_cases[name] for name in names),
            tuple(traces.get(name) for name in names),
        )

    @cached_property
    def usual(self) -> BusiestHour:
        """The busiest hour of a usual week."""
        return self._busiest(peaks=False)

    @cached_property
    def peak(self) -> BusiestHour:
        """The busiest hour of all, declared peaks included."""
        return self._busiest(peaks=True)

    @cached_property
    def own_hours(self) -> tuple[BusiestHour, ...]:
        """The busiest hour of each use case, declared peaks included."""
        return tuple(self._busiest(peaks=True, of=index) for index in range(len(self.names)))

    @cached_property
    def peak_hours(self) -> tuple[BusiestHour, ...]:
        """`peak`, and the busiest hours of the use cases of which it tells too little."""
        return self._with_quiet(self.peak, self.own_hours)

    @cached_property
    def usual_hours(self) -> tuple[BusiestHour, ...]:
        """The same of a usual week."""
        own = (self._busiest(peaks=False, of=index) for index in range(len(self.names)))
        return self._with_quiet(self.usual, own)

    @staticmethod
    def _with_quiet(
        busiest: BusiestHour, own_hours: Iterable[BusiestHour]
    ) -> tuple[BusiestHour, ...]:
        quiet = (
            hour
            for index, hour in enumerate(own_hours)
            if busiest.rates_rps[index] < _NEARLY * hour.rates_rps[index]
        )
        return (busiest, *{hour.begin: hour for hour in quiet}.values())

    @property
    def is_flat(self) -> bool:
        """Whether the peak asks no more than a usual day does."""
        return self.peak.rates_rps == self.usual.rates_rps

    def share_of(self, replicas: int) -> int:
        """Replicas that a usual day's busiest hour takes of those for the peak, by its work."""
        peak, usual = (self.work(hour) for hour in (self.peak, self.usual))
        return math.ceil(replicas * usual / peak - 1e-9)

    def work(self, hour: BusiestHour) -> float:
        """Units of work that arrive in a second of an hour."""
        return sum(
            rate * work_of_request(use_case.tokens)
            for rate, use_case in zip(hour.rates_rps, self.use_cases, strict=True)
        )

    def _busiest(self, *, peaks: bool, of: int | None = None) -> BusiestHour:
        traffics = [use_case.traffic for use_case in self.use_cases]
        works = [work_of_request(use_case.tokens) for use_case in self.use_cases]
        return busiest_hour(traffics, works, peaks=peaks, of=of)

    def own_share(self, index: int) -> float:
        """A use case's share of the pool's work in its own busiest hour."""
        hour = self.own_hours[index]
        own = hour.rates_rps[index] * work_of_request(self.use_cases[index].tokens)
        return own / self.work(hour)

    def streams(self, hour: BusiestHour) -> list[Stream]:
        """Its arrivals in an hour; use cases that are silent then are left out."""
        return [
            Stream(
                use_case=index,
                rate_rps=rate,
                index_of_dispersion=use_case.traffic.index_of_dispersion,
                tokens=use_case.tokens,
                trace=trace,
            )
            for index, (use_case, rate, trace) in enumerate(
                zip(self.use_cases, hour.rates_rps, self.traces, strict=True)
            )
            if rate > 0
        ]

    def targets(self, hour: BusiestHour) -> list[Target]:
        """What is promised to those that ask in an hour."""
        return [
            Target(
                use_case=index,
                p95_s=use_case.slo.p95_s,
                ttft_p95_s=use_case.slo.ttft_p95_s,
                error_rate=use_case.slo.error_rate,
            )
            for index, use_case in enumerate(self.use_cases)
            if hour.rates_rps[index] > 0
        ]

    @property
    def availability(self) -> float:
        """The highest that is promised."""
        return max(use_case.slo.availability for use_case in self.use_cases)

    def mean_tokens(self) -> tuple[float, float]:
        """Mean lengths of prompts and answers, by requests in the busiest hour.

        Raises:
            ValueError: no request arrives in any hour.
        """
        rates = self.peak.rates_rps
        total = sum(rates)
        if not total:
            raise ValueError("its use cases have no traffic in any hour")
        prompt = sum(r * u.tokens.prompt_mean for r, u in zip(rates, self.use_cases, strict=True))
        output = sum(r * u.tokens.output_mean for r, u in zip(rates, self.use_cases, strict=True))
        return prompt / total, output / total
