"""What was applied last: the fleet as it stands, to tell a change from."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.fleet import Fleet

_applied: Final = sa.Table(
    "fleet_applied",
    tables,
    sa.Column("flow", sa.String(200), primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("digest", sa.String(80), nullable=False),
    sa.Column("fleet", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
_REMEMBERED: Final = 50


class AppliedTable:
    """Keeps each fleet that was applied, with the time that it took.

    Args:
        database: where it is.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def keep(self, flow: str, digest: str, fleet: Fleet, seconds: float) -> None:
        """Remember what a flow has applied; the same flow again changes nothing."""
        row = {
            "flow": flow,
            "at": self._clock(),
            "digest": digest,
            "fleet": fleet.model_dump_json(by_alias=True),
            "seconds": seconds,
        }

        def work(connection: sa.Connection) -> None:
            known = sa.select(_applied.c.flow).where(_applied.c.flow == flow)
            if connection.execute(known).one_or_none() is None:
                connection.execute(sa.insert(_applied).values(**row))

        self._database.write(work)

    def last(self) -> tuple[str, Fleet] | None:
        """Digest and fleet of the last one; None before the first.

        A fleet of an older version of gpufleet that cannot be read any more counts as none.
        """
        row = self._database.read(
            lambda connection: connection.execute(
                sa.select(_applied).order_by(_applied.c.at.desc()).limit(1)
            ).one_or_none()
        )
        if row is None:
            return None
        try:
            return row.digest, Fleet.model_validate_json(row.fleet)
        except ValueError:
            return None

    def durations_s(self) -> list[float]:
        """How long the last changes took, newest first, seconds."""
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_applied.c.seconds).order_by(_applied.c.at.desc()).limit(_REMEMBERED)
            ).all()
        )
        return [row.seconds for row in rows]
