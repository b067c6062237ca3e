"""How an S3 object store is reached: its place, boto3's client for it, and what its errors mean."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gpufleet.spec.errors import BadInput, Failed, Retryable

if TYPE_CHECKING:
    # A process that only moves bytes does not wait for the models of the fleet file.
    from gpufleet.edges.workspace import EnvironmentDir

Style = Literal["path", "virtual"]
_STYLES: Final[dict[str, Style]] = {"path": "path", "virtual": "virtual"}
_CA: Final = "AWS_CA_BUNDLE"
_NO_REGION: Final = "aws-global"
"""What botocore calls it where nothing names a region."""
_FIRST_REGION: Final = "us-east-1"
"""That S3 signs for then."""
_ATTEMPTS: Final = 5
_CONNECT_S: Final = 5
_READ_S: Final = 30
_MISSING: Final = {"NoSuchBucket", "NoSuchKey", "NoSuchVersion", "404"}
BENT: Final = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"}
"""What a store calls a body that is not the one which was sent."""
_PASSING: Final = {
    "SlowDown",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ExpiredToken",
    "TokenRefreshRequired",
    *BENT,
}
"""Refusals that a later call may not meet."""


@dataclass(frozen=True)
class Place:
    """Where a store is and how it is entered; never shown, since it holds a key."""

    endpoint: str
    region: str
    access_key: str | None = None
    """The usual chain of AWS (variables, profile, the machine's role) where it is not given."""
    secret_key: str | None = None
    ca: str | None = None
    style: Style = "path"
    """Whether the bucket is part of the path or of the host's name."""

    @classmethod
    def embedded(cls, state: "EnvironmentDir", site: str) -> Self | None:
        """The store of an embedded site; None before it was started once."""
        file = state.site(site) / "s3.json"
        if not file.is_file():
            return None
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    @classmethod
    def of_chain(cls, endpoint: str = "", region: str = "", style: str = "path") -> Self:
        """What is given, and for the rest AWS's own chain: variables, then the profile.

        That is `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL`, `AWS_REGION` and `AWS_DEFAULT_REGION`,
        and `AWS_CA_BUNDLE`, the file of the store's authority.

        Raises:
            BadInput: an address that is none, another style, or no such file.
        """
        authority = os.environ.get(_CA)
        if authority and not Path(authority).is_file():
            raise BadInput("names a file that is not there", where=_CA, mend=authority)
        if style not in _STYLES:
            raise BadInput("is no style", where=f"--style {style:.20}", mend="path or virtual")
        known = region or os.environ.get("AWS_REGION") or None
        try:
            client = boto3.session.Session(region_name=known).client(
                "s3", endpoint_url=endpoint or None
            )
        except (BotoCoreError, ValueError) as error:
            raise BadInput(
                f"names no object store: {error}",
                where=endpoint or "the variables of AWS",
                mend="give --endpoint and --region",
            ) from None
        found = client.meta
        return cls(
            found.endpoint_url,
            _FIRST_REGION if found.region_name == _NO_REGION else found.region_name,
            ca=authority,
            style=_STYLES[style],
        )

    @property
    def is_sheltered(self) -> bool:
        """Whether nobody on the way can change what is sent: TLS, or this machine."""
        address = urlsplit(self.endpoint)
        return address.scheme == "https" or _is_loopback(address.hostname or "")

    def __repr__(self) -> str:
        return f"Place({self.endpoint})"


def client_of(place: Place, *, connections: int = 10, signs_payload: bool = True) -> Any:  # noqa: ANN401 - boto3 makes its classes as it runs
    """boto3's client of a store, safe to share between threads; outside faults are retried.

    Args:
        place: where it is.
        connections: kept open at once.
        signs_payload: whether the SHA-256 of a body is part of a request's signature. Without it
            a body stands under the checksum that goes with it.
    """
    return boto3.session.Session().client(
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
            max_pool_connections=connections,
            # Checksums are given where they are wanted: not every store knows those of today.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "addressing_style": place.style,
                **({} if signs_payload else {"payload_signing_enabled": False}),
            },
            # The store is ours: nothing that the machine's environment says comes between.
            proxies={},
        ),
    )


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what boto3 raises into the project's errors.

    Raises:
        NothingThereError: no such bucket, key or version.
        Retryable: the store does not answer, or not now.
        Failed: it refuses.
    """
    try:
        yield
    except ClientError as error:
        code = code_of(error)
        if code in _MISSING:
            raise NothingThereError from None
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _PASSING:
            raise unreachable(where, code) from None
        raise Failed(f"the object store refuses: {code}", where=where) from None
    except BotoCoreError as error:
        raise unreachable(where, str(error)[:200]) from None


class NothingThereError(Exception):
    """No such bucket, key or version."""


def code_of(error: ClientError) -> str:
    """What the store calls its refusal."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def unreachable(where: str, why: str) -> Retryable:
    """The error for a store that does not answer."""
    return Retryable(
        f"the object store does not answer: {why}", where=where, mend="try again when it does"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
