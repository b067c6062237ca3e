"""What people see of the gateway."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gpufleet.spec.reports import AnswerRow, GatewayPoolRow, GatewayReport, GatewayUseCaseRow
from gpufleet.tasks.console import answer_table, facts, plain_table


def show_answer(row: AnswerRow) -> None:
    """The answer, and how it came."""
    facts.print(Text(row.text), soft_wrap=True)
    facts.print()
    facts.print(answer_table([row]), soft_wrap=True)
    facts.print(Text(f"request {row.request_id}; {row.reason}"), soft_wrap=True)


def show_gateway(report: GatewayReport) -> None:
    """Pools, use cases, and how old the workers' view is."""
    facts.print(_pools(report.pools), soft_wrap=True)
    facts.print()
    facts.print(_use_cases(report.use_cases), soft_wrap=True)
    ages = ", ".join(f"{name} {age:.0f} s" for name, age in report.file_ages_s.items())
    facts.print(f"\nthe workers' view is this old: {ages or 'there is none'}", soft_wrap=True)
    facts.print(f"clients: {report.url}, trusting {report.authority}", soft_wrap=True)


def _pools(rows: Sequence[GatewayPoolRow]) -> Table:
    table = plain_table()
    for column in ("POOL", "MODEL"):
        table.add_column(column, no_wrap=True)
    for column in ("READY", "ANSWERING", "RUNNING", "WAITING", "KV", "QUEUE", "EJECTED"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        good = row.ready == row.replicas == row.answering
        style = "green" if good else "red"
        table.add_row(
            row.pool,
            row.model,
            Text(f"{row.ready}/{row.replicas}", style=style),
            Text(f"{row.answering}/{row.replicas}", style=style),
            f"{row.running:.0f}",
            f"{row.waiting:.0f}",
            f"{row.kv_usage:.0%}",
            "" if row.predicted_queue_s is None else f"{row.predicted_queue_s:.2f} s",
            str(row.ejected),
        )
    return table


def _use_cases(rows: Sequence[GatewayUseCaseRow]) -> Table:
    table = plain_table()
    for column in ("USE CASE", "POOL", "FALLBACK"):
        table.add_column(column, no_wrap=True)
    for column in ("IN FLIGHT", "QUEUE LIMIT"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("HOSTED", no_wrap=True)
    for column in ("SPENT", "CACHED", "SAVED"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        limit = "" if row.concurrency_limit is None else f"/{row.concurrency_limit}"
        spent = "" if row.hosted_cap is None else f"{row.hosted_spend or 0:.2f}/{row.hosted_cap:g}"
        table.add_row(
            row.use_case,
            row.pool,
            row.fallback,
            f"{row.in_flight}{limit}",
            f"{row.queue_time_limit_s:g} s",
            row.hosted,
            spent,
            "" if row.cache_hit_rate is None else f"{row.cache_hit_rate:.0%}",
            "" if row.cache_saved is None else f"{row.cache_saved:.4g}",
        )
    return table
