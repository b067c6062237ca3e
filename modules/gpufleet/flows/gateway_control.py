"""The gateway's control process: tells its workers who serves, where requests go, who may ask.

Workers read what it writes and go on with the last good files when it is gone. It goes on with what
it knew last when an API server or the database is lost, and tells so by its metrics.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from gpufleet.core.drills.stage import NAMESPACE as DRILL_NAMESPACE
from gpufleet.core.drills.stage import with_drills
from gpufleet.core.gateway import series
from gpufleet.core.gateway.discovery import Watched, reading_of, replica_of
from gpufleet.core.vocabulary import (
    BATCH_NAMESPACE,
    GATEWAY_NAMESPACE,
    GATEWAY_ROUTES,
    INTERACTIVE_NAMESPACE,
)
from gpufleet.edges import metrics
from gpufleet.edges.audit_files import backlog
from gpufleet.edges.certificates import ends_at
from gpufleet.edges.clock import system_clock
from gpufleet.edges.engine_poll import EnginePoller
from gpufleet.edges.gateway_files import publish, read_published, written_at
from gpufleet.edges.gateway_metrics import Measured, WorkerSeries
from gpufleet.edges.in_flight import Board
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.access import publish_keys
from gpufleet.flows.audit_copies import copy_owed
from gpufleet.flows.audit_shipping import Shipper
from gpufleet.flows.batch_http import BatchServer
from gpufleet.flows.chores import Chore, Chores
from gpufleet.flows.declared import DeclaredFleet, LiveGround
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.gateway_pods import PodBook, PodWatch, missing_routes
from gpufleet.flows.ground import Ground
from gpufleet.flows.hosted_spend import share_spend
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import Failed, FleetError
from gpufleet.spec.gateway import (
    KEYS_FILE,
    REPLICAS_FILE,
    ROUTES_FILE,
    Replica,
    Replicas,
    Routes,
)

LOOPBACK: Final = "127.0.0.1"
BOARD_FILE: Final = "board"
AUDIT_FOLDER: Final = "audit"
_TICK_S: Final = 0.5
_POLL_PAUSE_S: Final = 0.7
_ROUND_S: Final = 0.5
"""A hung engine delays a round by so much."""
_POLL_TIMEOUT_S: Final = 2.5
_FRESH_S: Final = 10.0
_WATCH_PAUSE_S: Final = 0.5
_ROUTES_EVERY_S: Final = 2.0
_DRILLS_EVERY_S: Final = 2.0
_WAITED_FOR_S: Final = 300.0
"""So long the routes of a site whose API server is lost stay, before another site's are taken."""
_SITES_EVERY_S: Final = 2.0
_SHIP_EVERY_S: Final = 5.0
_LAST_SHIP_S: Final = 10.0
"""Below the time that a supervisor and a pod's grace give."""
_COPY_EVERY_S: Final = 30.0
_BATCHES_EVERY_S: Final = 5.0
_SPEND_EVERY_S: Final = 5.0
_KEYS_EVERY_S: Final = 1.0
"""A revoked key is refused a second or so later."""
_ROUTES_PATH: Final = f"/api/v1/namespaces/{GATEWAY_NAMESPACE}/configmaps/{GATEWAY_ROUTES}"
_DRILL_ROUTES_PATH: Final = f"/api/v1/namespaces/{DRILL_NAMESPACE}/configmaps/{GATEWAY_ROUTES}"


