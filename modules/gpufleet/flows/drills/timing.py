"""The clock of a drill: steady, and kept for a worker that takes it over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from gpufleet.edges.clock import Clock, Watch, steady_clock
from gpufleet.flows.drills.story import Story
from gpufleet.flows.durable import Run
from gpufleet.spec.drills import Phase
from gpufleet.spec.errors import Failed

_MOST_SET_S: Final = 5.0
"""How far the clock may be set meanwhile: less is what time servers do."""


@dataclass(frozen=True)
class Stopwatch:
    """Times the phases of one drill, and tells its story of them.

    Args:
        run: the flow.
        story: where they are told.
    """

    run: Run
    story: Story

    @cached_property
    def clock(self) -> Clock:
        """Of the environment, steady from the first look."""
        return steady_clock(self.run.ground.clock)

    @cached_property
    def _watch(self) -> Watch:
        return Watch()

    def now(self) -> str:
        """The time as a step keeps it."""
        return self.clock().isoformat()

    def demand_unset(self, passed_s: float = 0.0) -> None:
        """Refuse times of a clock that was set: they could be any.

        Raises:
            Failed: less than nothing has passed, or it was set while this process looked.
        """
        if passed_s < 0 or abs(self._watch.jumped().total_seconds()) > _MOST_SET_S:
            raise Failed(
                "the clock was set while the drill went on: its times say nothing",
                where=f"flow {self.run.id}",
                mend="drill again",
            )

    def timed(self, phase: Phase, since: datetime, work: Callable[[], str]) -> datetime:
        """Do a phase that says what it was made of; returns when it ended."""

        def step() -> dict[str, str]:
            detail = work()
            return {"at": self.now(), "detail": detail}

        return self.told(phase, since, self.run.step(phase.value, step))

    def told(self, phase: Phase, since: datetime, found: Mapping[str, Any]) -> datetime:
        """Keep how long a phase took that was done; returns when it ended."""
        at = datetime.fromisoformat(found["at"])
        passed_s = (at - since).total_seconds()
        self.demand_unset(passed_s)
        self.story.phase(phase, passed_s, found.get("detail", ""))
        return at
