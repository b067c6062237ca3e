"""The worker: runs flows, begins scheduled ones, and does the chores of its environment."""

import os
import secrets
import signal
import socket
import sys
import threading
from collections import Counter as Tally
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from gpufleet.core.gateway import series
from gpufleet.core.monitoring import platform
from gpufleet.core.prewarming import Window
from gpufleet.edges import metrics
from gpufleet.edges.clock import system_clock
from gpufleet.edges.code_version import code_version
from gpufleet.edges.workspace import Workspace

# Importing a flow declares it.
from gpufleet.flows import batch, change, patching, schedules  # noqa: F401
from gpufleet.flows.audit_deletion import delete
from gpufleet.flows.batch_files import sweep
from gpufleet.flows.chores import Chore, Chores
from gpufleet.flows.cordons import clear_stale_marks
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.drills import drilling, for_real  # noqa: F401
from gpufleet.flows.drills.keeper import hitting, strike_left
from gpufleet.flows.drills.schedule import DrillKeeper
from gpufleet.flows.durable import Host
from gpufleet.flows.freeze_sync import FreezeKeeper
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import REFUSED, listed
from gpufleet.flows.overrides import settle
from gpufleet.flows.patch_cycle import PatchCycleKeeper
from gpufleet.flows.prewarm import PrewarmKeeper
from gpufleet.flows.prewarm_weights import WeightsKeeper
from gpufleet.flows.record_keeping import anchor
from gpufleet.flows.schedules import begin_due
from gpufleet.flows.snapshot_ages import SnapshotAges
from gpufleet.flows.snapshot_retention import keep_retention
from gpufleet.flows.snapshot_schedule import ScheduleKeeper
from gpufleet.flows.state_backup import back_up
from gpufleet.spec.drills import Due
from gpufleet.spec.errors import FleetError
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.records import Fact
from gpufleet.spec.snapshots import SnapshotKind

LOOPBACK: Final = "127.0.0.1"
_TICK_S: Final = 0.5
_SILENT_FOR_S: Final = 60.0
"""A worker that has not looked at its database for this long is not ready."""
_LOST_DATABASE_PAUSE_S: Final = 5.0


