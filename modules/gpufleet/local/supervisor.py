"""The kept supervisor of an embedded platform: process-compose, detached from the terminal."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import yaml

from gpufleet.edges.processes import start_of
from gpufleet.local.files import PRIVATE_FILE, read_json, write_json, write_private
from gpufleet.local.orphans import MARK, end_all, is_alive
from gpufleet.local.process import Process
from gpufleet.spec.errors import Failed

_LONGEST_SOCKET_PATH: Final = 100
"""Linux allows 107 bytes."""
_STOP_TIMEOUT_S: Final = 20
_API_TIMEOUT_S: Final = 5.0
_LOG_MEGABYTES: Final = 20
_INHERITED: Final = (
    *("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH"),
    *("GPUFLEET_CACHE", "XDG_CACHE_HOME"),
)
"""Nothing else of the caller's environment: not the credentials, and not a proxy that webhooks
would be sent through."""


@dataclass(frozen=True)
class ProcessState:
    """What the supervisor says of one process."""

    site: str
    process: str
    state: str
    pid: int
    restarts: int
    ready: bool


class Supervisor:
    """The supervisor of one platform folder.

    Args:
        folder: the platform's folder, unique for each clone and environment.
        binary: process-compose.
    """

    def __init__(self, folder: Path, binary: Path | None = None) -> None:
        self._folder = folder
        self._binary = binary
        self._config = folder / "processes.yaml"
        self._kept = folder / "supervisor.json"

    @property
    def log(self) -> Path:
        """Its own log."""
        return self._folder / "logs" / "supervisor.log"

    def log_of(self, site: str, process: str) -> Path:
        """The log of a process."""
        return self._folder / "logs" / f"{site}-{process}.log"

    def declare(self, sites: dict[str, Sequence[Process]]) -> None:
        """Write what is to run from the next start on."""
        processes = {
            _key(site, process.name): self._entry(site, process)
            for site, declared in sites.items()
            for process in declared
        }
        content = {
            "version": "0.5",
            "is_strict": True,
            "log_level": "info",
            # A path may hold a dollar sign.
            "disable_env_expansion": True,
            "processes": processes,
        }
        write_private(self._config, yaml.safe_dump(content, sort_keys=False))

    def is_running(self) -> bool:
        """Whether the supervisor that this folder knows is alive: by pid and start time."""
        kept = read_json(self._kept) or {}
        try:
            return start_of(kept["pid"]) == kept["started"] and is_alive(kept["pid"])
        except KeyError:
            return False

    def is_running_as_declared(self) -> bool:
        """Whether it is alive, and was started with what is declared now."""
        kept = read_json(self._kept) or {}
        return self.is_running() and kept.get("declared") == _digest([self._config])

    def start(self, authorities: Iterable[Path]) -> None:
        """Start it in its own session; ends what an earlier one left behind first.

        Raises:
            Failed: it ended at once.
        """
        end_all(self._folder)
        assert self._binary is not None  # noqa: S101 - only `observe` and `stop` do without
        bundle = self._folder / "authorities.crt"
        write_private(bundle, b"".join(file.read_bytes() for file in authorities))
        self._socket().unlink(missing_ok=True)
        complaints = self._folder / "logs" / "supervisor.err"
        complaints.touch(mode=PRIVATE_FILE)
        with complaints.open("wb") as errors:
            process = subprocess.Popen(
                [
                    str(self._binary),
                    "up",
                    f"--config={self._config}",
                    "--tui=false",
                    "--keep-project",
                    "--ordered-shutdown",
                    "--disable-dotenv",
                    f"--log-file={self.log}",
                    f"--unix-socket={self._socket()}",
                    "--use-uds",
                ],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                # It repeats every line of every process here, without end.
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                umask=0o077,
                env={
                    **{name: os.environ[name] for name in _INHERITED if name in os.environ},
                    MARK: str(self._folder),
                    # Its readiness probes trust the sites' own authorities, and nobody else.
                    "SSL_CERT_FILE": str(bundle),
                    "SSL_CERT_DIR": str(self._folder / "no-certificates"),
                },
            )
        write_json(
            self._kept,
            {
                "pid": process.pid,
                "started": start_of(process.pid),
                "declared": _digest([self._config]),
            },
        )

    def observe(self) -> list[ProcessState]:
        """Every declared process; an empty list where the supervisor does not run."""
        if not self.is_running():
            return []
        try:
            with self._api() as api:
                listed = api.get("/processes").raise_for_status().json()["data"]
        except (httpx.HTTPError, ValueError, KeyError):
            return []
        return [_state(entry) for entry in listed]

    def stop(self) -> None:
        """Stop everything in reverse order, etcd last, and wait for each."""
        if self.is_running():
            supervisor = psutil.Process(read_json(self._kept)["pid"])
            supervisor.terminate()
            try:
                supervisor.wait(_STOP_TIMEOUT_S * 3)
            except psutil.TimeoutExpired:
                supervisor.kill()
        end_all(self._folder)
        self._kept.unlink(missing_ok=True)

    def _entry(self, site: str, process: Process) -> dict[str, Any]:
        once = process.ready is None
        entry: dict[str, Any] = {
            "entrypoint": list(process.command),
            "log_location": str(self.log_of(site, process.name)),
            "log_configuration": {
                "rotation": {"max_size_mb": _LOG_MEGABYTES, "max_backups": 2},
                "no_metadata": True,
                "disable_json": True,
                "no_color": True,
                "fields_order": ["message"],
                "flush_each_line": True,
            },
            "availability": {
                "restart": "on_failure" if once else "always",
                "backoff_seconds": 1,
                "max_restarts": 0,
            },
            "shutdown": {"signal": 15, "timeout_seconds": _STOP_TIMEOUT_S},
            "depends_on": {
                (other if "." in other else _key(site, other)): {
                    "condition": "process_completed_successfully"
                    if other.rpartition(".")[2] == "bootstrap"
                    else "process_healthy"
                }
                for other in process.after
            },
        }
        environment = list(process.environment)
        if process.reads:
            # So that a change in what it reads is a change of what is declared.
            environment.append(f"GPUFLEET_READS={_digest(process.reads)}")
        if environment:
            entry["environment"] = environment
        if process.ready:
            entry["readiness_probe"] = _probe(process.ready)
        return entry

    def _socket(self) -> Path:
        path = self._folder / "supervisor.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            return path
        short = Path(tempfile.gettempdir(), f"gpufleet-{os.getuid()}")
        short.mkdir(mode=0o700, exist_ok=True)
        if short.stat().st_uid != os.getuid():
            raise Failed(f"{short} belongs to another user", mend="set TMPDIR to a folder of yours")
        return short / f"{hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:16]}.sock"

    def _api(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self._socket()))
        return httpx.Client(
            transport=transport, base_url="http://supervisor", timeout=_API_TIMEOUT_S
        )


def _probe(url: str) -> dict[str, Any]:
    target = httpx.URL(url)
    return {
        "http_get": {
            "scheme": target.scheme,
            "host": target.host,
            "port": str(target.port),
            "path": target.path,
        },
        "period_seconds": 1,
        "timeout_seconds": 3,
        "success_threshold": 1,
        # Past it, process-compose ends the process and does not start it again.
        "failure_threshold": 2**31 - 1,
    }


def _digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _key(site: str, process: str) -> str:
    return f"{site}.{process}"


def _state(entry: dict[str, Any]) -> ProcessState:
    site, _, process = str(entry["name"]).partition(".")
    status = str(entry["status"])
    completed = status == "Completed" and entry.get("exit_code") == 0
    pid = int(entry.get("pid") or 0) if status == "Running" else 0
    return ProcessState(
        site=site,
        process=process,
        state="done" if completed else status.lower(),
        pid=pid,
        restarts=int(entry.get("restarts") or 0),
        ready=completed or (entry.get("is_ready") == "Ready" and is_alive(pid)),
    )
