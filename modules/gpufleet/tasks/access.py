"""API keys of the gateway: issue, list, rotate, revoke. A freeze holds none of them."""

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    opened_ground,
    print_json,
)

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}
_ID = {"id": "Of the key, as access.list shows it."}


@command(
    {
        "team": "Whose it is.",
        "use-cases": "What it may use, with commas; each of that team.",
        "rate-rpm": "Most requests in any minute; no limit without it.",
        "concurrency": "Most requests in flight; no limit without it.",
        "expires-in": "Such as 90d; until it is revoked without it.",
        "apply": APPLY_HELP,
        **_HELP,
    }
)
def issue(
    _: Context,
    team: str,
    use_cases: str,
    rate_rpm: str = "",
    concurrency: str = "",
    expires_in: str = "",
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Issue a key; its text is shown once, and only its hash is kept.

    Example: ./fleet access.issue --team search --use-cases answers --expires-in 90d --apply
    """
    from gpufleet.flows import access
    from gpufleet.tasks import access_view

    request = access_view.request(team, use_cases, rate_rpm, concurrency, expires_in)
    ground = opened_ground(fleet)
    if not apply:
        access.check(ground.fleet, request)
        access_view.show_request(request, json=json)
        return
    access_view.show_issued(access.issue(ground, request), json=json)


@command(_HELP, name="list")
def list_(_: Context, fleet: str = "", json: bool = False) -> None:
    """Every key that was issued, oldest first; never its text.

    Example: ./fleet access.list
    """
    from gpufleet.flows import access
    from gpufleet.tasks import access_view

    ground = opened_ground(fleet)
    keys = access.listed(ground)
    if json:
        print_json([access_view.told(key, ground.clock()) for key in keys])
    else:
        access_view.show_keys(keys, ground.clock())


@command(
    {**_ID, "overlap": "Time for which the old one stays valid.", "apply": APPLY_HELP, **_HELP}
)
def rotate(
    _: Context,
    id: str,  # noqa: A002 - the flag
    overlap: str = "1h",
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Issue the successor of a key, with its rights; the old one goes on for the overlap.

    Example: ./fleet access.rotate 3f9k2m1x7q0a --overlap 4h --apply
    """
    from gpufleet.flows import access
    from gpufleet.tasks import access_view

    lasts = access_view.duration(overlap, "--overlap")
    ground = opened_ground(fleet)
    if not apply:
        key = access.replaceable(ground, id)
        access_view.show_plan(f"a successor; {key.id} stays valid for {overlap}", key, json=json)
        return
    access_view.show_issued(access.rotate(ground, id, lasts), json=json)


@command({**_ID, "apply": APPLY_HELP, **_HELP})
def revoke(
    _: Context,
    id: str,  # noqa: A002 - the flag
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """End a key for good; the gateway refuses it within 5 s, in a freeze too.

    Example: ./fleet access.revoke 3f9k2m1x7q0a --apply
    """
    from gpufleet.flows import access
    from gpufleet.tasks import access_view

    ground = opened_ground(fleet)
    if not apply:
        access_view.show_plan("it is refused within 5 s", access.found(ground, id), json=json)
        return
    access_view.show_revoked(access.revoke(ground, id), json=json)
