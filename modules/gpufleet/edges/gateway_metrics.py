"""What the gateway tells Prometheus: its workers' series together, and what its files say."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

_READS: Final = 3
"""A worker that starts or ends takes files away while they are being read."""


class WorkerSeries(Collector):
    """The series of all workers, from the files that they write.

    Args:
        folder: of these files; without it there are no series.
        without: names of families that somebody else tells.
    """

    def __init__(self, folder: Path, without: Collection[str] = ()) -> None:
        self._folder = folder
        self._without = frozenset(without)

    def collect(self) -> Iterable[Metric]:
        """Counters of every worker since the gateway's start, gauges of those that live."""
        for _ in range(_READS):
            self._forget_dead()
            try:
                workers = MultiProcessCollector(None, str(self._folder))
                families: list[Metric] = list(workers.collect())
            except (OSError, ValueError):
                continue
            return [family for family in families if family.name not in self._without]
        return []

    def _forget_dead(self) -> None:
        """Remove the gauges of workers that have ended: their last values are not true any more."""
        for file in self._folder.glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if not _lives(pid):
                mark_process_dead(pid, str(self._folder))


class Measured(Collector):
    """Gauges whose values are looked up when they are asked for.

    Args:
        name: of the gauge.
        text: what it is.
        labels: of each series.
        values: the series by the values of their labels; what is None is left out.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        values: Callable[[], Mapping[tuple[str, ...], float | None]],
    ) -> None:
        self._about = (name, text)
        self._labels = labels
        self._values = values

    def describe(self) -> Iterable[Metric]:
        """Its name, without looking anything up."""
        return [GaugeMetricFamily(*self._about, labels=self._labels)]

    def collect(self) -> Iterator[Metric]:
        """Its values now."""
        family = GaugeMetricFamily(*self._about, labels=self._labels)
        for labels, value in self._values().items():
            if value is not None:
                family.add_metric(labels, value)
        yield family


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
