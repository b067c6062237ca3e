"""An S3 object store with Object Lock, as each site has one."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from gpufleet.edges.object_client import NothingThereError, Place, client_of, code_of, told
from gpufleet.spec.errors import Failed

_OURS_ALREADY: Final = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


class ObjectStore:
    """Puts, gets and lists objects; outside faults are retried a few times.

    Args:
        place: where it is.
    """

    def __init__(self, place: Place) -> None:
        self.endpoint = place.endpoint
        self._client = client_of(place)

    def make_locked_bucket(self, bucket: str) -> None:
        """Make a bucket whose objects can be locked; one that is there is left as it is."""
        with self._told(bucket):
            try:
                self._client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
            except ClientError as error:
                if code_of(error) not in _OURS_ALREADY:
                    raise

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket whose objects can be deleted; one that is there is left as it is."""
        with self._told(bucket):
            try:
                self._client.create_bucket(Bucket=bucket)
            except ClientError as error:
                if code_of(error) not in _OURS_ALREADY:
                    raise

    def put_locked(self, bucket: str, key: str, content: bytes, until: datetime) -> None:
        """Put an object that nobody can change or delete before a moment."""
        with self._told(f"{bucket}/{key}"):
            self._client.put_object(
                Bucket=bucket,
                Key=key,
                Body=content,
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=until,
                # Object Lock asks for a checksum of the body.
                ChecksumAlgorithm="SHA256",
            )

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Put an object; in a bucket with versions the earlier content is kept beside it."""
        with self._told(f"{bucket}/{key}"):
            self._client.put_object(
                Bucket=bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256"
            )

    def oldest(self, bucket: str, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Key and content of every object below a prefix, each in the version written first.

        A locked version stays below whatever is put or deleted over it later.
        """
        first: dict[str, str] = {}
        try:
            with self._told(f"{bucket}/{prefix}"):
                pages = self._client.get_paginator("list_object_versions")
                for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                    # Newest first: the last one seen of a key is its oldest.
                    for version in page.get("Versions", []):
                        first[version["Key"]] = version["VersionId"]
        except NothingThereError:
            return
        for key, version in sorted(first.items()):
            yield key, self.get(bucket, key, version)

    def get(self, bucket: str, key: str, version: str | None = None) -> bytes:
        """The content of an object.

        Raises:
            Failed: it is not there.
        """
        which = {"VersionId": version} if version else {}
        try:
            with self._told(f"{bucket}/{key}"):
                answer = self._client.get_object(Bucket=bucket, Key=key, **which)
                content: bytes = answer["Body"].read()
                return content
        except NothingThereError:
            raise Failed("is not in the object store", where=f"{bucket}/{key}") from None

    def find(self, bucket: str, key: str) -> bytes | None:
        """The content of an object that may not be there."""
        try:
            with self._told(f"{bucket}/{key}"):
                content: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
                return content
        except NothingThereError:
            return None

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """The keys below a prefix, sorted; none where there is no such bucket."""
        found: list[str] = []
        try:
            with self._told(f"{bucket}/{prefix}"):
                pages = self._client.get_paginator("list_objects_v2")
                for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                    found += [each["Key"] for each in page.get("Contents", [])]
        except NothingThereError:
            return []
        return sorted(found)

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Delete objects of a bucket without versions, those that are there."""
        for key in keys:
            try:
                with self._told(f"{bucket}/{key}"):
                    self._client.delete_object(Bucket=bucket, Key=key)
            except NothingThereError:
                continue

    def versions(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """Every version below a prefix: Key, VersionId, LastModified and Size; newest first."""
        found: list[dict[str, Any]] = []
        try:
            with self._told(f"{bucket}/{prefix}"):
                pages = self._client.get_paginator("list_object_versions")
                for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                    found += page.get("Versions", [])
        except NothingThereError:
            return []
        return sorted(found, key=lambda version: version["LastModified"], reverse=True)

    def delete_versions(self, bucket: str, key: str) -> int:
        """Delete every version of an object and every mark of its deletion; returns how many.

        Raises:
            Failed: one of them is locked still.
        """
        found: list[str] = []
        try:
            with self._told(f"{bucket}/{key}"):
                pages = self._client.get_paginator("list_object_versions")
                for page in pages.paginate(Bucket=bucket, Prefix=key):
                    for kind in ("Versions", "DeleteMarkers"):
                        each = [entry for entry in page.get(kind, []) if entry["Key"] == key]
                        found += [entry["VersionId"] for entry in each]
                for version in found:
                    self._client.delete_object(Bucket=bucket, Key=key, VersionId=version)
        except NothingThereError:
            return 0
        return len(found)

    def _told(self, what: str) -> AbstractContextManager[None]:
        return told(f"{self.endpoint}/{what}")
