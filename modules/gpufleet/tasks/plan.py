"""Plan capacity: what hardware would do, before anybody buys or moves it."""

from invoke import Context

from gpufleet.tasks.command import JSON_HELP, command, print_json, workspace


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
