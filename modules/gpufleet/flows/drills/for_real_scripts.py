"""What is particular about each scenario for real: what is taken, and what comes up instead."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpufleet.core.drills.scenarios import SITE_LOST
from gpufleet.flows.drills.hits import Hits
from gpufleet.flows.drills.objects import Where
from gpufleet.flows.drills.script import Doubted, Script
from gpufleet.flows.drills.scripts import GpuLost, SiteLost
from gpufleet.flows.drills.stage import Stage
from gpufleet.flows.drills.story import Story
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import DrillPlan, ForReal, Placed, Reason
from gpufleet.spec.errors import Failed


@dataclass(frozen=True)
class SiteLostForReal(SiteLost):
    """Every interactive replica at the site ends; what was approved comes up elsewhere."""

    story: Story

    def prepare(self) -> None:
        """Keep how production is, before anything of it is taken."""
        real = _real(self.plan)
        lost = Hits(self.ground, self.plan.target).losing()
        yields = [each for each in real.scaled if each.reason is Reason.YIELDS]
        self.story.took(real.model_copy(update={"scaled": [*lost, *yields]}))

    def decide(self, fact: str) -> list[Placed]:
        """What was approved; batch yields what that needs now, and no more than was approved."""
        del fact
        kept = self.story.report().for_real or _real(self.plan)
        approved = [each for each in _real(self.plan).scaled if each.reason is Reason.YIELDS]
        rows = [each for each in kept.scaled if each.reason is Reason.LOST]
        for site in dict.fromkeys(each.site for each in approved):
            most = {each.pool: each.before - each.left for each in approved if each.site == site}
            rows += Hits(self.ground, site).yielding(self.plan.placed, most)
        self.story.took(kept.model_copy(update={"scaled": rows}))
        return self.plan.placed


@dataclass(frozen=True)
class GpuLostForReal(GpuLost):
    """One replica ends, and its node takes nothing new; its workload makes it again."""

    story: Story

    def prepare(self) -> None:
        """Keep how many replicas serve.

        Raises:
            Failed: the replica that was approved is not there any more.
        """
        real = _real(self.plan)
        lost = real.cordoned
        ready = Hits(self.ground, lost.site).ready_of(lost) if lost else []
        if lost is None or lost.uid not in ready:
            raise Failed(
                "the replica that was to be lost is not ready any more",
                where=self.plan.target,
                mend="plan it again: ./fleet dr.drill --for-real",
            )
        now = lost.model_copy(update={"before": len(ready)})
        self.story.took(real.model_copy(update={"cordoned": now}))

    def fail(self) -> str:
        """Which node it is."""
        lost = _real(self.plan).cordoned
        return lost.node if lost else ""

    def decide(self, fact: str) -> list[Placed]:
        """As planned."""
        del fact
        return self.plan.placed

    def where(self, fact: str) -> Where:
        """Anywhere: the node is cordoned."""
        del fact
        return Where()

    def make_room(self, fact: str) -> str:
        """Nothing has to go."""
        del fact
        return ""

    def restore(self, placed: Sequence[Placed], doubted: Doubted) -> str:
        """The replica brings its weights itself."""
        del placed, doubted
        return "the replica brings its weights itself, while it loads"


def for_real_script(ground: Ground, plan: DrillPlan, stage: Stage, story: Story) -> Script:
    """What is particular about the scenario of a plan."""
    made = SiteLostForReal if plan.scenario == SITE_LOST.name else GpuLostForReal
    return made(ground, plan, stage, story)


def _real(plan: DrillPlan) -> ForReal:
    if plan.for_real is None:
        raise Failed("the plan is for isolation", where=plan.scenario)
    return plan.for_real
