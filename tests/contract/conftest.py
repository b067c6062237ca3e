"""Databases of both kinds, an object store for snapshots, and keys of made-up people."""

import os
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
