"""The story of a patch as a page."""

from pathlib import Path

from gpufleet.edges.whole_files import write_whole
from gpufleet.flows.ground import Ground
from gpufleet.spec.errors import BadInput
from gpufleet.spec.patching import PatchReport


def write_patch_page(ground: Ground, report: PatchReport, output: Path) -> None:
    """Write the page.

    Raises:
        BadInput: the output is a folder, or in none.
        Retryable: it cannot be written now.
    """
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else f"there is no folder {output.parent}"
        raise BadInput(what, where=str(output), mend="such as --html patch.html")
    # Only who writes a page pays for the import.
    from gpufleet.reports.patch_page import patch_page  # noqa: PLC0415

    plan = ground.patches.plan(report.flow)
    write_whole(output, patch_page(report, plan, ground.clock()))
