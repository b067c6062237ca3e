"""What a playbook's run has told about each host."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.spec.errors import EXIT_POLICY, EXIT_RETRYABLE

_GUARD_ROLE: Final = "freeze_guard"


@dataclass(frozen=True)
class HostResult:
    """What came of one host, as far as the run tells."""

    host: str
    report: Mapping[str, JsonValue] = field(default_factory=dict)
    """What the role host_report says; empty where it did not come that far."""
    failed: bool = False
    unreachable: bool = False
    changed: bool = False
    failed_task: str = ""
    failed_role: str = ""
    error: str = ""
    exit_code: int = 0
    """Of the failed task, where it asked gpufleet itself; 0 where it did not."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """What the guard said."""

    reason: str
    may_pass: bool
    """Whether waiting helps: a freeze ends, and a database answers again."""


@dataclass(frozen=True)
class PlaybookResult:
    """What came of one run."""

    code: int | None
    """Ansible's exit code; None where the run was cut short."""
    hosts: Mapping[str, HostResult]

    @property
    def refusal(self) -> "Refusal | None":
        """Why the guard let nothing of it happen; None where it let it pass."""
        guarded = [each for each in self.hosts.values() if each.failed_role == _GUARD_ROLE]
        if not guarded or any(each.changed for each in self.hosts.values()):
            return None
        reason = guarded[0].error or "the freeze guard refused it"
        return Refusal(reason, guarded[0].exit_code in {EXIT_POLICY, EXIT_RETRYABLE})


def read_events(file: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from an offset on, and the offset after them."""
    try:
        with file.open("rb") as source:
            source.seek(offset)
            content = source.read()
    except FileNotFoundError:
        return [], offset
    whole = content.rpartition(b"\n")[0]
    found = []
    for line in whole.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            # Half a line, from a process that was killed while it wrote.
            continue
    return found, offset + (len(whole) + 1 if whole else 0)


def result_of_events(
    events: Iterable[Mapping[str, Any]], hosts: Sequence[str], *, code: int | None
) -> PlaybookResult:
    """The result of every host that was asked for; one that nothing is told of has failed."""
    told: dict[str, list[Mapping[str, Any]]] = {host: [] for host in hosts}
    failed: set[str] | None = None
    for event in events:
        if event["kind"] == "stats":
            failed = set(event["failed"])
        elif event.get("host") in told:
            told[event["host"]].append(event)
    found = {host: _host_result(host, told[host], failed) for host in hosts}
    return PlaybookResult(code, found)


def _host_result(
    host: str, events: Sequence[Mapping[str, Any]], failed: set[str] | None
) -> HostResult:
    if not events:
        return HostResult(host, failed=True, error="nothing was done on it")
    faults = [
        each
        for each in events
        if each["kind"] in {"failed", "unreachable"} and not each.get("ignored")
    ]
    reports = [each["report"] for each in events if "report" in each]
    # The first fault is the cause; what a rescue meets afterwards is its consequence.
    cause: Mapping[str, Any] = faults[0] if faults else {}
    cut_short = failed is None and not reports
    last = faults[-1]["kind"] if faults else ""
    return HostResult(
        host,
        report=reports[-1] if reports else {},
        failed=cut_short or host in (failed or ()),
        unreachable=last == "unreachable",
        changed=any(each.get("changed") for each in events),
        failed_task=cause.get("task", ""),
        failed_role=cause.get("role", ""),
        error=cause.get("error", "") or ("the run was cut short" if cut_short else ""),
        exit_code=cause.get("exit_code", 0),
        seconds=_span_s(events),
    )


def _span_s(events: Sequence[Mapping[str, Any]]) -> float:
    begun, ended = (datetime.fromisoformat(events[index]["at"]) for index in (0, -1))
    return max(0.0, (ended - begun).total_seconds())
