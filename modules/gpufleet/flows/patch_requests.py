"""What people do with patches: submit a plan, look, pause, let go on, stop, go back."""

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from gpufleet.core.approvals import digest_of
from gpufleet.flows import approvals
from gpufleet.flows.approvals import Question, Signer
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.operations import new_id, open_flows, submit
from gpufleet.flows.operations import shown as flow_of
from gpufleet.flows.patch_gates import demand_addresses
from gpufleet.flows.patch_plan import openings, part_of, plan_patch
from gpufleet.flows.patching import PATCH
from gpufleet.spec.approvals import Action, Scope
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.forms import MEANINGS, PACKAGE_VERSION
from gpufleet.spec.patching import HostState, PatchOrder, PatchPlan, PatchReport

_UNDONE_WITHIN: Final = timedelta(days=14)
_MINUTE_S: Final = 60
_SUCH_AS: Final = "such as --to 580.105.08"
_FLAGS: Final = {
    "version": "--to",
    "sites": "--site",
    "pools": "--pool",
    "node_groups": "--node-group",
    "advisories": "--advisory",
    "soak_s": "--soak",
    "failures_allowed": "--failures",
    "why": "--why",
}


def request_patch(
    ground: Ground,
    plan: PatchPlan,
    signer: Signer | None,
    *,
    prometheus: str = "",
) -> str:
    """Hand a plan to the worker, asking for approvals where the environment wants them.

    Args:
        ground: the environment.
        plan: what is to be done.
        signer: who asks, where approvals are needed.
        prometheus: address of it at sites that are not embedded.

    Returns:
        The flow's id.

    Raises:
        BadInput: there is nothing to patch, or nobody signs a request that needs it.
        PolicyRefused: the key is not one of the identity's; or no opening holds a batch of it.
    """
    if not plan.hosts:
        raise BadInput(nothing(plan), where=f"--to {plan.order.version}")
    _demand_openings(ground, plan)
    demand_addresses(ground.fleet, plan.gates, prometheus)
    flow = new_id(PATCH, ground.clock())
    needed = ground.fleet.governance.approvals_required
    if needed:
        if signer is None:
            raise BadInput(
                f"this environment wants {needed} approvals of a change",
                where="--identity",
                mend="say who asks: --identity NAME --key ~/.ssh/id_ed25519",
            )
        question = Question(flow, _scope(plan), digest_of(plan), _summary(plan))
        approvals.ask(ground, signer, question)
    order: dict[str, Any] = {
        "actor": signer.identity if signer else whoami(),
        "plan": plan.model_dump(mode="json"),
        "prometheus": prometheus,
    }
    submit(ground, PATCH, flow, order)
    return flow


def reports(ground: Ground, flow: str = "", *, only_open: bool = False) -> list[PatchReport]:
    """The stories of patches, newest first; or that of one.

    Raises:
        BadInput: there is no such patch.
    """
    begun = ground.patches.reports(only_open=only_open)
    found = [*_queued(ground, {report.flow for report in begun}), *begun]
    if not flow:
        return found
    return [report for report in found if report.flow == flow] or [report_of(ground, flow)]


def report_of(ground: Ground, flow: str) -> PatchReport:
    """The story of one patch.

    Raises:
        BadInput: there is none, or it has not begun.
    """
    try:
        return ground.patches.report(flow)
    except BadInput:
        row = flow_of(ground, flow)
        raise BadInput(
            f"has not begun yet: it is {row.state}", where=f"patch {flow}", mend="is a worker up?"
        ) from None


def pause(ground: Ground, flow: str) -> PatchReport:
    """Let a patch hold before its next batch; what runs ends.

    Raises:
        BadInput: there is no such patch, or it has ended.
    """
    report = demand_open(ground, flow)
    ground.patches.pause(flow, whoami())
    ground.note("patch.paused", actor=whoami(), target=flow)
    return report


def go_on(ground: Ground, flow: str) -> PatchReport:
    """Let a paused patch go on.

    Raises:
        BadInput: there is no such patch, or it is not paused.
    """
    report = demand_open(ground, flow)
    paused_by, _ = ground.patches.wishes(flow)
    if not paused_by:
        raise BadInput("is not paused", where=f"patch {flow}")
    ground.patches.pause(flow, "")
    ground.note("patch.resumed", actor=whoami(), target=flow, paused_by=paused_by)
    return report


def stop(ground: Ground, flow: str) -> PatchReport:
    """Let a patch end before its next batch, with its wave rolled back.

    Raises:
        BadInput: there is no such patch, or it has ended.
    """
    report = demand_open(ground, flow)
    ground.patches.stop(flow, whoami())
    ground.note("patch.stopped", actor=whoami(), target=flow)
    return report


def plan_back(ground: Ground, flow: str, version: str = "") -> PatchPlan:
    """The patch that undoes an ended one: every host that it changed to its version of before.

    A way back goes on in a freeze. So that nothing else does in its name, there is one only of
    what was a change itself, not long ago; hosts that have another version by now stay.

    Args:
        ground: the environment.
        flow: the ended patch.
        version: only hosts that had this one before; needed where there are several.

    Raises:
        BadInput: there is no such patch, it has not ended, or nothing of it can go back.
        PolicyRefused: it was a way back itself, or is too old.
    """
    report, plan = report_of(ground, flow), ground.patches.plan(flow)
    where = f"patch {flow}"
    _demand_recent_change(report, plan, ground.clock())
    if not plan.can_go_back:
        part = plan.order.part.value
        raise BadInput(f"{part} has no way back: it only goes forward", where=where)
    changed = [
        each for each in report.hosts.values() if each.state is HostState.DONE and each.before
    ]
    versions = Counter(each.before for each in changed)
    if not versions:
        raise BadInput("no host has anything of it that could go back", where=where)
    if not version and len(versions) > 1:
        known = ", ".join(f"{name} ({count} hosts)" for name, count in versions.items())
        raise BadInput(
            "its hosts had several versions before", where=where, mend=f"--to one of {known}"
        )
    version = version or next(iter(versions))
    if version not in versions:
        known = ", ".join(versions)
        raise BadInput(f"no host had {version} before", where=where, mend=f"--to one of {known}")
    order = report.order.model_copy(
        update={"version": version, "why": f"rollback of {flow}", "advisories": []}
    )
    only = {each.host: each.after for each in changed if each.before == version}
    return plan_patch(ground, order, only=only).model_copy(update={"undoes": flow})


