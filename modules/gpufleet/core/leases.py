"""Who may change a target: one operator at a time, each with a token that only grows."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from gpufleet.spec.drills import DrillReport
from gpufleet.spec.errors import Retryable
from gpufleet.spec.records import Claim, Lease

LEASE_FOR: Final = timedelta(seconds=30)
"""A holder that does not renew within this time counts as gone."""
RENEW_EVERY: Final = timedelta(seconds=8)
ENVIRONMENT: Final = "environment"
"""The lease of whoever changes an environment's stacks."""
DRILL_LEASE: Final = "drill"
"""The lease of whoever drills: there is one stage."""


def lease_of(site: str) -> str:
    """The lease of whoever patches a site."""
    return f"patch:{site}"


def demand_given_back(claim: Claim, drills: Iterable[DrillReport]) -> None:
    """Refuse a lease of what a drill for real has not given back, to anybody but that drill.

    The drill's own leases end with its flow; production may come back later than that.

    Args:
        claim: who asks for what.
        drills: those of which something may be left.

    Raises:
        Retryable: names the drill.
    """
    for each in drills:
        if not each.hits_production or each.flow == claim.owner:
            continue
        if claim.target in {ENVIRONMENT, DRILL_LEASE, *map(lease_of, each.sites)}:
            raise Retryable(
                f"production is not given back yet after {each.scenario} {each.target} for real",
                where=f"drill {each.flow}",
                mend="wait until it is: ./fleet status tells what it waits for",
            )


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
