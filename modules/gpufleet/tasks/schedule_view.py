"""How a schedule of snapshots looks on a terminal."""

from typing import TYPE_CHECKING

from rich.text import Text

from gpufleet.tasks.console import facts, folding_table

if TYPE_CHECKING:
    from gpufleet.spec.schedule_reports import ScheduleReport, ScheduleRow

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def show(report: "ScheduleReport") -> None:
    """What is taken by itself, and how old the newest are."""
    table = folding_table("REVISION", "STORE", "EVERY", "NEWEST GOOD", "AGE", "RPO", "NEXT", "BY")
    for row in report.rows:
        style = "red" if row.late else ""
        age = "unknown" if row.fault else "none" if row.age_s is None else duration(row.age_s)
        table.add_row(
            row.revision,
            row.site,
            duration(row.every_s),
            row.newest,
            Text(age, style=style),
            duration(row.rpo_s),
            f"{row.next_at:%m-%d %H:%M}" if row.next_at else "",
            row.runs,
        )
    facts.print(table)
    for row in report.rows:
        if row.fault:
            facts.print(Text(f"{_shown(row)}: {row.fault}", style="red"), soft_wrap=True)
        elif row.late:
            facts.print(Text(f"{_shown(row)}: older than its RPO", style="red"), soft_wrap=True)


def duration(seconds: float) -> str:
    """A time for people, in its largest unit."""
    for length_s, unit in _UNITS:
        if seconds >= length_s:
            shown = f"{seconds / length_s:.1f}".removesuffix(".0")
            return f"{shown} {unit}"
    return f"{seconds:.0f} s"


def _shown(row: "ScheduleRow") -> str:
    return f"{row.revision} at {row.site}" if row.site else row.revision
