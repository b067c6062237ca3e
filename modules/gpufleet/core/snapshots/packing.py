"""Packs of small chunks, and the indexes that say what lies in which pack."""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, Final

from blake3 import blake3

from gpufleet.core.snapshots.frames import Bytes, Frame, hasher
from gpufleet.core.snapshots.layout import is_digest
from gpufleet.core.snapshots.stored_json import broken, loaded, refuse_newer, squeezed
from gpufleet.spec.snapshots import FORMAT, PIECE_BYTES, Pack, PackedChunk

_KIND: Final = "index"


class PackBuilder:
    """Puts frames together until a pack is full.

    Args:
        key: 32 bytes where chunks are named with a key.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key
        self._begin()

    def _begin(self) -> None:
        self._hash = hasher(self._key)
        self._parts: list[Bytes] = []
        self._chunks: list[PackedChunk] = []
        self._plain_bytes = self._stored_bytes = 0

    def add(self, chunk: str, plain: Bytes, frame: Frame) -> tuple[Pack, bytes] | None:
        """Take a chunk in; the pack that was full before it and is to be stored now, if any."""
        full = None
        if self._plain_bytes + len(plain) > PIECE_BYTES:
            full = self.finish()
        self._hash.update(plain)
        self._chunks.append(PackedChunk(chunk, self._stored_bytes, frame.stored_bytes, len(plain)))
        self._parts += frame
        self._plain_bytes += len(plain)
        self._stored_bytes += frame.stored_bytes
        return full

    def finish(self) -> tuple[Pack, bytes] | None:
        """The pack of what was taken in since the last one, and its bytes; None for nothing."""
        if not self._chunks:
            return None
        pack = Pack(self._hash.hexdigest(), self._stored_bytes, tuple(self._chunks))
        content = b"".join(self._parts)
        self._begin()
        return pack, content


def encode_index(packs: Iterable[Pack]) -> tuple[str, bytes]:
    """An index's name and its bytes."""
    content = squeezed(
        {
            "format": FORMAT,
            "packs": [
                {
                    "id": pack.id,
                    "chunks": [chunk.id for chunk in pack.chunks],
                    "stored_bytes": [chunk.stored_bytes for chunk in pack.chunks],
                    "plain_bytes": [chunk.plain_bytes for chunk in pack.chunks],
                }
                for pack in packs
            ],
        }
    )
    return blake3(content).hexdigest(), content


def decode_index(content: bytes, *, where: str = "") -> tuple[Pack, ...]:
    """What an index says.

    Raises:
        BadInput: it is no index, or one of a newer format.
    """
    value = loaded(content, _KIND, where)
    refuse_newer(value, _KIND, where)
    try:
        return tuple(_packs(value))
    except (AttributeError, LookupError, TypeError, ValueError):
        raise broken(_KIND, where) from None


def _packs(value: dict[str, Any]) -> Iterator[Pack]:
    for row in value["packs"]:
        ids, stored, plain = row["chunks"], row["stored_bytes"], row["plain_bytes"]
        if not (is_digest(row["id"]) and all(map(is_digest, ids))):
            raise ValueError
        if not all(type(one) is int and one > 0 for one in (*stored, *plain)):
            raise ValueError
        offsets = list(accumulate(stored, initial=0))
        chunks = map(PackedChunk._make, zip(ids, offsets[:-1], stored, plain, strict=True))
        yield Pack(row["id"], offsets[-1], tuple(chunks))
