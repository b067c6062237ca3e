"""Capacity: how many GPUs, of which type, with which limits, at what cost, and why."""

import re
from pathlib import Path

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    print_json,
    workspace,
)


@command(
    {
        "fleet": FLEET_HELP,
        "pool": "Only this pool; the whole fleet is planned all the same.",
        "explain": "Show the arithmetic step by step, with where each number comes from.",
        "json": JSON_HELP,
    }
)
def capacity(
    _: Context, fleet: str = "", pool: str = "", explain: bool = False, json: bool = False
) -> None:
    """The fewest GPUs that hold every promise at the declared peak; changes nothing.

    Example: ./fleet plan.capacity --fleet fleets/article/production.yaml --explain
    """
    from gpufleet.flows import plans
    from gpufleet.tasks import console, plan_view

    here = workspace()
    with console.planning():
        plan = plans.plan_capacity(here, here.find_fleet(fleet or None), pool=pool)
    if json:
        print_json(plan.model_dump(by_alias=True))
    else:
        plan_view.show_plan(plan, explain=explain)


@command(
    {
        "fleet": FLEET_HELP,
        "traffic": "Factor on the traffic, such as 2 or 0.5.",
        "lose-site": "A site that is lost.",
        "model-size": "Factor on the models' parameters.",
        "use-case": "The only use case whose traffic and model change. Default: all.",
        "json": JSON_HELP,
    }
)
def whatif(
    _: Context,
    fleet: str = "",
    traffic: str = "",
    lose_site: str = "",
    model_size: str = "",
    use_case: str = "",
    json: bool = False,
) -> None:
    """What a change would do to today's plan; several hold together.

    Example: ./fleet plan.whatif --traffic 2 --lose-site fra1
    """
    from gpufleet.flows import plans
    from gpufleet.tasks import console, plan_view

    here = workspace()
    with console.planning():
        found = plans.what_if(
            here,
            here.find_fleet(fleet or None),
            traffic=traffic,
            lost_site=lose_site,
            model_size=model_size,
            use_case=use_case,
        )
    if json:
        print_json(found.model_dump())
    else:
        plan_view.show_what_if(found)


@command({"fleet": FLEET_HELP, "apply": APPLY_HELP, "json": JSON_HELP})
def apply(_: Context, fleet: str = "", apply: bool = False, json: bool = False) -> None:
    """Show what a plan would change in the fleet; with --apply, write its file.

    Example: ./fleet plan.apply --fleet fleets/article/production.yaml --apply
    """
    from gpufleet.flows import plans
    from gpufleet.tasks import console, plan_view

    here = workspace()
    with console.planning():
        found = plans.apply_plan(here, here.find_fleet(fleet or None), apply=apply)
    if json:
        print_json(found.model_dump())
    else:
        plan_view.show_difference(found)


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
        "queue-limit": "Requests that may wait at one replica. Default: all, so that none is shed.",
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def replay(
    _: Context,
    trace: str = "",
    gpus: str = "",
    use_case: str = "",
    queue_limit: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Run a recorded trace through a planned pool of so many GPUs: what users would have seen.

    Example: ./fleet plan.replay --trace trace.csv --gpus 10 --use-case support-chat
    """
    from gpufleet.flows.replay import replay as run
    from gpufleet.spec.errors import BadInput
    from gpufleet.tasks import console, replay_view

    if not (trace and use_case and gpus):
        what = "needs --trace FILE.csv, --gpus N and --use-case NAME"
        raise BadInput(what, mend="see ./fleet --help plan.replay")
    for flag, given in (("--gpus", gpus), ("--queue-limit", queue_limit or "0")):
        if not re.fullmatch("[0-9]{1,6}", given):
            what = f"has to be a whole number of at most six digits, not {given:.40}"
            raise BadInput(what, where=flag)
    here = workspace()
    with console.planning():
        report = run(
            here,
            here.find_fleet(fleet or None),
            Path(trace),
            use_case,
            int(gpus),
            queue_limit=int(queue_limit) if queue_limit else None,
        )
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        replay_view.show_replay(report)


@command(
    {
        "fleet": FLEET_HELP,
        "output": "The page's file. Default: capacity-FLEET-ENVIRONMENT.html in this folder.",
        "json": JSON_HELP,
    }
)
def report(_: Context, fleet: str = "", output: str = "", json: bool = False) -> None:
    """Write the plan as one HTML page: GPUs, latency, cost, break-even, budget, and why.

    Example: ./fleet plan.report --output capacity.html
    """
    from gpufleet.flows.capacity_page import write_capacity_page
    from gpufleet.tasks import console

    here = workspace()
    fleet_file = here.find_fleet(fleet or None)
    name = f"capacity-{fleet_file.parent.name}-{fleet_file.stem}.html"
    file = Path(output or name).resolve()
    with console.ProgressView() as view:
        plan = write_capacity_page(here, fleet_file, file, view)
    if json:
        print_json({"page": str(file), "gpus": plan.gpus, "warnings": plan.warnings})
    else:
        console.facts.print(f"wrote {file}", soft_wrap=True)


@command({"fleet": FLEET_HELP, "json": JSON_HELP})
def decide(_: Context, fleet: str = "", json: bool = False) -> None:
    """Local, hosted or hybrid for each use case, with the numbers, and what would turn it.

    Example: ./fleet plan.decide --fleet fleets/article/production.yaml
    """
    from gpufleet.flows.plans import plan_capacity
    from gpufleet.flows.verdicts import decide_use_cases, fresh_prices
    from gpufleet.tasks import console, verdict_view

    here = workspace()
    file = here.find_fleet(fleet or None)
    fresh_prices(here, file)
    with console.planning():
        report = decide_use_cases(here, file, plan_capacity(here, file))
    if json:
        print_json(report.model_dump())
    else:
        verdict_view.show_decision(report)
