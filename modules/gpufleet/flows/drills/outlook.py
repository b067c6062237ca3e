"""How long a drill is expected to take: by earlier ones, or by what the fleet file declares."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gpufleet.core.drills.scenario import Scenario
from gpufleet.core.drills.verdict import predicted
from gpufleet.core.serving import LOCAL_RESTORE_BYTES_PER_S
from gpufleet.core.snapshots.prediction import Rates, Work
from gpufleet.flows.drills.artifacts import known_snapshot, not_shown
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.requests import measured_rate
from gpufleet.spec.drills import Outlook, Phase, Placed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster
from gpufleet.spec.snapshots import SnapshotSummary

_DETECT_S: Final = 5.0
"""A few readings of the engines, and a question that is not answered."""
_DECIDE_S: Final = 2.0
_PROVISION_S: Final = 5.0
NO_WAITS: Final[Mapping[Phase, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Weights:
    """The weights that have to come back at one site."""

    revision: str
    site: str
    snapshot: SnapshotSummary | None
    is_declared: bool
    """Whether the fleet file says that snapshots of the revision are taken."""


def weights_of(ground: Ground, placed: Iterable[Placed]) -> list[Weights]:
    """The newest snapshot of each revision that comes up, at its site."""
    wanted = dict.fromkeys((ground.fleet.pools[each.pool].model, each.site) for each in placed)
    declared = ground.fleet.snapshot_schedule.revisions
    return [
        Weights(name, site, known_snapshot(ground, site, name), name in declared)
        for name, site in wanted
    ]


def unproven(weights: Iterable[Weights]) -> list[str]:
    """What a drill cannot show of weights that no store has.

    It cannot be met without those of which snapshots are declared: another note than that of the
    restore, which doubts it then.
    """
    return [
        f"{not_shown(each.revision, each.site)}, though the fleet file declares snapshots of it: "
        "the drill cannot be met"
        if each.is_declared
        else not_shown(each.revision, each.site)
        for each in weights
        if each.snapshot is None
    ]


def outlook_of(  # noqa: PLR0913, PLR0917 - everything that times follow from
    ground: Ground,
    scenario: Scenario,
    target: str,
    hit: Sequence[str],
    placed: Sequence[Placed],
    weights: Sequence[Weights],
    waits: Mapping[Phase, float] = NO_WAITS,
    *,
    for_real: bool = False,
) -> Outlook:
    """What is expected, against the shortest objective of the use cases that are hit.

    By drills of the same kind: those for real tell nothing of those in isolation.

    Args:
        ground: the environment.
        scenario: that is drilled.
        target: of it.
        hit: use cases.
        placed: what comes up.
        weights: that have to come back.
        waits: seconds of phases that the scenario knows better.
        for_real: whether production itself is hit.
    """
    fleet = ground.fleet
    use_cases = [fleet.use_cases[name] for name in hit]
    models = {(fleet.models[fleet.pools[p.pool].model].load_time_s, p.site) for p in placed}
    size = sum(each.snapshot.plain_bytes for each in weights if each.snapshot)
    rate = measured_rate(ground) or LOCAL_RESTORE_BYTES_PER_S
    model = {
        Phase.DETECT: _DETECT_S,
        Phase.DECIDE: _DECIDE_S,
        Phase.PROVISION: _PROVISION_S,
        Phase.ARTIFACTS: size / rate,
        Phase.LOAD: max((load_s * _scale(fleet, site) for load_s, site in models), default=0.0),
        Phase.FIRST_TOKEN: max(each.slo.ttft_p95_s for each in use_cases),
        **waits,
    }
    earlier = ground.drills.reports(scenario.name, target)
    return predicted(
        [each for each in earlier if (each.for_real is not None) == for_real],
        model,
        rto_s=min(each.rto_s for each in use_cases),
        restore=(Work(size), Rates(rate, rate)) if size else None,
    )


def _scale(fleet: Fleet, site: str) -> float:
    """Simulated replicas load faster than real ones."""
    cluster = fleet.sites[site].cluster
    return cluster.load_time_scale if isinstance(cluster, EmbeddedCluster) else 1.0
