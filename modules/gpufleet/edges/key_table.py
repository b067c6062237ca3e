"""The gateway's API keys, in the environment's database: of their text only a hash."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.access import ApiKey
from gpufleet.spec.errors import BadInput

_keys: Final = sa.Table(
    "fleet_api_keys",
    tables,
    sa.Column("id", sa.String(12), primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("team", sa.String(40), nullable=False),
    sa.Column("use_cases", sa.JSON, nullable=False),
    sa.Column("rate_rpm", sa.Integer),
    sa.Column("concurrency_limit", sa.Integer),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("created_by", sa.String(200), nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("revoked_at", Moment),
    sa.Column("revoked_by", sa.String(200)),
    sa.Column("rotated_from", sa.String(12)),
    sa.Column("last_used_at", Moment),
)


class KeyTable:
    """Adds, finds and ends keys.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: ApiKey, *, ends: datetime | None = None) -> None:
        """Keep a new key; the same one again changes nothing.

        Args:
            key: it.
            ends: when the key that it replaces expires, if not earlier by itself.

        Raises:
            BadInput: the key that it replaces was revoked meanwhile.
        """

        def work(connection: sa.Connection) -> None:
            if _row(connection, key.id) is not None:
                return
            if key.rotated_from is not None:
                old = _row(connection, key.rotated_from)
                if old is None or old.revoked_at is not None:
                    raise BadInput("it was revoked", where=f"key {key.rotated_from}")
                if ends is not None and (old.expires_at is None or ends < old.expires_at):
                    _change(connection, key.rotated_from, expires_at=ends)
            connection.execute(sa.insert(_keys).values(**key.model_dump(), hash=key.hash))

        self._database.write(work)

    def find(self, id: str) -> ApiKey | None:  # noqa: A002 - the field's name
        """A key by its id."""
        row = self._database.read(lambda connection: _row(connection, id))
        return _key(row) if row else None

    def all(self) -> list[ApiKey]:
        """Every key that was ever issued, oldest first."""
        return self._listed(sa.select(_keys))

    def valid(self, now: datetime) -> list[ApiKey]:
        """The keys that open something at a time."""
        return self._listed(
            sa.select(_keys).where(
                _keys.c.revoked_at.is_(None),
                sa.or_(_keys.c.expires_at.is_(None), _keys.c.expires_at > now),
            )
        )

    def revoke(self, id: str, by: str, at: datetime) -> None:  # noqa: A002 - the field's name
        """End a key for good; one that was revoked stays as it was."""
        self._database.write(
            lambda connection: connection.execute(
                sa.update(_keys)
                .where(_keys.c.id == id, _keys.c.revoked_at.is_(None))
                .values(revoked_at=at, revoked_by=by)
            )
        )

    def used(self, at: Mapping[str, datetime]) -> None:
        """Remember when keys were used last; an earlier time than is known changes nothing."""

        def work(connection: sa.Connection) -> None:
            for id_, moment in at.items():
                connection.execute(
                    sa.update(_keys)
                    .where(
                        _keys.c.id == id_,
                        sa.or_(_keys.c.last_used_at.is_(None), _keys.c.last_used_at < moment),
                    )
                    .values(last_used_at=moment)
                )

        if at:
            self._database.write(work)

    def _listed(self, query: sa.Select[Any]) -> list[ApiKey]:
        rows = self._database.read(
            lambda connection: connection.execute(query.order_by(_keys.c.created_at)).all()
        )
        return [_key(row) for row in rows]


def _row(connection: sa.Connection, id_: str) -> Any:  # noqa: ANN401 - a row of SQLAlchemy
    return connection.execute(sa.select(_keys).where(_keys.c.id == id_)).one_or_none()


def _change(connection: sa.Connection, id_: str, **values: object) -> None:
    connection.execute(sa.update(_keys).where(_keys.c.id == id_).values(**values))


def _key(row: Any) -> ApiKey:  # noqa: ANN401 - as above
    return ApiKey.model_validate(dict(row._mapping))  # noqa: SLF001 - SQLAlchemy's public name
