"""What people see of a load: live numbers, and tables at the end."""

import time
from types import TracebackType
from typing import Final, Self

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpufleet.spec.serving_bench import (
    BenchReport,
    Distribution,
    LevelRow,
    LoadProgress,
    SavedMeasurement,
)
from gpufleet.tasks.console import facts, notes, plain_table

_LINE_EVERY_S: Final = 10.0


class LoadView:
    """Shows a load under way: live on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._live = Live(console=notes, refresh_per_second=4, transient=True)
        self._told_at = time.monotonic()

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

    def __call__(self, progress: LoadProgress) -> None:
        """Show how far it is."""
        if notes.is_terminal:
            row = Table.grid(padding=(0, 1))
            total = max(progress.duration_s, 1e-3)
            bar = ProgressBar(total=total, completed=min(progress.elapsed_s, total), width=24)
            row.add_row(bar, Text(_line(progress)))
            self._live.update(row)
        elif time.monotonic() - self._told_at > _LINE_EVERY_S:
            self._told_at = time.monotonic()
            notes.print(_line(progress), soft_wrap=True)


def _line(progress: LoadProgress) -> str:
    return (
        f"[{progress.elapsed_s:5.0f} s] {progress.sent} sent, {progress.done} ended, "
        f"{progress.failed} failed, {progress.in_flight} in flight"
    )


def show_bench(report: BenchReport) -> None:
    """Each time apart, rates, what failed, and the times by requests in flight."""
    how = (
        f"{report.rate_rps:g}/s, {report.arrivals}, for {report.duration_s:.0f} s"
        if report.mode == "open"
        else f"levels held, {report.duration_s:.0f} s in all"
    )
    facts.print(f"{report.model} at {report.url}: {how}", soft_wrap=True)
    if report.simulated:
        facts.print("the engines are simulated: no GPU was measured", style="yellow")
    if report.interrupted:
        facts.print("interrupted: only what had ended counts", style="yellow")
    table = plain_table()
    for column in ("SECONDS", "COUNT", "MEAN", "P50", "P90", "P95", "P99", "MAX", "TARGET OF P95"):
        table.add_column(column, justify="left" if column == "SECONDS" else "right", no_wrap=True)
    table.add_row("whole answer", *_cells(report.latency_s), _target(report.slo_p95_s))
    table.add_row("first byte", *_cells(report.first_byte_s), "")
    table.add_row("first token", *_cells(report.ttft_s), _target(report.slo_ttft_s))
    table.add_row("each further token", *_cells(report.tpot_s), "")
    facts.print(table)
    if report.mode == "open":
        facts.print(
            f"\nanswers {report.answers_per_s:.2f}/s, tokens {report.output_tokens_per_s:.0f}/s, "
            f"goodput {report.goodput_per_s:.2f}/s ({report.within_slo:.1%} of {report.requests} "
            "requests)",
            soft_wrap=True,
        )
    if report.failed:
        kinds = ", ".join(f"{kind} {count}" for kind, count in report.errors.items())
        facts.print(f"failed {report.failed}: {kinds}", style="red", soft_wrap=True)
    if report.routes:
        facts.print(f"routes: {', '.join(f'{k} {v}' for k, v in report.routes.items())}")
    if report.late:
        facts.print(
            f"sent late: {report.late}, by up to {report.late_worst_s:.2f} s",
            style="yellow" if report.kept_up else "red",
        )
    if report.load_times:
        seconds = sorted(each.seconds for each in report.load_times)
        facts.print(
            f"load time of {len(seconds)} ready replicas, start to ready: "
            f"{seconds[0]:.0f} to {seconds[-1]:.0f} s"
        )
    facts.print()
    facts.print(_levels(report.levels))


def _levels(rows: list[LevelRow]) -> Table:
    table = plain_table()
    for column in (
        "IN FLIGHT",
        "REQUESTS",
        "FAILED",
        "TTFT MEAN",
        "TTFT P95",
        "TPOT MEAN",
        "TPOT P95",
        "ANSWER P95",
        "ANSWERS/S",
        "TOKENS/S",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        ttft, tpot, answer = row.ttft_s, row.tpot_s, row.latency_s
        table.add_row(
            row.in_flight,
            str(row.requests),
            str(row.failed),
            f"{ttft.mean:.3f}" if ttft else "-",
            f"{ttft.p95:.3f}" if ttft else "-",
            f"{tpot.mean:.4f}" if tpot else "-",
            f"{tpot.p95:.4f}" if tpot else "-",
            f"{answer.p95:.3f}" if answer else "-",
            "-" if row.requests_per_s is None else f"{row.requests_per_s:.2f}",
            "-" if row.output_tokens_per_s is None else f"{row.output_tokens_per_s:.0f}",
        )
    return table


def show_saved(saved: SavedMeasurement) -> None:
    """What was, or would be, kept, and what is left to do by hand."""
    facts.print()
    facts.print(saved.block, soft_wrap=True, markup=False)
    did = "written to" if saved.written else "would be written, with --apply, to"
    facts.print(f"{did} {saved.file}", soft_wrap=True)
    if saved.include_missing:
        facts.print("the fleet file uses it once it says `include: [measured]`", style="yellow")


def _cells(times: Distribution | None) -> list[str]:
    if times is None:
        return ["0", *["-"] * 6]
    values = (times.mean, times.p50, times.p90, times.p95, times.p99, times.max)
    return [str(times.count), *(f"{value:.3f}" for value in values)]


def _target(target_s: float | None) -> str:
    return "" if target_s is None else f"{target_s:g}"
