"""An S3 object store with Object Lock, as each site has one."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.spec.errors import Failed, Retryable

_ATTEMPTS: Final = 5
_CONNECT_S: Final = 5
_READ_S: Final = 30
_OURS_ALREADY: Final = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
_MISSING: Final = {"NoSuchBucket", "NoSuchKey", "404"}


@dataclass(frozen=True)
class Place:
    """Where a store is and how it is entered; never shown, since it holds a key."""

    endpoint: str
    region: str
    access_key: str | None = None
    """The usual chain of AWS (variables, profile, the machine's role) where it is not given."""
    secret_key: str | None = None
    ca: str | None = None

    @classmethod
    def embedded(cls, state: EnvironmentDir, site: str) -> Self | None:
        """The store of an embedded site; None before it was started once."""
        file = state.site(site) / "s3.json"
        if not file.is_file():
            return None
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def __repr__(self) -> str:
        return f"Place({self.endpoint})"


class ObjectStore:
    """Puts, gets and lists objects; outside faults are retried a few times.

    Args:
        place: where it is.
    """

    def __init__(self, place: Place) -> None:
        self.endpoint = place.endpoint
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=place.endpoint,
            region_name=place.region,
            aws_access_key_id=place.access_key,
            aws_secret_access_key=place.secret_key,
            verify=place.ca or True,
            config=Config(
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                connect_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                s3={"addressing_style": "path"},
                # The store is ours: nothing that the machine's environment says comes between.
                proxies={},
            ),
        )

    def make_locked_bucket(self, bucket: str) -> None:
        """Make a bucket whose objects can be locked; one that is there is left as it is."""
        with self._told(bucket):
            try:
                self._client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
            except ClientError as error:
                if _code(error) not in _OURS_ALREADY:
                    raise

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket whose objects can be deleted; one that is there is left as it is."""
        with self._told(bucket):
            try:
                self._client.create_bucket(Bucket=bucket)
            except ClientError as error:
                if _code(error) not in _OURS_ALREADY:
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
        except _NothingThereError:
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
        except _NothingThereError:
            raise Failed("is not in the object store", where=f"{bucket}/{key}") from None

    def find(self, bucket: str, key: str) -> bytes | None:
        """The content of an object that may not be there."""
        try:
            with self._told(f"{bucket}/{key}"):
                content: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
                return content
        except _NothingThereError:
            return None

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """The keys below a prefix, sorted; none where there is no such bucket."""
        found: list[str] = []
        try:
            with self._told(f"{bucket}/{prefix}"):
                pages = self._client.get_paginator("list_objects_v2")
                for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                    found += [each["Key"] for each in page.get("Contents", [])]
        except _NothingThereError:
            return []
        return sorted(found)

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Delete objects of a bucket without versions, those that are there."""
        for key in keys:
            try:
                with self._told(f"{bucket}/{key}"):
                    self._client.delete_object(Bucket=bucket, Key=key)
            except _NothingThereError:
                continue

    def versions(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """Every version below a prefix: Key, VersionId, LastModified and Size; newest first."""
        found: list[dict[str, Any]] = []
        try:
            with self._told(f"{bucket}/{prefix}"):
                pages = self._client.get_paginator("list_object_versions")
                for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                    found += page.get("Versions", [])
        except _NothingThereError:
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
        except _NothingThereError:
            return 0
        return len(found)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        where = f"{self.endpoint}/{what}"
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise _NothingThereError from None
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in {"SlowDown", "RequestTimeout"}:
                raise _unreachable(where, code) from None
            raise Failed(f"the object store refuses: {code}", where=where) from None
        except BotoCoreError as error:
            raise _unreachable(where, str(error)[:200]) from None


class _NothingThereError(Exception):
    """No such bucket or key."""


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _unreachable(where: str, why: str) -> Retryable:
    return Retryable(
        f"the object store does not answer: {why}", where=where, mend="try again when it does"
    )
