"""Who asks: by a key of the gateway, or by a token of the declared issuer.

No message and no log repeats anything of what the client sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt

from gpufleet.core.gateway.keys import PREFIX, KeyFault, KeyRefused, Keyring
from gpufleet.core.gateway.tokens import LONGEST, TokenFault, TokenRefused, bearer_of
from gpufleet.spec.gateway import Keys, Oidc, Routes
from gpufleet_gateway.issuer import Fetch, Issuer, IssuerSilent, KeyNotListed

UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
UNAVAILABLE: Final = 503
_HOW: Final = "send `Authorization: Bearer KEY`"
_KEYS_REFUSED: Final = {
    KeyFault.MISSING: ("missing_api_key", f"no API key was sent: {_HOW}"),
    KeyFault.MALFORMED: ("invalid_api_key", "this is no API key of the gateway"),
    KeyFault.UNKNOWN: ("invalid_api_key", "the API key is not valid, or was revoked"),
    KeyFault.EXPIRED: ("expired_api_key", "the API key has expired: ask for a new one"),
}


@dataclass(frozen=True)
class Caller:
    """Who was recognized, and what they may use."""

    key_id: str
    """Of the key; `oidc:SUBJECT` for a token."""
    team: str
    use_cases: frozenset[str]
    rate_rpm: int | None = None
    """Requests in any minute; None for no limit."""
    concurrency_limit: int | None = None
    """Requests in flight; None for no limit."""


class Denied(Exception):
    """Nobody was recognized, or they have nothing to use here.

    Args:
        status: of the HTTP answer.
        kind: OpenAI's `code`, such as `invalid_api_key`.
        message: for the client.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


class Doorkeeper:
    """Recognizes callers.

    Args:
        routes: the routes as they are now.
        keys: the keys as they are now; the same object while they do not change.
        fetch: reads a document of the issuer, where it is not over HTTP.
    """

    def __init__(
        self,
        routes: Callable[[], Routes],
        keys: Callable[[], Keys],
        fetch: Fetch | None = None,
    ) -> None:
        self._routes = routes
        self._keys = keys
        self._fetch = fetch
        self._issuer: Issuer | None = None
        self._ring: tuple[Keys, Keyring] | None = None

    async def identify(self, authorization: str | None, now_s: float) -> Caller:
        """Who sent a request.

        Args:
            authorization: the header of this name; None where there is none.
            now_s: the time, seconds since 1970.

        Raises:
            Denied: 401 where nobody is recognized, 403 for a token without a team of this
                environment, 503 where the issuer has to be asked and does not answer.
        """
        credential = _credential(authorization)
        if credential.startswith(PREFIX) or not credential:
            return self._by_key(credential, now_s)
        routes = self._routes()
        oidc = routes.gateway.oidc
        if oidc is None:
            raise _refused(KeyFault.MALFORMED)
        try:
            claims = await self._claims(credential, oidc)
            bearer = bearer_of(claims, oidc, routes, now_s)
        except TokenRefused as refused:
            status = FORBIDDEN if refused.kind is TokenFault.TEAMLESS else UNAUTHORIZED
            raise Denied(status, refused.kind.value, refused.message) from None
        return Caller(f"oidc:{bearer.subject}", bearer.team, bearer.use_cases)

    def _by_key(self, text: str, now_s: float) -> Caller:
        keys = self._keys()
        if self._ring is None or self._ring[0] is not keys:
            self._ring = (keys, Keyring(keys))
        try:
            key = self._ring[1].find(text, now_s)
        except KeyRefused as refused:
            raise _refused(refused.kind) from None
        use_cases = frozenset(key.use_cases)
        return Caller(key.id, key.team, use_cases, key.rate_rpm, key.concurrency_limit)

    async def _claims(self, token: str, oidc: Oidc) -> dict[str, Any]:
        """What a token says, once its signature is known to be good."""
        if len(token) > LONGEST:
            raise _invalid(f"it is longer than {LONGEST} characters")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Denied(
                UNAUTHORIZED, "invalid_api_key", "this is neither an API key nor a token"
            ) from None
        algorithm, kid = header.get("alg"), header.get("kid")
        # Before anything else is believed: `none`, and a public key used as a shared secret.
        if algorithm not in oidc.algorithms:
            raise _invalid("it is not signed in a way that is accepted")
        if "crit" in header:
            raise _invalid("it asks for extensions that are not known")
        if self._issuer is None or self._issuer.issuer != oidc.issuer:
            self._issuer = Issuer(oidc.issuer, self._fetch)
        try:
            key = await self._issuer.key(kid, algorithm)
            # Its times are checked against the time that was passed in.
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                options={
                    "verify_signature": True,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "verify_iss": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except KeyNotListed:
            raise _invalid("the issuer has no key that signed it") from None
        except IssuerSilent:
            message = "the issuer of tokens cannot be asked for its keys now; API keys go on"
            raise Denied(UNAVAILABLE, "issuer_unreachable", message) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _invalid("its signature is not good") from None
        return claims


def _credential(authorization: str | None) -> str:
    """What stands after `Bearer`; empty where nothing was sent."""
    if not authorization or not authorization.strip():
        return ""
    scheme, _, credential = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Denied(UNAUTHORIZED, "invalid_api_key", f"this is no way to ask: {_HOW}")
    return credential.strip()


def _refused(kind: KeyFault) -> Denied:
    return Denied(UNAUTHORIZED, *_KEYS_REFUSED[kind])


def _invalid(why: str) -> TokenRefused:
    return TokenRefused(TokenFault.INVALID, f"the token is refused: {why}")
