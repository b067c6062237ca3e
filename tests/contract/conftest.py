"""Databases of both kinds, an object store for snapshots, and keys of made-up people."""

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.object_stores import StoreServer
from tests.snapshot_bench import Bench

from gpufleet.edges.database import Database
from gpufleet.edges.engines import resolve
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.snapshots.objects import SnapshotObjects, SnapshotPlace
from gpufleet.edges.workspace import DATABASE_URL_VARIABLE, PROJECT_ROOT, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.store import SnapshotStore


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fleet.db'}"
    url: str = request.getfixturevalue("postgresql").new_database(f"test-{uuid.uuid4().hex[:12]}")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database of each kind, with gpufleet's tables."""
    made = Database(database_url)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """A fresh SSH key pair for each of three people; the public part beside it."""
    made = {}
    for name in ("mara", "jonas", "eve"):
        made[name] = tmp_path / f"{name}-key"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(made[name])],
            check=True,
        )
    return made


@pytest.fixture
def ssh_agent(keys: dict[str, Path], tmp_path: Path) -> Iterator[str]:
    """The socket of an agent that holds mara's key."""
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        subprocess.run(
            ["ssh-add", "-q", str(keys["mara"])],
            env={**os.environ, "SSH_AUTH_SOCK": str(socket)},
            check=True,
        )
        yield str(socket)
    finally:
        agent.terminate()
        agent.wait()


@pytest.fixture(scope="session")
def snapshot_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """An object store with two buckets for snapshots: `plain` and `locked`."""
    binaries = resolve(lambda _: None, ["versitygw"])
    made = StoreServer(binaries.path("versitygw"), tmp_path_factory.mktemp("s3"))
    made.start()
    ObjectStore(made.place).make_bucket("plain")
    ObjectStore(made.place).make_locked_bucket("locked")
    yield made
    made.stop()


@pytest.fixture
def bench(snapshot_server: StoreServer, tmp_path: Path) -> Bench:
    """An empty snapshot store on it, and an empty source."""
    place = SnapshotPlace(snapshot_server.place, "plain", tmp_path.name)
    made = Bench(snapshot_server, SnapshotStore(SnapshotObjects(place)), tmp_path)
    made.source.mkdir()
    return made


@pytest.fixture
def workspace(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A clone whose one environment has a name of its own, and a database of each kind."""
    if database_url.startswith("postgresql"):
        monkeypatch.setenv(DATABASE_URL_VARIABLE, database_url)
    else:
        monkeypatch.delenv(DATABASE_URL_VARIABLE, raising=False)
    clone = tmp_path / "clone"
    (clone / "fleets").mkdir(parents=True)
    shutil.copytree(PROJECT_ROOT / "fleets" / "article", clone / "fleets" / "article")
    (clone / "images").symlink_to(PROJECT_ROOT / "images")
    file = clone / "fleets" / "article" / "production.yaml"
    name = "".join(each for each in tmp_path.name if each.isalnum())[-20:]
    text = file.read_text().replace("fleet: article", f"fleet: {name}{os.getpid()}")
    file.write_text(text)
    return Workspace(clone)


@pytest.fixture
def fleet_file(workspace: Workspace) -> Path:
    return workspace.root / "fleets" / "article" / "production.yaml"


@pytest.fixture
def ground(
    workspace: Workspace, fleet_file: Path, snapshot_server: StoreServer
) -> Iterator[Ground]:
    made = Ground.open(workspace, fleet_file)
    snapshot_server.declare(made.state, "main")
    yield made
    made.close()
