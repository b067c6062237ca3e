"""The segments of audit records that were shipped, in the environment's database."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.audit import KeptSegment

_segments: Final = sa.Table(
    "fleet_audit_segments",
    tables,
    sa.Column("chain", sa.String(240), primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("data_class", sa.String(80), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("head", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("records", sa.Integer, nullable=False),
    sa.Column("begins", Moment, nullable=False),
    sa.Column("ends", Moment, nullable=False),
    sa.Column("shipped_at", Moment, nullable=False),
    sa.Column("keep_until", Moment, nullable=False),
    sa.Column("sites", sa.JSON, nullable=False),
    sa.Column("deleted_at", Moment),
)
_owed: Final = sa.Table(
    "fleet_audit_copies_owed",
    tables,
    sa.Column("chain", sa.String(240), primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("site", sa.String(120), primary_key=True),
)


class AuditTable:
    """Keeps what is known of each segment, after its deletion too.

    Args:
        database: where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, segment: KeptSegment, owed: Iterable[str] = ()) -> None:
        """Keep a segment; one that is there stays as it is.

        Args:
            segment: as it was shipped.
            owed: sites whose stores are to have it, and did not take it.
        """
        missed = list(owed)

        def work(connection: sa.Connection) -> None:
            found = connection.execute(
                sa.select(_segments.c.first).where(*_is(segment.chain, segment.first))
            ).one_or_none()
            if found is None:
                connection.execute(sa.insert(_segments).values(**segment.model_dump()))
                for site in missed:
                    place = {"chain": segment.chain, "first": segment.first, "site": site}
                    connection.execute(sa.insert(_owed).values(**place))

        self._database.write(work)

    def owed(self, site: str, most: int) -> list[KeptSegment]:
        """Segments that a site's store is to have and does not, the earliest first."""
        query = (
            sa.select(_segments)
            .join(_owed, sa.and_(*_is_same(_owed)))
            .where(_owed.c.site == site)
            .order_by(_segments.c.shipped_at)
            .limit(most)
        )
        return self._read(query)

    def copies_owed(self) -> dict[str, int]:
        """How many segments each site's store is to have and does not."""
        query = sa.select(_owed.c.site, sa.func.count().label("owed")).group_by(_owed.c.site)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {row.site: row.owed for row in rows}

    def settle(self, segment: KeptSegment, site: str, *, has_it: bool) -> None:
        """Remember that a site's store has a segment now, or is not to have it any more."""

        def work(connection: sa.Connection) -> None:
            held = connection.execute(
                sa.select(_segments.c.sites)
                .where(*_is(segment.chain, segment.first))
                .with_for_update()
            ).scalar_one()
            if has_it:
                connection.execute(
                    sa.update(_segments)
                    .where(*_is(segment.chain, segment.first))
                    .values(sites=sorted({*held, site}))
                )
            connection.execute(
                sa.delete(_owed).where(
                    _owed.c.chain == segment.chain,
                    _owed.c.first == segment.first,
                    _owed.c.site == site,
                )
            )

        self._database.write(work)

    def shipped_since(self, at: datetime) -> list[KeptSegment]:
        """Segments that were shipped from a moment on, by chain and sequence."""
        return self._listed(sa.select(_segments).where(_segments.c.shipped_at >= at))

    def all(self) -> list[KeptSegment]:
        """Every segment that was ever shipped, by chain and sequence."""
        return self._listed(sa.select(_segments))

    def heads(self) -> list[KeptSegment]:
        """The last segment of every chain."""
        last = (
            sa.select(_segments.c.chain, sa.func.max(_segments.c.first).label("first"))
            .group_by(_segments.c.chain)
            .subquery()
        )
        same = sa.and_(_segments.c.chain == last.c.chain, _segments.c.first == last.c.first)
        return self._listed(sa.select(_segments).join(last, same))

    def unlocked(self, now: datetime) -> list[KeptSegment]:
        """Segments that are there and whose lock has ended, by chain and sequence.

        Of each chain only those that follow each other from its first that is left.
        """
        kept = _segments.alias()
        locked_before = sa.exists().where(
            kept.c.chain == _segments.c.chain,
            kept.c.first < _segments.c.first,
            kept.c.deleted_at.is_(None),
            kept.c.keep_until > now,
        )
        return self._listed(
            sa.select(_segments).where(
                _segments.c.deleted_at.is_(None), _segments.c.keep_until <= now, ~locked_before
            )
        )

    def _listed(self, query: sa.Select[Any]) -> list[KeptSegment]:
        return self._read(query.order_by(_segments.c.chain, _segments.c.first))

    def _read(self, query: sa.Select[Any]) -> list[KeptSegment]:
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [
            KeptSegment.model_validate(dict(row._mapping))  # noqa: SLF001 - SQLAlchemy's public name
            for row in rows
        ]

    def mark_deleted(self, segments: Iterable[KeptSegment], at: datetime) -> None:
        """Remember that segments are gone from every store."""

        def work(connection: sa.Connection) -> None:
            for segment in segments:
                connection.execute(
                    sa.update(_segments)
                    .where(*_is(segment.chain, segment.first), _segments.c.deleted_at.is_(None))
                    .values(deleted_at=at)
                )

        self._database.write(work)


def _is_same(table: sa.Table) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return (table.c.chain == _segments.c.chain, table.c.first == _segments.c.first)


def _is(chain: str, first: int) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return (_segments.c.chain == chain, _segments.c.first == first)
