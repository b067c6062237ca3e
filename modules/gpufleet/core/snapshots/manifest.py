"""Manifests, summaries and `format.json`: from and to the bytes that the store holds."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final

from blake3 import blake3

from gpufleet.core.snapshots.layout import ID_DIGITS, snapshot_id
from gpufleet.core.snapshots.paths import refuse_names
from gpufleet.core.snapshots.revision import revision_digest
from gpufleet.core.snapshots.stored_json import broken, loaded, parsed, refuse_newer, squeezed
from gpufleet.spec.errors import BadInput
from gpufleet.spec.snapshots import (
    PIECE_BYTES,
    ChunkRef,
    FileEntry,
    FolderEntry,
    LinkEntry,
    Manifest,
    SnapshotKind,
    SnapshotSummary,
    StoreFormat,
)

BYTES_MAX: Final = 2**60
DIGEST_DIGITS: Final = 64
_MODE_MAX: Final = 0o777
_WRONG: Final = (AttributeError, LookupError, TypeError, ValueError)
"""What comes of values of another kind than expected; no check before it is needed for each."""
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]*", re.ASCII)
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


def encode(manifest: Manifest) -> bytes:
    """A manifest as it is stored; the same one always gives the same bytes.

    Raises:
        BadInput: it names something that a snapshot does not hold.
    """
    refuse_names(manifest.files, manifest.folders, manifest.links)
    return squeezed(
        {
            "format": manifest.format,
            "created": manifest.created.astimezone(UTC).strftime(_TIME),
            "kind": manifest.kind.value,
            "revision": manifest.revision,
            "tool": manifest.tool,
            "parent": manifest.parent,
            "files": _columns(sorted(manifest.files)),
            "folders": sorted(manifest.folders),
            "links": sorted(manifest.links),
        }
    )


def digest_of(stored: bytes) -> str:
    """BLAKE3 of a manifest's stored bytes; a snapshot's ID and its summary hold it."""
    return blake3(stored).hexdigest()


def decode(stored: bytes, *, snapshot: str = "") -> Manifest:
    """What a manifest says, checked.

    Args:
        stored: the bytes of the object.
        snapshot: the ID that it was found under; empty where there is none to compare.

    Raises:
        BadInput: it was changed, is of a newer format, or names something that could not be
            restored below one folder.
    """
    value = _value(stored, snapshot)
    try:
        manifest = _manifest(value)
    except _WRONG:
        raise broken("manifest", snapshot) from None
    refuse_names(manifest.files, manifest.folders, manifest.links)
    return manifest


def chunks_of(manifest: Manifest) -> dict[str, int]:
    """Every chunk that a snapshot needs, and its plain bytes."""
    return dict(chain.from_iterable(entry.chunks for entry in manifest.files))


def needs_of(stored: bytes, *, snapshot: str = "") -> dict[str, int]:
    """As `chunks_of`, from the stored bytes, without a look at the names.

    A prune asks this of every manifest; it takes a third of the time that `decode` does.

    Raises:
        BadInput: it was changed, or is of a newer format.
    """
    value = _value(stored, snapshot)
    try:
        files = value["files"]
        lengths, parts = _lengths(files)
    except _WRONG:
        raise broken("manifest", snapshot) from None
    found = {
        digest: length
        for row, (digest, length) in enumerate(zip(files["blake3"], lengths, strict=True))
        if row not in parts
    }
    found.update(chain.from_iterable(parts.values()))
    return found


def _value(stored: bytes, snapshot: str) -> dict[str, Any]:
    """A manifest's JSON, which is the one that the snapshot's ID stands for."""
    value = loaded(stored, "manifest", snapshot)
    refuse_newer(value, "manifest", snapshot)
    if snapshot and snapshot.rpartition("-")[2] != digest_of(stored)[:ID_DIGITS]:
        raise BadInput(
            "the manifest is not the one that the snapshot was committed with",
            where=snapshot,
            mend="`snapshot.repair` brings it back.",
        )
    return value


def _columns(files: Sequence[FileEntry]) -> dict[str, Any]:
    return {
        "path": [entry.path for entry in files],
        "mode": [entry.mode for entry in files],
        "bytes": [entry.plain_bytes for entry in files],
        "blake3": [entry.blake3 for entry in files],
        "chunks": {
            str(row): entry.chunks
            for row, entry in enumerate(files)
            if entry.chunks != ((entry.blake3, entry.plain_bytes),)
        },
        "sha256": {str(row): entry.sha256 for row, entry in enumerate(files) if entry.sha256},
    }


def _manifest(value: dict[str, Any]) -> Manifest:
    return Manifest(
        created=_moment(value["created"]),
        revision=_text(value["revision"]),
        tool=_text(value["tool"]),
        files=_files(value["files"]),
        folders=tuple(_folders(value["folders"])),
        links=tuple(_links(value["links"])),
        kind=SnapshotKind(value["kind"]),
        parent=_text(value["parent"]),
        format=value["format"],
    )


def _files(columns: dict[str, Any]) -> tuple[FileEntry, ...]:
    paths, modes, digests = columns["path"], columns["mode"], columns["blake3"]
    lengths, parts = _lengths(columns)
    if not (set(map(type, paths)) <= {str} and _within(modes, _MODE_MAX)):
        raise ValueError
    signed = [""] * len(paths)
    for row, digest in columns["sha256"].items():
        signed[_place(row, paths)] = digest
    if not _are_digests([digest for digest in signed if digest]):
        raise ValueError
    chunks: list[tuple[ChunkRef, ...]] = list(
        zip(map(ChunkRef._make, zip(digests, lengths, strict=True)))
    )
    for row, listed in parts.items():
        chunks[row] = listed
    return tuple(
        map(FileEntry._make, zip(paths, modes, lengths, digests, chunks, signed, strict=True))
    )


def _lengths(columns: dict[str, Any]) -> tuple[list[int], dict[int, tuple[ChunkRef, ...]]]:
    """The files' lengths, and the chunks of those that are not one chunk, by their place."""
    lengths, digests = columns["bytes"], columns["blake3"]
    if not (_within(lengths, BYTES_MAX) and _are_digests(digests)):
        raise ValueError
    parts = {_place(row, lengths): _chunks(rows) for row, rows in columns["chunks"].items()}
    for row, listed in parts.items():
        if sum(chunk.plain_bytes for chunk in listed) != lengths[row]:
            raise ValueError
    if any(not 0 < n <= PIECE_BYTES and row not in parts for row, n in enumerate(lengths)):
        raise ValueError
    return lengths, parts


