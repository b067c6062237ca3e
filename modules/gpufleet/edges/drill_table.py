"""Drills in the environment's database: the story of each, also of one that was cut short."""

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.drills import DrillReport
from gpufleet.spec.errors import BadInput

_drills: Final = sa.Table(
    "fleet_drills",
    tables,
    sa.Column("flow", sa.String(200), primary_key=True),
    sa.Column("scenario", sa.String(60), nullable=False),
    sa.Column("target", sa.String(200), nullable=False),
    sa.Column("begun_at", Moment, nullable=False),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("report", sa.Text, nullable=False),
)


class DrillTable:
    """Keeps the story of each drill.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, report: DrillReport) -> None:
        """Keep a drill that begins; the same one again changes nothing."""

        def work(connection: sa.Connection) -> None:
            known = sa.select(_drills.c.flow).where(_drills.c.flow == report.flow)
            if connection.execute(known).one_or_none() is None:
                row = {
                    "flow": report.flow,
                    "scenario": report.scenario,
                    "target": report.target,
                    "begun_at": report.begun_at,
                    **_content(report),
                }
                connection.execute(sa.insert(_drills).values(**row))

        self._database.write(work)

    def change(self, flow: str, how: Callable[[DrillReport], DrillReport]) -> DrillReport:
        """Change the story of a drill; `how` finds what an earlier call of it has done.

        Raises:
            BadInput: there is no such drill.
        """

        def work(connection: sa.Connection) -> DrillReport | None:
            row = connection.execute(
                sa.select(_drills.c.report).where(_drills.c.flow == flow).with_for_update()
            ).one_or_none()
            if row is None:
                return None
            told = how(DrillReport.model_validate_json(row.report))
            connection.execute(
                sa.update(_drills).where(_drills.c.flow == flow).values(**_content(told))
            )
            return told

        return _demanded(self._database.write(work), flow)

    def report(self, flow: str) -> DrillReport:
        """The story of a drill so far.

        Raises:
            BadInput: there is no such drill.
        """
        found = self._read(_drills.c.flow == flow)
        return _demanded(found[0] if found else None, flow)

    def reports(
        self, scenario: str = "", target: str = "", *, only_open: bool = False
    ) -> list[DrillReport]:
        """Every story, newest first.

        Args:
            scenario: only of this one.
            target: only of this one.
            only_open: only those of which something may be left.
        """
        narrowed: list[sa.ColumnElement[bool]] = [_drills.c.is_open] if only_open else []
        if scenario:
            narrowed.append(_drills.c.scenario == scenario)
        if target:
            narrowed.append(_drills.c.target == target)
        return self._read(*narrowed)

    def _read(self, *narrowed: sa.ColumnElement[bool]) -> list[DrillReport]:
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_drills.c.report).where(*narrowed).order_by(_drills.c.begun_at.desc())
            ).all()
        )
        return [DrillReport.model_validate_json(row.report) for row in rows]


def _content(report: DrillReport) -> dict[str, Any]:
    """A drill is open until it has ended and nothing of it is left."""
    is_open = report.ended_at is None or not report.cleaned
    return {"report": report.model_dump_json(), "is_open": is_open}


def _demanded(report: DrillReport | None, flow: str) -> DrillReport:
    if report is None:
        raise BadInput("there is no such drill", where=flow, mend="./fleet dr.report shows them")
    return report
