"""Real object stores (versitygw) of a test's own, one process for each site."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

from gpufleet.edges.object_client import Place
from gpufleet.edges.workspace import EnvironmentDir

_STARTS_WITHIN_S = 60


class StoreServer:
    """A versitygw on a loopback port, without TLS.

    Args:
        binary: versitygw.
        folder: of its objects.
        options: more of versitygw's own.
    """

    def __init__(self, binary: Path, folder: Path, *options: str) -> None:
        self._options = options
        self._binary = binary
        self._folder = folder
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(f"http://127.0.0.1:{self.port}", "here", "test", "test-secret")

    @property
    def data(self) -> Path:
        """Where it keeps its buckets."""
        return self._folder / "data"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for name in ("data", "versions"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        secrets = {"ROOT_ACCESS_KEY_ID": "test", "ROOT_SECRET_ACCESS_KEY": "test-secret"}
        self._process = subprocess.Popen(
            [
                str(self._binary),
                f"--port=127.0.0.1:{self.port}",
                "--region=here",
                "--quiet",
                *self._options,
                "posix",
                f"--versioning-dir={self._folder / 'versions'}",
                str(self._folder / "data"),
            ],
            env={**os.environ, **secrets},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline
                assert self._process.poll() is None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it; what it keeps stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def declare(self, state: EnvironmentDir, site: str) -> None:
        """Make it the store of an embedded site."""
        folder = state.site(site)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "s3.json").write_text(json.dumps(vars(self.place)))