def _chunks(rows: list[list[Any]]) -> tuple[ChunkRef, ...]:
    found = tuple(ChunkRef(chunk, plain_bytes) for chunk, plain_bytes in rows)
    lengths = [chunk.plain_bytes for chunk in found]
    if not (_are_digests([chunk.id for chunk in found]) and _within(lengths, PIECE_BYTES)):
        raise ValueError
    if 0 in lengths:
        raise ValueError
    return found


def _place(row: str, rows: Sequence[object]) -> int:
    place = int(row)
    if not 0 <= place < len(rows):
        raise ValueError
    return place


def _within(numbers: Sequence[Any], most: int) -> bool:
    if not numbers:
        return True
    return set(map(type, numbers)) == {int} and min(numbers) >= 0 and max(numbers) <= most


def _are_digests(texts: Sequence[Any]) -> bool:
    return not texts or (
        set(map(type, texts)) == {str}
        and set(map(len, texts)) == {DIGEST_DIGITS}
        and _HEXADECIMAL.fullmatch("".join(texts)) is not None
    )


def _folders(rows: list[list[Any]]) -> Iterator[FolderEntry]:
    for path, mode in rows:
        if type(path) is not str or type(mode) is not int or not 0 <= mode <= _MODE_MAX:
            raise ValueError
        yield FolderEntry(path, mode)


