"""What the worker tells Prometheus of snapshots: when the newest are from, and how old they may be.

Moments and not ages: a worker that stands still does not stop time.
"""

from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge

from gpufleet.core.monitoring import platform
from gpufleet.core.snapshots.schedule import Line
from gpufleet.spec.snapshots import SnapshotKind


class SnapshotAges:
    """Gauges by revision and store; those of a protected set by store alone.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(name, what, labels, registry=registry)

        at, limit = "When the newest good one was created", "Age above which it is too old"
        self._at = gauge(platform.SNAPSHOT_AT, at, "revision", "store")
        self._limit = gauge(platform.SNAPSHOT_RPO_S, limit, "revision", "store")
        self._protected_at = gauge(platform.PROTECTED_AT, at, "store")
        self._protected_limit = gauge(platform.PROTECTED_RPO_S, limit, "store")

    def tell(self, line: Line, site: str, created: datetime | None) -> None:
        """Tell how one line stands in one store; None for one that is not declared any more."""
        protects = line.kind is SnapshotKind.STATE
        labels = (site,) if protects else (line.revision, site)
        at, limit = (
            (self._protected_at, self._protected_limit) if protects else (self._at, self._limit)
        )
        if created is None:
            at.remove(*labels)
            limit.remove(*labels)
        else:
            at.labels(*labels).set(created.timestamp())
            limit.labels(*labels).set(line.rpo.total_seconds())
