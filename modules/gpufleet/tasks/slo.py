"""Promises to users: how they stand, and the rules that watch them."""

from invoke import Context
from invoke.exceptions import Exit

from gpufleet.tasks.command import (
    FLEET_HELP,
    JSON_HELP,
    command,
    opened_ground,
    print_json,
    workspace,
)


@command(
    {
        "use-case": "Only this one.",
        "prometheus": "Its address, where no site is embedded.",
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def status(
    _: Context, use_case: str = "", prometheus: str = "", fleet: str = "", json: bool = False
) -> None:
    """Each use case's promises: kept or not, error budget left, burn; exit 5 if one is spent.

    Example: ./fleet slo.status --use-case support-chat
    """
    from gpufleet.flows.slo import slo_status
    from gpufleet.spec.errors import EXIT_TARGET_MISSED
    from gpufleet.tasks import slo_view

    report = slo_status(opened_ground(fleet), use_case=use_case, url=prometheus)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        slo_view.show(report)
    if not report.is_good:
        raise Exit(code=EXIT_TARGET_MISSED)


@command(
    {
        "site": "Whose Prometheus; the first embedded one if left out.",
        "prometheus": "Its address, where no site is embedded.",
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    },
)
def ask(
    _: Context,
    query: str,
    site: str = "",
    prometheus: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """What a site's Prometheus answers to a query now: a line for each series.

    Example: ./fleet slo.ask 'ALERTS{alertstate="firing"}'
    """
    from gpufleet.flows.slo import answers_to
    from gpufleet.tasks import slo_view

    found = answers_to(opened_ground(fleet), query, site=site, url=prometheus)
    if json:
        print_json([row.model_dump(mode="json") for row in found])
    else:
        slo_view.show_answers(found)


@command(
    {
        "check": "Let promtool check them, in the configuration that reads them.",
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def rules(_: Context, check: bool = False, fleet: str = "", json: bool = False) -> None:
    """The recording rules and alerts that follow from a fleet file, by site.

    Example: ./fleet slo.rules --check --fleet fleets/article/production.yaml
    """
    from gpufleet.flows.slo import check_rules, rules_of
    from gpufleet.spec import load_fleet
    from gpufleet.tasks import console, slo_view

    declared = load_fleet(workspace().find_fleet(fleet or None))
    if check:
        with console.ProgressView() as view:
            count = check_rules(declared, view)
        console.facts.print(f"{count} rules of {len(declared.sites)} sites are sound")
    elif json:
        print_json(rules_of(declared))
    else:
        slo_view.show_rules(rules_of(declared))
