"""Whether a drill for real may hit production now: as a change of it may, and no sooner."""

from collections.abc import Mapping
from datetime import UTC, timedelta

from gpufleet.core.approvals import digest_of
from gpufleet.core.drills.production import SIGNED_WITHIN, demand_held, moved, needless
from gpufleet.core.freeze import Decision, refusal
from gpufleet.core.leases import ENVIRONMENT, lease_of
from gpufleet.flows.drills.for_real_plan import plan_for_real
from gpufleet.flows.freeze_sync import sync
from gpufleet.flows.ground import Ground
from gpufleet.flows.overrides import note_use, overrides_in_force
from gpufleet.flows.windows import decision_at
from gpufleet.spec import load_fleet
from gpufleet.spec.drills import DrillPlan
from gpufleet.spec.errors import PolicyRefused

_AGAIN = "plan it again: ./fleet dr.drill --for-real"


def leases_of(plan: DrillPlan) -> list[str]:
    """The leases of everybody who may change what a drill for real touches."""
    return [ENVIRONMENT, *(lease_of(site) for site in plan.sites)]


def demand_quiet(ground: Ground, plan: DrillPlan) -> None:
    """Refuse while somebody changes what would be hit, or production is hit by another drill.

    Raises:
        PolicyRefused: says who does.
    """
    demand_unhit(ground)
    wanted = leases_of(plan)
    for lease in ground.leases.held():
        if lease.target in wanted:
            raise PolicyRefused(
                f"held by {lease.holder}: nothing else may change while production is hit",
                where=f"lease `{lease.target}`",
                mend="wait for it: ./fleet flows.list",
            )


def demand_unhit(ground: Ground) -> None:
    """Refuse while another drill for real has not given production back.

    Raises:
        PolicyRefused: says which.
    """
    for each in ground.drills.reports(only_open=True):
        if each.hits_production:
            raise PolicyRefused(
                f"production is not given back yet after {each.scenario} {each.target} for real",
                where=f"drill {each.flow}",
                mend="wait until it is: ./fleet status tells what it waits for",
            )


def demand_open(ground: Ground, plan: DrillPlan, *, actor: str = "", flow: str = "") -> None:
    """Refuse in a freeze of any site that is touched.

    Args:
        ground: the environment.
        plan: what is touched.
        actor: on whose behalf, where it is more than a question.
        flow: of the drill; then the use of overrides is journalled.

    Raises:
        PolicyRefused: names the window and the next opening.
    """
    for site, decision in decisions(ground, plan).items():
        if not decision.admitted:
            raise refusal(site, decision)
        if flow:
            note_use(ground, decision, actor=actor, target=site, flow=flow)


def decisions(ground: Ground, plan: DrillPlan) -> Mapping[str, Decision]:
    """What the calendars say now of each site, with the time to give production back.

    As each site's own cluster decides: it is told of no override that is for one flow.
    """
    fleet = load_fleet(ground.fleet_file)
    takes_s = 2 * plan.for_real.at_most_s if plan.for_real else 0.0
    return {
        site: decision_at(
            fleet,
            ground.fleet_file,
            site,
            ground.clock(),
            needs=timedelta(seconds=takes_s),
            overrides=lambda: overrides_in_force(ground),
        )
        for site in plan.sites
    }


def demand_told(ground: Ground, plan: DrillPlan) -> None:
    """Tell each site's cluster now whether it is frozen, and refuse where one is.

    After the failure it is the cluster that admits what is taken and what comes up.

    Raises:
        PolicyRefused: names the freeze.
        FleetError: a cluster cannot be told: it would refuse what it does not know.
    """
    for row in sync(ground, plan.sites):
        if row.frozen:
            raise PolicyRefused(
                f"its cluster is frozen: {row.message}",
                where=f"site {row.site}",
                mend="./fleet freeze.next tells when it opens",
            )


def demand_same_fleet(ground: Ground, plan: DrillPlan) -> None:
    """Refuse a plan that was made, and signed, for another fleet file.

    Raises:
        PolicyRefused: it was changed since.
    """
    if digest_of(load_fleet(ground.fleet_file)) != plan.fleet_digest:
        raise PolicyRefused(
            "the fleet file is not the one that was planned and approved",
            where=str(ground.fleet_file),
            mend=_AGAIN,
        )


def demand_in_time(ground: Ground, flow: str) -> None:
    """Refuse what was asked for too long ago, however it was signed.

    Raises:
        PolicyRefused: says when its time was over.
    """
    request, _ = ground.approvals.request(flow)
    ends = min(request.requested_at + SIGNED_WITHIN, request.expires_at)
    if ground.clock() > ends:
        raise PolicyRefused(
            f"what was signed for it has ended at {ends.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            where=f"flow {flow}",
            mend="ask again: ./fleet dr.drill --for-real --apply",
        )


def demand_as_approved(ground: Ground, plan: DrillPlan) -> None:
    """Refuse where more would be hit, or other replicas come up, by now than was signed.

    And where another drill hits production.

    Raises:
        PolicyRefused: says what.
        Retryable: a site does not answer.
    """
    demand_unhit(ground)
    accepted = plan.for_real.accepted if plan.for_real else []
    now = plan_for_real(ground, plan.scenario, plan.target, accepted)
    demand_held(now)
    if more := needless(plan, now):
        raise PolicyRefused(
            f"more would be hit than was approved: {more}", where=plan.target, mend=_AGAIN
        )
    if other := moved(plan, now):
        raise PolicyRefused(
            f"by now there fits something else than was approved: {other}",
            where=plan.target,
            mend=_AGAIN,
        )
