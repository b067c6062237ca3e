"""The parts of a file that a header names, and how the header is read."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from gpufleet.spec.errors import BadInput

MEND = "The file was cut short or written wrong: download or convert it again."


class Region(NamedTuple):
    """One tensor's bytes; a header has no name."""

    name: str
    begin: int
    """Offset in the file, in bytes."""
    end: int
    """Offset of the first byte after it."""


def read_exactly(read: Callable[[int, int], bytes], offset: int, count: int) -> bytes:
    """So many bytes, or fewer where the file ends."""
    parts: list[bytes] = []
    while count > 0 and (part := read(offset, count)):
        parts.append(part)
        offset += len(part)
        count -= len(part)
    return b"".join(parts)


def lies(path: str, what: str) -> BadInput:
    """The error for a header that cannot be right."""
    return BadInput(what, where=path, mend=MEND)


def covering(regions: Iterable[Region], begin: int, end: int, path: str) -> Iterator[Region]:
    """The same regions in the file's order.

    Raises:
        BadInput: they overlap, leave something out, or go beyond the end.
    """
    place = begin
    for region in sorted(regions, key=lambda one: (one.begin, one.end)):
        if region.begin < place:
            raise lies(path, f"tensor `{region.name:.80}` overlaps the one before it")
        if region.begin > place:
            raise lies(
                path, f"no tensor owns the {region.begin - place} bytes before `{region.name:.80}`"
            )
        if region.end > end:
            raise lies(
                path, f"tensor `{region.name:.80}` ends {region.end - end} bytes beyond the file"
            )
        yield region
        place = region.end
    if place != end:
        raise lies(path, f"no tensor owns the last {end - place} bytes")
