"""The time that flows live in: the system's, or a simulated one for drills of a whole quarter."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from gpufleet.edges.workspace import EnvironmentDir

Clock = Callable[[], datetime]
OFFSET_FILE: Final = "clock-offset"
"""Seconds to add to the system's time; read again at every look, so that it may jump."""


def system_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Watch:
    """How far this machine's clock is set while somebody waits, beside its steady time."""

    _begun: datetime = field(default_factory=system_clock)
    _steady_s: float = field(default_factory=time.monotonic)

    def jumped(self) -> timedelta:
        """How far it was set since the watch was made; negative where it was set back.

        The offset of a simulated clock is no jump: whoever moves it means that time has passed.
        """
        passed = timedelta(seconds=time.monotonic() - self._steady_s)
        return system_clock() - self._begun - passed


def steady_clock(clock: Clock) -> Clock:
    """A clock that shows what another one shows now, and goes on by steady time: nobody sets it."""
    begun, since = clock(), time.monotonic()
    return lambda: begun + timedelta(seconds=time.monotonic() - since)


def clock_of(state: EnvironmentDir, *, simulated: bool) -> Clock:
    """The clock of an environment.

    Args:
        state: the environment's state.
        simulated: whether `OFFSET_FILE` counts; only where every site is embedded, since freezes
            and approvals are judged by this clock.
    """
    if not simulated:
        return system_clock
    file = state.root / OFFSET_FILE

    def now() -> datetime:
        try:
            offset_s = float(file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            offset_s = 0.0
        return system_clock() + timedelta(seconds=offset_s)

    return now
