"""Scenarios in which replicas go on, and what gpufleet knows of them is lost."""

from types import MappingProxyType
from typing import Final

from gpufleet.core.drills.scenario import ANSWERS, DUE, STATUS, Ends, Scenario, Step
from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.drills import Phase

DATABASE: Final = "database"
"""The one target of its loss."""
STACK_PROJECTS: Final = ("pools", "platform")
"""Of the stacks at each site."""
_RESTORE_DATABASE: Final = (
    "./fleet snapshot.restore --snapshot ID --only database --to DIR --site SITE "
    '--fleet "$FLEET" --apply'
)
_GO_ON: Final = Step(
    "Replicas go on: nothing of them was lost. See that it is so.",
    (STATUS,),
    heading="See that the replicas go on",
)

STATE_LOST: Final = Scenario(
    name=ScenarioName.STATE_LOST,
    title="Pulumi's state is lost or stale",
    target="stack@site",
    fails=(
        "in a backend of the drill's own the stacks have no state, or an older one; the stand-in "
        "replicas go on"
    ),
    proves=(
        "a preview tells that the state is lost, the newest one that was kept is restored, by it "
        "nothing is to be made again, and service goes on all the while"
    ),
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "`preview` wants to make what stands already, or to undo what was changed last: "
                "the state is lost, or older than the cluster. Apply nothing.",
                (STATUS,),
                ('./fleet preview --fleet "$FLEET"',),
            ),
            Phase.DECIDE: Step(
                "See which states were kept, after each update and in each protected set, and "
                "take the newest.",
                ('./fleet state.list --fleet "$FLEET"',),
                heading="Decide which state comes back",
            ),
            Phase.PROVISION: Step(
                "No update may be under way: end it, or wait for it.",
                ('./fleet flows.list --fleet "$FLEET"',),
                heading="Let nobody update the stack",
            ),
            Phase.ARTIFACTS: Step(
                "Restore it; the one that it replaces is kept beside it. A preview then has to "
                "change nothing.",
                (),
                (
                    './fleet state.restore "pools SITE" --fleet "$FLEET"',
                    './fleet state.restore "pools SITE" --fleet "$FLEET" --apply',
                    './fleet preview --fleet "$FLEET"',
                ),
                heading="Bring the state back",
            ),
            Phase.LOAD: _GO_ON,
            Phase.FIRST_TOKEN: ANSWERS,
        }
    ),
    leaves_out=(
        "the environment's own backend is not touched: the drill previews by one beside it",
    ),
    ends=Ends.NOTHING,
)

DATABASE_LOST: Final = Scenario(
    name=ScenarioName.DATABASE_LOST,
    title="gpufleet's database is lost",
    target="database",
    fails="the drill looks at an empty database beside the environment's; the stand-ins go on",
    proves=(
        "an empty database is told from the environment's, the newest protected set is restored "
        "beside it, its journal verifies to the heads that were protected, gateway keys and open "
        "flows are there, and service goes on all the while"
    ),
    steps=MappingProxyType(
        {
            Phase.DETECT: Step(
                "Tasks say that the database does not answer or is damaged, or lists are empty "
                "that were not; `dr.protect` refuses to protect less than before. Replicas go on, "
                "and the gateway with the keys that it knows.",
                ('./fleet journal.list --fleet "$FLEET"',),
                ('./fleet dr.protect --fleet "$FLEET"',),
            ),
            Phase.DECIDE: Step(
                "See which protected sets there are, at each site's store: what was written since "
                "the newest is lost.",
                (DUE,),
                ('./fleet snapshot.list --revision protected --site SITE --fleet "$FLEET"',),
                heading="Decide which set comes back",
            ),
            Phase.PROVISION: Step(
                "End whoever has the database open: the worker, and every task.",
                (STATUS,),
                ('./fleet down --fleet "$FLEET"',),
                heading="Let nobody write",
            ),
            Phase.ARTIFACTS: Step(
                "Restore the part `database` of that set, and put it in place as "
                "docs/protection.md says: what it replaces is kept beside it.",
                (),
                (_RESTORE_DATABASE,),
                heading="Bring the database back",
            ),
            Phase.LOAD: Step(
                "Verify the journal, see that flows go on, and make the keys again that were "
                "issued since.",
                ('./fleet journal.verify --fleet "$FLEET"', './fleet access.list --fleet "$FLEET"'),
                ('./fleet flows.list --fleet "$FLEET"',),
                heading="See what came back",
            ),
            Phase.FIRST_TOKEN: ANSWERS,
        }
    ),
    leaves_out=(
        "the environment's own database is not taken away: what comes back stands beside it",
    ),
    ends=Ends.NOTHING,
)