class Control:
    """The control process of one gateway.

    Args:
        workspace: the clone.
        fleet_file: of the environment.
        fleet: it, as it was loaded.
        folder: of the gateway.
    """

    def __init__(self, workspace: Workspace, fleet_file: Path, fleet: Fleet, folder: Path) -> None:
        self._open_ground = partial(Ground.open, workspace, fleet_file)
        self._ground: LiveGround | None = None
        self._opening = threading.Lock()
        self._batches: BatchServer | None = None
        self._declared = DeclaredFleet(fleet_file, fleet)
        self._state = workspace.for_fleet(fleet)
        self._folder = folder
        self._ended = threading.Event()
        self._book = PodBook(fleet, read_published(folder / REPLICAS_FILE, Replicas))
        self._watched: dict[str, Watched] = {}
        self._routes_confirmed_s: float | None = None
        self._drills: dict[str, Routes] = {}
        self._registry = CollectorRegistry()
        self._chores = Chores(self._ended, self._registry)
        self._poll = Chore("poll", _POLL_PAUSE_S, self._poll_engines)
        self._shipper: Shipper | None = None
        self._shipping = threading.Lock()
        self._owed: Mapping[tuple[str, ...], float | None] = {}
        self._loop: asyncio.Runner | None = None
        self._poller = EnginePoller(_POLL_TIMEOUT_S)
        self._followed: set[str] = set()
        # Which site the routes that are there already came from is not known.
        known = self._sites if (folder / ROUTES_FILE).is_file() else []
        self._told_at = dict.fromkeys(known, time.monotonic())
        """By site, when it told the routes last; monotonic, s."""

    @property
    def _fleet(self) -> Fleet:
        """As it is declared now."""
        return self._declared.now()

    @property
    def _sites(self) -> list[str]:
        fleet = self._fleet
        return [name for name in fleet.sites if not fleet.awaits_cluster(name)]

    @property
    def is_ready(self) -> bool:
        """Whether the workers have something to go by, and engines are looked at."""
        return self._poll.is_fresh(_FRESH_S) and (self._folder / ROUTES_FILE).is_file()

    def run(self, port: int | None, listen: str = LOOPBACK) -> None:
        """Work until SIGTERM or Ctrl-C; what workers that ended before have sealed is shipped then.

        Args:
            port: of metrics and readiness; none where it is not given.
            listen: address of that port.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ended.set())
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tell()
        if port:
            metrics.serve(listen, port, self._registry, lambda: self.is_ready)
        for chore in self._all_chores():
            self._chores.start(chore)
        while not self._ended.wait(_TICK_S):
            pass
        self._ship_the_last()
        sys.stderr.flush()
        # Watches are threads that wait in the middle of an answer.
        os._exit(0)

    def _all_chores(self) -> list[Chore]:
        return [
            Chore("sites", _SITES_EVERY_S, self._follow_sites),
            Chore("routes", _ROUTES_EVERY_S, self._follow_routes),
            Chore("drills", _DRILLS_EVERY_S, self._follow_drills),
            Chore("keys", _KEYS_EVERY_S, self._publish_keys),
            Chore("hosted spend", _SPEND_EVERY_S, self._share_spend),
            Chore("audit", _SHIP_EVERY_S, self._ship),
            Chore("audit copies", _COPY_EVERY_S, self._copy_owed),
            Chore("batches", _BATCHES_EVERY_S, self._serve_batches),
            self._poll,
        ]

    def _follow_sites(self) -> None:
        """Watch the pods of sites that are new."""
        for site in self._sites:
            if site in self._followed:
                continue
            self._followed.add(site)
            drills = [DRILL_NAMESPACE] if site in embedded_sites(self._fleet) else []
            for namespace in (INTERACTIVE_NAMESPACE, BATCH_NAMESPACE, *drills):
                watch = PodWatch(self._book, site, namespace, partial(self._enter, site))
                work = partial(self._follow_pods, site, namespace, watch)
                self._chores.start(Chore(f"pods {site} {namespace}", _WATCH_PAUSE_S, work))

    def _follow_pods(self, site: str, namespace: str, watch: PodWatch) -> None:
        if site in self._sites:
            watch.follow()
        else:
            self._book.replace(site, namespace, {})

    def _enter(self, site: str) -> Cluster:
        return cluster_of(self._fleet, self._state, site)

    def _poll_engines(self) -> None:
        """Read every engine's metrics, and publish what they say; always called by one thread."""
        if self._loop is None:
            self._loop = asyncio.Runner()
            self._loop.run(self._poller.open())
        self._loop.run(self._round())

    async def _round(self) -> None:
        known = self._book.all()
        engines = {found.uid: found.url for _, found in known}
        for uid, read in (await self._poller.read_all(engines, _ROUND_S)).items():
            if reading := reading_of(read.text, read.at_s):
                self._watched.setdefault(uid, Watched()).add(reading, read.wall_s)
        now_s, wall_s = time.monotonic(), time.time()
        there = {found.uid for _, found in known}
        self._watched = {uid: seen for uid, seen in self._watched.items() if uid in there}
        pools: dict[str, list[Replica]] = {name: [] for name in self._fleet.pools}
        for site, found in known:
            replica = replica_of(found, site, self._watched.get(found.uid), now_s)
            pools.setdefault(found.pool, []).append(replica)
        told = Replicas(at=wall_s, pools=pools)
        publish(self._folder / REPLICAS_FILE, told.model_dump_json(by_alias=True))

    def _follow_routes(self) -> None:
        """Publish what the first cluster that answers was told to tell us.

        One that has told us lately is waited for: what a later one holds may be older.

        Raises:
            Retryable: none answers, or none was told yet; the last routes stay.
            Failed: they are not ours, or not valid; likewise.
        """
        last: FleetError = missing_routes(self._fleet.slug)
        for site in self._sites:
            try:
                text = self._routes_at(site, _ROUTES_PATH)
            except FleetError as error:
                if time.monotonic() - self._told_at.get(site, float("-inf")) < _WAITED_FOR_S:
                    raise
                last = error
                continue
            if text is not None:
                self._told_at[site] = time.monotonic()
                self._publish_routes(text)
                return
        raise last

    def _follow_drills(self) -> None:
        """Find the stand-ins of drills; a site that does not answer has none.

        Apart from the routes, which do not wait for a site that is lost.
        """
        for site in embedded_sites(self._fleet):
            try:
                text = self._routes_at(site, _DRILL_ROUTES_PATH)
                told = Routes.model_validate_json(text) if text else None
            except (FleetError, ValueError):
                told = None
            if told:
                self._drills[site] = told
            else:
                self._drills.pop(site, None)

    def _routes_at(self, site: str, path: str) -> str | None:
        cluster = self._enter(site)
        try:
            config = cluster.get(path)
        finally:
            cluster.close()
        told: str | None = (config or {}).get("data", {}).get(ROUTES_FILE)
        return told

    def _publish_routes(self, text: str) -> None:
        file = self._folder / ROUTES_FILE
        try:
            routes = Routes.model_validate_json(text)
        except ValueError as error:
            raise Failed(f"the routes are not valid: {error}"[:300], where=_ROUTES_PATH) from None
        if (routes.fleet, routes.environment) != (self._fleet.fleet, self._fleet.environment):
            raise Failed(
                f"the routes are of {routes.fleet} {routes.environment}", where=_ROUTES_PATH
            )
        routes = with_drills(routes, list(self._drills.values()))
        if routes != read_published(file, Routes):
            publish(file, routes.model_dump_json(by_alias=True))
        self._routes_confirmed_s = time.monotonic()

    def _publish_keys(self) -> None:
        """Publish who may ask; the database is opened when it answers first.

        Raises:
            Retryable: the database does not answer; the last keys stay.
        """
        ground = self._opened()
        if not (self._folder / KEYS_FILE).is_file():
            # Nobody is let in before it is known what the month has cost so far.
            self._share_spend()
        publish_keys(ground, self._folder, system_clock())

    def _share_spend(self) -> None:
        """Exchange with the database what hosted APIs have cost.

        Raises:
            Retryable: the database or the ledger does not answer.
        """
        routes = read_published(self._folder / ROUTES_FILE, Routes)
        pods = routes.pods if routes else 1
        share_spend(self._opened().database, self._folder, pods, system_clock())

    def _serve_batches(self) -> None:
        """Serve files and batches on the workers' socket, from when the database answers first.

        Raises:
            Retryable: the database does not answer.
        """
        if self._batches is None:
            self._opened()
            self._batches = BatchServer(self._opened, self._folder).start()

    def _ship(self) -> None:
        """Bring sealed audit records to the object stores.

        Raises:
            Retryable: the database or every store is lost; the records stay here.
        """
        ground = self._opened()
        with self._shipping:
            if self._shipper is None or self._shipper.ground is not ground:
                self._shipper = Shipper(ground, self._folder / AUDIT_FOLDER)
            self._shipper.ship(system_clock())

    def _ship_the_last(self) -> None:
        """Ship once more, for as long as whoever ends this process waits; the rest stays."""

        def ship() -> None:
            try:
                self._ship()
            except FleetError as error:
                sys.stderr.write(f"audit: {error}\n")

        last = threading.Thread(target=ship, daemon=True, name="last audit records")
        last.start()
        last.join(_LAST_SHIP_S)

    def _copy_owed(self) -> None:
        """Bring object stores the audit records that they missed.

        Raises:
            Retryable: the database does not answer.
        """
        left = copy_owed(self._opened(), system_clock())
        self._owed = {(site,): left.get(site, 0) for site in self._sites}

    def _opened(self) -> Ground:
        with self._opening:
            self._ground = self._ground or LiveGround(self._open_ground())
            return self._ground.now()

    def _tell(self) -> None:
        """Declare the metrics: the workers', and what their files say."""
        for collector in (
            # The workers know when a file was written; not that an old one is still right.
            WorkerSeries(self._folder / "metrics", without=(series.FILE_AGE_S,)),
            Measured(
                series.IN_FLIGHT,
                "Requests in flight, over all workers",
                ["use_case"],
                self._in_flight,
            ),
            Measured(
                series.AUDIT_UNSHIPPED_S,
                "Age of the oldest record that is in no object store",
                [],
                self._unshipped_s,
            ),
            Measured(
                series.AUDIT_COPIES_OWED,
                "Segments of records that a site's object store has missed",
                ["site"],
                lambda: self._owed,
            ),
            Measured(series.FILE_AGE_S, "Time since it was written", ["file"], self._file_ages_s),
            Measured(
                series.CERTIFICATE_EXPIRES, "When a certificate ends", ["name"], self._certificates
            ),
        ):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def _file_ages_s(self) -> Mapping[tuple[str, ...], float | None]:
        """Of the routes: since they were last seen to be what is deployed; they rarely change."""
        ages: dict[tuple[str, ...], float | None] = {}
        for name in (ROUTES_FILE, REPLICAS_FILE, KEYS_FILE):
            at = written_at(self._folder / name)
            ages[name.removesuffix(".json"),] = None if at is None else max(0.0, time.time() - at)
        if self._routes_confirmed_s is not None:
            ages["routes",] = time.monotonic() - self._routes_confirmed_s
        return ages

    def _in_flight(self) -> Mapping[tuple[str, ...], float | None]:
        file = self._folder / BOARD_FILE
        routes = read_published(self._folder / ROUTES_FILE, Routes)
        if routes is None or not file.is_file():
            return {}
        with Board(file, writes=False) as board:
            totals = board.totals([f"use_case:{name}" for name in routes.use_cases])
        return {(name.partition(":")[2],): count for name, count in totals.items()}

    def _unshipped_s(self) -> Mapping[tuple[str, ...], float | None]:
        oldest_s = backlog(self._folder / AUDIT_FOLDER).oldest_at_s
        return {(): 0.0 if oldest_s is None else max(0.0, time.time() - oldest_s)}

    def _certificates(self) -> Mapping[tuple[str, ...], float | None]:
        """Of the gateway, and of the embedded sites."""
        return {
            (f"{file.parent.parent.name} {file.stem}",): ends_at(file)
            for file in (
                *self._folder.glob("pki/*.crt"),
                *self._state.root.glob("sites/*/pki/*.crt"),
            )
        }


def control(
    workspace: Workspace,
    fleet_file: Path,
    folder: Path | None,
    port: int | None,
    listen: str = LOOPBACK,
) -> None:
    """Run the control process of a gateway in this process until it is told to end.

    Args:
        workspace: the clone.
        fleet_file: of the environment.
        folder: of the gateway; that of the embedded platform where it is not given.
        port: of metrics and readiness.
        listen: address of that port.

    Raises:
        BadInput: the fleet file.
    """
    fleet = load_fleet(fleet_file)
    folder = folder or workspace.for_fleet(fleet).gateway
    Control(workspace, fleet_file, fleet, folder).run(port, listen)
