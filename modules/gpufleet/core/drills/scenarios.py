"""The scenarios that can be drilled, as data: what fails, what is proven, what a person does."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gpufleet.core.drills.failover import affected_pools
from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.drills import Phase
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet


@dataclass(frozen=True)
class Step:
    """What a person does in the place of one phase of a drill."""

    text: str
    commands: tuple[str, ...] = ()
    """That show how it is, and change nothing; the tests run them."""
    by_hand: tuple[str, ...] = ()
    """That act, or need a name that only the reader knows."""


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
    steps: Mapping[Phase, Step]
    """What a person does when it is no drill, phase by phase."""
    leaves_out: tuple[str, ...] = ()
    """What it does not show."""
    needs_snapshot: bool = False
    """Whether it takes a snapshot of the revision."""


_RESTORE: Final = './fleet snapshot.restore --fleet "$FLEET" --apply --snapshot ID --to DIR'
_STATUS: Final = './fleet status --fleet "$FLEET" || test $? -eq 5'
_ANSWERS: Final = Step(
    "Ask for each use case that was hit; the answer names route and model. `slo.status` says what "
    "it has cost of the error budget.",
    ('./fleet gateway.status --fleet "$FLEET"',),
    (
        './fleet gateway.ask --use-case NAME "Hello" --fleet "$FLEET"',
        './fleet slo.status --fleet "$FLEET"',
    ),
)
_LOADS: Final = Step(
    "A replica is ready when it has given a token. One that stays in loading longer than its "
    "revision's `load_time_s` is stuck: see its pod.",
    (_STATUS,),
    ("kubectl --context SITE get pods -A -l gpufleet.dev/pool",),
)
_ANOTHER_NODE: Final = Step(
    "Keep replicas off the node, and let the one that was there come up elsewhere: its "
    "workload makes it again on any node of its group with a free GPU.",
    (_STATUS,),
    ("kubectl --context SITE cordon NODE", "kubectl --context SITE delete pod -n NAMESPACE POD"),
)

SITE_LOST: Final = Scenario(
    name=ScenarioName.SITE_LOST,
    title="A whole site is lost",
    target="site",
    fails="every stand-in replica at the site ends at once and does not come back",
    proves=(
        "each interactive pool of the site comes up at the other sites, on free GPUs and within "
        "the residency of its use cases, and the gateway answers with its revision's tokens"
    ),
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "Its cluster does not answer, or none of its replicas. The gateway asks only who "
                "answers: use cases with replicas elsewhere go on there, more slowly.",
                (_STATUS, './fleet gateway.status --fleet "$FLEET"'),
            ),
            Phase.DECIDE: Step(
                "See what can come up where, within free GPUs and residency, and which use cases "
                "cannot. A site that does not answer does not stop the plan.",
                ('./fleet dr.scenarios --fleet "$FLEET"',),
                ('./fleet dr.drill --scenario site-lost --target SITE --fleet "$FLEET"',),
            ),
            Phase.PROVISION: Step(
                "Declare it: give each pool the replicas at the node groups that the plan names; "
                "where GPUs are short, lower batch pools at that site in the same change. In a "
                "freeze it takes an override.",
                ('./fleet change --fleet "$FLEET"',),
                ('$EDITOR "$FLEET"', './fleet change --apply --fleet "$FLEET"'),
            ),
            Phase.ARTIFACTS: Step(
                "Weights come from the store of the site where the replicas come up. See that it "
                "has a snapshot of each revision; where it lacks one, take it there from any "
                "folder that has the files.",
                ('./fleet dr.schedule --fleet "$FLEET" || test $? -eq 5',),
                (
                    './fleet snapshot.list --site OTHER --fleet "$FLEET"',
                    "./fleet snapshot.take --revision NAME --source DIR --site OTHER --apply",
                ),
            ),
            Phase.LOAD: _LOADS,
            Phase.FIRST_TOKEN: _ANSWERS,
        }
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
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "A replica ends again and again, or its node tells XIDs. See which, and what "
                "Prometheus knows of the node's GPUs.",
                (_STATUS,),
                ("kubectl --context SITE describe node NODE",),
            ),
            Phase.DECIDE: Step(
                "See where else the pool can run: a free GPU in its node group at the site, or in "
                "a spare group of the same kind of GPU.",
                ('./fleet dr.scenarios --fleet "$FLEET"',),
            ),
            Phase.PROVISION: _ANOTHER_NODE,
            Phase.ARTIFACTS: Step(
                "Another node has nothing in its cache: the weights come from the site's store, "
                "every byte verified. See that it has a snapshot.",
                ('./fleet dr.schedule --fleet "$FLEET" || test $? -eq 5',),
                ('./fleet snapshot.list --revision NAME --site SITE --fleet "$FLEET"',),
            ),
            Phase.LOAD: _LOADS,
            Phase.FIRST_TOKEN: _ANSWERS,
        }
    ),
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
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "A replica does not load, or its answers are not those of its revision. Nothing "
                "but a digest tells: verify what the node has by restoring over it.",
                (_STATUS,),
            ),
            Phase.DECIDE: Step(
                "See which snapshot is the newest good one, and that the store itself is whole.",
                ('./fleet dr.schedule --fleet "$FLEET" || test $? -eq 5',),
                (
                    './fleet snapshot.list --revision NAME --site SITE --fleet "$FLEET"',
                    './fleet snapshot.verify --snapshot ID --site SITE --fleet "$FLEET"',
                ),
            ),
            Phase.PROVISION: Step(
                "Stop the replica on that node, so that nothing reads what is replaced.",
                (),
                ("kubectl --context SITE delete pod -n NAMESPACE POD",),
            ),
            Phase.ARTIFACTS: Step(
                "Restore over the damaged tree: what is whole is taken as it is, what is not is "
                "fetched, every byte is verified, and the folder is switched at once.",
                (),
                (f"{_RESTORE} --site SITE",),
            ),
            Phase.LOAD: _LOADS,
            Phase.FIRST_TOKEN: _ANSWERS,
        }
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
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "The site's object store does not answer. Replicas that run go on; none can start.",
                (_STATUS,),
            ),
            Phase.DECIDE: Step(
                "See which other site's store has the revision, and when its restore was last "
                "proven.",
                ('./fleet dr.schedule --fleet "$FLEET" || test $? -eq 5',),
                ('./fleet snapshot.list --revision NAME --site OTHER --fleet "$FLEET"',),
            ),
            Phase.PROVISION: Step(
                "Stop the replicas that cannot load. Keep those that run: do not change their "
                "pools, and do not drain their nodes, until the store is back.",
                (_STATUS,),
            ),
            Phase.ARTIFACTS: Step(
                "Restore from the other store, every byte verified.",
                (),
                (f"{_RESTORE} --site OTHER",),
            ),
            Phase.LOAD: _LOADS,
            Phase.FIRST_TOKEN: _ANSWERS,
        }
    ),
    leaves_out=(*_ONE_POOL, "the store is not stopped: the drill asks where nothing answers"),
    needs_snapshot=True,
)

BAD_SNAPSHOT: Final = Scenario(
    name=ScenarioName.BAD_SNAPSHOT,
    title="The newest snapshot is bad",
    target="pool@site",
    fails=(
        "the stand-in replica ends, and what only the newest of two snapshots needs is overwritten "
        "in the store"
    ),
    proves="the damage is found, the last good snapshot is restored, and the replica answers",
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "A restore says that a chunk is lost or damaged, or `snapshot.verify` does.",
                (_STATUS,),
                ('./fleet snapshot.verify --snapshot ID --site SITE --fleet "$FLEET"',),
            ),
            Phase.DECIDE: Step(
                "See which snapshots of the revision there are, and take the newest that verifies.",
                ('./fleet dr.schedule --fleet "$FLEET" || test $? -eq 5',),
                ('./fleet snapshot.list --revision NAME --site SITE --fleet "$FLEET"',),
            ),
            Phase.PROVISION: Step(
                "Stop the replica on that node, so that nothing reads what is replaced.",
                (),
                ("kubectl --context SITE delete pod -n NAMESPACE POD",),
            ),
            Phase.ARTIFACTS: Step(
                "Restore the last good one, every byte verified. The bad one stays for whoever "
                "looks for the cause; a new take makes it good where the files are still there.",
                (),
                (f"{_RESTORE} --site SITE",),
            ),
            Phase.LOAD: _LOADS,
            Phase.FIRST_TOKEN: _ANSWERS,
        }
    ),
    leaves_out=(*_ONE_POOL, "the snapshots are copies in a bucket of the drill's own"),
    needs_snapshot=True,
)

SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        each.name.value: each
        for each in (SITE_LOST, GPU_LOST, CACHE_CORRUPTED, STORE_LOST, BAD_SNAPSHOT)
    }
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
