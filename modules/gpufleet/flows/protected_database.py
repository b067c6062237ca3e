"""The journal of a database that came back, verified before anybody relies on it."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from gpufleet.core.journal import sealed, verify
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.journal_table import Journal
from gpufleet.spec.records import Anchor, JournalReport


def journal_of(file: Path, anchors: Iterable[Anchor]) -> JournalReport:
    """Every record of a SQLite database's journal against its hashes, heads and anchors.

    Args:
        file: the database; nobody else has it open.
        anchors: heads that were kept elsewhere.
    """
    with closing(Database(f"sqlite:///{file.absolute()}")) as database:
        return journal_in(database, anchors)


def journal_in(database: Database, anchors: Iterable[Anchor]) -> JournalReport:
    """The same of a database that is open.

    Args:
        database: it.
        anchors: heads that were kept elsewhere.
    """
    kept = list(anchors)
    # Nothing is written: the name is that of no writer.
    journal = Journal(database, "", system_clock, sealed)
    records = list(journal.records())
    return JournalReport(
        records=len(records),
        writers=len({record.writer for record in records}),
        anchors=len(kept),
        findings=verify(records, kept, journal.heads()),
    )
