"""Patch hosts: drivers, firmware, runtimes and systems, wave after wave, with a way back."""

from typing import TYPE_CHECKING

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
from gpufleet.tasks.signing import IDENTITY_HELP, KEY_HELP, signer

if TYPE_CHECKING:
    from gpufleet.flows.ground import Ground
    from gpufleet.spec.patching import PatchPlan

_COMMON = {"fleet": FLEET_HELP, "json": JSON_HELP}
_ID = {"id": "Id of the patch, as patch.status shows it."}
_ORDER = {
    "component": "What to patch: driver, firmware, runtime or os.",
    "part": "Part of it: bmc, vbios, containerd, container-toolkit, kernel or security.",
    "to": "Version that the hosts are to have.",
    "site": "Only these sites, with commas.",
    "pool": "Only node groups of these pools, with commas.",
    "node_group": "Only these node groups, with commas.",
    "why": "Why, for approvers, journal and report.",
    "advisory": "Advisories that it mends, such as CVE-2026-1234:critical; may be given again.",
    "soak": "Time after each wave in which the gates have to hold, such as 30min. Default: 10min.",
    "failures": "Hosts of a wave that may fail before the patch stops. Default: 0.",
}
_SUBMIT = {
    "prometheus": "Address of Prometheus at sites that are not embedded.",
    "apply": APPLY_HELP,
    "detach": "Do not follow it: print the flow's id and end.",
    "identity": IDENTITY_HELP,
    "key": KEY_HELP,
}


