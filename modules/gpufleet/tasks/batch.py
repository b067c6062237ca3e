"""Batches of requests: they fill GPUs that batch pools leave idle, and never interactive ones."""

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
_BATCH = {"batch": "Id, as batch.list shows it.", **_HELP}


@command(
    {
        "file": "OpenAI's batch file: one request a line, as JSON.",
        "use-case": "Whose requests these are; one of class batch.",
        "priority": "low, normal or high: the order among batches.",
        "window": "Such as 24h: what has no answer by then gets none.",
        "detach": "Do not follow it: print the batch's id and end.",
        "apply": APPLY_HELP,
        **_HELP,
    }
)
def submit(
    _: Context,
    file: str,
    use_case: str,
    priority: str = "normal",
    window: str = "24h",
    detach: bool = False,
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """Show what a file of requests would take; with --apply, let the worker have it answered.

    Example: ./fleet batch.submit requests.jsonl --use-case document-extraction --apply
    """
    from gpufleet.flows import batches
    from gpufleet.spec.batches import Batch
    from gpufleet.tasks import batch_view, flow_view

    ground = opened_ground(fleet)
    wish = batches.wish_of(use_case, priority, window)
    content = batches.read_file(file)
    plan = batches.plan(ground, wish, content, file)
    if not (apply and json):
        batch_view.show_plan(plan, json=json)
    if not apply:
        return
    made = batches.submit_content(ground, wish, content, file)
    if detach:
        flow_view.tell_flow(made.id, json=json)
        return
    done = Batch.model_validate(flow_view.follow(ground, made.id))
    batch_view.show_batches([done], json=json)


@command({"open": "Only those that have not ended.", **_HELP}, name="list")
def list_(_: Context, open: bool = False, fleet: str = "", json: bool = False) -> None:  # noqa: A002 - the flag
    """Every batch, newest first.

    Example: ./fleet batch.list --open
    """
    from gpufleet.flows.batches import listed
    from gpufleet.tasks import batch_view

    batch_view.show_batches(listed(opened_ground(fleet), only_open=open), json=json)


@command(_BATCH)
def show(_: Context, batch: str, fleet: str = "", json: bool = False) -> None:
    """One batch as it stands.

    Example: ./fleet batch.show batch-20260301-101500-a1b2c3
    """
    from gpufleet.flows.batches import shown
    from gpufleet.tasks import batch_view

    found = shown(opened_ground(fleet), batch)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        batch_view.show_batch(found)


@command({**_BATCH, "apply": APPLY_HELP})
def cancel(
    _: Context, batch: str, apply: bool = False, fleet: str = "", json: bool = False
) -> None:
    """Let a batch end; what was answered until then is kept.

    Example: ./fleet batch.cancel batch-20260301-101500-a1b2c3 --apply
    """
    from gpufleet.flows import batches
    from gpufleet.flows.ground import whoami
    from gpufleet.tasks import batch_view

    ground = opened_ground(fleet)
    found = batches.cancel(ground, batch, whoami()) if apply else batches.shown(ground, batch)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        batch_view.show_cancelled(found, done=apply)


@command(
    {
        "output": "File for the answers; `-` for stdout.",
        "errors": "File for the errors; not written where it is not given.",
        **_BATCH,
    }
)
def results(
    _: Context,
    batch: str,
    output: str = "-",
    errors: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """The answers of a batch that has ended, in OpenAI's format, in the order of its requests.

    Example: ./fleet batch.results batch-20260301-101500-a1b2c3 --output answers.jsonl
    """
    from gpufleet.flows import batches
    from gpufleet.tasks import batch_view

    found = batches.write_results(opened_ground(fleet), batch, output, errors)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        batch_view.tell_results(found)


@command(
    {
        "bucket": "Of the environment's batches.",
        "batch": "Id.",
        "index": "Number of the shard, from 0.",
        "engine": "Address of the engine beside it.",
        "concurrency": "Requests in flight.",
        "endpoint": "Of the object store; its keys come by AWS' own variables.",
        "region": "That requests to it are signed for.",
        "apply": "Do it; without this flag only the number of unanswered requests is shown.",
    }
)
def answer(
    _: Context,
    bucket: str = "",
    batch: str = "",
    index: str = "",
    engine: str = "",
    concurrency: str = "1",
    endpoint: str = "",
    region: str = "",
    apply: bool = False,
) -> None:
    """Answer one shard of a batch; run by the batch's own pods.

    Example: ./fleet batch.answer --bucket sample-production-batch --batch ID --index 0 --engine URL
    """
    from invoke.exceptions import Exit

    from gpufleet.core.batch_jobs import EXIT_TOLD_TO_END
    from gpufleet.flows.batch_answer import answer_shard, duty_of, unanswered
    from gpufleet.tasks.console import facts

    duty = duty_of(
        (index, concurrency),
        bucket=bucket,
        batch=batch,
        engine=engine,
        endpoint=endpoint,
        region=region,
    )
    if not apply:
        facts.print(f"{unanswered(duty)} requests have no answer")
        return
    if not answer_shard(duty):
        raise Exit("fleet: was told to end; what was answered is kept", code=EXIT_TOLD_TO_END)
