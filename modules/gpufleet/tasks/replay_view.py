"""What people see of a replay."""

from gpufleet.spec.replays import Percentiles, ReplayReport
from gpufleet.tasks.console import facts, plain_table


def show_replay(report: ReplayReport) -> None:
    """Latencies beside their limits, and what was lost."""
    replicas = "1 replica" if report.replicas == 1 else f"{report.replicas} replicas"
    facts.print(
        f"{report.requests} requests at {report.rate_rps:.2f}/s through {report.gpus} "
        f"{report.gpu_type} ({replicas} of {report.model}, {report.concurrency_limit} in flight at "
        f"each, as in {report.planned}), speed by {report.evidence}",
        soft_wrap=True,
    )
    table = plain_table()
    for column in ("SECONDS", "P50", "P95", "P99", "LIMIT OF P95"):
        table.add_column(column, justify="left" if column == "SECONDS" else "right", no_wrap=True)
    table.add_row("whole answer", *_cells(report.e2e_s), f"{report.p95_limit_s:g}")
    table.add_row("first token", *_cells(report.ttft_s), f"{report.ttft_p95_limit_s:g}")
    table.add_row("wait", *_cells(report.wait_s), "")
    facts.print(table)
    facts.print(f"served {report.served}, shed {report.shed}, failed {report.failed}")
    if report.holds:
        facts.print("every promise would have been kept", style="green")
    else:
        facts.print("a promise would have been broken", style="red")


def _cells(percentiles: Percentiles) -> list[str]:
    values = (percentiles.p50, percentiles.p95, percentiles.p99)
    return ["-" if value is None else f"{value:.3f}" for value in values]
