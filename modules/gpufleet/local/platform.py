"""Brings the embedded platform of one environment up and down, and says how it is."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from filelock import FileLock, Timeout

from gpufleet.core.inventory import expand_site
from gpufleet.edges.engines import Binaries
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import (
    DATABASE_URL_FILE,
    DATABASE_URL_VARIABLE,
    EnvironmentDir,
)
from gpufleet.local import ports
from gpufleet.local.addresses import choose_block
from gpufleet.local.devices import apply_devices
from gpufleet.local.engine.settings import write_engines
from gpufleet.local.files import read_json, write_json, write_private
from gpufleet.local.gateway_layout import (
    CONTROL,
    GATEWAY,
    GatewayFiles,
    gateway,
    gateway_control,
)
from gpufleet.local.gpu_board import write_gpus
from gpufleet.local.host_access import keep_host_access
from gpufleet.local.monitoring import write_rules
from gpufleet.local.nodes import apply_nodes
from gpufleet.local.process import Process
from gpufleet.local.shared_layout import SHARED, SHARED_PORTS, worker
from gpufleet.local.site_files import ADMIN, SiteFiles, merged
from gpufleet.local.site_layout import processes
from gpufleet.local.supervisor import ProcessState, Supervisor
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.progress import ProcessProgress

OnProgress = Callable[[ProcessProgress], None]
HEAL_WITHIN_S: Final = 20
"""A supervisor that runs gets this long to heal its processes before all is started anew."""
START_WITHIN_S: Final = 180
_RESTARTS_OF_A_START: Final = 5
"""A process that ends that often while all is started, and no other gets ready any more, will not
come up by waiting."""
_SETTLED_S: Final = 10.0
"""Controllers end as long as the API server does not list their kinds: at its start, a moment."""
_POLL_S: Final = 0.2
_LOG_LINES: Final = 5


@dataclass(frozen=True)
class Platform:
    """The embedded sites of one environment on this machine."""

    fleet: Fleet
    state: EnvironmentDir
    binaries: Binaries
    fleet_file: Path | None = None
    """What the worker reads; without it only the sites run."""
    gateway_python: Path | None = None
    """Of the gateway's environment; without it no gateway runs."""

    @property
    def sites(self) -> list[str]:
        """The sites that gpufleet runs itself."""
        return embedded_sites(self.fleet)

    def up(self, on_progress: OnProgress) -> None:
        """Make everything run and every declared node stand; finds what runs already.

        Raises:
            Failed: a process does not start; names it, with the end of its log.
            Retryable: another `up` of this environment is under way.
        """
        if not self.sites:
            return
        with _only_one(self.state):
            supervisor = Supervisor(self.state.root, self.binaries.path("process-compose"))
            if not self._runs_as_declared(supervisor, on_progress):
                supervisor.stop()
                supervisor.declare(self._declare(keep_ports=False))
                supervisor.start(self._authorities())
                if late := self._wait_ready(
                    supervisor, START_WITHIN_S, on_progress, restarts=_RESTARTS_OF_A_START
                ):
                    raise _does_not_start(supervisor, late)
            self._apply_nodes()

    def gateway_failure(self) -> Callable[[], Failed | None]:
        """Tells, whenever it is called, whether the gateway ends again and again since now.

        With the end of its log; None as long as it is ready or may still become so.
        """
        supervisor = Supervisor(self.state.root)

        # What it went through before, in days maybe, is over.
        before = restarts_of_gateway(supervisor.observe())

        def look() -> Failed | None:
            ends = ends_again_and_again(supervisor.observe(), before)
            return _does_not_start(supervisor, ends) if ends else None

        return look

    def declare_engines(self) -> None:
        """Write what simulated replicas are; those that run keep to what they were started with."""
        # The capacity model's libraries take a while to import, which only those pay who start it.
        from gpufleet.local.engine_specs import engine_specs  # noqa: PLC0415

        for site in self.sites:
            write_engines(self.state.site(site), engine_specs(self.fleet, site))
            write_gpus(self.state.site(site), self.fleet, site)

    def _runs_as_declared(self, supervisor: Supervisor, on_progress: OnProgress) -> bool:
        if not supervisor.is_running() or not self._keeps_every_port():
            return False
        supervisor.declare(self._declare(keep_ports=True))
        if not supervisor.is_running_as_declared():
            return False
        return not self._wait_ready(supervisor, HEAL_WITHIN_S, on_progress)

    def _authorities(self) -> list[Path]:
        """Who signed the certificates of processes that are asked whether they are ready."""
        sites = [self._site(site).authority for site in self.sites]
        return [*sites, self._gateway.authority] if self._has_gateway else sites

    def _keeps_every_port(self) -> bool:
        return all(ports.is_complete(file, names) for file, names in self._port_files())

    def _port_files(self) -> list[tuple[Path, Sequence[str]]]:
        sites = [self.state.ports(site) for site in self.sites]
        return [*((file, ports.NAMES) for file in sites), (self.state.ports(), SHARED_PORTS)]

    def _declare(self, *, keep_ports: bool) -> dict[str, Sequence[Process]]:
        """Write every file that the processes read, and return the processes."""
        if not keep_ports:
            taken: set[int] = set()
            for file, names in self._port_files():
                ports.choose(file, taken, names)
        blocks: set[str] = set()
        sites = {name: self._site(name) for name in self.sites}
        for name, site in sites.items():
            site.kubeconfig(ADMIN)
            site.kubeconfig("agent")
            write_json(
                site.folder / "site.json",
                {
                    "name": name,
                    "ports": dict(site.ports),
                    "manifests": str(site.manifests),
                    "addresses": choose_block(site.folder, blocks),
                },
            )
        self.declare_engines()
        entries = {name: site.entry(ADMIN) for name, site in sites.items()}
        write_private(self.state.kubeconfig, yaml.safe_dump(merged(entries)))
        declared: dict[str, Sequence[Process]] = {
            name: processes(site) for name, site in sites.items()
        }
        if self.fleet_file:
            url = self.state.root / DATABASE_URL_FILE
            if given := os.environ.get(DATABASE_URL_VARIABLE):
                # The worker inherits no variable of whoever starts it.
                write_private(url, given)
            keep_host_access(self.state, os.environ)
            declared[SHARED] = (
                worker(self.fleet_file, self._shared_port("worker"), url),
                *self._gateway_processes(self.fleet_file, url),
            )
        return declared

    def _gateway_processes(self, fleet_file: Path, database_url: Path) -> list[Process]:
        if not self._has_gateway:
            return []
        files = self._gateway
        files.prepare(self.fleet, fleet_file)
        # LiteLLM takes a core for some seconds to start: not while control planes do.
        after = [f"{site}.bootstrap" for site in self.sites]
        control = gateway_control(files, fleet_file, database_url, after)
        return [control, gateway(files, after)]

    @property
    def _has_gateway(self) -> bool:
        return self.fleet_file is not None and self.gateway_python is not None

    @property
    def _gateway(self) -> GatewayFiles:
        assert self.gateway_python is not None  # noqa: S101 - asked before
        ports = {name: self._shared_port(name) for name in (GATEWAY, CONTROL)}
        return GatewayFiles(self.state.gateway, ports, self.gateway_python)

    def _site(self, name: str) -> SiteFiles:
        return SiteFiles(
            name,
            self.state.site(name),
            read_json(self.state.ports(name)) or {},
            self.binaries.paths,
            self.binaries.files,
            fleet=self.fleet.slug,
            worker_port=self._shared_port("worker") if self.fleet_file else None,
            gateway_port=self._shared_port(CONTROL)
            if self._has_gateway and name == self.sites[0]
            else None,
        )

    def _shared_port(self, process: str) -> int:
        return int(read_json(self.state.ports())[process])

    def _wait_ready(
        self,
        supervisor: Supervisor,
        within_s: float,
        on_progress: OnProgress,
        *,
        restarts: int | None = None,
    ) -> list[ProcessState] | None:
        """Wait until every process is ready; returns those that are not, or None.

        Not for the gateway: it gets ready while the stacks are made, and `up` asks it at its end.

        With `restarts`, those that were started that often come back once no other gets ready.
        """
        started = moved = time.monotonic()
        told: set[tuple[str, str]] = set()
        while True:
            states = supervisor.observe()
            elapsed_s = time.monotonic() - started
            for state in states:
                if state.ready and (state.site, state.process) not in told:
                    told.add((state.site, state.process))
                    moved = time.monotonic()
                    on_progress(ProcessProgress(state.site, state.process, "ready", elapsed_s))
            late = [state for state in states if not state.ready and state.process != GATEWAY]
            if states and not late:
                return None
            crashing = [state for state in late if restarts and state.restarts >= restarts]
            if crashing and time.monotonic() - moved >= _SETTLED_S:
                return crashing
            if elapsed_s > within_s or not supervisor.is_running():
                return late or [ProcessState("", "supervisor", "ended", 0, 0, ready=False)]
            time.sleep(_POLL_S)

    def _apply_nodes(self) -> None:
        for site in self.sites:
            cluster = Cluster(self.state.kubeconfig, site)
            nodes = expand_site(self.fleet, site)
            apply_nodes(cluster, nodes)
            apply_devices(cluster, nodes)
            cluster.close()


