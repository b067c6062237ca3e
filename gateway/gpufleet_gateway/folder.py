"""The gateway's folder: what is where, and the files of other processes, read when they change."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import ValidationError

from gpufleet.spec.errors import BadInput
from gpufleet.spec.gateway import KEYS_FILE, REPLICAS_FILE, ROUTES_FILE, Keys, Replicas, Routes
from gpufleet.spec.quantities import Spec

FOLDER_VARIABLE: Final = "GPUFLEET_GATEWAY_FOLDER"
CONFIGURATION: Final = "litellm.yaml"
BOARD: Final = "board"
AUDIT: Final = "audit"
METRICS: Final = "metrics"
SALT: Final = "salt"
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own in it, see `metrics_folder`
_SECRET_BYTES: Final = 32
_LOOK_EVERY_S: Final = 0.2

Content = TypeVar("Content", bound=Spec)


class Followed(Generic[Content]):
    """One file's content, read again when it changes; a broken one changes nothing.

    Where only its time has changed the content stays the same object.

    Args:
        file: that another process writes whole.
        kind: of what is in it.
        empty: content until there is a file.
    """

    def __init__(self, file: Path, kind: type[Content], empty: Content | None = None) -> None:
        self._file = file
        self._kind = kind
        self._content = empty
        self._read = b""
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at_s = float("-inf")

    def get(self) -> Content | None:
        """The last content that was good; None where there was never one."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s >= _LOOK_EVERY_S:
            self._looked_at_s = now_s
            self._look()
        return self._content

    def age_s(self) -> float | None:
        """Time since the file was written, s; None where it was never read."""
        return None if self._stamp is None else max(0.0, time.time() - self._stamp[0] / 1e9)

    def _look(self) -> None:
        try:
            status = self._file.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            read = self._file.read_bytes()
            if self._content is None or read != self._read:
                self._content = self._kind.model_validate_json(read)
                self._read = read
            self._stamp = stamp
        except (OSError, ValidationError):
            # It is being replaced, or somebody broke it: the last good one goes on.
            return


class Folder:
    """What one worker knows from the gateway's folder.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._routes = Followed(path / ROUTES_FILE, Routes)
        self._replicas = Followed(path / REPLICAS_FILE, Replicas, Replicas(at=0, pools={}))
        self._keys = Followed(path / KEYS_FILE, Keys, Keys(at=0, keys=[]))

    @classmethod
    def of_environment(cls) -> "Folder":
        """The folder that `FOLDER_VARIABLE` names."""
        return cls(Path(os.environ[FOLDER_VARIABLE]))

    @property
    def has_routes(self) -> bool:
        """Whether the routes were ever read."""
        return self._routes.get() is not None

    def routes(self) -> Routes:
        """What was declared."""
        routes = self._routes.get()
        if routes is None:
            raise FileNotFoundError(self.path / ROUTES_FILE)
        return routes

    def replicas(self) -> Replicas:
        """Who serves."""
        replicas = self._replicas.get()
        return replicas if replicas is not None else Replicas(at=0, pools={})

    def keys(self) -> Keys:
        """Who may ask; the same object while the file's content does not change."""
        keys = self._keys.get()
        return keys if keys is not None else Keys(at=0, keys=[])

    def file_ages_s(self) -> dict[str, float]:
        """Time since each file was written, s, of those that were read."""
        ages = {
            "routes": self._routes.age_s(),
            "replicas": self._replicas.age_s(),
            "keys": self._keys.age_s(),
        }
        return {name: age_s for name, age_s in ages.items() if age_s is not None}


def secret_file(file: Path) -> bytes:
    """A random secret of 32 bytes in hex that only its owner reads; made where it is missing.

    Raises:
        BadInput: there is something else.
    """
    if not file.exists():
        hidden = file.with_name(f".{file.name}.{os.getpid()}")
        with open(hidden, "wb", opener=_private) as made:
            made.write(secrets.token_hex(_SECRET_BYTES).encode())
            made.flush()
            os.fsync(made.fileno())
        try:
            # It is there as a whole or not at all, and the first one stays.
            with contextlib.suppress(FileExistsError):
                os.link(hidden, file)
        finally:
            hidden.unlink()
    content = file.read_bytes().strip()
    if not re.fullmatch(rb"[0-9a-fA-F]{%d}" % (2 * _SECRET_BYTES), content):
        raise BadInput(
            f"this is no secret of {2 * _SECRET_BYTES} hex digits",
            where=str(file),
            mend="put the environment's salt there; without one, remove the file",
        )
    return content


def metrics_folder(path: Path, memory: Path = MEMORY) -> Path:
    """An empty folder for the workers' metrics, in memory where there is some.

    They are files with holes that are mapped: on a full disk a write into one ends its worker
    (SIGBUS).

    Args:
        path: where it is to be found; a file system that is mounted there is used as it is.
        memory: a file system in memory that this machine's processes share.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_mount():
        for old in path.iterdir():
            old.unlink()
        return path
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    inner = memory / f"gpufleet-{os.getuid()}-{name}"
    try:
        inner.mkdir(mode=0o700, exist_ok=True)
        found = inner.lstat()
    except OSError:
        path.mkdir()
        return path
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        # Somebody else's: its name is no secret.
        path.mkdir()
        return path
    for old in inner.iterdir():
        old.unlink()
    path.symlink_to(inner)
    return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
