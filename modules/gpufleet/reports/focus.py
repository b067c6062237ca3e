"""Costs as a FOCUS 1.2 CSV file."""

import csv
import io
from pathlib import Path

from gpufleet.core.cost.focus import COLUMNS, focus_rows
from gpufleet.spec.cost_reports import CostReport
from gpufleet.spec.errors import Failed
from gpufleet.spec.fleet import Fleet


def focus_csv(fleet: Fleet, report: CostReport) -> str:
    """The file's text: a line of column names, then one line for each charge (RFC 4180)."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(focus_rows(fleet, report))
    return text.getvalue()


def write_focus_csv(fleet: Fleet, report: CostReport, file: Path) -> None:
    """Write the file, in place of one that is there.

    Raises:
        Failed: it cannot be written.
    """
    try:
        file.write_text(focus_csv(fleet, report), encoding="utf-8", newline="")
    except OSError as error:
        raise Failed(f"cannot be written: {error.strerror or error}", where=str(file)) from None
