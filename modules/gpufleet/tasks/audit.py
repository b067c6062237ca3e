"""Audit records of the gateway: search, verify, export, delete."""

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

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}
_FILTERS = {
    "team": "Only of one team.",
    "use-case": "Only of one use case.",
    "key": "Only by one key's id, or by a token: oidc:SUBJECT.",
    "request": "Only one request, by its x-gpufleet-request-id.",
    "route": "Only by one route: primary, fallback, hosted, summary, cache, none, batch or gap.",
    "status": "Only with one HTTP status; 0 where it is not known.",
    "since": "Only from this time on, such as 2026-03-31 or 2026-03-31T22:00Z.",
    "until": "Only before this time.",
}
_CONTENT = {"content": "Prompts and answers, where they are kept, in place of the records."}


@command({**_FILTERS, **_CONTENT, "limit": "Most records to show; the latest.", **_HELP})
def search(
    _: Context,
    team: str = "",
    use_case: str = "",
    key: str = "",
    request: str = "",
    route: str = "",
    status: str = "",
    since: str = "",
    until: str = "",
    content: bool = False,
    limit: str = "100",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Who asked, when, what answered, and what became of it; by time.

    Example: ./fleet audit.search --team search --since 2026-03-31 --status 429
    """
    from gpufleet.flows import audit_trail
    from gpufleet.tasks import audit_view

    query = audit_view.query(
        team=team,
        use_case=use_case,
        key=key,
        request=request,
        route=route,
        status=status,
        since=since,
        until=until,
        content=content,
    )
    most = audit_view.count(limit, "--limit")
    ground = opened_ground(fleet)
    found = audit_trail.latest(ground, audit_trail.folder_of(ground), query, most)
    if json:
        print_json([record.model_dump(mode="json") for record in found])
    else:
        audit_view.show_records(found, most)


@command(_HELP)
def verify(_: Context, fleet: str = "", json: bool = False) -> None:
    """Check every record against chains, locked objects and journal; exit 5 if tampered with.

    Example: ./fleet audit.verify
    """
    from gpufleet.flows import audit_trail
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import audit_view

    ground = opened_ground(fleet)
    report = audit_trail.verified(ground, audit_trail.folder_of(ground))
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        audit_view.show_verification(report)
    if not report.is_good:
        raise Exit(code=EXIT_TARGET_MISSED)


@command(
    {
        "to": "File to write, one JSON record a line; `-` for stdout.",
        "since": _FILTERS["since"],
        "until": _FILTERS["until"],
        **_CONTENT,
        "fleet": FLEET_HELP,
    }
)
def export(
    _: Context,
    to: str = "-",
    since: str = "",
    until: str = "",
    content: bool = False,
    fleet: str = "",
) -> None:
    """Write records as JSON lines, by chain and sequence, as they were recorded.

    Example: ./fleet audit.export --to audit.jsonl --since 2026-03-01
    """
    from gpufleet.flows import audit_trail
    from gpufleet.tasks import audit_view

    query = audit_view.query(since=since, until=until, content=content)
    ground = opened_ground(fleet)
    audit_trail.export(ground, audit_trail.folder_of(ground), query, to)


@command({"apply": APPLY_HELP, **_HELP})
def delete(_: Context, apply: bool = False, fleet: str = "", json: bool = False) -> None:
    """Delete records whose retention has ended; the journal keeps the proof.

    Example: ./fleet audit.delete --apply
    """
    from gpufleet.edges.clock import system_clock
    from gpufleet.flows import audit_deletion
    from gpufleet.tasks import audit_view

    ground = opened_ground(fleet)
    # The stores' own clocks decide when a lock ends, whatever is simulated here.
    now = system_clock()
    plan = (
        audit_deletion.delete(ground, now) if apply else audit_deletion.plan_deletion(ground, now)
    )
    if json:
        print_json(plan.model_dump(mode="json"))
    else:
        audit_view.show_deletion(plan)