class Worker:
    """One worker process of an environment.

    Args:
        ground: the environment.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        live = LiveGround(ground)
        self.executor = f"{socket.gethostname()[:60]}-{secrets.token_hex(4)}"
        self._host = Host(ground, self.executor)
        self._ended = threading.Event()
        self._registry = CollectorRegistry()
        self._flows = Gauge(platform.FLOWS, "Flows by state", ["state"], registry=self._registry)
        self._running = Chores(self._ended, self._registry)
        begun: set[str] = set()
        self._keeper = FreezeKeeper(ground)
        self._known_until = Gauge(
            platform.FREEZE_KNOWN_UNTIL,
            "Until when a cluster knows whether a freeze holds; later it counts as frozen",
            ["site"],
            registry=self._registry,
        )
        self._sites: set[str] = set()
        granted: set[str] = set()
        self._missing = Gauge(
            series.PREWARM_MISSING,
            "Replicas of a declared peak that are not warm in time",
            ["pool", "site", "window"],
            registry=self._registry,
        )
        prewarm = PrewarmKeeper(ground, self.executor, self._set_missing)
        self._without_weights = Gauge(
            platform.WEIGHTS_MISSING,
            "Nodes that do not have the weights of a declared peak, and will not in time",
            ["pool", "site", "window"],
            registry=self._registry,
        )
        weights = WeightsKeeper(live, self.executor, self._set_without_weights)
        self._overdue = Gauge(
            platform.PATCH_OVERDUE_S,
            "How long a component has been due for an update",
            ["component"],
            registry=self._registry,
        )
        oldest = Gauge(
            platform.OLDEST_CRITICAL_S,
            "How long the oldest critical vulnerability that is installed has been known",
            registry=self._registry,
        )
        ages = SnapshotAges(self._registry)
        revisions = ScheduleKeeper(live, SnapshotKind.ARTIFACT, ages.tell)
        protected = ScheduleKeeper(live, SnapshotKind.STATE, ages.tell)
        self._due = Gauge(
            platform.DRILL_DUE_AT,
            "When a drill, or a revision's restore, has to be proven again at the latest",
            ["scenario", "target"],
            registry=self._registry,
        )
        drills = DrillKeeper(live, self._set_due)
        self._for_real = Gauge(
            platform.DRILL_FOR_REAL,
            "1 while a drill for real hits production, until it is given back",
            ["scenario", "target"],
            registry=self._registry,
        )
        self._hitting: set[tuple[str, str]] = set()
        cadences = PatchCycleKeeper(live, self._set_overdue, oldest.set)
        self._chores = [
            Chore("adopt", 2, self._host.adopt),
            Chore("schedules", 5, lambda: begin_due(live.now(), begun)),
            Chore("freeze", 5, self._keep_freeze),
            Chore("overrides", 5, lambda: settle(live.now(), granted)),
            Chore("anchor", 2, lambda: anchor(live.now())),
            Chore("state backup", 10, lambda: back_up(live.now())),
            Chore("audit retention", 600, lambda: delete(live.now(), system_clock())),
            Chore("batch files", 60, lambda: sweep(live.now())),
            Chore("flows", 10, self._count),
            Chore("prewarm", 10, prewarm.keep),
            Chore("prewarm weights", 10, weights.keep),
            Chore("patch cycle", 60, cadences.keep),
            Chore("snapshots", 60, revisions.keep),
            Chore("protection", 15, protected.keep),
            Chore("snapshot retention", 3600, lambda: keep_retention(live.now())),
            Chore("cordons", 30, lambda: clear_stale_marks(live.now())),
            Chore("drills", 10, lambda: strike_left(live.now())),
            Chore("drills for real", 5, lambda: self._tell_hitting(live.now())),
            Chore("drills due", 60, drills.keep),
        ]

    @property
    def is_ready(self) -> bool:
        """Whether it takes flows: it has asked the database for them lately."""
        return self._chores[0].is_fresh(_SILENT_FOR_S)

    def run(self, port: int | None, listen: str = LOOPBACK) -> None:
        """Work until SIGTERM or Ctrl-C.

        Args:
            port: of metrics and readiness; none where it is not given.
            listen: address of that port.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ended.set())
        if port:
            metrics.serve(listen, port, self._registry, lambda: self.is_ready)
        self._start()
        for chore in self._chores:
            self._running.start(chore)
        while not self._ended.wait(_TICK_S):
            pass
        self._host.stop()
        # Flows that run are threads that cannot be ended: the next worker takes them over.
        sys.stderr.flush()
        os._exit(0)

    def _start(self) -> None:
        while not self._ended.is_set():
            try:
                self._host.start()
            except FleetError as error:
                sys.stderr.write(f"{error}\n")
                self._ended.wait(_LOST_DATABASE_PAUSE_S)
            else:
                self._ground.note("worker.started", actor=self.executor, code=code_version())
                return

    def _keep_freeze(self) -> None:
        try:
            self._keeper.keep()
        finally:
            known = self._keeper.known_until
            for gone in self._sites - known.keys():
                self._known_until.remove(gone)
            self._sites = set(known)
            for site, at in known.items():
                self._known_until.labels(site).set(at.timestamp())

    def _set_missing(self, window: Window, count: int | None) -> None:
        _set_of_window(self._missing, window, count)

    def _set_without_weights(self, window: Window, count: int | None) -> None:
        _set_of_window(self._without_weights, window, count)

    def _set_overdue(self, target: PatchTarget, seconds: float | None) -> None:
        if seconds is None:
            with suppress(KeyError):
                self._overdue.remove(target.value)
        else:
            self._overdue.labels(target.value).set(seconds)

    def _set_due(self, row: Due) -> None:
        self._due.labels(row.scenario, row.target).set(row.due_at.timestamp())

    def _tell_hitting(self, ground: Ground) -> None:
        found = hitting(ground)
        for gone in self._hitting - found:
            self._for_real.remove(*gone)
        for scenario, target in found:
            self._for_real.labels(scenario, target).set(1)
        self._hitting = found

    def _count(self) -> None:
        """Count the flows, and journal those that this code refuses to replay."""
        rows = listed(self._ground)
        tally = Tally(row.state for row in rows)
        for state in ("queued", "running", "done", "failed", "cancelled", REFUSED):
            self._flows.labels(state).set(tally[state])
        for row in rows:
            if row.state == REFUSED:
                fact = Fact(
                    id=f"refused:{row.id}:{code_version()}",
                    event="flow.refused",
                    actor=self.executor,
                    flow=row.id,
                    body={"why": "another version of the code began it"},
                )
                self._ground.journal.append(fact)


def _set_of_window(gauge: Gauge, window: Window, count: int | None) -> None:
    labels = (window.pool.name, window.pool.site, window.peak.name)
    if count is None:
        with suppress(KeyError):
            gauge.remove(*labels)
    else:
        gauge.labels(*labels).set(count)


def work(workspace: Workspace, fleet_file: Path, port: int | None, listen: str = LOOPBACK) -> None:
    """Run a worker in this process until it is told to end.

    Raises:
        BadInput: the fleet file, or the database's URL.
        Retryable: the database does not answer at all.
    """
    Worker(Ground.open(workspace, fleet_file)).run(port, listen)
