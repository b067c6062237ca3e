"""Snapshots of model artifacts: what a store holds, and what taking and restoring one came to.

`docs/snapshot-format.md` describes the bytes; these are the facts that they carry.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

FORMAT: Final = 1
"""Version of the format that is written, and the newest one that is read."""
PIECE_BYTES: Final = 16 * 2**20
"""The longest chunk, and the longest pack by the plain bytes of its chunks."""
SMALL_BYTES: Final = 2**20
"""A shorter chunk is stored in a pack, one of this length or longer as an object of its own."""


class SnapshotKind(StrEnum):
    """What a snapshot was taken of."""

    ARTIFACT = "artifact"
    """The files of a model revision."""
    STATE = "state"
    """What else has to come back: databases, stacks' state, keys, fleet files, audit chains."""


class Codec(StrEnum):
    """How a chunk's bytes are stored."""

    PLAIN = "plain"
    ZSTD = "zstd"


class Cipher(StrEnum):
    """How a chunk's bytes are encrypted before they leave the machine."""

    NONE = "none"
    AES_256_GCM = "aes-256-gcm"


class ChunkRef(NamedTuple):
    """One chunk of a file; where it begins in the file follows from those before it."""

    id: str
    """BLAKE3 of the plain bytes (keyed BLAKE3 where the store has a key), 64 hexadecimal digits."""
    plain_bytes: int


class FileEntry(NamedTuple):
    """One regular file."""

    path: str
    """Below the snapshot's root, parts separated by `/`."""
    mode: int
    """Permission bits, at most 0o777."""
    plain_bytes: int
    blake3: str
    """Of the whole file, by `core/snapshots/digests.py`; 64 hexadecimal digits."""
    chunks: tuple[ChunkRef, ...]
    """In the file's order; none for an empty file."""
    sha256: str = ""
    """SHA-256 of the whole file where a signature needs it; empty otherwise."""


class LinkEntry(NamedTuple):
    """A symbolic link that stays within the tree."""

    path: str
    target: str
    """As the link holds it, relative to the link's folder."""


class FolderEntry(NamedTuple):
    """A folder below the root."""

    path: str
    mode: int


@dataclass(frozen=True)
class Manifest:
    """Everything that a snapshot holds; the snapshot exists when its manifest does."""

    created: datetime
    """When the take began, in UTC, whole seconds."""
    revision: str
    """Name of the model revision, or of what the state belongs to."""
    tool: str
    """Such as `gpufleet 0.1.0`."""
    files: tuple[FileEntry, ...]
    """Sorted by path, as the other two."""
    folders: tuple[FolderEntry, ...] = ()
    links: tuple[LinkEntry, ...] = ()
    kind: SnapshotKind = SnapshotKind.ARTIFACT
    parent: str = ""
    """ID of the snapshot that chunks were shared with; empty where there was none."""
    format: int = FORMAT

    @property
    def plain_bytes(self) -> int:
        """What a whole restore writes."""
        return sum(entry.plain_bytes for entry in self.files)


@dataclass(frozen=True)
class SnapshotSummary:
    """What a listing says of a snapshot without its manifest."""

    id: str
    """Such as `20261126T101500Z-3fa9c1d2`: when, and how the manifest's BLAKE3 begins."""
    created: datetime
    revision: str
    kind: SnapshotKind
    plain_bytes: int
    """What a whole restore writes."""
    stored_bytes: int
    """What the take added to the store."""
    files: int
    manifest_blake3: str
    """BLAKE3 of the manifest as it is stored, 64 hexadecimal digits."""
    tool: str
    parent: str = ""
    signed: bool = False
    digest: str = ""
    """Of the revision, as a model's `digest` in a fleet file; empty in older summaries."""
    format: int = FORMAT


@dataclass(frozen=True)
class StoreFormat:
    """What `format.json` says of a store; written once."""

    format: int = FORMAT
    hash: str = "blake3"
    key: str | None = None
    """ID of the key that chunks are named and encrypted with; None where the client does not."""


class PackedChunk(NamedTuple):
    """Where a small chunk's frame lies."""

    id: str
    offset_bytes: int
    """Of the frame within the pack."""
    stored_bytes: int
    """Of the frame with its header."""
    plain_bytes: int


class Pack(NamedTuple):
    """Frames of small chunks, one after another in one object."""

    id: str
    """BLAKE3 of the plain bytes of its chunks put together (keyed as chunks are)."""
    stored_bytes: int
    chunks: tuple[PackedChunk, ...]


