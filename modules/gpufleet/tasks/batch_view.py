"""How batches look on a terminal."""

from typing import TYPE_CHECKING

from rich.text import Text

from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import facts, notes, plain_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpufleet.spec.batches import Batch, BatchPlan

_STYLES = {
    "completed": "green",
    "in_progress": "cyan",
    "finalizing": "cyan",
    "validating": "yellow",
    "cancelling": "magenta",
    "cancelled": "magenta",
    "expired": "red",
    "failed": "red",
}


def show_plan(plan: "BatchPlan", *, json: bool) -> None:
    """What a submission would do."""
    if json:
        print_json(plan.model_dump(mode="json"))
        return
    facts.print(
        f"{plan.requests:,} requests for {plan.use_case}, answered by {plan.model} in "
        f"{plan.shards} shards of {plan.gpus_per_shard} GPUs (pool {plan.pool}), "
        f"priority {plan.priority.value}, within {plan.window_s / 3600:g} h",
        soft_wrap=True,
    )
    for site in plan.sites:
        idle = f"{site.gpus} GPUs of batch quota idle" if site.reached else "does not answer"
        facts.print(f"site {site.site}, node group {site.node_group}: {idle}")


def show_batches(batches: "Sequence[Batch]", *, json: bool) -> None:
    """Batches, newest first."""
    if json:
        print_json([batch.model_dump(mode="json") for batch in batches])
        return
    if not batches:
        facts.print("no batches yet")
        return
    table = plain_table()
    for column in ("BATCH", "STATE", "USE CASE", "SITE", "ANSWERED", "FAILED", "EXPIRES"):
        table.add_column(column, no_wrap=True)
    for batch in batches:
        table.add_row(
            batch.id,
            Text(batch.state.value, style=_STYLES[batch.state.value]),
            batch.use_case,
            batch.site or "",
            f"{batch.completed}/{batch.requests}",
            str(batch.failed),
            batch.expires_at.isoformat(timespec="minutes"),
        )
    facts.print(table, soft_wrap=True)


def show_batch(batch: "Batch") -> None:
    """One batch, and what to do next."""
    show_batches([batch], json=False)
    if batch.error:
        facts.print(batch.error, style="red", soft_wrap=True)
    if batch.state.is_final:
        facts.print(f"its answers: ./fleet batch.results {batch.id}")
    else:
        facts.print(f"follow it: ./fleet flows.attach {batch.id}")


def show_cancelled(batch: "Batch", *, done: bool) -> None:
    """A batch that was, or would be, cancelled."""
    verb = "ends" if done else "would end"
    facts.print(f"{batch.id} {verb}: {batch.completed} of {batch.requests} requests are answered")


def tell_results(batch: "Batch") -> None:
    """What was written; on stderr, as the answers may be on stdout."""
    counts = f"{batch.completed} answers, {batch.failed} errors"
    notes.print(f"{batch.id} {batch.state.value}: {counts}")
