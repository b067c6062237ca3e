"""Keys that need work: each once, however often it was named, and by one worker at a time."""

import threading
from collections import OrderedDict


class WorkQueue:
    """A set of keys in the order in which they were first named; usable from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._taken: set[str] = set()
        self._again: set[str] = set()

    def add(self, key: str) -> None:
        """It needs work; one that is being worked on will need it again."""
        with self._changed:
            if key in self._taken:
                self._again.add(key)
            else:
                self._waiting[key] = None
                self._changed.notify()

    def take(self) -> str:
        """Wait for a key; whoever takes it says `done`."""
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            key, _ = self._waiting.popitem(last=False)
            self._taken.add(key)
            return key

    def done(self, key: str) -> None:
        """The work on a key has ended."""
        with self._changed:
            self._taken.discard(key)
            if key in self._again:
                self._again.discard(key)
                self._waiting[key] = None
                self._changed.notify()
