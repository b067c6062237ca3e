"""Keys of an OpenID Connect issuer: found by discovery, kept, asked for again when one is new."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_WITHIN_S: Final = 5.0
_LONGEST: Final = 256 * 1024
"""Bytes of a document of the issuer; a set of 20 RSA keys has 10,000."""
_MOST_KEYS: Final = 100
_RSA_BITS: Final = range(2048, 8193)
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1"}
_HTTP_OK: Final = 200

Fetch = Callable[[str], Awaitable[bytes]]


class IssuerSilent(Exception):
    """The issuer cannot be asked, and what is known of it does not help."""


class KeyNotListed(Exception):
    """The issuer has no such key."""


@dataclass(frozen=True)
class SigningKey:
    """A public key with which an issuer's signatures are checked."""

    kid: str
    algorithm: str
    """The only one that it may be used with; empty where the issuer does not say."""
    key: Any

    def fits(self, algorithm: str) -> bool:
        """Whether a signature by this algorithm can be checked with it, and is strong enough."""
        if self.algorithm not in {"", algorithm}:
            return False
        if isinstance(self.key, RSAPublicKey):
            return algorithm.startswith("RS") and self.key.key_size in _RSA_BITS
        if isinstance(self.key, EllipticCurvePublicKey):
            return self.key.curve.name == _CURVES.get(algorithm)
        return isinstance(self.key, Ed25519PublicKey | Ed448PublicKey) and algorithm == "EdDSA"


class Issuer:
    """The signing keys of one issuer.

    They are read again every few minutes, and at once for a key that is not known; never more
    often than the least interval, whoever asks. While the issuer is silent, known keys go on for a
    day.

    Args:
        issuer: its address, as its tokens' `iss` says it.
        fetch: reads a document by its address.
        least_interval_s: shortest time between two attempts.
        fresh_s: age at which the keys are read again in the background.
        known_s: age at which keys that could not be read again count no more.
    """

    def __init__(
        self,
        issuer: str,
        fetch: Fetch | None = None,
        *,
        least_interval_s: float = 10.0,
        fresh_s: float = 300.0,
        known_s: float = 86_400.0,
    ) -> None:
        self.issuer = issuer
        self._fetch = fetch or fetched
        self._least_interval_s = least_interval_s
        self._fresh_s = fresh_s
        self._known_s = known_s
        self._keys: list[SigningKey] = []
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._failure = ""
        self._reading: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> SigningKey:
        """The key with which a token was signed.

        Args:
            kid: as the token's header names it; None where it names none.
            algorithm: of the signature.

        Raises:
            KeyNotListed: the issuer has no such key, or not for this algorithm.
            IssuerSilent: it is not known whether it has.
        """
        age_s = time.monotonic() - self._read_at
        found = self._find(kid, algorithm) if age_s < self._known_s else None
        if found is None:
            await self._read_again()
            found = self._find(kid, algorithm) if self._is_known() else None
        elif age_s >= self._fresh_s:
            self._begin_reading()
        if found is not None:
            return found
        if self._failure:
            raise IssuerSilent(self._failure)
        raise KeyNotListed

    def _is_known(self) -> bool:
        return time.monotonic() - self._read_at < self._known_s

    def _find(self, kid: str | None, algorithm: str) -> SigningKey | None:
        fitting = [
            key for key in self._keys if (kid is None or key.kid == kid) and key.fits(algorithm)
        ]
        # Without a name it is clear only where there is no choice.
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    def _begin_reading(self) -> asyncio.Task[None] | None:
        """Read the keys, one reader at a time; None where it is too soon."""
        if self._reading is not None and not self._reading.done():
            return self._reading
        if time.monotonic() - self._tried_at < self._least_interval_s:
            return None
        self._tried_at = time.monotonic()
        self._reading = asyncio.get_running_loop().create_task(self._read())
        return self._reading

    async def _read_again(self) -> None:
        task = self._begin_reading()
        if task is not None:
            # One client that goes away does not end what others wait for.
            await asyncio.shield(task)

    async def _read(self) -> None:
        try:
            self._keys = await self._listed()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._failure = (
                f"{type(error).__name__}: {error}"[:200] if str(error) else "no answer in time"
            )
        else:
            self._read_at, self._failure = time.monotonic(), ""

    async def _listed(self) -> list[SigningKey]:
        base = self.issuer.rstrip("/")
        found = _object(await self._fetch(f"{base}/.well-known/openid-configuration"))
        if found.get("issuer") != self.issuer:
            raise ValueError("the discovery document is of another issuer")
        address = str(found.get("jwks_uri", ""))
        schemes = {"https", urlsplit(self.issuer).scheme}
        if urlsplit(address).scheme not in schemes:
            raise ValueError("the issuer's keys are not at an https address")
        listed = _object(await self._fetch(address)).get("keys")
        if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
            raise ValueError("the issuer's keys are not a list, or far too many")
        keys = [key for entry in listed if (key := _signing_key(entry)) is not None]
        if not keys:
            raise ValueError("the issuer lists no key that signs")
        return keys


async def fetched(address: str) -> bytes:
    """A document of an issuer; no redirects, no proxy of the environment, within limits."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_S)) as session,
        session.get(address, allow_redirects=False) as answer,
    ):
        if answer.status != _HTTP_OK:
            message = f"it answers {answer.status}"
            raise ValueError(message)
        content = bytearray()
        async for part in answer.content.iter_chunked(65_536):
            content += part
            if len(content) > _LONGEST:
                raise ValueError("its document is too long")
        return bytes(content)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("its document is no JSON object")  # noqa: TRY004 - as the others here
    return value


def _signing_key(entry: object) -> SigningKey | None:
    """A key of a JWK Set (RFC 7517); None for one that does not sign, or is not public."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    if entry.get("kty") not in {"RSA", "EC", "OKP"}:
        return None
    try:
        key = jwt.PyJWK(entry).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    return SigningKey(str(entry.get("kid", "")), str(entry.get("alg", "")), key)
