"""How the weights of a pool's pod are asked for and told."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Final

from gpufleet.core.weights import Source
from gpufleet.edges.object_client import Place
from gpufleet.flows.snapshots.weights import WeightsOrder, bring_weights, planned_weights
from gpufleet.spec import forms
from gpufleet.spec.errors import BadInput
from gpufleet.spec.weights import Way
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import facts
from gpufleet.tasks.snapshot_view import size

_DIGEST: Final = re.compile(forms.DIGEST, re.ASCII)
_WAYS: Final = {
    Way.THERE: "is there already",
    Way.CACHE: "is in the node's cache",
    Way.STORE: "is not in a cache",
}


def wish(source: str, digest: str, to: str, cache: str) -> WeightsOrder:
    """What is asked for, from the flags.

    Raises:
        BadInput: the source or the digest is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise BadInput(
            f"`{digest:.80}` is no digest",
            where="--digest",
            mend="sha256: and 64 hexadecimal digits; `snapshot.show` tells it",
        )
    return WeightsOrder(Source.of(source), digest, Path(to), Path(cache) if cache else None)


def carry_out(order: WeightsOrder, place: tuple[str, str, str], *, apply: bool, json: bool) -> None:
    """Bring them and tell what came of it, or tell what would be done.

    Args:
        order: what.
        place: endpoint, region and style; empty for AWS's chain.
        apply: bring them.
        json: tell it to machines.
    """
    at = Place.of_chain(*place)
    if not apply:
        plan = planned_weights(order, at)
        if json:
            print_json(asdict(plan))
            return
        facts.print(
            f"{plan.to}: {plan.files} files, {size(plan.bytes_total)} of {plan.snapshot}, which "
            f"{_WAYS[plan.way]}; --apply brings it",
            soft_wrap=True,
        )
        return
    report = bring_weights(order, at)
    if json:
        print_json(asdict(report))
        return
    if report.cache:
        facts.print(f"the node's cache is not used: {report.cache}", soft_wrap=True)
    facts.print(
        f"{report.to}: {report.files} files, {size(report.bytes_total)} of {report.snapshot}, by "
        f"way of {report.way.value}; fetched {size(report.bytes_fetched)} in "
        f"{report.seconds:.1f} s, every byte verified",
        soft_wrap=True,
    )