def _links(rows: list[list[Any]]) -> Iterator[LinkEntry]:
    for path, target in rows:
        yield LinkEntry(_text(path), _text(target))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _moment(value: object) -> datetime:
    return datetime.strptime(_text(value), _TIME).replace(tzinfo=UTC)


def summarize(
    manifest: Manifest, stored: bytes, *, stored_bytes: int, signed: bool
) -> SnapshotSummary:
    """What a listing says of a snapshot.

    Args:
        manifest: of the snapshot.
        stored: its bytes in the store.
        stored_bytes: what the take added to the store.
        signed: whether there is a signature.
    """
    digest = digest_of(stored)
    return SnapshotSummary(
        id=snapshot_id(manifest.created, digest),
        created=manifest.created,
        revision=manifest.revision,
        kind=manifest.kind,
        plain_bytes=manifest.plain_bytes,
        stored_bytes=stored_bytes,
        files=len(manifest.files),
        manifest_blake3=digest,
        tool=manifest.tool,
        parent=manifest.parent,
        signed=signed,
        digest=revision_digest(manifest),
        format=manifest.format,
    )


def encode_summary(summary: SnapshotSummary) -> bytes:
    """A summary as it is stored."""
    fields = {
        "format": summary.format,
        "id": summary.id,
        "created": summary.created.astimezone(UTC).strftime(_TIME),
        "revision": summary.revision,
        "kind": summary.kind.value,
        "plain_bytes": summary.plain_bytes,
        "stored_bytes": summary.stored_bytes,
        "files": summary.files,
        "manifest_blake3": summary.manifest_blake3,
        "tool": summary.tool,
        "parent": summary.parent,
        "signed": summary.signed,
        "digest": summary.digest,
    }
    return json.dumps(fields, indent=1).encode()


def decode_summary(stored: bytes, *, snapshot: str) -> SnapshotSummary:
    """What a summary says.

    Raises:
        BadInput: it is of a newer format, of another snapshot, or no summary.
    """
    value = parsed(stored, "summary", snapshot)
    refuse_newer(value, "summary", snapshot)
    try:
        read = {
            "created": _moment(value["created"]),
            "kind": SnapshotKind(value["kind"]),
            "digest": _text(value.get("digest", "")),
        }
        summary = SnapshotSummary(**value | read)
        expected = snapshot_id(summary.created, summary.manifest_blake3)
    except _WRONG:
        raise broken("summary", snapshot) from None
    if not summary.id == snapshot == expected:
        raise broken("summary", snapshot)
    return summary


def encode_format(store: StoreFormat) -> bytes:
    """`format.json`."""
    return json.dumps({"format": store.format, "hash": store.hash, "key": store.key}).encode()


def decode_format(stored: bytes, *, where: str = "format.json") -> StoreFormat:
    """What `format.json` says.

    Raises:
        BadInput: the store is of a newer format, or this is not the file of a store.
    """
    value = parsed(stored, "store's format.json", where)
    refuse_newer(value, "store", where)
    key = value.get("key")
    if value.get("hash") != "blake3" or not (key is None or isinstance(key, str)):
        raise BadInput(
            "its chunks are named in a way that is not known here",
            where=where,
            mend="It is no snapshot store, or a newer version of gpufleet wrote it.",
        )
    return StoreFormat(value["format"], value["hash"], key)


def check_key(store: StoreFormat, key_id: str | None) -> None:
    """See that the key that is set is the store's.

    Raises:
        BadInput: the store has another one, or none.
    """
    if store.key != key_id:
        has = f"the key `{store.key}`" if store.key else "no key"
        given = f"`{key_id}`" if key_id else "none"
        raise BadInput(
            f"the store has {has}, and {given} is set",
            where="format.json",
            mend="Set the key of this store, or name another store.",
        )
