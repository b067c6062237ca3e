"""Plan capacity: what hardware would do, before anybody buys or moves it."""

from invoke import Context

from gpufleet.tasks.command import FLEET_HELP, JSON_HELP, command, print_json, workspace


@command(
    {
        "points": "CSV file: model,gpu,precision,tp,pp,isl,osl,concurrency.",
        "fleet": "Fleet file whose revisions, GPU types and measured points count too.",
        "json": JSON_HELP,
    }
)
def predict(_: Context, points: str = "", fleet: str = "", json: bool = False) -> None:
    """Time to first token, time per token and throughput of every row of a file, in its order.

    Example: ./fleet plan.predict --points points.csv --json
    """
    from pathlib import Path

    from gpufleet.flows.predict import predict_points
    from gpufleet.spec.errors import BadInput
    from gpufleet.tasks import console

    if not points:
        raise BadInput("needs --points FILE.csv", mend="see ./fleet --help plan.predict")
    here = workspace()
    rows = predict_points(Path(points), here.find_fleet(fleet) if fleet else None)
    if json:
        print_json(rows)
    else:
        console.show_rows(rows)


@command({"fleet": FLEET_HELP, "json": JSON_HELP})
def decide(_: Context, fleet: str = "", json: bool = False) -> None:
    """Local, hosted or hybrid for each use case, with the numbers, and what would turn it.

    Example: ./fleet plan.decide --fleet fleets/article/production.yaml
    """
    from gpufleet.flows.plans import plan_capacity
    from gpufleet.flows.verdicts import decide_use_cases, fresh_prices
    from gpufleet.tasks import verdict_view

    here = workspace()
    file = here.find_fleet(fleet or None)
    fresh_prices(here, file)
    report = decide_use_cases(here, file, plan_capacity(here, file))
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        verdict_view.show_decision(report)
