"""What a long-running process does again and again, each thing in a thread of its own."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from gpufleet.core.monitoring import platform
from gpufleet.spec.errors import FleetError

_SAID_AGAIN_AFTER_S: Final = 60.0


@dataclass
class Chore:
    """Something that is done again and again."""

    name: str
    every_s: float
    work: Callable[[], object]
    succeeded_at: float = field(default=0.0)
    """When it ended well last, on a clock that never jumps; 0 before it did."""

    def is_fresh(self, within_s: float) -> bool:
        """Whether it ended well lately."""
        return bool(self.succeeded_at) and time.monotonic() - self.succeeded_at < within_s


class Chores:
    """Runs chores until `ended` is set; each tells when it ended well, and how often it failed.

    Args:
        ended: set by whoever ends the process.
        registry: of the process.
    """

    def __init__(self, ended: threading.Event, registry: CollectorRegistry) -> None:
        self._ended = ended
        self._last = Gauge(
            platform.CHORE_AT,
            "When a chore ended well",
            ["chore"],
            registry=registry,
        )
        self._failures = Counter(
            platform.CHORE_FAILURES, "Chores that failed", ["chore"], registry=registry
        )

    def start(self, chore: Chore) -> None:
        """Begin a chore in the background."""
        threading.Thread(
            target=self._again_and_again, args=(chore,), daemon=True, name=chore.name
        ).start()

    def _again_and_again(self, chore: Chore) -> None:
        told, told_at = "", 0.0
        while not self._ended.is_set():
            try:
                chore.work()
            except FleetError as error:
                self._failures.labels(chore.name).inc()
                # What fails each second in the same way is not written each second.
                if error.what != told or time.monotonic() - told_at > _SAID_AGAIN_AFTER_S:
                    told, told_at = error.what, time.monotonic()
                    sys.stderr.write(f"{chore.name}: {told}\n")
            except Exception:  # noqa: BLE001 - as the comment says
                # A fault of ours in one chore must not end the others.
                self._failures.labels(chore.name).inc()
                traceback.print_exc()
            else:
                told = ""
                chore.succeeded_at = time.monotonic()
                self._last.labels(chore.name).set_to_current_time()
            self._ended.wait(chore.every_s)
