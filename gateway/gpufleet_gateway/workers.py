"""The workers of a gateway: forked from a process that has LiteLLM imported already.

Importing it takes seconds of a core and 300 MB: this way it is done once, and a worker that dies is
replaced at once.
"""

import ctypes
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from prometheus_client import multiprocess

_LOOK_EVERY_S: Final = 0.1
_AGAIN_AFTER_S: Final = 1.0
"""A worker that dies at once is not started more often than this."""
_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of prctl(2): no worker outlives this process."""
_FAILED: Final = 1


class Workers:
    """Keeps a number of workers running until it is told to stop.

    Args:
        count: how many.
        work: what a worker does; it ends when its process gets SIGTERM.
        drain_s: how long they have to end.
        listening: what they accept connections from; closed here when they end, so that nobody is
            left waiting in its queue.
    """

    def __init__(
        self, count: int, work: Callable[[], None], drain_s: float, listening: socket.socket
    ) -> None:
        self._listening = listening
        self._count = count
        self._work = work
        self._drain_s = drain_s
        self._running: dict[int, float] = {}
        """When each was started, by process."""
        self._ending = False

    def run(self) -> None:
        """Start them, replace those that die, and end them on SIGTERM or SIGINT."""
        gc.collect()
        # What was imported is shared with the workers as long as nobody touches it.
        gc.freeze()
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._end)
        while not self._ending:
            while len(self._running) < self._count and not self._ending:
                self._start()
            time.sleep(_LOOK_EVERY_S)
            self._reap()
        self._listening.close()
        self._send(signal.SIGTERM)
        deadline_s = time.monotonic() + self._drain_s
        while self._running and time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)
            self._reap()
        self._send(signal.SIGKILL)
        while self._running:
            time.sleep(_LOOK_EVERY_S)
            self._reap()

    def _start(self) -> None:
        parent = os.getpid()
        process = os.fork()
        if process:
            self._running[process] = time.monotonic()
            return
        code = _FAILED
        try:
            ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)
            if os.getppid() == parent:
                self._work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"a worker has failed: {type(error).__name__}: {error}\n")
            raise
        finally:
            sys.stderr.flush()
            # The parent's own ending is not the worker's.
            os._exit(code)

    def _reap(self) -> None:
        for process, started_s in list(self._running.items()):
            ended, _ = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            del self._running[process]
            multiprocess.mark_process_dead(process)
            if not self._ending:
                time.sleep(max(0.0, started_s + _AGAIN_AFTER_S - time.monotonic()))

    def _send(self, number: signal.Signals) -> None:
        for process in self._running:
            os.kill(process, number)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._ending = True
