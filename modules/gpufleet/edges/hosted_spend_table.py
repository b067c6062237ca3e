"""What each gateway has spent at hosted APIs, by month and use case, in the environment's database.

A gateway's own ledger is on its own disk; this is what is left of it when that is gone.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables

_spend: Final = sa.Table(
    "fleet_hosted_spend",
    tables,
    sa.Column("gateway", sa.String(64), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("use_case", sa.String(60), primary_key=True),
    sa.Column("micro", sa.BigInteger, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
)
Sums = Mapping[tuple[str, str], int]
"""Millionths of the fleet's currency by month (`2026-11`) and use case."""


class HostedSpendTable:
    """Keeps every gateway's sums.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, gateway: str, sums: Sums, now: datetime) -> None:
        """Keep what a gateway has spent so far, in place of what it had told before.

        Raises:
            Retryable: the database does not answer.
        """

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(_spend).where(_spend.c.gateway == gateway))
            for (month, use_case), micro in sums.items():
                connection.execute(
                    sa.insert(_spend).values(
                        gateway=gateway, month=month, use_case=use_case, micro=micro, seen_at=now
                    )
                )

        self._database.write(work)

    def of_gone(
        self, gateway: str, others: int, seen_since: datetime
    ) -> dict[tuple[str, str], int]:
        """What gateways have spent this month that are not there any more.

        Args:
            gateway: the one that asks; it is never counted.
            others: how many there are beside it: those that have told last.
            seen_since: none of these has told before this.

        Raises:
            Retryable: the database does not answer.
        """

        def work(connection: sa.Connection) -> dict[tuple[str, str], int]:
            month = seen_since.astimezone(UTC).strftime("%Y-%m")
            rows = connection.execute(
                sa.select(_spend)
                .where(_spend.c.gateway != gateway, _spend.c.month >= month)
                .order_by(_spend.c.seen_at.desc(), _spend.c.gateway)
            ).all()
            last = list(dict.fromkeys(row.gateway for row in rows if row.seen_at >= seen_since))
            sums: Counter[tuple[str, str]] = Counter()
            for row in rows:
                if row.gateway not in last[:others]:
                    sums[row.month, row.use_case] += row.micro
            return dict(sums)

        return self._database.read(work)
