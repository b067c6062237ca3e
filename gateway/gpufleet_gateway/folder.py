"""The gateway's folder: what is where, and the files of other processes, read when they change."""

import os
import secrets
import time
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import ValidationError

from gpufleet.spec.gateway import KEYS_FILE, REPLICAS_FILE, ROUTES_FILE, Keys, Replicas, Routes
from gpufleet.spec.quantities import Spec

FOLDER_VARIABLE: Final = "GPUFLEET_GATEWAY_FOLDER"
CONFIGURATION: Final = "litellm.yaml"
BOARD: Final = "board"
SPEND: Final = "spend.sqlite"
AUDIT: Final = "audit"
METRICS: Final = "metrics"
SALT: Final = "salt"
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
    """A random secret of 32 bytes in hex that only its owner reads; made where it is missing."""
    try:
        with open(file, "xb", opener=_private) as made:
            made.write(secrets.token_hex(32).encode())
    except FileExistsError:
        pass
    return file.read_bytes().strip()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
