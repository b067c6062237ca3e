"""JSON as the store holds it: compressed, bounded, and never of a newer format."""

import json
from typing import Any, Final

import zstandard
from pydantic_core import from_json

from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import FORMAT

PLAIN_BYTES_MAX: Final = 256 * 2**20
"""About a million files; more would not fit into the memory that a take may use."""
_LEVEL: Final = 3


def squeezed(value: dict[str, Any]) -> bytes:
    """Compact JSON in one zstd frame that says its length."""
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    if len(plain) > PLAIN_BYTES_MAX:
        raise BadInput(
            f"what describes it has {len(plain)} bytes; at most {PLAIN_BYTES_MAX} may be",
            mend="Take folders of it one by one.",
        )
    return zstandard.ZstdCompressor(level=_LEVEL).compress(plain)


def loaded(content: bytes, kind: str, where: str) -> dict[str, Any]:
    """What `squeezed` wrote.

    Raises:
        BadInput: this is not what it wrote, or too long.
    """
    try:
        length = zstandard.frame_content_size(content)
        if not 0 <= length <= PLAIN_BYTES_MAX:
            raise broken(kind, where)
        plain = zstandard.ZstdDecompressor().decompress(content, allow_extra_data=False)
    except zstandard.ZstdError:
        raise broken(kind, where) from None
    return parsed(plain, kind, where)


def parsed(plain: bytes, kind: str, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BadInput: this is none.
    """
    try:
        value = from_json(plain)
    except ValueError:
        raise broken(kind, where) from None
    if not isinstance(value, dict):
        raise broken(kind, where)
    return value


def refuse_newer(value: dict[str, Any], kind: str, where: str) -> None:
    """Raise BadInput for a format that this version does not know."""
    found = value.get("format")
    if type(found) is not int or found < 1:
        raise broken(kind, where)
    if found > FORMAT:
        raise BadInput(
            f"the {kind} has format {found}; this version reads up to {FORMAT}",
            where=where,
            mend="A newer version of gpufleet wrote it: use that one.",
        )


def broken(kind: str, where: str) -> BadInput:
    """The error for what cannot be read."""
    return BadInput(
        f"the {kind} is not as it was written",
        where=where,
        mend="`snapshot.verify` says what is lost, `snapshot.repair` brings it back.",
    )