def restarts_of_gateway(states: Sequence[ProcessState]) -> int:
    """How often the gateway was started again; 0 where there is none."""
    return sum(state.restarts for state in states if state.process == GATEWAY)


def ends_again_and_again(states: Sequence[ProcessState], before: int) -> list[ProcessState]:
    """The gateway, where it is not ready and was started again so often that it will not be.

    Args:
        states: of all processes now.
        before: `restarts_of_gateway` when it was first looked at.
    """
    return [
        state
        for state in states
        if state.process == GATEWAY
        and not state.ready
        and state.restarts - before >= _RESTARTS_OF_A_START
    ]


def embedded_sites(fleet: Fleet) -> list[str]:
    """The sites of a fleet that gpufleet runs itself."""
    return [name for name, site in fleet.sites.items() if isinstance(site.cluster, EmbeddedCluster)]


def tell_rules(fleet: Fleet, state: EnvironmentDir, site: str) -> None:
    """Bring the alert rules of a site to what a fleet file declares, where it is embedded."""
    if site in embedded_sites(fleet):
        write_rules(state.site(site), fleet, site)


def down(state: EnvironmentDir, *, purge: bool) -> None:
    """Stop every process of an environment in order; with `purge` also remove its state."""
    if not state.root.is_dir():
        return
    with _only_one(state):
        Supervisor(state.root).stop()
    if purge:
        shutil.rmtree(state.root)


