"""What was served, hour by hour, in the environment's database."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.usage import Usage

_usage: Final = sa.Table(
    "fleet_usage",
    tables,
    sa.Column("begin", Moment, primary_key=True),
    sa.Column("pool", sa.String(60), primary_key=True),
    sa.Column("use_case", sa.String(60), primary_key=True),
    sa.Column("hours", sa.Integer, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("successful", sa.BigInteger),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("gpu_hours", sa.Float, nullable=False),
    sa.Column("mean_watts", sa.Float),
)


class UsageTable:
    """Keeps one row for each hour or day, pool and use case.

    Args:
        database: where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, rows: Iterable[Usage]) -> int:
        """Keep rows; one about the same hours, pool and use case is replaced.

        Returns how many are new or differ from what was kept: the same rows again are none.
        """
        wanted = {row.key: row for row in rows}

        def work(connection: sa.Connection) -> int:
            changed = 0
            for row in wanted.values():
                same = sa.and_(
                    _usage.c.begin == row.begin,
                    _usage.c.pool == row.pool,
                    _usage.c.use_case == row.use_case,
                )
                kept = connection.execute(sa.select(_usage).where(same)).mappings().one_or_none()
                if kept is not None and Usage.model_validate(dict(kept)) == row:
                    continue
                connection.execute(sa.delete(_usage).where(same))
                connection.execute(sa.insert(_usage).values(**row.model_dump()))
                changed += 1
            return changed

        return self._database.write(work)

    def between(self, begin: datetime, end: datetime) -> list[Usage]:
        """Rows that begin in a period, oldest first."""
        found = self._database.read(
            lambda connection: (
                connection.execute(
                    sa.select(_usage)
                    .where(_usage.c.begin >= begin, _usage.c.begin < end)
                    .order_by(_usage.c.begin, _usage.c.pool, _usage.c.use_case)
                )
                .mappings()
                .all()
            )
        )
        return [Usage.model_validate(dict(row)) for row in found]
