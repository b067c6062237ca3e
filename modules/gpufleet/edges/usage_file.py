"""Usage from a CSV file, for those without Prometheus."""

from pathlib import Path

from gpufleet.spec.errors import BadInput
from gpufleet.spec.rows import read_rows
from gpufleet.spec.usage import Usage


def read_usage(file: Path) -> list[tuple[str, Usage]]:
    """Each line of a file as a row, with its place (`FILE:LINE`) for errors about it.

    Raises:
        BadInput: the file cannot be read, a line of it is wrong, or two are about the same.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot be read: {error}", where=str(file)) from None
    rows = list(read_rows(text, str(file), Usage))
    seen: dict[object, str] = {}
    for place, row in rows:
        if (first := seen.setdefault(row.key, place)) != place:
            raise BadInput(f"is about the same hours, pool and use case as {first}", where=place)
    if not rows:
        raise BadInput("has no rows", where=str(file))
    return rows
