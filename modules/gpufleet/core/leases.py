"""Who may change a target: one operator at a time, each with a token that only grows."""

from datetime import datetime, timedelta
from typing import Final

from gpufleet.spec.errors import Retryable
from gpufleet.spec.records import Claim, Lease

LEASE_FOR: Final = timedelta(seconds=30)
"""A holder that does not renew within this time counts as gone."""
RENEW_EVERY: Final = timedelta(seconds=8)


def granted(current: Lease | None, claim: Claim, now: datetime, is_dead: bool) -> Lease:  # noqa: FBT001 - one fact among others
    """The lease after somebody has asked for it.

    An owner that asks again, such as a flow in the hands of another worker, gets a higher token, so
    that whoever acted for it before has lost its own.

    Args:
        current: what is recorded; None where the target was never held.
        claim: who asks for what.
        now: by the asker's clock.
        is_dead: the recorded holder is known to be dead, whatever its lease says.

    Raises:
        Retryable: somebody else holds it; says who, and since when.
    """
    holds = current is not None and current.expires_at > now and not is_dead
    if current and holds and current.owner != claim.owner:
        since, until = (
            f"{moment:%Y-%m-%d %H:%M:%S %Z}" for moment in (current.acquired_at, current.expires_at)
        )
        raise Retryable(
            f"held by {current.holder} since {since} ({current.owner})",
            where=f"lease `{claim.target}`",
            mend=f"wait for it; if its holder is gone, the lease ends by itself at {until}",
        )
    return Lease(
        **claim.model_dump(),
        token=(current.token if current else 0) + 1,
        acquired_at=current.acquired_at if current and holds else now,
        renewed_at=now,
        expires_at=now + LEASE_FOR,
    )
