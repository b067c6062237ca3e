"""How the security patch cycle is shown."""

from rich.text import Text

from gpufleet.spec.patch_cycle import CadenceRow, Exposure, PatchCycleReport
from gpufleet.tasks.console import facts, plain_table

_DAY_S = 86_400
_HOUR_S = 3_600
_STYLES = {"critical": "red", "high": "yellow"}
_NODES_SHOWN = 3


def show(report: PatchCycleReport) -> None:
    """A line for each component, one for each known vulnerability, and what could not be told."""
    facts.print(f"{report.fleet} {report.environment}, {report.advisories} advisories concern it")
    if not report.cadences:
        facts.print("no cadence is declared: patching in the fleet file")
    else:
        _show_cadences(report)
    if report.exposures:
        _show_exposures(report)
    for told in report.undecided:
        facts.print(f"undecided: {told}", soft_wrap=True, markup=False)


def _show_cadences(report: PatchCycleReport) -> None:
    table = plain_table()
    table.add_column("COMPONENT", no_wrap=True)
    for name in ("EVERY", "OLDEST", "HOST", "UNSEEN", "OLDEST CRITICAL", "OVERDUE", "NEXT WINDOW"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.cadences:
        late = bool(row.overdue_s)
        table.add_row(
            row.component.value,
            duration(row.every_s),
            _age(row),
            row.oldest_node or "-",
            str(row.unknown),
            "-" if row.oldest_critical_s is None else duration(row.oldest_critical_s),
            Text(duration(row.overdue_s) if late else "no", style="red" if late else "green"),
            row.window_opens.strftime("%Y-%m-%d %H:%M %Z") if row.window_opens else "-",
        )
    facts.print(table)


def _age(row: CadenceRow) -> str:
    return "-" if row.oldest_s is None else duration(row.oldest_s)


def _show_exposures(report: PatchCycleReport) -> None:
    table = plain_table()
    for name in ("ADVISORY", "SEVERITY", "PART", "INSTALLED", "FIXED IN"):
        table.add_column(name)
    for name in ("KNOWN FOR", "HOSTS"):
        table.add_column(name, justify="right", no_wrap=True)
    for exposure in report.exposures:
        severity = exposure.severity or "unknown"
        table.add_row(
            exposure.advisory,
            Text(severity, style=_STYLES.get(severity, "")),
            exposure.part,
            ", ".join(exposure.versions),
            ", ".join(exposure.fixed) or "-",
            duration(exposure.age_s),
            _hosts(exposure),
        )
    facts.print(table)


def _hosts(exposure: Exposure) -> str:
    if len(exposure.nodes) <= _NODES_SHOWN:
        return ", ".join(exposure.nodes)
    return f"{len(exposure.nodes)} hosts"


def duration(seconds: float) -> str:
    """Days, or hours below two days, or minutes below two hours."""
    if seconds >= 2 * _DAY_S:
        return f"{seconds / _DAY_S:.0f} d"
    if seconds >= 2 * _HOUR_S:
        return f"{seconds / _HOUR_S:.0f} h"
    return f"{seconds / 60:.0f} min"
