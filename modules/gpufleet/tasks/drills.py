"""Drills: service is lost in isolation, restored, and timed until the gateway answers."""

from invoke import Context
from invoke.exceptions import Exit

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    opened_ground,
    print_json,
)
from gpufleet.tasks.signing import IDENTITY_HELP, KEY_HELP, required, signer

_COMMON = {"fleet": FLEET_HELP, "json": JSON_HELP}


@command(_COMMON)
def scenarios(_: Context, fleet: str = "", json: bool = False) -> None:
    """What can be drilled here: what fails, what is proven, whether the objective can be held.

    Example: ./fleet dr.scenarios
    """
    from gpufleet.flows.drills.planning import possible
    from gpufleet.tasks import drill_view

    found = possible(opened_ground(fleet))
    if json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        drill_view.show_scenarios(found)


@command(
    {
        "scenario": "What fails, such as site-lost: dr.scenarios lists them.",
        "target": "What is lost, such as a site. Default: whose loss leaves most.",
        "why": "For the journal and the report.",
        "for-real": "Hit production itself; it takes the signature of somebody else.",
        "accept-loss": "Use cases that may be down in a drill for real, with commas.",
        "apply": APPLY_HELP,
        "identity": IDENTITY_HELP,
        "key": KEY_HELP,
        "detach": "Do not follow it: print the flow's id and end.",
        **_COMMON,
    }
)
def drill(
    _: Context,
    scenario: str,
    target: str = "",
    why: str = "",
    for_real: bool = False,
    accept_loss: str = "",
    apply: bool = False,
    detach: bool = False,
    identity: str = "",
    key: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Say what a drill would do and how long it takes; with --apply do it. Exit 5: missed.

    It plays in a namespace of its own, on free GPUs, and touches nothing of production. With
    --for-real production itself is hit, once somebody else has signed; exit 3: refused.

    Example: ./fleet dr.drill --scenario site-lost --apply
    """
    from gpufleet.flows.drills.requests import begin, planned
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import drill_view

    ground = opened_ground(fleet)
    plan = planned(ground, scenario, target, for_real=for_real, accept_loss=accept_loss)
    if not apply or not json:
        drill_view.tell_plan(plan, json=json)
    if not apply:
        return
    signs = required(signer(identity, key)) if for_real else None
    flow = begin(ground, plan, why, signs)
    report = drill_view.follow_drill(ground, flow, detach=detach, json=json)
    if report is not None and not report.met:
        raise Exit(code=EXIT_TARGET_MISSED)


@command(_COMMON)
def schedule(_: Context, fleet: str = "", json: bool = False) -> None:
    """When each drill and each revision's restore was proven, and is due; exit 5 if overdue.

    The worker proves restores by itself; drills are begun by people.

    Example: ./fleet dr.schedule
    """
    from gpufleet.flows.drills.schedule import schedule as scheduled
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import drill_view

    found = scheduled(opened_ground(fleet))
    if json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        drill_view.show_schedule(found)
    if any(each.overdue_s for each in found):
        raise Exit(code=EXIT_TARGET_MISSED)


@command(
    {
        "id": "Of the drill. Default: the newest.",
        "scenario": "The newest of this scenario.",
        "page": "Write it as a page into this file.",
        **_COMMON,
    }
)
def report(
    _: Context,
    id: str = "",  # noqa: A002 - the flag
    scenario: str = "",
    page: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """The story of a drill, each phase against its objective, and the trend over drills.

    Example: ./fleet dr.report --page drill.html
    """
    from pathlib import Path

    from gpufleet.flows.drills.page import write_drill_page
    from gpufleet.flows.drills.requests import history, latest
    from gpufleet.tasks import drill_view

    ground = opened_ground(fleet)
    found = latest(ground, id, scenario)
    trend = history(ground, found)[1]
    if page:
        write_drill_page(ground, found, Path(page))
    if json:
        told = [each.model_dump(mode="json") for each in trend]
        print_json({**drill_view.as_json(found), "trend": told[0] if told else None})
    elif page:
        drill_view.tell_page(page)
    else:
        drill_view.show_report(found)
        drill_view.show_trends(trend)
