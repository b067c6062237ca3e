"""The time that flows live in: the system's, or a simulated one for drills of a whole quarter."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from gpufleet.edges.workspace import EnvironmentDir

Clock = Callable[[], datetime]
OFFSET_FILE: Final = "clock-offset"
"""Seconds to add to the system's time; read again at every look, so that it may jump."""


def system_clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


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
