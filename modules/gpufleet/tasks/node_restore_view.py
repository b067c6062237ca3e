"""How restoring to nodes is asked for and looks on a terminal."""

import sys
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from gpufleet.flows.node_restore import NodeOrder, plan, restore_to_nodes
from gpufleet.spec.errors import BadInput
from gpufleet.spec.quantities import Bytes
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import facts
from gpufleet.tasks.schedule_view import duration
from gpufleet.tasks.snapshot_view import size

if TYPE_CHECKING:
    from gpufleet.flows.ground import Ground
    from gpufleet.spec.node_restores import NodeRestorePlan, NodeRestoreReport

_FLAGS = ("--node-rate", "--store-rate", "--network-rate")


def wish(snapshot: str, group: str, rates: tuple[str, str, str], *, elsewhere: str) -> NodeOrder:
    """What is to be restored to nodes, from the flags.

    Raises:
        BadInput: a rate is none, or a flag belongs to a restore into a folder.
    """
    if elsewhere:
        raise BadInput(
            "goes into the nodes' caches whole, from the store of their site",
            where="--nodes",
            mend="leave out --to, --only and --site",
        )
    node, store, network = (_rate(flag, rate) for flag, rate in zip(_FLAGS, rates, strict=True))
    return NodeOrder(snapshot, group, node, store, network)


def carry_out(ground: "Ground", order: NodeOrder, *, apply: bool, json: bool) -> bool:
    """Show what it would do, or do it; whether nothing failed."""
    if not apply:
        planned = plan(ground, order)
        if json:
            print_json(planned.model_dump(mode="json"))
        else:
            _show_plan(planned)
        return True
    report = restore_to_nodes(ground, order, _tell)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        _show_report(report)
    return not report.failed


def _rate(flag: str, given: str) -> float | None:
    if not given:
        return None
    try:
        found: float = TypeAdapter(Bytes).validate_python(given.removesuffix("/s"))
    except ValidationError:
        found = 0
    if found <= 0:
        raise BadInput("is no rate", where=flag, mend="such as 2GB: bytes in a second")
    return found


def _tell(done: int, nodes: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {nodes} nodes")


def _show_plan(planned: "NodeRestorePlan") -> None:
    facts.print(
        f"{planned.revision} ({size(planned.bytes_each)}) would be restored to {planned.folder} of "
        f"{len(planned.nodes)} nodes of {planned.node_group} at {planned.site}, "
        f"{planned.parallelism} at once; the first have it in about {duration(planned.first_s)}, "
        f"all in {duration(planned.all_s)}",
        soft_wrap=True,
    )
    for node, why in planned.left_out.items():
        facts.print(Text(f"not {node}: {why}", style="yellow"), soft_wrap=True)
    facts.print("--apply restores it")


def _show_report(report: "NodeRestoreReport") -> None:
    facts.print(
        f"{report.folder}: on {len(report.done)} nodes, every byte verified, in "
        f"{duration(report.seconds)}",
        soft_wrap=True,
    )
    for node in report.failed:
        facts.print(Text(f"{node}: failed in every try", style="red"), soft_wrap=True)
