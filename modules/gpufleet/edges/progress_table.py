"""What running flows tell: the last word on each thing, for whoever attaches."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from threading import Lock
from typing import Any, Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.progress import Progress, progress_from, subject, turn

_progress: Final = sa.Table(
    "fleet_progress",
    tables,
    sa.Column("flow", sa.String(200), primary_key=True),
    sa.Column("subject", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("event", sa.JSON, nullable=False),
    sa.Column("at", Moment, nullable=False),
)
_EVERY_S: Final = 0.5
"""A thing that changes faster is told this often; a change of its state is told at once."""


class ProgressTable:
    """Keeps and reads the progress of flows.

    Args:
        database: where it is.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def teller(self, flow: str) -> Callable[[Progress], None]:
        """What a flow calls with its progress; from several threads."""
        told: dict[str, tuple[str, float]] = {}
        lock = Lock()

        def tell(event: Progress) -> None:
            about, state, now = subject(event), turn(event), time.monotonic()
            with lock:
                before, at = told.get(about, ("", 0.0))
                if state == before and now - at < _EVERY_S:
                    return
                told[about] = (state, now)
            self._keep(flow, about, event)

        return tell

    def latest(self, flow: str, since: datetime | None = None) -> list[tuple[datetime, Progress]]:
        """The last event about each thing, oldest first; with `since`, only later ones."""
        later = [] if since is None else [_progress.c.at > since]
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_progress)
                .where(_progress.c.flow == flow, *later)
                .order_by(_progress.c.at)
            ).all()
        )
        return [(row.at, progress_from(row.kind, row.event)) for row in rows]

    def _keep(self, flow: str, about: str, event: Progress) -> None:
        values: dict[str, Any] = {
            "kind": type(event).__name__,
            "event": asdict(event),
            "at": self._clock(),
        }
        key = (_progress.c.flow == flow, _progress.c.subject == about)

        def work(connection: sa.Connection) -> None:
            if not connection.execute(sa.update(_progress).where(*key).values(**values)).rowcount:
                connection.execute(sa.insert(_progress).values(flow=flow, subject=about, **values))

        self._database.write(work)
