"""What a token of an OpenID Connect issuer has to say, once its signature is known to be good."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gpufleet.spec.gateway import Oidc, Routes

LEEWAY_S: Final = 30.0
"""How far the clocks of issuer and gateway may be apart."""
LONGEST: Final = 8192
"""Characters of a token; one with a few dozen groups has 2,000."""
_FAR_S: Final = 1e12
"""No moment is so late; what is no number is not before it either."""
_LONGEST_SUBJECT: Final = 255
"""OpenID Connect Core 1.0, section 2."""


class TokenFault(StrEnum):
    """Why a token opens nothing."""

    INVALID = "invalid_token"
    EXPIRED = "expired_token"
    TEAMLESS = "no_team"
    """It is good, and names no team of this environment."""


class TokenRefused(Exception):
    """A token that opens nothing.

    Args:
        kind: why.
        message: for its owner; it repeats nothing of the token.
    """

    def __init__(self, kind: TokenFault, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Bearer:
    """Whom a token stands for."""

    subject: str
    team: str
    use_cases: frozenset[str]


def bearer_of(claims: Mapping[str, object], oidc: Oidc, routes: Routes, now_s: float) -> Bearer:
    """Whom a token stands for, by RFC 7519 section 4.1 and OpenID Connect Core section 2.

    Args:
        claims: of a token whose signature is good.
        oidc: what is declared of the issuer.
        routes: the use cases, with their teams.
        now_s: the time, seconds since 1970.

    Raises:
        TokenRefused: it is of another issuer, for another audience, not valid now, or names no
            team of this environment.
    """
    if claims.get("iss") != oidc.issuer:
        raise _invalid("it is of another issuer")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if oidc.audience not in named:
        raise _invalid("it is meant for another audience")
    ends = _moment(claims, "exp")
    if ends is None:
        raise _invalid("it does not say when it expires")
    if now_s >= ends + LEEWAY_S:
        raise TokenRefused(TokenFault.EXPIRED, "the token has expired")
    begins = _moment(claims, "nbf")
    if begins is not None and now_s < begins - LEEWAY_S:
        raise _invalid("it is not valid yet")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT:
        raise _invalid("it does not say whom it stands for")
    team = claims.get(oidc.team_claim)
    use_cases = frozenset(name for name, route in routes.use_cases.items() if route.team == team)
    if not isinstance(team, str) or not use_cases:
        message = f"the token's claim `{oidc.team_claim}` names no team that has a use case here"
        raise TokenRefused(TokenFault.TEAMLESS, message)
    return Bearer(subject, team, use_cases)


def _moment(claims: Mapping[str, object], name: str) -> float | None:
    """A claim in seconds since 1970; None where there is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _FAR_S:
        raise _invalid(f"its `{name}` is no time")
    return float(value)


def _invalid(why: str) -> TokenRefused:
    return TokenRefused(TokenFault.INVALID, f"the token is refused: {why}")
