"""API keys: their text, what is kept of them, and why one is refused.

A key is `gf-ID-SECRET`. The id names it in lists, logs and records; of the whole text only its
SHA-256 is kept: 256 random bits need no slow hash.
"""

import hashlib
import hmac
import re
from enum import StrEnum
from typing import Final

from gpufleet.spec.gateway import Key, Keys

PREFIX: Final = "gf-"
ID_LENGTH: Final = 12
ID_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
SECRET_BYTES: Final = 32
"""Random bytes of a secret; 43 characters in base64url."""
_FORM: Final = re.compile(r"gf-([0-9a-z]{12})-[A-Za-z0-9_-]{43}", re.ASCII)
_NO_HASH: Final = "0" * 64


class KeyFault(StrEnum):
    """Why a key does not open anything."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    """Never issued, revoked, or another secret: nobody learns which."""
    EXPIRED = "expired"


class KeyRefused(Exception):
    """A key that does not open anything.

    Args:
        kind: why.
    """

    def __init__(self, kind: KeyFault) -> None:
        super().__init__(kind.value)
        self.kind = kind


def written(id: str, secret: str) -> str:  # noqa: A002 - the field's name
    """The text of a key, as its owner gets it once."""
    return f"{PREFIX}{id}-{secret}"


def split_key(text: str) -> tuple[str, str] | None:
    """Id and SHA-256 (hexadecimal) of a key's text; None where it is no key at all."""
    match = _FORM.fullmatch(text)
    return (match.group(1), hashlib.sha256(text.encode()).hexdigest()) if match else None


class Keyring:
    """The keys that are valid, by id.

    Args:
        keys: as `keys.json` has them.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = {key.id: key for key in keys.keys}

    def find(self, text: str, now_s: float) -> Key:
        """The key with this text.

        Takes as long for an id that was never issued as for a wrong secret. Whether a key has
        expired is told only to those who have its secret.

        Args:
            text: what the client sent.
            now_s: the time, seconds since 1970.

        Raises:
            KeyRefused: `missing`, `malformed`, `unknown` or `expired`.
        """
        if not text:
            raise KeyRefused(KeyFault.MISSING)
        parts = split_key(text)
        if parts is None:
            raise KeyRefused(KeyFault.MALFORMED)
        id_, digest = parts
        key = self._keys.get(id_)
        if not hmac.compare_digest(key.hash if key else _NO_HASH, digest) or key is None:
            raise KeyRefused(KeyFault.UNKNOWN)
        if key.expires_at is not None and now_s >= key.expires_at:
            raise KeyRefused(KeyFault.EXPIRED)
        return key
