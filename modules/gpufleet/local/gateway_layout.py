"""The embedded gateway: its folder, its certificate, and its two processes."""

import datetime
import os
import shlex
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from gpufleet.core.gateway.routes import routes_text
from gpufleet.edges.gateway_files import publish, read_published
from gpufleet.edges.price_file import price_table
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local.files import PRIVATE_FOLDER, write_private
from gpufleet.local.pki import Authority
from gpufleet.local.process import LOOPBACK, Process
from gpufleet.local.shared_layout import OWN_CODE, our_task
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gateway import ROUTES_FILE, Routes

GATEWAY: Final = "gateway"
CONTROL: Final = "gateway-control"
_HOSTED_KEYS: Final = "GPUFLEET_HOSTED_KEY"
"""Begins the names of variables that hold keys of hosted APIs."""
_PLUGIN: Final = tuple(sorted((PROJECT_ROOT / "gateway").rglob("*.py")))
_LOCK: Final = PROJECT_ROOT / "gateway" / "requirements.lock"


@dataclass(frozen=True)
class GatewayFiles:
    """What the gateway of an embedded environment reads, each made when it is first wanted.

    Args:
        folder: of the gateway.
        ports: of `GATEWAY` (public) and `CONTROL` (metrics and readiness).
        python: of the gateway's environment.
    """

    folder: Path
    ports: Mapping[str, int]
    python: Path

    @cached_property
    def _pki(self) -> Authority:
        return Authority(self.folder / "pki", GATEWAY, datetime.datetime.now(datetime.UTC))

    @property
    def authority(self) -> Path:
        """What clients trust: the certificate of an authority that signs for this gateway only."""
        return self._pki.certificate

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"https://{LOOPBACK}:{self.ports[GATEWAY]}"

    def prepare(self, fleet: Fleet, fleet_file: Path) -> None:
        """Make the folder, and routes to begin with; later ones come from the clusters.

        Raises:
            BadInput: the fleet file's own prices cannot be read.
        """
        self.folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        file = self.folder / ROUTES_FILE
        if read_published(file, Routes) is None:
            publish(file, routes_text(fleet, price_table(fleet, fleet_file)))

    def hosted_keys(self, given: Mapping[str, str]) -> Path:
        """A file with the variables that hold keys of hosted APIs, kept for later starts.

        Args:
            given: the caller's environment; where it has none, the last ones stay.
        """
        file = self.folder / "hosted.env"
        keys = {name: value for name, value in given.items() if name.startswith(_HOSTED_KEYS)}
        if keys or not file.is_file():
            lines = (f"{name}={shlex.quote(value)}\n" for name, value in sorted(keys.items()))
            write_private(file, "".join(lines))
        return file

    def certificate(self) -> tuple[Path, Path]:
        """Its certificate and key."""
        return self._pki.issue(GATEWAY, common_name=GATEWAY, hosts=(LOOPBACK, "localhost"))


def gateway(files: GatewayFiles, after: Sequence[str]) -> Process:
    """Answers clients; started anew when its code or certificate changes, never for the fleet file.

    Args:
        files: of the gateway.
        after: what it waits for.
    """
    certificate, key = files.certificate()
    keys = files.hosted_keys(os.environ)
    # The supervisor's processes trust the embedded authorities only; hosted APIs have public ones.
    # Not by this process's own variables: the worker, which declares this too, has others.
    trusted = ssl.get_default_verify_paths()
    paths = (PROJECT_ROOT / "modules", PROJECT_ROOT / "gateway")
    return Process(
        GATEWAY,
        (
            # Every user of the machine may read a command line: keys come by a file.
            *("/bin/sh", "-c", 'set -a; . "$0"; exec "$@"', str(keys)),
            *(str(files.python), "-P", "-m", "gpufleet_gateway"),
            f"--folder={files.folder}",
            f"--host={LOOPBACK}",
            f"--port={files.ports[GATEWAY]}",
            f"--certificate={certificate}",
            f"--key={key}",
        ),
        after=tuple(after),
        ready=f"{files.url}/health/readiness",
        reads=(*OWN_CODE, *_PLUGIN, _LOCK, certificate, keys),
        environment=(
            f"PYTHONPATH={':'.join(map(str, paths))}",
            f"SSL_CERT_FILE={_if_there(trusted.openssl_cafile)}",
            f"SSL_CERT_DIR={_if_there(trusted.openssl_capath)}",
        ),
    )


def gateway_control(
    files: GatewayFiles, fleet_file: Path, database_url: Path, after: Sequence[str]
) -> Process:
    """Tells the gateway who serves, where requests go, and who may ask.

    Args:
        files: of the gateway.
        fleet_file: of the environment.
        database_url: file with the URL of its database; not there for SQLite.
        after: what it waits for.
    """
    port = files.ports[CONTROL]
    return Process(
        CONTROL,
        our_task("gateway.control", f"--fleet={fleet_file}", f"--port={port}"),
        after=tuple(after),
        ready=f"http://{LOOPBACK}:{port}/readyz",
        reads=(*OWN_CODE, *([database_url] if database_url.is_file() else [])),
    )


def _if_there(path: str) -> str:
    return path if Path(path).exists() else ""
