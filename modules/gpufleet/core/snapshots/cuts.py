"""Where a file is cut into chunks, so that what did not change is stored once.

safetensors and GGUF files are cut at their tensors: each begins a chunk of its own, so an inserted
or longer tensor moves no other one's chunks. Small tensors in a row share a chunk; where such a
group ends follows from the name and length of the tensor before the end alone. Other files are cut
every 16 MiB: what is in the middle of a model's other large files (pickled weights, databases'
dumps) is rewritten as a whole when it changes, and a rolling hash over every byte would cost more
than reading, hashing and sending them does.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from gpufleet.core.snapshots.gguf import gguf_regions
from gpufleet.core.snapshots.regions import Region, read_exactly
from gpufleet.core.snapshots.safetensors import safetensors_regions
from gpufleet.spec.snapshots import PIECE_BYTES, SMALL_BYTES

GROUP_BYTES: Final = 512 * 2**10
"""Mean length of a group of small tensors: a changed one costs about as much."""
_DRAWS: Final = 2**64


class Cut(NamedTuple):
    """One chunk's place in its file."""

    offset_bytes: int
    plain_bytes: int


def cuts(path: str, size_bytes: int, read: Callable[[int, int], bytes]) -> tuple[Cut, ...]:
    """The chunks of a file, in its order: each byte is in one, and none is longer than 16 MiB.

    Args:
        path: its name tells its format.
        size_bytes: of the whole file.
        read: gives bytes of the file from an offset on, at most as many as asked for, as
            `os.pread` does; only headers are read.

    Raises:
        BadInput: the header of a safetensors or GGUF file lies.
    """
    if size_bytes < SMALL_BYTES:
        return (Cut(0, size_bytes),) if size_bytes else ()
    return tuple(_grouped(_regions(path, size_bytes, read)))


def _regions(path: str, size_bytes: int, read: Callable[[int, int], bytes]) -> Iterable[Region]:
    lower = path.lower()
    if lower.endswith(".safetensors"):
        return safetensors_regions(path, size_bytes, read)
    if lower.endswith(".gguf") and read_exactly(read, 0, 4) == b"GGUF":
        return gguf_regions(path, size_bytes, read)
    return [Region("", 0, size_bytes)]


def _grouped(regions: Iterable[Region]) -> Iterator[Cut]:
    begin = end = 0
    for region in regions:
        length = region.end - region.begin
        if length >= SMALL_BYTES or (region.end - begin) > PIECE_BYTES:
            if end > begin:
                yield Cut(begin, end - begin)
            begin = region.begin
        end = region.end
        if length >= SMALL_BYTES:
            yield from _pieces(region)
            begin = end
        elif _ends_group(region):
            if end > begin:
                yield Cut(begin, end - begin)
            begin = end
    if end > begin:
        yield Cut(begin, end - begin)


def _pieces(region: Region) -> Iterator[Cut]:
    for offset in range(region.begin, region.end, PIECE_BYTES):
        yield Cut(offset, min(PIECE_BYTES, region.end - offset))


def _ends_group(region: Region) -> bool:
    """With a chance of the tensor's length in the mean length, drawn from its name."""
    if not region.name:
        return True
    digest = hashlib.blake2b(region.name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    drawn = int.from_bytes(digest, "big")
    return drawn < (region.end - region.begin) * _DRAWS // GROUP_BYTES
