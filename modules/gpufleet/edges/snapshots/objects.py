"""The objects of a snapshot store: one bucket, below one prefix, on any S3.

Every body goes with a CRC64/NVME that the store checks before it keeps it. Bodies are not signed
where nobody on the way can change them (TLS, loopback): SHA-256 of each would cost more than all
the rest, and what is read back is checked by its own digest in any case.
"""

import base64
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Literal

from awscrt import checksums
from botocore.exceptions import BotoCoreError, ClientError

from gpufleet.edges.object_client import BENT, NothingThereError, Place, client_of, code_of, told
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.snapshots import StoredObject

LockMode = Literal["GOVERNANCE", "COMPLIANCE"]
Sink = Callable[[bytes], None]
_READ_BYTES: Final = 2**20
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.2
_CONFLICT: Final = HTTPStatus.CONFLICT
_EXISTS: Final = HTTPStatus.PRECONDITION_FAILED
_SHOWN: Final = 200
"""Characters of what a library says."""


class BrokenBody(Retryable):
    """An object of which only a part came."""


@dataclass(frozen=True)
class SnapshotPlace:
    """Where snapshots are kept, and how their objects are locked and encrypted there."""

    place: Place
    bucket: str
    """It must be there."""
    prefix: str = ""
    """Of every key, without a slash at its end; empty for the whole bucket."""
    lock_mode: LockMode = "COMPLIANCE"
    """Of Object Lock, where objects are locked."""
    kms_key: str | None = None
    """The store encrypts with this key of its own; None leaves it to the bucket."""


