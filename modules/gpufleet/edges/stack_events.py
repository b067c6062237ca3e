"""Pulumi's engine events: from lines of its event log to progress and results."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gpufleet.spec.progress import StackProgress
from gpufleet.spec.reports import ResourceChange, StackPreview, StackResult

OnProgress = Callable[[StackProgress], None]
_COUNTED: Final = {
    "create": "created",
    "update": "updated",
    "delete": "deleted",
    "replace": "replaced",
    "create-replacement": "replaced",
    "same": "same",
}
_PARTS_OF_REPLACE: Final = ("delete-replaced", "replace", "read", "refresh", "discard-replaced")
_SLOWEST: Final = 3


class EventReader:
    """Reads the event log of one running update, as far as it is written."""

    def __init__(self, log: Path, stack: str, on_progress: OnProgress) -> None:
        self._log = log
        self._stack = stack
        self._on_progress = on_progress
        self._offset = 0
        self._rest = b""
        self._started = time.monotonic()
        self._known: dict[str, float] = {}
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self.diagnostics: list[str] = []
        self._changes: list[ResourceChange] = []
        self._counts: dict[str, int] = {}

    def read(self) -> None:
        """Take in what is new, and tell the progress."""
        if self._log.exists():
            with self._log.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            self._offset += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            for line in lines:
                if line.strip():
                    self._take(json.loads(line))
        self._tell("running")

    def finish(self, state: str) -> None:
        """Take in the rest, and tell the last progress."""
        self.read()
        self._tell(state)

    def result(self) -> StackResult:
        """What the update did."""
        counts = {_COUNTED[op]: n for op, n in self._counts.items() if op in _COUNTED}
        elapsed_s = time.monotonic() - self._started
        return StackResult(stack=self._stack, seconds=round(elapsed_s, 2), **counts)

    def preview(self) -> StackPreview:
        """What an update would do."""
        return StackPreview(
            stack=self._stack, changes=self._changes, same=self._counts.get("same", 0)
        )

    def _take(self, event: dict[str, Any]) -> None:
        if pre := event.get("resourcePreEvent"):
            self._begun(pre["metadata"])
        elif outputs := event.get("resOutputsEvent"):
            self._done.add(outputs["metadata"]["urn"])
        elif failed := event.get("resOpFailedEvent"):
            self._failed.add(failed["metadata"]["urn"])
        elif diagnostic := event.get("diagnosticEvent"):
            if diagnostic["severity"] == "error":
                self.diagnostics.append(diagnostic["message"].strip())
        elif summary := event.get("summaryEvent"):
            self._counts = dict(summary["resourceChanges"])

    def _begun(self, step: dict[str, Any]) -> None:
        urn = step["urn"]
        self._known.setdefault(urn, time.monotonic())
        if step["op"] == "same" or step["op"] in _PARTS_OF_REPLACE:
            return
        fields = sorted(step.get("detailedDiff") or step.get("diffs") or [])
        kind = step["type"].rsplit(":", 1)[-1]
        change = ResourceChange(action=step["op"], kind=kind, name=name_of(urn), fields=fields)
        self._changes.append(change)

    def _tell(self, state: str) -> None:
        now = time.monotonic()
        waiting = sorted(
            (began, urn)
            for urn, began in self._known.items()
            if urn not in self._done and urn not in self._failed and not _is_container(urn)
        )
        self._on_progress(
            StackProgress(
                stack=self._stack,
                done=len(self._done & self._known.keys()),
                total=len(self._known),
                slowest=tuple(name_of(urn) for _, urn in waiting[:_SLOWEST]),
                elapsed_s=now - self._started,
                state=state,
            )
        )


def name_of(urn: str) -> str:
    """The resource's name at the end of its URN."""
    return urn.rsplit("::", 1)[-1]


def _is_container(urn: str) -> bool:
    """The stack and components: they wait for their children, not for the cluster."""
    kind = urn.split("::")[2].rsplit("$", 1)[-1]
    return kind.startswith(("pulumi:pulumi:", "gpufleet:"))
