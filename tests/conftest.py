"""The embedded platform that the contract and fault tests share: started once for a session."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import psutil
import pytest
from hypothesis import settings
from tests.postgresql import Server, find_binaries

from gpufleet.edges.engines import Binaries, resolve
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, cache_dir
from gpufleet.local.orphans import MARK
from gpufleet.local.platform import Platform, down, observe
from gpufleet.local.supervisor import ProcessState
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.progress import ProcessProgress

# A busy machine is no failure.
settings.register_profile("gpufleet", deadline=None)
settings.load_profile("gpufleet")

T = TypeVar("T")
NODES_PER_SITE = 2


class Until(Protocol):
    """The type of the fixture `until`."""

    def __call__(self, ask: Callable[[], T | None], within_s: float = 60) -> T:
        """The first true answer."""


def small_fleet(*sites: str) -> Fleet:
    """The article's fleet with its hardware once for each of these sites: 2 nodes of 8 GPUs."""
    base = load_fleet(PROJECT_ROOT / "fleets" / "article" / "production.yaml")
    site, group = base.sites["main"], base.node_groups["h100"]
    pool = base.pools["answers"]
    placement = pool.placements["h100"]
    placements = {f"{name}-h100": placement for name in sites}
    return base.model_copy(
        update={
            "fleet": "small",
            "sites": dict.fromkeys(sites, site),
            "pools": {"answers": pool.model_copy(update={"placements": placements})},
            "racks": {
                f"{name}-{rack}": entry.model_copy(update={"site": name})
                for name in sites
                for rack, entry in base.racks.items()
            },
            "node_groups": {
                f"{name}-h100": group.model_copy(
                    update={
                        "site": name,
                        "racks": [f"{name}-{rack}" for rack in group.racks],
                        "nodes": NODES_PER_SITE,
                    }
                )
                for name in sites
            },
        }
    )


@dataclass
class Embedded:
    """A platform under test, with what a test asks of it."""

    platform: Platform
    progress: list[ProcessProgress] = field(default_factory=list)

    @property
    def state(self) -> EnvironmentDir:
        """Its state folder."""
        return self.platform.state

    def up(self) -> None:
        """Bring it up, or heal it."""
        self.platform.up(self.progress.append)

    def down(self, *, purge: bool = False) -> None:
        """Stop it."""
        down(self.state, purge=purge)

    def with_binary(self, name: str, path: Path) -> "Embedded":
        """The same platform, with another program in place of an engine."""
        binaries = replace(
            self.platform.binaries, paths={**self.platform.binaries.paths, name: path}
        )
        return Embedded(replace(self.platform, binaries=binaries))

    def processes(self) -> dict[tuple[str, str], ProcessState]:
        """What the supervisor says, by site and process."""
        return {(each.site, each.process): each for each in observe(self.state)}

    def system_processes(self) -> list[psutil.Process]:
        """Everything that runs for it, as the operating system sees it; the supervisor first."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.state.root):
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda process: process.name() != "process-compose")

    def cluster(self, site: str) -> Cluster:
        """The API of a site, as its administrator."""
        return Cluster(self.state.kubeconfig, site)


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """The real engines: from PATH or the cache, else built."""
    return resolve(lambda _progress: None)


@pytest.fixture(scope="session")
def embedded(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Two running sites, `east` and `west`. A test that breaks it has to heal it."""
    state = EnvironmentDir(tmp_path_factory.mktemp("embedded") / "small")
    made = Embedded(Platform(small_fleet("east", "west"), state, binaries))
    try:
        made.up()
        yield made
    finally:
        made.down(purge=True)


@pytest.fixture
def another(binaries: Binaries, tmp_path: Path) -> Iterator[Embedded]:
    """A platform of one site `solo` with its own state, not started; stopped after the test."""
    made = Embedded(Platform(small_fleet("solo"), EnvironmentDir(tmp_path / "clone"), binaries))
    try:
        yield made
    finally:
        made.down(purge=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server of this session's own.

    Not below pytest's folders: nobody but their owner may enter these, and the server never runs as
    root.
    """
    folder = Path(tempfile.mkdtemp(prefix="gpufleet-postgresql-"))
    server = Server(find_binaries(cache_dir() / "postgresql"), folder / "server")
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def wait_until(ask: Callable[[], T | None], within_s: float = 60) -> T:
    """Ask again and again until the answer is true, and return it; fails after a minute."""
    pause, deadline = threading.Event(), time.monotonic() + within_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {within_s} s: last answer {answer!r}"
        pause.wait(0.05)
    return answer


@pytest.fixture(scope="session")
def until() -> Until:
    """`wait_until`, for tests that need nothing else of here."""
    return wait_until
