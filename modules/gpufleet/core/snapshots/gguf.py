"""The header of a GGUF file. Source: github.com/ggml-org/ggml, docs/gguf.md."""

import struct
from collections.abc import Callable, Iterator
from typing import Final

from gpufleet.core.snapshots.regions import Region, covering, lies, read_exactly

HEADER_BYTES_MAX: Final = 2**28
"""Vocabularies of a million tokens fit, and so does it in memory."""
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32
"""Of tensors, where the file does not say."""
_DIMENSIONS_MAX: Final = 8
_STRING, _ARRAY, _UINT32 = 8, 9, 4
_SCALAR_BYTES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STEP_BYTES: Final = 2**20


class _Header:
    """Reads the header from its begin on, as much of the file as is needed."""

    def __init__(self, path: str, size_bytes: int, read: Callable[[int, int], bytes]) -> None:
        self._path = path
        self._limit = min(size_bytes, HEADER_BYTES_MAX)
        self._read = read
        self._held = bytearray()
        self.place = 0

    def skip(self, count: int) -> int:
        """Go on by so many bytes; where they begin."""
        begin = self.place
        self.place += count
        if self.place > self._limit:
            raise lies(self._path, "its header goes beyond the file, or is longer than 256 MiB")
        if self.place > len(self._held):
            wanted = max(self.place - len(self._held), _STEP_BYTES)
            self._held += read_exactly(self._read, len(self._held), wanted)
            if self.place > len(self._held):
                raise lies(self._path, "its header goes beyond the end of the file")
        return begin

    def number(self, form: str) -> int:
        """The next number, little-endian."""
        begin = self.skip(struct.calcsize(form))
        return int(struct.unpack_from(f"<{form}", self._held, begin)[0])

    def text(self) -> str:
        """The next string."""
        length = self.number("Q")
        begin = self.skip(length)
        return self._held[begin : begin + length].decode("utf-8", "surrogateescape")


def gguf_regions(path: str, size_bytes: int, read: Callable[[int, int], bytes]) -> Iterator[Region]:
    """The header and each tensor with the padding after it, in the file's order.

    A version that is not known here has one region: the file.

    Raises:
        BadInput: the header ends beyond the file, or names bytes that it cannot have.
    """
    header = _Header(path, size_bytes, read)
    header.skip(4)
    if header.number("I") not in _VERSIONS:
        yield Region("", 0, size_bytes)
        return
    tensors, values = header.number("Q"), header.number("Q")
    alignment = _ALIGNMENT
    for _ in range(values):
        name, kind = header.text(), header.number("I")
        if name == "general.alignment" and kind == _UINT32:
            alignment = header.number("I")
        else:
            _skip_value(header, kind, path, deep=False)
    begins = dict(_tensor(header, path) for _ in range(tensors))
    if alignment < 1 or len(begins) != tensors:
        raise lies(path, "its header has an alignment of 0 or names a tensor twice")
    data = -(-header.place // alignment) * alignment
    yield Region("", 0, min(data, size_bytes))
    yield from covering(
        _until_next(begins, data, size_bytes), min(data, size_bytes), size_bytes, path
    )


def _until_next(begins: dict[str, int], data: int, size_bytes: int) -> Iterator[Region]:
    """A tensor's length follows from where the next one begins, for each type of its numbers."""
    ordered = sorted(begins.items(), key=lambda pair: pair[1])
    ends = [begin for _, begin in ordered[1:]] + [size_bytes - data]
    for (name, begin), end in zip(ordered, ends, strict=True):
        yield Region(name, data + begin, data + max(begin, end))


def _tensor(header: _Header, path: str) -> tuple[str, int]:
    name = header.text()
    dimensions = header.number("I")
    if dimensions > _DIMENSIONS_MAX:
        raise lies(path, f"tensor `{name:.80}` has {dimensions} dimensions")
    header.skip(8 * dimensions + 4)
    return name, header.number("Q")


def _skip_value(header: _Header, kind: int, path: str, *, deep: bool) -> None:
    if kind == _STRING:
        header.text()
    elif kind == _ARRAY and not deep:
        of, count = header.number("I"), header.number("Q")
        if of in _SCALAR_BYTES:
            header.skip(_SCALAR_BYTES[of] * count)
        else:
            for _ in range(count):
                _skip_value(header, of, path, deep=True)
    elif kind in _SCALAR_BYTES:
        header.skip(_SCALAR_BYTES[kind])
    else:
        raise lies(path, f"its header has a value of the unknown type {kind}")