def observe(state: EnvironmentDir) -> list[ProcessState]:
    """Every process of an environment's platform; none where it does not run."""
    return Supervisor(state.root).observe()


def _only_one(state: EnvironmentDir) -> AbstractContextManager[object]:
    """One `up` or `down` at a time for each environment."""
    state.make()
    try:
        return FileLock(state.root / ".platform.lock").acquire(timeout=0)
    except Timeout:
        raise Retryable(
            "another ./fleet up or down of this environment is under way",
            where=str(state.root),
            mend="wait for it, then run this again",
        ) from None


def _does_not_start(supervisor: Supervisor, late: list[ProcessState]) -> Failed:
    """Name the first process that is not ready, with the end of its log."""
    first = late[0]
    log = supervisor.log_of(first.site, first.process) if first.site else supervisor.log
    lines = _last_lines(log)
    where = f"{first.process} at {first.site}" if first.site else first.process
    return Failed(
        f"is not ready ({first.state}, {first.restarts} restarts)",
        where=where,
        mend="\n  ".join([f"the end of {log}:", *lines, "then run ./fleet up again"]),
    )


def _last_lines(log: Path) -> list[str]:
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ["(no log)"]
    return [line[:300] for line in text.strip().splitlines()[-_LOG_LINES:]] or ["(empty)"]