def _queued(ground: Ground, begun: Collection[str]) -> list[PatchReport]:
    """Patches that no worker has begun yet, newest first."""
    return [
        PatchReport(
            flow=found.id,
            actor=str(found.order["actor"]),
            order=PatchOrder.model_validate(found.order["plan"]["order"]),
            begun_at=found.created_at,
            outcome="queued",
        )
        for found in reversed(open_flows(ground))
        if found.kind == PATCH and found.id not in begun
    ]


def _demand_recent_change(report: PatchReport, plan: PatchPlan, now: datetime) -> None:
    forward = f"./fleet patch.start --component {plan.order.component.value} --to VERSION"
    if plan.undoes:
        raise PolicyRefused(
            f"is the way back from {plan.undoes}: undoing it is a change like any other",
            where=f"patch {report.flow}",
            mend=forward,
        )
    if report.ended_at and now - report.ended_at > _UNDONE_WITHIN:
        raise PolicyRefused(
            f"ended over {_UNDONE_WITHIN.days} days ago: undoing it is a change like any other",
            where=f"patch {report.flow}",
            mend=forward,
        )


def _demand_openings(ground: Ground, plan: PatchPlan) -> None:
    needs_min = math.ceil((plan.batch_s + plan.rollback_s) / _MINUTE_S)
    for opening in openings(ground, plan):
        if not (opening.open or opening.opens):
            raise PolicyRefused(
                f"no opening holds a batch with its way back, {needs_min} min: {opening.reason}",
                where=f"site {opening.site}",
                mend="./fleet freeze.next shows the openings; ./fleet freeze.override asks for one",
            )


def is_open(report: PatchReport) -> bool:
    """Whether a patch goes on."""
    return report.ended_at is None


@dataclass(frozen=True)
class Wish:
    """An order as the command line gives it."""

    component: str
    part: str
    version: str
    sites: str
    """With commas, as the next two."""
    pools: str
    node_groups: str
    why: str
    advisories: Sequence[str]
    """Each one id or several with commas, each with its severity after a colon or without."""
    soak: str
    """Such as `30min`; the order's own where it is empty."""
    failures: int


def order_of(wish: Wish) -> PatchOrder:
    """An order from the command line.

    Raises:
        BadInput: naming the option that is wrong.
    """
    component, part = part_of(wish.component, wish.part)
    if not re.match(PACKAGE_VERSION, wish.version):
        what = f"`{wish.version:.80}` is no {MEANINGS[PACKAGE_VERSION].removeprefix('a ')}"
        raise BadInput(what if wish.version else "has to be named", where="--to", mend=_SUCH_AS)
    values: dict[str, Any] = {
        "component": component,
        "part": part,
        "version": wish.version,
        "sites": _words(wish.sites),
        "pools": _words(wish.pools),
        "node_groups": _words(wish.node_groups),
        "advisories": [_advisory(word) for each in wish.advisories for word in _words(each)],
        "failures_allowed": wish.failures,
    }
    if wish.why:
        values["why"] = wish.why
    if wish.soak:
        values["soak_s"] = wish.soak
    try:
        return PatchOrder.model_validate(values)
    except ValidationError as error:
        [first, *_] = error.errors()
        where = _FLAGS.get(str(first["loc"][0]), str(first["loc"][0]))
        raise BadInput(str(first["msg"]).removeprefix("Value error, "), where=where) from None


def demand_open(ground: Ground, flow: str) -> PatchReport:
    """The story of a patch that goes on.

    Raises:
        BadInput: there is no such patch, or it has ended.
    """
    report = report_of(ground, flow)
    if not is_open(report):
        raise BadInput(f"has ended: {report.outcome}", where=f"patch {flow}")
    return report


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _advisory(word: str) -> dict[str, str]:
    name, _, severity = word.partition(":")
    return {"id": name, **({"severity": severity} if severity else {})}


def _scope(plan: PatchPlan) -> Scope:
    return Scope(
        fleet=plan.fleet,
        environment=plan.environment,
        action=Action.CHANGE,
        targets=sorted({change.site for change in plan.hosts.values()}),
    )


def _summary(plan: PatchPlan) -> dict[str, Any]:
    """The plan as those who approve it see it."""
    return {
        "component": plan.order.component.value,
        "part": plan.order.part.value,
        "to": plan.order.version,
        "why": plan.order.why,
        "advisories": [advisory.id for advisory in plan.order.advisories],
        "hosts": len(plan.hosts),
        "waves": [len(wave.hosts) for wave in plan.waves],
        "can_go_back": plan.can_go_back,
        "undoes": plan.undoes,
    }


def nothing(plan: PatchPlan) -> str:
    """Why a plan has no hosts."""
    if not plan.left_out:
        return "no host is meant by this order"
    reasons = Counter(plan.left_out.values())
    told = "; ".join(f"{count} hosts: {why}" for why, count in reasons.most_common(3))
    return f"there is nothing to patch: {told}"
