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


@command(
    {
        "trace": "CSV file, plain or gzipped: arrival_s,prompt_tokens,output_tokens.",
        "gpus": "GPUs of the whole pool.",
        "use-case": "The use case whose pool and promises are looked at.",
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def replay(
    _: Context,
    trace: str = "",
    gpus: str = "",
    use_case: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Run a recorded trace through a pool of so many GPUs: what its users would have seen.

    Example: ./fleet plan.replay --trace trace.csv --gpus 10 --use-case support-chat
    """
    from pathlib import Path

    from gpufleet.flows.replay import replay as run
    from gpufleet.spec.errors import BadInput
    from gpufleet.tasks import plan_view

    if not (trace and use_case and gpus.isdecimal()):
        what = "needs --trace FILE.csv, --gpus N and --use-case NAME"
        raise BadInput(what, mend="see ./fleet --help plan.replay")
    here = workspace()
    report = run(here.find_fleet(fleet or None), Path(trace), use_case, int(gpus))
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        plan_view.show_replay(report)
