"""What a scenario is made of, and the steps that scenarios share."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gpufleet.spec.drill_cadence import ScenarioName
from gpufleet.spec.drills import Phase


class Ends(StrEnum):
    """What a failure does to the stand-ins that serve."""

    REPLICAS = "replicas"
    """They end, and nothing begins them anew where they were."""
    NODE = "node"
    """They end with their machine, and the cluster goes on counting them."""
    NOTHING = "nothing"
    """They go on: what is lost serves nobody."""


@dataclass(frozen=True)
class Step:
    """What a person does in the place of one phase of a drill."""

    text: str
    commands: tuple[str, ...] = ()
    """That show how it is, and change nothing; the tests run them."""
    by_hand: tuple[str, ...] = ()
    """That act, or need a name that only the reader knows."""
    heading: str = ""
    """Where it is another one than that of the phase in most scenarios."""


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
    ends: Ends = Ends.REPLICAS


STATUS: Final = './fleet status --fleet "$FLEET" || test $? -eq 5'
DUE: Final = './fleet dr.schedule --fleet "$FLEET" || test $? -eq 5'
ANSWERS: Final = Step(
    "Ask for each use case that was hit; the answer names route and model. `slo.status` says what "
    "it has cost of the error budget.",
    ('./fleet gateway.status --fleet "$FLEET"',),
    (
        './fleet gateway.ask --use-case NAME "Hello" --fleet "$FLEET"',
        './fleet slo.status --fleet "$FLEET"',
    ),
)
LOADS: Final = Step(
    "A replica is ready when it has given a token. One that stays in loading longer than its "
    "revision's `load_time_s` is stuck: see its pod.",
    (STATUS,),
    ("kubectl --context SITE get pods -A -l gpufleet.dev/pool",),
)