class SnapshotObjects:
    """Puts, gets, lists, locks and deletes; one object is shared by all threads.

    Args:
        at: where they are.
        connections: at once.
    """

    def __init__(self, at: SnapshotPlace, *, connections: int = 8) -> None:
        self.shown = f"{at.place.endpoint}/{at.bucket}/{at.prefix}".rstrip("/")
        self.bucket = at.bucket
        self.prefix = f"{at.prefix}/" if at.prefix else ""
        self._client = client_of(
            at.place, connections=connections, signs_payload=not at.place.is_sheltered
        )
        self._lock_mode = at.lock_mode
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": at.kms_key} if at.kms_key else {}
        )

    def put(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> datetime:
        """Put an object, over whatever is there; locked until a moment where one is given.

        Returns:
            When that was, by the store's clock.
        """
        with self._told(key):
            answer = self._sent(self._request(key, body, until))
            date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
            if date is not None:
                return parsedate_to_datetime(date)
            head = self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        at: datetime = head["LastModified"]
        return at

    def put_new(self, key: str, body: bytes | bytearray, until: datetime | None = None) -> bool:
        """Put an object unless there is one; of several who try at once one succeeds.

        Returns:
            False where there was one. That may be our own: a put whose answer was lost is sent
            again.
        """
        request = self._request(key, body, until) | {"IfNoneMatch": "*"}
        for attempt in range(_ATTEMPTS):
            with self._told(key):
                try:
                    self._sent(request)
                except ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == _EXISTS:
                        return False
                    if status != _CONFLICT:
                        raise
                    # Another put of this key is under way: who was first shows in a moment.
                    time.sleep(_PAUSE_S * (attempt + 1))
                else:
                    return True
        raise Retryable("somebody else writes it all the time", where=f"{self.shown}/{key}")

    def get(self, key: str, version: str | None = None) -> bytes:
        """A whole object.

        Raises:
            Failed: it is not there.
        """
        found = self.find(key, version)
        if found is None:
            raise Failed("is not in the store", where=f"{self.shown}/{key}")
        return found

    def find(self, key: str, version: str | None = None) -> bytes | None:
        """A whole object that may not be there."""
        for attempt in range(_ATTEMPTS):
            parts: list[bytes] = []
            try:
                there = self.stream(key, parts.append, version=version)
            except BrokenBody:
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S * attempt)
            else:
                return b"".join(parts) if there else None
        return None

    def stream(
        self,
        key: str,
        sink: Sink,
        *,
        offset: int = 0,
        length: int | None = None,
        version: str | None = None,
    ) -> bool:
        """Hand over an object, or a part of it, piece by piece as it comes.

        Returns:
            Whether it is there.

        Raises:
            BrokenBody: the body ended early: what was handed over by then is not all of it.
        """
        which: dict[str, str] = {"VersionId": version} if version else {}
        if length is not None:
            which["Range"] = f"bytes={offset}-{offset + length - 1}"
        try:
            with self._told(key):
                answer = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key, **which)
        except NothingThereError:
            return False
        try:
            with closing(answer["Body"]) as body:
                while piece := body.read(_READ_BYTES):
                    sink(piece)
        except (BotoCoreError, OSError) as error:
            raise BrokenBody(
                f"a body ended early: {str(error)[:_SHOWN]}",
                where=f"{self.shown}/{key}",
                mend="try again",
            ) from None
        return True

    def objects(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        """What lies below a prefix, by key; with `versions`, every version and delete marker."""
        what = "list_object_versions" if versions else "list_objects_v2"
        with self._told(prefix):
            pages = self._client.get_paginator(what)
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for kind in ("Contents", "Versions", "DeleteMarkers"):
                    for entry in page.get(kind, ()):
                        yield self._stored(entry, marker=kind == "DeleteMarkers")

    def locked_until(self, key: str, version: str | None = None) -> datetime | None:
        """Until when a version cannot be deleted; None where it can.

        Raises:
            NothingThereError: it is gone.
        """
        which = {"VersionId": version} if version else {}
        with self._told(key):
            try:
                answer = self._client.get_object_retention(
                    Bucket=self.bucket, Key=self.prefix + key, **which
                )
            except ClientError as error:
                # What stores answer for an object that was never locked; its status differs.
                if code_of(error) == "NoSuchObjectLockConfiguration":
                    return None
                raise
        until: datetime | None = answer["Retention"].get("RetainUntilDate")
        return until

    def extend(self, key: str, until: datetime, version: str | None = None) -> bool:
        """Lock a version for longer; one that is locked as long already is left alone.

        Returns:
            False where the object is gone.
        """
        which = {"VersionId": version} if version else {}
        try:
            held = self.locked_until(key, version)
            if held is not None and held >= until:
                return True
            with self._told(key):
                self._client.put_object_retention(
                    Bucket=self.bucket,
                    Key=self.prefix + key,
                    Retention={"Mode": self._lock_mode, "RetainUntilDate": until},
                    **which,
                )
        except NothingThereError:
            return False
        return True

    def delete(self, key: str, version: str | None = None) -> None:
        """Delete one version, or where none is given the object as it lists; gone is fine."""
        which = {"VersionId": version} if version else {}
        try:
            with self._told(key):
                self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key, **which)
        except NothingThereError:
            return

    def keeps_versions(self) -> bool:
        """Whether what is put over an object, or deleted, is kept below."""
        with self._told(""):
            answer = self._client.get_bucket_versioning(Bucket=self.bucket)
        return bool(answer.get("Status") == "Enabled")

    def can_lock(self) -> bool:
        """Whether the bucket was made with Object Lock.

        Raises:
            NothingThereError: there is no such bucket.
        """
        with self._told(""):
            try:
                answer = self._client.get_object_lock_configuration(Bucket=self.bucket)
            except ClientError as error:
                if "ObjectLock" in code_of(error) or "NotImplemented" in code_of(error):
                    return False
                raise
        found = answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled")
        return bool(found == "Enabled")

    def _sent(self, request: dict[str, Any]) -> dict[str, Any]:
        """Put an object; a body that was bent on its way, as the store has seen, is sent again."""
        for attempt in range(_ATTEMPTS):
            try:
                answer: dict[str, Any] = self._client.put_object(**request)
            except ClientError as error:
                if code_of(error) not in BENT or attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_S * attempt)
            else:
                break
        return answer

    def _request(self, key: str, body: bytes | bytearray, until: datetime | None) -> dict[str, Any]:
        locked = (
            {"ObjectLockMode": self._lock_mode, "ObjectLockRetainUntilDate": until} if until else {}
        )
        return {
            "Bucket": self.bucket,
            "Key": self.prefix + key,
            "Body": body,
            "ChecksumCRC64NVME": base64.b64encode(
                struct.pack(">Q", checksums.crc64nvme(body))
            ).decode(),
            **locked,
            **self._encryption,
        }

    def _stored(self, entry: dict[str, Any], *, marker: bool) -> StoredObject:
        return StoredObject(
            key=entry["Key"][len(self.prefix) :],
            stored_bytes=entry.get("Size", 0),
            modified=entry["LastModified"],
            version=entry.get("VersionId", ""),
            latest=entry.get("IsLatest", True),
            marker=marker,
        )

    def _told(self, key: str) -> AbstractContextManager[None]:
        return told(f"{self.shown}/{key}")