@command({**_ORDER, **_COMMON}, name="plan", iterable=["advisory"])
def plan(
    _: Context,
    component: str = "driver",
    part: str = "",
    to: str = "",
    site: str = "",
    pool: str = "",
    node_group: str = "",
    why: str = "",
    advisory: list[str] | None = None,
    soak: str = "",
    failures: int = 0,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Show what a patch would do: hosts, waves, batches, gates, windows. Changes nothing.

    Example: ./fleet patch.plan --component driver --to 580.105.08
    """
    from gpufleet.tasks import patch_view

    ground = opened_ground(fleet)
    chosen = (site, pool, node_group)
    made = _planned(ground, component, part, to, chosen, why, advisory, soak, failures)
    patch_view.tell_plan(ground, made, json=json)


@command({**_ORDER, **_SUBMIT, **_COMMON}, name="start", iterable=["advisory"])
def start(
    _: Context,
    component: str = "driver",
    part: str = "",
    to: str = "",
    site: str = "",
    pool: str = "",
    node_group: str = "",
    why: str = "",
    advisory: list[str] | None = None,
    soak: str = "",
    failures: int = 0,
    prometheus: str = "",
    apply: bool = False,
    detach: bool = False,
    identity: str = "",
    key: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Show what a patch would do; with --apply, let the worker do it. Exit 5: it was stopped.

    Example: ./fleet patch.start --component driver --to 580.105.08 --advisory CVE-2026-1234 --apply
    """
    from gpufleet.flows.patch_requests import request_patch
    from gpufleet.tasks import patch_view

    ground = opened_ground(fleet)
    chosen = (site, pool, node_group)
    made = _planned(ground, component, part, to, chosen, why, advisory, soak, failures)
    if not apply or not json:
        patch_view.tell_plan(ground, made, json=json)
    if apply:
        flow = request_patch(ground, made, signer(identity, key), prometheus=prometheus)
        patch_view.follow(ground, flow, detach=detach, json=json)


@command({"id": "Only this patch.", "open": "Only those that go on.", **_COMMON}, name="status")
def status(
    _: Context,
    id: str = "",  # noqa: A002 - the flag
    open: bool = False,  # noqa: A002 - the flag
    fleet: str = "",
    json: bool = False,
) -> None:
    """How patches stand, newest first; with --id, each host of one.

    Example: ./fleet patch.status --open
    """
    from gpufleet.flows.patch_requests import reports
    from gpufleet.tasks import patch_view

    found = reports(opened_ground(fleet), id, only_open=open)
    if json:
        print_json([report.model_dump(mode="json") for report in found])
    elif id:
        patch_view.show_report(found[0])
    else:
        patch_view.show_reports(found)


@command({**_ID, "apply": APPLY_HELP, **_COMMON}, name="pause")
def pause(
    _: Context,
    id: str,  # noqa: A002 - the flag
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Let a patch hold before its next batch; the batch that runs ends.

    Example: ./fleet patch.pause --id patch-20260301-101500-a1b2c3 --apply
    """
    from gpufleet.flows import patch_requests
    from gpufleet.tasks import patch_view

    ground = opened_ground(fleet)
    done = patch_requests.pause if apply else patch_requests.demand_open
    patch_view.tell_wish(done(ground, id), "hold before its next batch", apply=apply, json=json)


@command({**_ID, "apply": APPLY_HELP, **_COMMON}, name="resume")
def resume(
    _: Context,
    id: str,  # noqa: A002 - the flag
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Let a paused patch go on.

    Example: ./fleet patch.resume --id patch-20260301-101500-a1b2c3 --apply
    """
    from gpufleet.flows import patch_requests
    from gpufleet.tasks import patch_view

    ground = opened_ground(fleet)
    done = patch_requests.go_on if apply else patch_requests.demand_open
    patch_view.tell_wish(done(ground, id), "go on", apply=apply, json=json)


@command(
    {
        **_ID,
        "to": "Only hosts that had this version before, where they had several.",
        **_SUBMIT,
        **_COMMON,
    },
    name="rollback",
)
def rollback(
    _: Context,
    id: str,  # noqa: A002 - the flag
    to: str = "",
    prometheus: str = "",
    apply: bool = False,
    detach: bool = False,
    identity: str = "",
    key: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Stop a patch and roll its wave back; of an ended one, patch its hosts to what they had.

    Example: ./fleet patch.rollback --id patch-20260301-101500-a1b2c3 --apply
    """
    from gpufleet.flows import patch_requests
    from gpufleet.tasks import patch_view

    ground = opened_ground(fleet)
    report = patch_requests.report_of(ground, id)
    if patch_requests.is_open(report):
        if apply:
            patch_requests.stop(ground, id)
        patch_view.tell_wish(report, "end, with its wave rolled back", apply=apply, json=json)
        return
    made = patch_requests.plan_back(ground, id, to)
    if not apply or not json:
        patch_view.tell_plan(ground, made, json=json)
    if apply:
        flow = patch_requests.request_patch(
            ground, made, signer(identity, key), prometheus=prometheus
        )
        patch_view.follow(ground, flow, detach=detach, json=json)


@command({**_ID, "html": "Write it as a page into this file.", **_COMMON}, name="report")
def report(
    _: Context,
    id: str,  # noqa: A002 - the flag
    html: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """The story of a patch: who, why, versions before and after, times, failures.

    Example: ./fleet patch.report --id patch-20260301-101500-a1b2c3 --html patch.html
    """
    from pathlib import Path

    from gpufleet.flows.patch_page import write_patch_page
    from gpufleet.flows.patch_requests import report_of
    from gpufleet.tasks import patch_view

    ground = opened_ground(fleet)
    found = report_of(ground, id)
    if html:
        write_patch_page(ground, found, Path(html))
    if json:
        print_json(found.model_dump(mode="json"))
    elif html:
        patch_view.tell_page(html)
    else:
        patch_view.show_report(found)


@command(
    {
        "advisories": (
            "OSV or CSAF files, several separated by commas. Default: those that the fleet file "
            "names."
        ),
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def cycle(_: Context, advisories: str = "", fleet: str = "", json: bool = False) -> None:
    """What is overdue for an update, and which known vulnerabilities are installed; exit 5 if so.

    Example: ./fleet patch.cycle --advisories osv.zip --fleet fleets/sample/staging.yaml
    """
    from gpufleet.flows.patch_cycle import patch_cycle
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import patch_cycle_view

    report = patch_cycle(opened_ground(fleet), advisories=advisories)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        patch_cycle_view.show(report)
    if not report.is_good:
        raise Exit(code=EXIT_TARGET_MISSED)


def _planned(
    ground: "Ground",
    component: str,
    part: str,
    to: str,
    chosen: tuple[str, str, str],
    why: str,
    advisories: list[str] | None,
    soak: str,
    failures: int,
) -> "PatchPlan":
    from gpufleet.flows.patch_plan import plan_patch
    from gpufleet.flows.patch_requests import Wish, order_of

    sites, pools, node_groups = chosen
    wish = Wish(
        component=component,
        part=part,
        version=to,
        sites=sites,
        pools=pools,
        node_groups=node_groups,
        why=why,
        advisories=advisories or [],
        soak=soak,
        failures=failures,
    )
    return plan_patch(ground, order_of(wish))
