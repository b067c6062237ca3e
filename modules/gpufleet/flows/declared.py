"""An environment's fleet as its files declare it now, for processes that outlive a change."""

import threading
from dataclasses import replace
from pathlib import Path

from gpufleet.flows.ground import Ground
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.plan_file import plan_path

_Seen = dict[str, tuple[int, int, int]]


class DeclaredFleet:
    """The fleet file with its plan and shared parts; while they are not valid, as they were last.

    Safe over threads.

    Args:
        fleet_file: of the environment.
        fleet: it, as it was loaded.
    """

    def __init__(self, fleet_file: Path, fleet: Fleet) -> None:
        self._file = fleet_file
        self._fleet = fleet
        self._seen: _Seen = {}
        self._lock = threading.Lock()

    def now(self) -> Fleet:
        """The fleet; read again only when a file has changed."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._load()
            return self._fleet

    def _load(self) -> None:
        try:
            fleet = load_fleet(self._file)
        except BadInput:
            return
        # What is another environment has another database and other buckets.
        if fleet.slug == self._fleet.slug:
            self._fleet = fleet

    def _look(self) -> _Seen:
        shared = (self._file.parent / "shared").glob("*.yaml")
        seen: _Seen = {}
        for file in (self._file, plan_path(self._file), *shared):
            try:
                found = file.stat()
            except OSError:
                continue
            seen[str(file)] = (found.st_ino, found.st_size, found.st_mtime_ns)
        return seen


class LiveGround:
    """An environment's shared state whose fleet follows its files.

    Who begins something takes `now` once, and goes by that fleet to its end.

    Args:
        ground: the environment, as it was opened.
    """

    def __init__(self, ground: Ground) -> None:
        self.declared = DeclaredFleet(ground.fleet_file, ground.fleet)
        self._ground = ground

    def now(self) -> Ground:
        """It, with the fleet as it is declared now."""
        fleet = self.declared.now()
        if fleet is not self._ground.fleet:
            self._ground = replace(self._ground, fleet=fleet)
        return self._ground