class StoredObject(NamedTuple):
    """One version of one object, as a listing of the store gives it."""

    key: str
    """Below the store's prefix."""
    stored_bytes: int
    modified: datetime
    """By the store's clock."""
    version: str = ""
    """Empty where the bucket keeps no versions."""
    latest: bool = True
    marker: bool = False
    """A delete marker has no bytes; what it hides are the older versions."""


@dataclass(frozen=True)
class TakePlan:
    """What taking a snapshot would do."""

    store: str
    """Where it would be."""
    revision: str
    source: str
    files: int
    bytes_total: int
    bytes_to_read: int
    """Of the source; the rest was read by an earlier take, is unchanged, and is in the store."""
    locked_until: datetime | None
    """By Object Lock; None where the bucket is there and has none."""


@dataclass(frozen=True)
class TakeReport:
    """What taking a snapshot came to."""

    snapshot: str
    revision: str
    digest: str
    """Of the revision, as a model's `digest` in a fleet file."""
    files: int
    bytes_total: int
    """Of the source's files."""
    bytes_read: int
    """Of the source in this run: less than the total where an earlier run's work was kept."""
    bytes_stored: int
    """Added to the store: chunks, packs, indexes, manifest."""
    chunks: int
    chunks_new: int
    seconds: float

    @property
    def dedup_ratio(self) -> float:
        """Bytes of the source for each byte stored."""
        return self.bytes_total / max(self.bytes_stored, 1)


@dataclass(frozen=True)
class RestorePlan:
    """What restoring a snapshot would do."""

    snapshot: str
    revision: str
    to: str
    files: int
    bytes_total: int
    bytes_free: int
    """On the disk of the target."""
    replaces: bool
    """Whether something is there that it takes the place of."""
    predicted_s: float | None
    """By the rate of earlier restores, if all is fetched; None where there was none."""


@dataclass(frozen=True)
class RestoreReport:
    """What restoring a snapshot came to; every byte of it was verified."""

    snapshot: str
    to: str
    files: int
    bytes_total: int
    """Of the restored files."""
    bytes_fetched: int
    """Read from the store."""
    bytes_local: int
    """Taken from what was there: the revision before, or an interrupted restore."""
    seconds: float
    predicted_s: float | None = None
    """What was said before it began; None where no rate was measured yet."""


@dataclass(frozen=True)
class Damage:
    """One thing that a verification found."""

    key: str
    """The object, below the store's prefix."""
    what: str
    files: tuple[str, ...] = ()
    """Paths that cannot be restored because of it."""


@dataclass(frozen=True)
class VerifyReport:
    """What reading a snapshot back came to."""

    snapshot: str
    chunks: int
    chunks_read: int
    bytes_read: int
    seconds: float
    damaged: tuple[Damage, ...] = ()
    signature_checked: bool = False
    """Whether its signature was; one that is missing or forged is among what is damaged."""

    @property
    def good(self) -> bool:
        """Whether everything that was read is right."""
        return not self.damaged


@dataclass(frozen=True)
class PruneReport:
    """What a prune removed or, without `--apply`, would."""

    kept: tuple[str, ...]
    """IDs of the snapshots that stay."""
    removed: tuple[str, ...]
    """IDs that no longer list; they come back until the grace is over."""
    expired: tuple[str, ...]
    """IDs whose grace is over: their manifests are gone."""
    objects_deleted: int
    bytes_deleted: int
    objects_waiting: int
    """Named by nothing, and too young or locked."""
    seconds: float
    blocked: str = ""
    """Why nothing is deleted now; empty where nothing stands in the way."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each snapshot stays or goes."""


@dataclass(frozen=True)
class TakeMark:
    """The heartbeat of a take that runs: `running/<id>`."""

    id: str
    began: datetime
    """By the store's clock, before the take listed anything."""
    beat: datetime
    revision: str
    host: str


@dataclass(frozen=True)
class Grace:
    """How long what nothing names is kept, so that no take loses what it relies on."""

    keep: timedelta = timedelta(hours=24)
    """Age below which nothing is deleted, and time for which a removed snapshot can come back."""
    margin: timedelta = timedelta(hours=1)
    """What clocks, slow listings and the last step of a commit may take of it."""

    @property
    def longest_take(self) -> timedelta:
        """A take that runs longer does not commit."""
        return self.keep - self.margin
