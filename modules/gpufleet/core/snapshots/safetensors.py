"""The header of a safetensors file. Source: huggingface/safetensors, README, "Format"."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from gpufleet.core.snapshots.regions import Region, covering, lies, read_exactly

HEADER_BYTES_MAX: Final = 100_000_000
"""What the format's own reader allows."""
_LENGTH_BYTES: Final = 8
_BITS: Final = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Bits of one element; a type that is not here is taken as it comes."""


def safetensors_regions(
    path: str, size_bytes: int, read: Callable[[int, int], bytes]
) -> Iterator[Region]:
    """The header and each tensor, in the file's order.

    Raises:
        BadInput: the header is longer than the file or than 100 MB, is no header, or names bytes
            that overlap, are left out, or are beyond the end of the file.
    """
    length = int.from_bytes(read_exactly(read, 0, _LENGTH_BYTES), "little")
    if length > HEADER_BYTES_MAX:
        raise lies(path, f"its header claims {length} bytes; at most {HEADER_BYTES_MAX} may be")
    data = _LENGTH_BYTES + length
    if size_bytes < data:
        raise lies(path, f"its header claims {length} bytes, and the file has {size_bytes}")
    header = _parsed(path, read_exactly(read, _LENGTH_BYTES, length))
    tensors = [
        _tensor(path, name, value, data) for name, value in header.items() if name != "__metadata__"
    ]
    yield Region("", 0, data)
    yield from covering(tensors, data, size_bytes, path)


def _parsed(path: str, text: bytes) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise lies(path, "its header names something twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        raise lies(path, "its header is no JSON") from None
    if not isinstance(header, dict):
        raise lies(path, "its header is no JSON object")
    return header


def _tensor(path: str, name: str, value: object, data: int) -> Region:
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    shape = value.get("shape") if isinstance(value, dict) else None
    try:
        begin, end = _whole_numbers(offsets)
        elements = math.prod(_whole_numbers(shape))
    except ValueError:
        raise lies(path, f"its header does not say where tensor `{name:.80}` is") from None
    bits = _BITS.get(str(value.get("dtype"))) if isinstance(value, dict) else None
    if begin > end or (bits and elements * bits != (end - begin) * 8):
        raise lies(path, f"the length of tensor `{name:.80}` does not follow from its shape")
    return Region(name, data + begin, data + end)


def _whole_numbers(value: object) -> list[int]:
    if not isinstance(value, list) or not all(type(one) is int and one >= 0 for one in value):
        raise ValueError
    return value
