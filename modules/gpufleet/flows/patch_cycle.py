"""The security patch cycle: what is overdue, and which known vulnerabilities are installed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gpufleet.core.patching.advisories import KnownAdvisory, from_csaf, from_osv
from gpufleet.core.patching.cadence import cycle, installed
from gpufleet.edges.advisory_files import read_advisories
from gpufleet.edges.host_version_table import HostVersionTable
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.spec.advisories import OsvEntry
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.patch_cycle import PatchCycleReport

SetOverdue = Callable[[PatchTarget, float | None], None]
"""Tells by how many seconds a component is overdue; None once it has no cadence any more."""
SetOldest = Callable[[float], None]


def patch_cycle(ground: Ground, *, advisories: str = "") -> PatchCycleReport:
    """How an environment stands against its patch cycle; nothing is changed.

    Args:
        ground: the environment.
        advisories: OSV or CSAF files, separated by commas; those that the fleet file declares
            where none is given.

    Raises:
        BadInput: a file, with its place.
        Retryable: the database does not answer.
    """
    fleet = ground.fleet
    given = [Path(name.strip()) for name in advisories.split(",") if name.strip()]
    chosen = given or declared_files(fleet, ground.fleet_file)
    rows = installed(fleet, HostVersionTable(ground.database).rows())
    return cycle(fleet, rows, known_advisories(chosen), ground.clock())


def declared_files(fleet: Fleet, fleet_file: Path) -> list[Path]:
    """The files of advisories that a fleet file names."""
    return [fleet_file.parent / name for name in fleet.advisories]


def known_advisories(files: Iterable[Path]) -> list[KnownAdvisory]:
    """The advisories of some files that are about what gpufleet patches.

    What several say of one id is put together.

    Raises:
        BadInput: a file, with its place.
    """
    found: dict[str, KnownAdvisory] = {}
    for file in files:
        for read in read_advisories(file):
            if isinstance(read, OsvEntry):
                entries = [entry] if (entry := from_osv(read)) else []
            else:
                entries = list(from_csaf(read))
            for entry in entries:
                if not entry.affected:
                    continue
                before = found.setdefault(entry.id, entry)
                if before is not entry:
                    affected = (*before.affected, *entry.affected)
                    found[entry.id] = replace(before, affected=affected)
    return list(found.values())


class PatchCycleKeeper:
    """Keeps what the worker tells Prometheus of the patch cycle.

    Args:
        ground: the environment, as its files declare it now.
        set_overdue: takes each component's seconds.
        set_oldest: takes the age of the oldest critical vulnerability, s; 0 without one.
    """

    def __init__(self, ground: LiveGround, set_overdue: SetOverdue, set_oldest: SetOldest) -> None:
        self._ground = ground
        self._set_overdue = set_overdue
        self._set_oldest = set_oldest
        self._advisories: list[KnownAdvisory] = []
        self._stamps: list[tuple[Path, int, int]] = []

    def keep(self) -> None:
        """Look, and tell; hosts that nobody has seen yet begin to age.

        Raises:
            BadInput: a file of advisories; cadences are told all the same, and what was read last.
            Retryable: the database does not answer.
        """
        ground = self._ground.now()
        now, table = ground.clock(), HostVersionTable(ground.database)
        rows = installed(ground.fleet, table.rows())
        if unseen := [row for row in rows if row.since is None]:
            table.began(((row.node, row.part, row.version) for row in unseen), now)
            rows = installed(ground.fleet, table.rows())
        try:
            self._read_again(declared_files(ground.fleet, ground.fleet_file))
        finally:
            self._tell(cycle(ground.fleet, rows, self._advisories, now))

    def _tell(self, report: PatchCycleReport) -> None:
        overdue = {row.component: row.overdue_s for row in report.cadences}
        for target in PatchTarget:
            self._set_overdue(target, overdue.get(target))
        self._set_oldest(report.oldest_critical_s or 0.0)

    def _read_again(self, files: Sequence[Path]) -> None:
        """Read the declared files; only once one has changed."""
        stamps = [(file, *_stamp(file)) for file in files]
        if stamps != self._stamps:
            self._advisories = known_advisories(files)
            self._stamps = stamps


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
