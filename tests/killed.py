"""Work that is killed before one of its steps, in a process of its own."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from gpufleet.edges.snapshots import target

CHANGES = (
    "chmod",
    "fchmod",
    "fsync",
    "ftruncate",
    "mkdir",
    "posix_fallocate",
    "pwrite",
    "rename",
    "replace",
    "rmdir",
    "symlink",
    "unlink",
)
"""What a disk is changed with."""


class Fuse:
    """Kills the process at the step after so many."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def step(self) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def let_steps_kill(fuse: Fuse) -> None:
    """Let what changes the disk be a step; the process is of no further use then."""

    def mortal(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - as those of os
            fuse.step()
            return change(*arguments, **keywords)

        return changed

    for module, name in (*((os, each) for each in CHANGES), (target, "_exchange")):
        setattr(module, name, mortal(getattr(module, name)))


def is_killed(work: Callable[[], object]) -> bool:
    """Do it in a process of its own; whether that was killed.

    It is forked: to start a new one for each step takes longer than the step.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False
