"""Faults of simulated replicas, for drills and tests on embedded sites."""

from typing import TYPE_CHECKING

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    print_json,
    workspace,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpufleet.spec.simulation import SimulatedReplica

_HELP = {"fleet": FLEET_HELP, "json": JSON_HELP}


@command(
    {
        "kind": "oom, crash, power, hang, slow, errors, truncate or answers.",
        "pool": "Only this pool's replicas.",
        "pod": "Only this pod's replica.",
        "site": "Only this site's replicas.",
        "factor": "Of slow: every step takes so many times as long.",
        "share": "Of errors, truncate, answers: share of the requests; else share of the replicas.",
        "for-s": "Ends after so many seconds. Default: when cleared; oom, crash: starts at once.",
        "apply": APPLY_HELP,
        **_HELP,
    }
)
def fault(
    _: Context,
    kind: str,
    pool: str = "",
    pod: str = "",
    site: str = "",
    factor: float = 3.0,
    share: float = 1.0,
    for_s: float = 0.0,
    apply: bool = False,
    fleet: str = "",
    json: bool = False,
) -> None:
    """A tool of drills and tests: let something go wrong with simulated replicas.

    Example: ./fleet simulate.fault --kind hang --pool chat --share 0.2 --for-s 60 --apply
    """
    from gpufleet.flows.simulation import fault as inject
    from gpufleet.tasks.console import facts

    here = workspace()
    report = inject(
        here,
        here.find_fleet(fleet or None),
        kind=kind,
        pool=pool,
        pod=pod,
        site=site,
        factor=factor,
        share=share,
        for_s=for_s or None,
        apply=apply,
    )
    if json:
        print_json(report.model_dump(mode="json"))
        return
    _show(report.replicas)
    state = "is under way" if apply else "would happen: --apply does it"
    facts.print(f"{kind} on {len(report.replicas)} simulated replicas {state}")


@command({"apply": APPLY_HELP, **_HELP})
def clear(_: Context, apply: bool = False, fleet: str = "", json: bool = False) -> None:
    """A tool of drills and tests: end every fault of simulated replicas.

    Example: ./fleet simulate.clear --apply
    """
    from gpufleet.flows.simulation import clear as end
    from gpufleet.tasks.console import facts

    here = workspace()
    found = end(here, here.find_fleet(fleet or None), apply=apply)
    if json:
        print_json([each.model_dump(mode="json") for each in found])
        return
    _show(found)
    state = "had a fault" if apply else "have a fault: --apply ends it"
    facts.print(f"{len(found)} simulated replicas {state}")


@command(_HELP)
def replicas(_: Context, fleet: str = "", json: bool = False) -> None:
    """Every simulated replica: where it answers, how busy it is, what is wrong with it.

    Example: ./fleet simulate.replicas --fleet fleets/article/production.yaml
    """
    from gpufleet.flows.simulation import replicas as seen

    here = workspace()
    found = seen(here, here.find_fleet(fleet or None))
    if json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        _show(found)


def _show(found: "Sequence[SimulatedReplica]") -> None:
    from gpufleet.tasks.console import facts, plain_table

    table = plain_table()
    for column in ("SITE", "POOL", "POD", "ADDRESS", "STATE"):
        table.add_column(column, no_wrap=True)
    for column in ("RESTARTS", "RUNNING", "WAITING", "KV"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("FAULTS")
    for each in found:
        table.add_row(
            each.site,
            each.pool,
            each.pod,
            each.address,
            each.state,
            str(each.restarts),
            str(each.running),
            str(each.waiting),
            f"{each.kv_usage:.0%}",
            ", ".join(each.faults),
        )
    facts.print(table)
