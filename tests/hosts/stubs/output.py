"""Lines that the host's programs print."""

import sys


def say(line: str) -> None:
    """A line of the answer."""
    sys.stdout.write(line + "\n")


def warn(line: str) -> None:
    """A line of what is wrong."""
    sys.stderr.write(line + "\n")
