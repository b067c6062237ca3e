"""The journal, in the environment's database: one hash chain for each writer."""

import secrets
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.spec.records import Anchor, Fact, JournalRecord

_records: Final = sa.Table(
    "fleet_journal",
    tables,
    sa.Column("writer", sa.String(120), primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(200), nullable=False, unique=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("event", sa.String(120), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("flow", sa.String(200), nullable=False),
    sa.Column("target", sa.String(200), nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
_heads: Final = sa.Table(
    "fleet_journal_heads",
    tables,
    sa.Column("writer", sa.String(120), primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("anchored", sa.Integer, nullable=False),
)
_BATCH: Final = 2000


class Journal:
    """Appends to one writer's chain and reads all of them.

    Args:
        database: where it is.
        writer: this installation's name, see `writer_of`.
        clock: tells the time.
        after: a fact as the record that follows another; None for the first of a chain.
    """

    def __init__(
        self,
        database: Database,
        writer: str,
        clock: Callable[[], datetime],
        after: Callable[[Fact, str, datetime, tuple[int, str] | None], JournalRecord],
    ) -> None:
        self._database = database
        self.writer = writer
        self._clock = clock
        self._after = after

    def append(self, fact: Fact) -> JournalRecord:
        """Add a record; a fact whose id is there already is returned as it was written.

        Raises:
            Retryable: the database does not answer; whether it was added is not known, and the
                same fact may be given again.
        """
        at = self._clock()

        def work(connection: sa.Connection) -> JournalRecord:
            head = connection.execute(
                sa.select(_heads).where(_heads.c.writer == self.writer).with_for_update()
            ).one_or_none()
            if found := connection.execute(
                sa.select(_records).where(_records.c.id == fact.id)
            ).one_or_none():
                return _record(found)
            last = (head.sequence, head.hash) if head else None
            record = self._after(fact, self.writer, at, last)
            connection.execute(sa.insert(_records).values(**record.model_dump()))
            moved = {"sequence": record.sequence, "hash": record.hash}
            if head:
                connection.execute(
                    sa.update(_heads).where(_heads.c.writer == self.writer).values(**moved)
                )
            else:
                connection.execute(
                    sa.insert(_heads).values(writer=self.writer, anchored=0, **moved)
                )
            return record

        return self._database.write(work)

    def known(self, ids: Collection[str]) -> set[str]:
        """Those of some facts' ids that are in it."""
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_records.c.id).where(_records.c.id.in_(ids))
            ).all()
        )
        return {row.id for row in rows}

    def tells_of(self, flow: str) -> bool:
        """Whether it has any record of a flow."""
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_records.c.id).where(_records.c.flow == flow).limit(1)
            ).all()
        )
        return bool(rows)

    def records(self, *, after: Mapping[str, int] | None = None) -> Iterator[JournalRecord]:
        """Every record, by writer and sequence; with `after`, only later ones of each writer."""
        beyond = dict(after or {})
        writer, sequence = "", 0
        while True:
            batch = self._database.read(
                lambda connection: connection.execute(
                    sa.select(_records)
                    .where(
                        sa.or_(
                            _records.c.writer > writer,  # noqa: B023 - run at once
                            sa.and_(
                                _records.c.writer == writer,  # noqa: B023 - as above
                                _records.c.sequence > sequence,  # noqa: B023 - as above
                            ),
                        )
                    )
                    .order_by(_records.c.writer, _records.c.sequence)
                    .limit(_BATCH)
                ).all()
            )
            for row in batch:
                if row.sequence > beyond.get(row.writer, 0):
                    yield _record(row)
            if len(batch) < _BATCH:
                return
            writer, sequence = batch[-1].writer, batch[-1].sequence

    def latest(self, event: str, most: int) -> list[JournalRecord]:
        """The newest records of one kind of event, the oldest of them first."""
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_records)
                .where(_records.c.event == event)
                .order_by(_records.c.at.desc(), _records.c.sequence.desc())
                .limit(most)
            ).all()
        )
        return [_record(row) for row in reversed(rows)]

    def heads(self) -> dict[str, int]:
        """The sequence that each writer has reached."""
        rows = self._database.read(lambda connection: connection.execute(sa.select(_heads)).all())
        return {row.writer: row.sequence for row in rows}

    def ends(self) -> list[Anchor]:
        """The head of every writer's chain."""
        return self._ends(sa.true())

    def lacks(self, anchors: Iterable[Anchor]) -> list[Anchor]:
        """Those of some anchors whose record is not there, or is another one."""

        def hash_at(anchor: Anchor) -> str | None:
            found: str | None = self._database.read(
                lambda connection: connection.execute(
                    sa.select(_records.c.hash).where(
                        _records.c.writer == anchor.writer, _records.c.sequence == anchor.sequence
                    )
                ).scalar_one_or_none()
            )
            return found

        return [anchor for anchor in anchors if hash_at(anchor) != anchor.hash]

    def unanchored(self) -> list[Anchor]:
        """The heads that no anchor holds yet."""
        return self._ends(_heads.c.sequence > _heads.c.anchored)

    def mark_anchored(self, anchor: Anchor) -> None:
        """Remember that an anchor was kept."""
        self._database.write(
            lambda connection: connection.execute(
                sa.update(_heads)
                .where(_heads.c.writer == anchor.writer, _heads.c.anchored < anchor.sequence)
                .values(anchored=anchor.sequence)
            )
        )

    def _ends(self, which: sa.ColumnElement[bool]) -> list[Anchor]:
        now = self._clock()
        rows = self._database.read(
            lambda connection: connection.execute(sa.select(_heads).where(which)).all()
        )
        return [
            Anchor(writer=row.writer, sequence=row.sequence, hash=row.hash, at=now) for row in rows
        ]


def writer_of(state: EnvironmentDir) -> str:
    """The name under which this installation writes: the machine's, and some random digits."""
    file = state.make().root / "writer"
    if not file.is_file():
        name = f"{socket.gethostname()[:60]}-{secrets.token_hex(4)}"
        temporary = file.with_suffix(f".{uuid.uuid4().hex}")
        temporary.write_text(name, encoding="utf-8")
        try:
            # Of two that start at once, the first one's name is kept.
            file.hardlink_to(temporary)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return file.read_text(encoding="utf-8")


def _record(row: sa.Row[tuple[object, ...]]) -> JournalRecord:
    return JournalRecord.model_construct(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name
