"""What people see: facts on stdout, progress on stderr."""

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

from gpufleet.spec.progress import (
    EngineProgress,
    HostProgress,
    ProcessProgress,
    Progress,
    ReplicaProgress,
    SnapshotProgress,
    StackProgress,
    StepProgress,
    subject,
    turn,
)
from gpufleet.spec.reports import (
    AnswerRow,
    PoolRow,
    PreviewReport,
    StackPreview,
    StatusReport,
    UpReport,
)

facts: Final = Console(highlight=False, width=None if Console().is_terminal else 120)
notes: Final = Console(stderr=True, highlight=False)
_LINE_EVERY_S: Final = 10.0
_ACTIONS: Final = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}


def planning() -> Status:
    """Shown on a terminal while a plan is made."""
    return notes.status("planning; the first plan of a clone compiles the simulator, once")


class ProgressView:
    """Shows long work: live on a terminal, else a line when something changes its state.

    Called from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, Progress] = {}
        self._told: dict[str, tuple[str, float]] = {}
        self._live = Live(console=notes, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if notes.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if notes.is_terminal:
            self._live.stop()

    def __call__(self, event: Progress) -> None:
        """Show one event."""
        key = subject(event)
        with self._lock:
            self._events[key] = event
            if notes.is_terminal:
                self._live.update(Group(*(_line(shown) for shown in self._events.values())))
            elif self._is_news(key, event):
                notes.print(_plain(event), soft_wrap=True)

    def _is_news(self, key: str, event: Progress) -> bool:
        state, now = turn(event), time.monotonic()
        before, at = self._told.get(key, ("", 0.0))
        if state == before and now - at < _LINE_EVERY_S:
            return False
        self._told[key] = (state, now)
        return True


def _plain(event: Progress) -> str:
    match event:
        case EngineProgress():
            detail = f": {event.detail}" if event.detail else ""
            where = f"engine {event.index} of {event.total}, {event.engine}"
            text = f"[{event.elapsed_s:5.0f} s] {where}: {event.state}{detail}"
        case ProcessProgress():
            text = f"[{event.elapsed_s:5.0f} s] site {event.site}: {event.process} {event.state}"
        case StackProgress():
            waiting = f", waiting for {', '.join(event.slowest)}" if event.slowest else ""
            counts = f", {event.done} of {event.total} resources{waiting}" if event.total else ""
            text = f"[{event.elapsed_s:5.0f} s] stack {event.stack}: {event.state}{counts}"
        case ReplicaProgress():
            counts = f"{event.ready} of {event.wanted} replicas ready"
            text = f"[{event.elapsed_s:5.0f} s] site {event.site}: {counts}"
        case StepProgress():
            detail = f": {event.detail}" if event.detail else ""
            text = f"[{event.elapsed_s:5.0f} s] {event.step}: {event.state}{detail}"
        case HostProgress():
            detail = f": {event.task}" if event.task else ""
            where = f"wave {event.wave}, {event.host}"
            text = f"[{event.elapsed_s:5.0f} s] {where}: {event.state}{detail}"
        case SnapshotProgress():
            text = _snapshot(event)
    return text


def _snapshot(event: SnapshotProgress) -> str:
    ratio = event.dedup_ratio
    parts = [
        f"{event.bytes_done / 2**30:.2f} of {event.bytes_total / 2**30:.2f} GiB",
        f"{event.rate_bytes_s / 2**20:.0f} MiB/s",
        *([f"{event.remaining_s:.0f} s remain"] if event.remaining_s else []),
        *([f"{ratio:.1f} bytes for each one moved"] if ratio else []),
    ]
    return f"[{event.elapsed_s:5.0f} s] {event.what}: {event.state}, {', '.join(parts)}"


def _line(event: Progress) -> Table | Text:
    if not isinstance(event, StackProgress):
        return Text(_plain(event))
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(event.total, 1), completed=event.done, width=24)
    row.add_row(Text(f"[{event.elapsed_s:5.0f} s]"), bar, Text(_plain(event).split("] ", 1)[1]))
    return row


def plain_table() -> Table:
    """A table without lines: columns two spaces apart below bold headings."""
    return Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))


def folding_table(*columns: str) -> Table:
    """A plain table whose last column, what is said in words, takes several lines."""
    table = plain_table()
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    return table


def pool_table(rows: list[PoolRow]) -> Table:
    """Replicas ready of wanted, GPUs used and free, nodes and racks that the pods stand on."""
    table = plain_table()
    for column in ("SITE", "POOL", "CLASS", "REVISION"):
        table.add_column(column, no_wrap=True)
    for column in ("READY", "USED", "FREE", "NODES/RACKS"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        ready = f"{row.replicas_ready}/{row.replicas_wanted}"
        table.add_row(
            row.site,
            row.pool,
            row.class_,
            row.revision,
            Text(ready, style="green" if row.is_ready else "red"),
            str(row.gpus_used),
            str(row.gpus_free),
            f"{row.nodes}/{row.racks}",
        )
    return table


def answer_table(rows: Sequence[AnswerRow]) -> Table:
    """One answer a line, with the way that it took."""
    table = plain_table()
    for column in ("USE CASE", "ROUTE", "MODEL"):
        table.add_column(column, no_wrap=True)
    for column in ("TTFT", "SECONDS"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.use_case, row.route, row.model, f"{row.ttft_s:.2f}", f"{row.seconds:.2f}")
    return table


def show_up(report: UpReport) -> None:
    """The end of `up`: what stands, what was done, what to do next."""
    facts.print(pool_table(report.pools), soft_wrap=True)
    if report.answers:
        facts.print()
        facts.print(answer_table(report.answers), soft_wrap=True)
    done = {
        verb: sum(getattr(stack, verb) for stack in report.stacks)
        for verb in ("created", "updated", "replaced", "deleted", "same")
    }
    counts = ", ".join(f"{count} {verb}" for verb, count in done.items() if count)
    facts.print(
        f"\n{report.fleet} {report.environment} is up after {report.seconds:.0f} s: "
        f"{len(report.stacks)} {'stack' if len(report.stacks) == 1 else 'stacks'}, "
        f"resources: {counts}"
    )
    facts.print("\nNext:")
    for step in report.next_steps:
        facts.print(f"  {step}", soft_wrap=True, markup=False)


def show_preview(report: PreviewReport) -> None:
    """What would change, a line a resource."""
    change_lines(report.stacks)
    if not report.changes:
        facts.print("nothing would change")
    for warning in report.warnings:
        facts.print(f"note: {warning}", style="yellow", soft_wrap=True)


def change_lines(stacks: list[StackPreview]) -> None:
    """What an update of each stack would change, a line a resource."""
    for stack in stacks:
        facts.print(f"stack {stack.stack}: {len(stack.changes)} to change, {stack.same} stay")
        for change in stack.changes:
            sign, style = _ACTIONS.get(change.action, ("±", "magenta"))
            fields = f"  [{', '.join(change.fields)}]" if change.fields else ""
            line = Text(f"  {sign} {change.kind} {change.name}", style=style)
            facts.print(line + Text(fields), soft_wrap=True)


def show_status(report: StatusReport) -> None:
    """Pools, what is wrong with processes, and every difference."""
    facts.print(pool_table(report.pools), soft_wrap=True)
    bad = [process for process in report.processes if not process.ready]
    facts.print(f"\nprocesses: {len(report.processes) - len(bad)} of {len(report.processes)} ready")
    for process in bad:
        facts.print(f"  {process.site} {process.process}: {process.state}", style="red")
    facts.print(f"drift: {len(report.drift) or 'none'}")
    for row in report.drift:
        what = f"  {row.site} ({row.between}) {row.what}: {row.declared} declared, {row.actual}"
        facts.print(what, style="yellow", soft_wrap=True)
    for warning in report.warnings:
        facts.print(f"note: {warning}", style="yellow", soft_wrap=True)
    if not report.is_good:
        facts.print("\n./fleet up heals what can be healed")


def show_rows(rows: Sequence[Mapping[str, str | float]]) -> None:
    """Rows of one kind as a table; columns of numbers stand right."""
    table = plain_table()
    for name, value in rows[0].items():
        is_text = isinstance(value, str)
        # Names fold where the line is short; a number that is cut would be another number.
        table.add_column(
            name, no_wrap=not is_text, overflow="fold", justify="left" if is_text else "right"
        )
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    facts.print(table)


def _shown(value: str | float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
