"""The story of a drill as a page."""

from pathlib import Path

from gpufleet.edges.whole_files import write_whole
from gpufleet.flows.drills.requests import history
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import DrillReport
from gpufleet.spec.errors import BadInput


def write_drill_page(ground: Ground, report: DrillReport, output: Path) -> None:
    """Write the page.

    Raises:
        BadInput: the output is a folder, or in none.
        Retryable: it cannot be written now.
    """
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise BadInput(what, where=str(output), mend="such as --page drill.html")
    # Only who writes a page pays for the import.
    from gpufleet.reports.drill_page import drill_page  # noqa: PLC0415

    earlier, trend = history(ground, report)
    page = drill_page(report, earlier, trend[0] if trend else None, ground.clock())
    write_whole(output, page)
