"""Segments of audit records in an object store, locked until their retention ends."""

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from gpufleet.edges.object_store import ObjectStore
from gpufleet.spec.audit import Segment
from gpufleet.spec.errors import Failed

_KEY: Final = re.compile(
    r"(?P<data_class>[^/]+)/(?P<chain>[^/]+)/(?P<first>\d{12})-(?P<last>\d{12})-(?P<head>[0-9a-f]{64})"
)


class StoredName:
    """What the name of a stored segment says; nobody can change it while it is locked.

    Args:
        key: of the object.
        match: of that key.
    """

    def __init__(self, key: str, match: re.Match[str]) -> None:
        self.key = key
        self.chain = match["chain"]
        self.first = int(match["first"])
        self.last = int(match["last"])
        self.head = match["head"]


class AuditStore:
    """The segments in one site's object store.

    Args:
        store: it.
        bucket: of this environment.
    """

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket

    @property
    def where(self) -> str:
        """Its address."""
        return self._store.endpoint

    def put(self, segment: Segment, content: bytes, until: datetime) -> None:
        """Keep a segment, and read it back; one that is kept already is not kept again.

        Args:
            segment: what it is.
            content: its lines.
            until: when its retention ends.

        Raises:
            Failed: the store gives back something else.
            Retryable: it does not answer.
        """
        if self._digest_of(segment.key) == segment.digest:
            return
        self._store.make_locked_bucket(self._bucket)
        self._store.put_locked(self._bucket, segment.key, content, until)
        if self._digest_of(segment.key) != segment.digest:
            raise Failed("the object store gives back something else", where=segment.key)

    def get(self, key: str) -> bytes:
        """The content that was put first under a name, whatever was put over it later.

        Raises:
            Failed: there is none.
            Retryable: the store does not answer.
        """
        content = self._find(key)
        if content is None:
            raise Failed("is not in the object store", where=key)
        return content

    def names(self) -> Iterator[StoredName]:
        """Every segment that is kept.

        Raises:
            Retryable: the store does not answer.
        """
        keys = {version["Key"] for version in self._store.versions(self._bucket, "")}
        for key in sorted(keys):
            if match := _KEY.fullmatch(key):
                yield StoredName(key, match)

    def delete(self, key: str) -> None:
        """Delete a segment for good.

        Raises:
            Failed: it is locked still.
            Retryable: the store does not answer.
        """
        self._store.delete_versions(self._bucket, key)

    def _find(self, key: str) -> bytes | None:
        kept = self._store.oldest(self._bucket, key)
        return next((content for found, content in kept if found == key), None)

    def _digest_of(self, key: str) -> str | None:
        content = self._find(key)
        return None if content is None else hashlib.sha256(content).hexdigest()
