"""What the objects of a store are called, below the store's prefix."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import SMALL_BYTES

FORMAT_KEY: Final = "format.json"
CHUNKS: Final = "chunks/"
PACKS: Final = "packs/"
INDEXES: Final = "indexes/"
SNAPSHOTS: Final = "snapshots/"
RUNNING: Final = "running/"
MANIFEST: Final = "manifest"
SUMMARY: Final = "summary"
SIGNATURE: Final = "signature"
VERDICT: Final = "verdict"
"""What the last verification found."""
REMOVED: Final = "removed"
"""Its snapshot no longer lists; the manifest still protects its chunks until the grace is over."""

ID_DIGITS: Final = 8
"""How many digits of its manifest's BLAKE3 a snapshot's ID ends with."""

_ID: Final = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{8}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME: Final = "%Y%m%dT%H%M%SZ"


def chunk_key(chunk: str) -> str:
    """Where a chunk of 1 MiB or more is stored."""
    return f"{CHUNKS}{chunk[:2]}/{chunk}"


def pack_key(pack: str) -> str:
    """Where a pack is stored."""
    return f"{PACKS}{pack[:2]}/{pack}"


def index_key(index: str) -> str:
    """Where an index is stored, by the BLAKE3 of its stored bytes."""
    return f"{INDEXES}{index}"


def snapshot_key(snapshot: str, part: str) -> str:
    """Where a part of a snapshot (`manifest`, `summary`, ...) is stored."""
    return f"{SNAPSHOTS}{snapshot}/{part}"


def running_key(mark: str) -> str:
    """Where the heartbeat of a take, restore or prune is stored."""
    return f"{RUNNING}{mark}"


def is_packed(plain_bytes: int) -> bool:
    """Whether a chunk of this length lies in a pack."""
    return plain_bytes < SMALL_BYTES


def snapshot_id(created: datetime, manifest_blake3: str) -> str:
    """The ID of a snapshot: when its take began, and how its manifest's BLAKE3 begins."""
    return f"{created.astimezone(UTC).strftime(_TIME)}-{manifest_blake3[:ID_DIGITS]}"


def created_of(snapshot: str) -> datetime:
    """When the take of a snapshot began.

    Raises:
        BadInput: this is no ID of a snapshot.
    """
    match = _ID.fullmatch(snapshot)
    if match is not None:
        with suppress(ValueError):
            return datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
    raise BadInput(
        f"`{snapshot:.60}` is no ID of a snapshot",
        mend="An ID is written like 20261126T101500Z-3fa9c1d2; `snapshot.list` shows them.",
    )


def is_snapshot_id(text: str) -> bool:
    """Whether this is written like a snapshot's ID."""
    return _ID.fullmatch(text) is not None


def is_digest(text: object) -> bool:
    """Whether this is a BLAKE3 or SHA-256 as the format writes it."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def name_of(key: str, folder: str) -> str | None:
    """The digest that a key in `chunks/`, `packs/` or `indexes/` ends with; None for a stray."""
    name = key.rpartition("/")[2]
    if not is_digest(name):
        return None
    expected = f"{folder}{name}" if folder == INDEXES else f"{folder}{name[:2]}/{name}"
    return name if key == expected else None
