"""What the node agent tells Prometheus of its pods."""

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gpufleet.local.engine.replica import Identity, Phase, View

_LABELS: Final = ("namespace", "pool")
OOM_KILLED: Final = "OOMKilled"


class AgentMetrics:
    """Pods, engines by phase, restarts and kills for want of memory, by pool."""

    def __init__(self, pods: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._phases = _Phases()
        ProcessCollector(registry=self._registry)
        self._registry.register(self._phases)
        gauge = Gauge(
            "gpufleet_agent_pods", "Pods of pools that have an address", registry=self._registry
        )
        gauge.set_function(lambda: float(pods()))
        self._restarts = Counter(
            "gpufleet_agent_restarts",
            "Engines that were started again",
            _LABELS,
            registry=self._registry,
        )
        self._oom_kills = Counter(
            "gpufleet_agent_oom_kills",
            "Engines that were killed for want of memory",
            _LABELS,
            registry=self._registry,
        )

    def engine_changed(self, identity: Identity, view: View) -> None:
        """Count what has happened to an engine."""
        labels = (identity.namespace, identity.pool)
        before = self._phases.take(identity, view)
        # Both are there from the first pod on, so that their first increase can be seen.
        restarts, kills = self._restarts.labels(*labels), self._oom_kills.labels(*labels)
        if before and view.restarts > before.restarts:
            restarts.inc()
            if view.last_death and view.last_death.reason == OOM_KILLED:
                kills.inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Phases(Collector):
    """How many engines are in each phase."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[str, tuple[Identity, View]] = {}

    def take(self, identity: Identity, view: View) -> View | None:
        """An engine as it is now; how it was before, None where it is new."""
        with self._lock:
            before = self._engines.get(identity.uid)
            if view.phase is Phase.GONE:
                self._engines.pop(identity.uid, None)
            else:
                self._engines[identity.uid] = (identity, view)
        return before[1] if before else None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metric."""
        with self._lock:
            tally = Tally(
                (identity.namespace, identity.pool, view.phase.value.replace(" ", "-"))
                for identity, view in self._engines.values()
            )
        family = GaugeMetricFamily(
            "gpufleet_agent_engines", "Engines by phase", labels=(*_LABELS, "phase")
        )
        for labels, count in tally.items():
            family.add_metric(labels, count)
        yield family
