"""Why a calendar is not trusted, and the limits that every one is held to."""

from datetime import timedelta
from typing import Final

MAX_BYTES: Final = 4 * 2**20
CLOCK_SKEW: Final = timedelta(days=1)
"""How far in the future a stamp may lie: clocks differ, and stamps without a zone exist."""


class UntrustedError(Exception):
    """Why a calendar cannot be trusted, to be read after its file's name."""
