"""Freeze calendars as they were read: windows of time, or why they cannot be trusted."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

HORIZON: Final = timedelta(days=400)
"""How far ahead calendars are read: a year and a quarter; nothing is known beyond it."""


@dataclass(frozen=True)
class Window:
    """A time in which nothing may change; both ends have a time zone."""

    name: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Calendar:
    """One freeze calendar as it was read: its windows, or why it cannot be trusted."""

    name: str
    windows: tuple[Window, ...] = ()
    problem: str = ""
