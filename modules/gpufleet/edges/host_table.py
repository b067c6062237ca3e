"""What is remembered of the hosts of an environment, in its database."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables

_hosts: Final = sa.Table(
    "fleet_hosts",
    tables,
    sa.Column("host", sa.String(60), primary_key=True),
    sa.Column("state", sa.String(40), nullable=False),
    sa.Column("since", Moment, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("flow", sa.String(200), nullable=False),
)


class HostTable:
    """Keeps the state of each host that anything was ever done with.

    Args:
        database: where it is.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def keep(self, host: str, state: str, *, reason: str, flow: str) -> bool:
        """Remember a host's state; False where it was remembered already."""
        row = {"state": state, "since": self._clock(), "reason": reason, "flow": flow}

        def work(connection: sa.Connection) -> bool:
            is_it = _hosts.c.host == host
            known = connection.execute(sa.select(_hosts).where(is_it)).one_or_none()
            if known is None:
                connection.execute(sa.insert(_hosts).values(host=host, **row))
                return True
            if known.state == state:
                return False
            connection.execute(sa.update(_hosts).where(is_it).values(**row))
            return True

        return self._database.write(work)

    def reasons(self, state: str) -> dict[str, str]:
        """Why each host that is in a state is in it."""
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_hosts.c.host, _hosts.c.reason).where(_hosts.c.state == state)
            ).all()
        )
        return {row.host: row.reason for row in rows}

    def states(self) -> dict[str, str]:
        """The state of each host that something is remembered of."""
        rows = self._database.read(lambda connection: connection.execute(sa.select(_hosts)).all())
        return {row.host: row.state for row in rows}
