"""Batches and their files, in the environment's database."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.batches import Batch, BatchState, StoredFile

_batches: Final = sa.Table(
    "fleet_batches",
    tables,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("team", sa.String(60), nullable=False, index=True),
    sa.Column("use_case", sa.String(60), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("created_at", Moment, nullable=False, index=True),
    sa.Column("batch", sa.JSON, nullable=False),
)
_files: Final = sa.Table(
    "fleet_batch_files",
    tables,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("team", sa.String(60), nullable=False, index=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False, index=True),
    sa.Column("file", sa.JSON, nullable=False),
)


class BatchTable:
    """Keeps each batch as it stands, and what is known of each file; not their content.

    Args:
        database: where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, batch: Batch) -> None:
        """Keep a new batch; one with its id that is there already is left as it is."""

        def work(connection: sa.Connection) -> None:
            if _row(connection, _batches, batch.id) is None:
                connection.execute(sa.insert(_batches).values(**_values(batch)))

        self._database.write(work)

    def change(
        self,
        id_: str,
        *,
        only_in: Collection[BatchState] = (),
        **changes: Any,  # noqa: ANN401 - fields of a batch
    ) -> Batch | None:
        """Change a batch, and return it as it stands then.

        Args:
            id_: of the batch.
            only_in: states in which it is changed; in others it stays as it is. Any, where none
                is given.
            changes: its fields.
        """

        def work(connection: sa.Connection) -> Batch | None:
            row = _row(connection, _batches, id_, lock=True)
            if row is None:
                return None
            batch = Batch.model_validate(row.batch)
            if only_in and batch.state not in only_in:
                return batch
            changed = batch.model_copy(update=changes)
            connection.execute(
                sa.update(_batches).where(_batches.c.id == id_).values(**_values(changed))
            )
            return changed

        return self._database.write(work)

    def find(self, id_: str) -> Batch | None:
        """One batch."""
        row = self._database.read(lambda connection: _row(connection, _batches, id_))
        return Batch.model_validate(row.batch) if row else None

    def listed(self, *, team: str = "", use_cases: Collection[str] | None = None) -> list[Batch]:
        """Batches, newest first; of one team, and of some use cases, where these are given."""
        query = sa.select(_batches).order_by(_batches.c.created_at.desc(), _batches.c.id.desc())
        if team:
            query = query.where(_batches.c.team == team)
        if use_cases is not None:
            query = query.where(_batches.c.use_case.in_(sorted(use_cases)))
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [Batch.model_validate(row.batch) for row in rows]

    def add_file(self, file: StoredFile) -> None:
        """Keep a file's description; one with its id is replaced."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(_files).where(_files.c.id == file.id))
            connection.execute(
                sa.insert(_files).values(
                    id=file.id,
                    team=file.team,
                    created_at=file.created_at,
                    expires_at=file.expires_at,
                    file=file.model_dump(mode="json"),
                )
            )

        self._database.write(work)

    def find_file(self, id_: str) -> StoredFile | None:
        """One file."""
        row = self._database.read(lambda connection: _row(connection, _files, id_))
        return StoredFile.model_validate(row.file) if row else None

    def files(self, team: str) -> list[StoredFile]:
        """The files of a team, newest first."""
        query = (
            sa.select(_files)
            .where(_files.c.team == team)
            .order_by(_files.c.created_at.desc(), _files.c.id.desc())
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [StoredFile.model_validate(row.file) for row in rows]

    def expired_files(self, now: datetime) -> list[StoredFile]:
        """Files whose time is over."""
        query = sa.select(_files).where(_files.c.expires_at <= now)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [StoredFile.model_validate(row.file) for row in rows]

    def forget_file(self, id_: str) -> None:
        """Remove a file's description."""
        self._database.write(
            lambda connection: connection.execute(sa.delete(_files).where(_files.c.id == id_))
        )


def _row(connection: sa.Connection, table: sa.Table, id_: str, *, lock: bool = False) -> Any:  # noqa: ANN401 - SQLAlchemy's row
    query = sa.select(table).where(table.c.id == id_)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def _values(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "team": batch.team,
        "use_case": batch.use_case,
        "state": batch.state.value,
        "created_at": batch.created_at,
        "batch": batch.model_dump(mode="json"),
    }
