"""Patches in the environment's database: plan and story of each, what people want of it, times."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec.errors import BadInput
from gpufleet.spec.patching import Part, PatchPlan, PatchReport

_patches: Final = sa.Table(
    "fleet_patches",
    tables,
    sa.Column("flow", sa.String(200), primary_key=True),
    sa.Column("begun_at", Moment, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("paused_by", sa.String(200), nullable=False),
    sa.Column("stopped_by", sa.String(200), nullable=False),
)
_batches: Final = sa.Table(
    "fleet_patch_batches",
    tables,
    sa.Column("flow", sa.String(200), primary_key=True),
    sa.Column("batch", sa.String(60), primary_key=True),
    sa.Column("part", sa.String(40), nullable=False),
    sa.Column("is_rollback", sa.Boolean, nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
_REMEMBERED: Final = 200

T = TypeVar("T")


class PatchTable:
    """Keeps the plan and the story of each patch.

    Args:
        database: where they are.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def begin(self, report: PatchReport, plan: PatchPlan) -> None:
        """Keep a patch that begins; the same one again changes nothing."""
        row = {
            "flow": report.flow,
            "begun_at": report.begun_at,
            "plan": plan.model_dump_json(),
            "report": report.model_dump_json(),
            "is_open": True,
            "paused_by": "",
            "stopped_by": "",
        }

        def work(connection: sa.Connection) -> None:
            known = sa.select(_patches.c.flow).where(_patches.c.flow == report.flow)
            if connection.execute(known).one_or_none() is None:
                connection.execute(sa.insert(_patches).values(**row))

        self._database.write(work)

    def change(self, flow: str, how: Callable[[PatchReport], PatchReport]) -> PatchReport:
        """Change the story of a patch; `how` finds what an earlier call of it has done.

        Raises:
            BadInput: there is no such patch.
        """

        def work(connection: sa.Connection) -> PatchReport | None:
            row = connection.execute(
                sa.select(_patches.c.report).where(_patches.c.flow == flow).with_for_update()
            ).one_or_none()
            if row is None:
                return None
            told = how(PatchReport.model_validate_json(row.report))
            connection.execute(
                sa.update(_patches)
                .where(_patches.c.flow == flow)
                .values(report=told.model_dump_json(), is_open=told.ended_at is None)
            )
            return told

        return _demanded(self._database.write(work), flow)

    def report(self, flow: str) -> PatchReport:
        """The story of a patch so far.

        Raises:
            BadInput: there is no such patch.
        """
        row = self._row(flow)
        return _demanded(PatchReport.model_validate_json(row.report) if row else None, flow)

    def plan(self, flow: str) -> PatchPlan:
        """The plan of a patch.

        Raises:
            BadInput: there is no such patch.
        """
        row = self._row(flow)
        return _demanded(PatchPlan.model_validate_json(row.plan) if row else None, flow)

    def reports(self, *, only_open: bool = False) -> list[PatchReport]:
        """Every story, newest first."""
        narrowed = [_patches.c.is_open] if only_open else []
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_patches.c.report).where(*narrowed).order_by(_patches.c.begun_at.desc())
            ).all()
        )
        return [PatchReport.model_validate_json(row.report) for row in rows]

    def pause(self, flow: str, by: str) -> None:
        """Let a patch hold before its next batch; empty lets it go on."""
        self._set(flow, paused_by=by)

    def stop(self, flow: str, by: str) -> None:
        """Let a patch end with its wave rolled back."""
        self._set(flow, stopped_by=by)

    def wishes(self, flow: str) -> tuple[str, str]:
        """Who has paused it, and who has stopped it; empty where nobody has."""
        row = self._row(flow)
        return (row.paused_by, row.stopped_by) if row else ("", "")

    def keep_duration(
        self, flow: str, batch: str, part: Part, seconds: float, *, is_rollback: bool = False
    ) -> None:
        """Remember how long a batch took, once."""
        key = (_batches.c.flow == flow, _batches.c.batch == batch)
        row = {
            "flow": flow,
            "batch": batch,
            "part": part.value,
            "is_rollback": is_rollback,
            "at": self._clock(),
            "seconds": seconds,
        }

        def work(connection: sa.Connection) -> None:
            if connection.execute(sa.select(_batches.c.flow).where(*key)).one_or_none() is None:
                connection.execute(sa.insert(_batches).values(**row))

        self._database.write(work)

    def durations_s(self, part: Part, *, is_rollback: bool = False) -> list[float]:
        """How long the last batches of a part took, or going back, newest first, seconds."""
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_batches.c.seconds)
                .where(_batches.c.part == part.value, _batches.c.is_rollback == is_rollback)
                .order_by(_batches.c.at.desc())
                .limit(_REMEMBERED)
            ).all()
        )
        return [row.seconds for row in rows]

    def _row(self, flow: str) -> sa.Row[Any] | None:
        return self._database.read(
            lambda connection: connection.execute(
                sa.select(_patches).where(_patches.c.flow == flow)
            ).one_or_none()
        )

    def _set(self, flow: str, **values: str) -> None:
        changed = self._database.write(
            lambda connection: (
                connection.execute(
                    sa.update(_patches).where(_patches.c.flow == flow).values(**values)
                ).rowcount
            )
        )
        _demanded(changed or None, flow)


def _demanded(value: T | None, flow: str) -> T:
    if value is None:
        raise BadInput("there is no such patch", where=flow, mend="./fleet patch.status shows them")
    return value
