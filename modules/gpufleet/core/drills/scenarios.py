"""The scenarios that can be drilled, as data: what fails, what is proven, what a person does."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gpufleet.core.drills.failover import affected_pools
from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet


@dataclass(frozen=True)
class Scenario:
    """Something that goes wrong."""

    name: ScenarioName
    title: str
    """What has happened, as a person would say it."""
    target: str
    """What is lost: such as `site`."""
    fails: str
    """What a drill does to its stand-ins, in isolation."""
    proves: str
    """What has come back when it is met."""
    leaves_out: tuple[str, ...] = ()
    """What it does not show."""
    needs_snapshot: bool = False
    """Whether it takes a snapshot of the revision."""


SITE_LOST: Final = Scenario(
    name=ScenarioName.SITE_LOST,
    title="A whole site is lost",
    target="site",
    fails="every stand-in replica at the site ends at once and does not come back",
    proves=(
        "each interactive pool of the site comes up at the other sites, on free GPUs and within "
        "the residency of its use cases, and the gateway answers with its revision's tokens"
    ),
    leaves_out=(
        "batch pools are not asked to yield: that would touch production",
        "the site's API server and object store go on: only its replicas are gone",
    ),
)

_ONE_POOL: Final = ("one stand-in replica of the pool at the site: production's own go on",)

GPU_LOST: Final = Scenario(
    name=ScenarioName.GPU_LOST,
    title="A GPU is lost",
    target="pool@site",
    fails="the stand-in replica ends and does not come back; its node may not be used again",
    proves="a replica comes up on another node, with its weights from the store, and answers",
    leaves_out=(*_ONE_POOL, "the GPU's own signs (XIDs) are not made: the process ends"),
)

CACHE_CORRUPTED: Final = Scenario(
    name=ScenarioName.CACHE_CORRUPTED,
    title="The weights on a node are corrupted",
    target="pool@site",
    fails=(
        "the stand-in replica ends, and bytes in every file of the restored weights are "
        "overwritten on the disk"
    ),
    proves=(
        "every damaged part is found by its digest and fetched again, what is whole stays, and the "
        "replica answers"
    ),
    leaves_out=(*_ONE_POOL, "the weights are a copy of the drill's own"),
    needs_snapshot=True,
)

STORE_LOST: Final = Scenario(
    name=ScenarioName.STORE_LOST,
    title="A site's object store is lost",
    target="pool@site",
    fails="the stand-in replica ends, and the store that its weights come from does not answer",
    proves="the weights come from another site's store, all verified, and the replica answers",
    leaves_out=(*_ONE_POOL, "the store is not stopped: the drill asks where nothing answers"),
    needs_snapshot=True,
)

SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {each.name.value: each for each in (SITE_LOST, GPU_LOST, CACHE_CORRUPTED, STORE_LOST)}
)


def scenario_of(name: str) -> Scenario:
    """A scenario by its name.

    Raises:
        BadInput: there is none.
    """
    found = SCENARIOS.get(name)
    if found is None:
        known = ", ".join(SCENARIOS)
        raise BadInput(
            f"there is no scenario `{name[:60]}`", where="--scenario", mend=f"one of {known}"
        )
    return found


def targets_of(fleet: Fleet, scenario: str) -> list[str]:
    """What a scenario can be drilled on; none where the fleet has nothing of it."""
    hit = {site: affected_pools(fleet, site) for site in fleet.sites}
    if scenario == SITE_LOST.name:
        return [site for site, pools in hit.items() if pools and len(fleet.sites) > 1]
    return [f"{pool}@{site}" for site, pools in hit.items() for pool in pools]
