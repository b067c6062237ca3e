"""Keeps what nobody reads out of the stacks' states, which are written whole after each step."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def small_states() -> Iterator[None]:
    """Make resources without the Python stack that made them: a fifth of a stack of pools.

    An exception leaves with its whole traceback.
    """
    before = getattr(sys, "tracebacklimit", None)
    # One frame, since Pulumi takes a stack of one for none and fails on an empty one.
    sys.tracebacklimit = 1
    try:
        yield
    finally:
        if before is None:
            del sys.tracebacklimit
        else:
            sys.tracebacklimit = before
