"""A PostgreSQL server of the test's own, from Debian's packages."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

_NOBODY = "nobody"
_STARTS_WITHIN_S = 60


def find_binaries(cache: Path) -> Path:
    """The folder with `postgres` and `initdb`: installed, or unpacked from Debian's package.

    Skips the test where neither is to be had.
    """
    installed = [
        *Path("/usr/lib/postgresql").glob("*/bin"),
        *(Path(found).resolve().parent for found in [shutil.which("postgres")] if found),
    ]
    for folder in [*installed, *cache.glob("usr/lib/postgresql/*/bin")]:
        if (folder / "initdb").is_file():
            return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("PostgreSQL is not installed, and this is no Debian to get it from")
    told = subprocess.run(
        ["apt-cache", "depends", "postgresql"], capture_output=True, text=True, check=False
    ).stdout
    if not (found := re.search(r"postgresql-(\d+)", told)):
        pytest.skip("PostgreSQL is not installed, and apt knows no package (run apt-get update)")
    cache.mkdir(parents=True, exist_ok=True)
    version = found[1]
    names = [f"postgresql-{version}", f"postgresql-client-{version}", "libpq5"]
    got = subprocess.run(
        ["apt-get", "download", *names], cwd=cache, capture_output=True, check=False
    )
    if got.returncode:
        pytest.skip("PostgreSQL is not installed, and its package cannot be downloaded")
    for package in cache.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(cache)], check=True)
    return cache / "usr" / "lib" / "postgresql" / version / "bin"


@dataclass
class Server:
    """A server on a Unix socket, as the user `nobody` where the tests run as root."""

    binaries: Path
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make its data."""
        self.folder.mkdir(parents=True)
        if os.geteuid() == 0:
            account = pwd.getpwnam(_NOBODY)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            self.folder.parent.chmod(0o711)
        done = subprocess.run(
            self._as_user(
                [
                    str(self.binaries / "initdb"),
                    f"--pgdata={self.folder / 'data'}",
                    "--auth=trust",
                    "--username=gpufleet",
                    "--no-sync",
                    "--encoding=UTF8",
                ]
            ),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._as_user(
                    [
                        str(self.binaries / "postgres"),
                        "-D",
                        str(self.folder / "data"),
                        "-k",
                        str(self.folder),
                        "-c",
                        "listen_addresses=",
                    ]
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                psycopg.connect(self._uri("postgres")).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End it as a power cut would: every process of it, at once."""
        assert self.process is not None
        pid = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        server = psutil.Process(pid)
        everything = [server, *server.children(recursive=True)]
        for process in everything:
            process.kill()
        self.process.wait()
        psutil.wait_procs(everything)

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)

    def new_database(self, name: str) -> str:
        """An empty database; its URL."""
        with psycopg.connect(self._uri("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self._uri(name)

    def _uri(self, database: str) -> str:
        return f"postgresql://gpufleet@/{database}?host={self.folder}"

    def _as_user(self, command: list[str]) -> list[str]:
        if os.geteuid() != 0:
            return command
        account = pwd.getpwnam(_NOBODY)
        ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        return ["setpriv", *ids, "--", *command]
