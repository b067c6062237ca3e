"""Overrides of freezes, and what waits for an opening: part of the namespace `freeze`."""

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    opened_ground,
    print_json,
)
from gpufleet.tasks.signing import IDENTITY_HELP, KEY_HELP, required, signer

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}


@command(
    {
        "sites": "Sites it is for, with commas.",
        "changes": "Kinds of change: stacks, release, driver, firmware, runtime, os.",
        "why": "The reason, for those who sign and for the journal.",
        "pools": "Only these pools, with commas; all of the sites without it.",
        "node-groups": "Only hosts of these node groups, with commas.",
        "flow": "Only this flow, as flows.list shows it.",
        "hours": "How long it holds; governance.override_max_s is the most.",
        "begins": "When it begins, such as 2026-03-01T22:00+01:00; now without it.",
        "identity": IDENTITY_HELP,
        "key": KEY_HELP,
        "apply": APPLY_HELP,
        **_HELP,
    }
)
def override(
    _: Context,
    sites: str = "",
    changes: str = "",
    why: str = "",
    pools: str = "",
    node_groups: str = "",
    flow: str = "",
    hours: str = "1",
    begins: str = "",
    identity: str = "",
    key: str = "",
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Ask that a scope may change in a freeze for some time; another identity has to sign it.

    Example: ./fleet freeze.override --sites fra1 --pools chat --changes driver --hours 2 --why
    'mends CVE-2026-1234' --identity jonas --apply
    """
    from gpufleet.flows import overrides
    from gpufleet.tasks import override_view

    ground = opened_ground(fleet)
    wish = overrides.Wish(
        sites=_names(sites),
        changes=_names(changes),
        why=why,
        pools=_names(pools),
        node_groups=_names(node_groups),
        flow=flow,
        begins=begins,
        hours=hours,
    )
    who = required(signer(identity, key)) if apply or identity else None
    planned = overrides.planned(ground, wish, who.identity if who else "you")
    if apply and who:
        overrides.ask(ground, who, planned)
    if json:
        print_json({**planned.model_dump(mode="json"), "asked": apply})
    else:
        override_view.show_planned(planned, asked=apply)


@command({"open": "Only those that have not ended.", **_HELP})
def overrides(_: Context, open: bool = False, fleet: str = "", json: bool = False) -> None:  # noqa: A002 - the flag
    """Overrides of freezes, who has signed them and how they stand, newest first.

    Example: ./fleet freeze.overrides --open
    """
    from gpufleet.flows.overrides import listed
    from gpufleet.tasks import override_view

    rows = listed(opened_ground(fleet), only_open=open)
    if json:
        print_json([row.model_dump(mode="json") for row in rows])
    else:
        override_view.show_overrides(rows)


@command({"id": "Id, as freeze.overrides shows it.", "apply": APPLY_HELP, **_HELP})
def revoke(
    _: Context,
    id: str,  # noqa: A002 - the flag
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """End an override before its time; nobody has to sign that. What runs is not cut short.

    Example: ./fleet freeze.revoke override-20260301-101500-a1b2c3 --apply
    """
    from gpufleet.flows import overrides
    from gpufleet.flows.ground import whoami
    from gpufleet.tasks import override_view

    ground = opened_ground(fleet)
    row = overrides.revoke(ground, id, whoami()) if apply else overrides.shown(ground, id)
    if json:
        print_json(row.model_dump(mode="json"))
    else:
        override_view.show_overrides([row])


@command(_HELP)
def queue(_: Context, fleet: str = "", json: bool = False) -> None:
    """What waits for an opening of the calendars: since when, for whom, and until when.

    Example: ./fleet freeze.queue
    """
    from gpufleet.flows.freeze_queue import waiting
    from gpufleet.tasks import override_view

    rows = waiting(opened_ground(fleet))
    if json:
        print_json([row.model_dump(mode="json") for row in rows])
    else:
        override_view.show_queue(rows)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
