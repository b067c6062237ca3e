"""The scenarios that can be drilled, as data: what fails, what is proven, what a person does."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gpufleet.core.drills.failover import affected_pools
from gpufleet.core.drills.records import DATABASE, DATABASE_LOST, STACK_PROJECTS, STATE_LOST
from gpufleet.core.drills.scenario import ANSWERS, DUE, LOADS, STATUS, Ends, Scenario, Step
from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.drills import Phase
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet

_RESTORE: Final = './fleet snapshot.restore --fleet "$FLEET" --apply --snapshot ID --to DIR'
_ANOTHER_NODE: Final = Step(
    "Keep replicas off the node, and let the one that was there come up elsewhere: its "
    "workload makes it again on any node of its group with a free GPU.",
    (STATUS,),
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
                (STATUS, './fleet gateway.status --fleet "$FLEET"'),
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
                (DUE,),
                (
                    './fleet snapshot.list --site OTHER --fleet "$FLEET"',
                    "./fleet snapshot.take --revision NAME --source DIR --site OTHER --apply",
                ),
            ),
            Phase.LOAD: LOADS,
            Phase.FIRST_TOKEN: ANSWERS,
        }
    ),
    leaves_out=(
        "batch pools are not asked to yield: that would touch production",
        "the site's API server and object store go on: only its replicas are gone",
    ),
)

_ONE_POOL: Final = ("one stand-in replica of the pool at the site: production's own go on",)

_OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"

NODE_LOST: Final = Scenario(
    name=ScenarioName.NODE_LOST,
    title="A node is lost",
    target="pool@site",
    fails=(
        "a node of the drill's own is not heard of any more, as when a machine loses its power, "
        "and the stand-in replica ends with it; the node's object and the pod stay"
    ),
    proves=(
        "the cluster calls the node unreachable, schedules nothing there and gives its pod up in "
        "the time that the pool declares; a replica comes up on another node, though the old pod "
        "is still there, and answers"
    ),
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "The gateway asks only who answers; the pod may still be called running. After "
                "50 s without a heartbeat its node is not ready.",
                (STATUS, './fleet gateway.status --fleet "$FLEET"'),
                ("kubectl --context SITE get nodes", "kubectl --context SITE describe node NODE"),
            ),
            Phase.DECIDE: Step(
                "See where else the pool can run. Find out whether the machine is off or only cut "
                "off: what is cut off may still run.",
                ('./fleet dr.scenarios --fleet "$FLEET"',),
                ("kubectl --context SITE get lease -n kube-node-lease NODE",),
            ),
            Phase.PROVISION: Step(
                "Wait until its pods are given up: by themselves, as soon as the pool's toleration "
                "has passed. Only where the machine is off for sure, do not wait: the taint lets "
                "go of its pods and volumes at once. Leave the Node object: it comes back with the "
                "machine.",
                (STATUS,),
                (f"kubectl --context SITE taint node NODE {_OUT_OF_SERVICE}",),
            ),
            Phase.ARTIFACTS: Step(
                "Another node has nothing in its cache: the weights come from the site's store, "
                "every byte verified. See that it has a snapshot.",
                (DUE,),
                ('./fleet snapshot.list --revision NAME --site SITE --fleet "$FLEET"',),
            ),
            Phase.LOAD: LOADS,
            Phase.FIRST_TOKEN: ANSWERS,
        }
    ),
    leaves_out=(
        *_ONE_POOL,
        "requests to a machine without power hang; here its connections are refused at once",
    ),
    ends=Ends.NODE,
)

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
                (STATUS,),
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
                (DUE,),
                ('./fleet snapshot.list --revision NAME --site SITE --fleet "$FLEET"',),
            ),
            Phase.LOAD: LOADS,
            Phase.FIRST_TOKEN: ANSWERS,
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
                (STATUS,),
            ),
            Phase.DECIDE: Step(
                "See which snapshot is the newest good one, and that the store itself is whole.",
                (DUE,),
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
            Phase.LOAD: LOADS,
            Phase.FIRST_TOKEN: ANSWERS,
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
                (STATUS,),
            ),
            Phase.DECIDE: Step(
                "See which other site's store has the revision, and when its restore was last "
                "proven.",
                (DUE,),
                ('./fleet snapshot.list --revision NAME --site OTHER --fleet "$FLEET"',),
            ),
            Phase.PROVISION: Step(
                "Stop the replicas that cannot load. Keep those that run: do not change their "
                "pools, and do not drain their nodes, until the store is back.",
                (STATUS,),
            ),
            Phase.ARTIFACTS: Step(
                "Restore from the other store, every byte verified.",
                (),
                (f"{_RESTORE} --site OTHER",),
            ),
            Phase.LOAD: LOADS,
            Phase.FIRST_TOKEN: ANSWERS,
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
                (STATUS,),
                ('./fleet snapshot.verify --snapshot ID --site SITE --fleet "$FLEET"',),
            ),
            Phase.DECIDE: Step(
                "See which snapshots of the revision there are, and take the newest that verifies.",
                (DUE,),
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
            Phase.LOAD: LOADS,
            Phase.FIRST_TOKEN: ANSWERS,
        }
    ),
    leaves_out=(*_ONE_POOL, "the snapshots are copies in a bucket of the drill's own"),
    needs_snapshot=True,
)

SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        each.name.value: each
        for each in (
            SITE_LOST,
            NODE_LOST,
            GPU_LOST,
            CACHE_CORRUPTED,
            STORE_LOST,
            BAD_SNAPSHOT,
            STATE_LOST,
            DATABASE_LOST,
        )
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
    hit = {site: pools for site in fleet.sites if (pools := affected_pools(fleet, site))}
    if scenario == SITE_LOST.name:
        return list(hit) if len(fleet.sites) > 1 else []
    if scenario == STATE_LOST.name:
        return [f"{project}@{site}" for site in hit for project in STACK_PROJECTS]
    if scenario == DATABASE_LOST.name:
        return [DATABASE] if hit else []
    return [f"{pool}@{site}" for site, pools in hit.items() for pool in pools]
