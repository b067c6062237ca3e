"""The hosts' management controllers: one Redfish service for all of them, and what a test does.

The service is sushy-tools' emulator with `bmc_server` over it, which adds what it has not: the
firmware inventory, the multipart update, tasks, batteries and power supplies.
"""

import contextlib
import datetime
import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bcrypt
from tests.hosts.bmc_pages import RENEWED

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local.pki import Authority

USER: Final = "patcher"
PASSWORD: Final = "not-a-secret"
_STARTS_WITHIN_S: Final = 60
_ROUNDS: Final = 4
"""Of bcrypt: this password protects nothing."""


@dataclass(frozen=True)
class Controllers:
    """The running service."""

    folder: Path
    endpoint: str
    authority: Path
    """Who signed its certificate."""
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which gpufleet logs in."""
        return {"GPUFLEET_BMC_USER": USER, "GPUFLEET_BMC_PASSWORD": PASSWORD}

    @classmethod
    @contextlib.contextmanager
    def started(
        cls, folder: Path, address: str, hosts: Sequence[str], power_url: str = ""
    ) -> Iterator["Controllers"]:
        """Start the service of these hosts' controllers; ended with the context.

        Args:
            folder: a new one, for what it keeps.
            address: that it listens on.
            hosts: their names.
            power_url: where `power/NAME` tells and takes a host's power; none without hosts.
        """
        (folder / "faults").mkdir(parents=True)
        port = _free_port(address)
        authority = Authority(folder, "lab", datetime.datetime.now(datetime.UTC))
        certificate, key = authority.issue("bmc", common_name="bmc", hosts=(address,))
        salt = bcrypt.gensalt(_ROUNDS)
        hashed = bcrypt.hashpw(PASSWORD.encode(), salt).decode()
        (folder / "htpasswd").write_text(f"{USER}:{hashed}\n", encoding="utf-8")
        settings = {
            "address": address,
            "port": port,
            "certificate": str(certificate),
            "key": str(key),
            "htpasswd": str(folder / "htpasswd"),
            "hosts": list(hosts),
            "power_url": power_url,
        }
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-P"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "-m", "tests.hosts.bmc_server", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=PROJECT_ROOT,
                env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
            )
        made = cls(folder, f"https://{address}:{port}", authority.certificate, process.pid)
        try:
            made._wait(process)
            yield made
        finally:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _STARTS_WITHIN_S
        url = f"{self.endpoint}/redfish/v1/"
        trust = ssl.create_default_context(cafile=str(self.authority))
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(url, timeout=5, context=trust)  # noqa: S310 - it is https
                return
            told = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            assert process.poll() is None, told[-2000:]
            assert time.monotonic() < deadline, told[-2000:]
            threading.Event().wait(0.05)

    def image(self, part: str, version: str) -> Path:
        """A firmware image of a part (`bmc`, `vbios`) that brings this version, and its digest."""
        file = self.folder / f"{part}-{version}.fwpkg"
        content = json.dumps({"part": part, "version": version}).encode()
        file.write_bytes(content)
        digest = f"{hashlib.sha256(content).hexdigest()}  {file.name}\n"
        file.with_name(f"{file.name}.sha256").write_text(digest, encoding="ascii")
        return file

    def fault(self, host: str, name: str) -> None:
        """Break a host's controller.

        Args:
            host: whose.
            name: `update-fails`, `update-hangs`, `unreachable`, `does-not-return` (after its own
                update), `battery-low`, `supply-failed`, `forgets` (its tasks, while it writes on),
                `awaits-reset`, `answers-503` (once, to a question for a task).
        """
        (self.folder / "faults" / f"{host}.{name}").touch()

    def mend(self, host: str) -> None:
        """Take its faults away."""
        for file in (self.folder / "faults").glob(f"{host}.*"):
            file.unlink()

    def renew(self, host: str) -> None:
        """Make it as it was at the start: no faults, no tasks, its first firmware."""
        self.mend(host)
        self.fault(host, RENEWED)


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])
