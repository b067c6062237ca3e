"""How audit records are asked for and shown."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from gpufleet.core.gateway.audit import moment_of
from gpufleet.spec.audit import AuditQuery
from gpufleet.spec.errors import BadInput
from gpufleet.spec.quantities import Count
from gpufleet.tasks.console import facts, notes, plain_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpufleet.spec.audit import AuditReport, DeletionPlan
    from gpufleet.spec.gateway import AuditRecord

_ERROR = 400


def query(**flags: str | bool) -> AuditQuery:
    """A question from the flags as they were typed; a time without a zone is in UTC.

    Raises:
        BadInput: one of them is no such value.
    """
    given = {name: value for name, value in flags.items() if value}
    try:
        asked = AuditQuery.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        flag = f"--{first['loc'][0]}".replace("_", "-")
        raise BadInput(first["msg"], where=flag, mend="./fleet audit.search --help") from None
    return asked.model_copy(
        update={name: _aware(getattr(asked, name)) for name in ("since", "until")}
    )


def count(text: str, flag: str) -> int:
    """A flag that is a number from 1.

    Raises:
        BadInput: it is none.
    """
    try:
        return TypeAdapter(Count).validate_python(text)
    except ValidationError as error:
        raise BadInput(error.errors()[0]["msg"], where=flag, mend="such as 100") from None


def show_records(records: "Sequence[AuditRecord]", most: int) -> None:
    """Records by time."""
    if not records:
        facts.print("there is no such record")
        return
    table = plain_table()
    for column in ("AT", "KEY", "USE CASE", "ROUTE", "MODEL", "STATUS", "TOKENS", "S", "WHY"):
        table.add_column(column, no_wrap=column != "WHY")
    for record in records:
        failed = record.status >= _ERROR or record.error != ""
        table.add_row(
            f"{moment_of(record):%Y-%m-%d %H:%M:%S}",
            record.key_id or "-",
            record.use_case or "-",
            record.route,
            record.model or "-",
            Text(f"{record.status or '?'}", style="red" if failed else ""),
            f"{record.prompt_tokens}+{record.output_tokens}",
            f"{record.latency_s:.2f}",
            ": ".join(part for part in (record.error, record.reason) if part),
        )
    facts.print(table, soft_wrap=True)
    if len(records) == most:
        notes.print(f"the latest {most}; --limit shows more, audit.export writes all")


def show_verification(report: "AuditReport") -> None:
    """Whether the records are whole."""
    counts = (
        f"{report.records} records in {report.chains} chains, {report.segments} segments shipped, "
        f"{report.local} here, {report.deleted} records deleted with proof"
    )
    if report.is_good:
        facts.print(f"whole: {counts}", soft_wrap=True)
        return
    said = f"tampered with: {len(report.findings)} findings in {counts}"
    facts.print(Text(said, style="red"), soft_wrap=True)
    for found in report.findings:
        told = f"  {found.chain} {found.sequence}: {found.fault}: {found.detail}"
        facts.print(Text(told, style="red"), soft_wrap=True)


def show_deletion(plan: "DeletionPlan") -> None:
    """What is, or would be, deleted."""
    if not plan.segments:
        facts.print("no record's retention has ended")
        return
    for segment in plan.segments:
        span = f"{segment.begins:%Y-%m-%d %H:%M} to {segment.ends:%Y-%m-%d %H:%M}"
        counts = f"{segment.records} records, {segment.data_class}"
        facts.print(f"{segment.chain} {segment.first}-{segment.last}: {counts}, {span}")
    verb = "are deleted; the journal has the proof" if plan.applied else "--apply deletes them"
    facts.print(f"{plan.records} records: {verb}")


def _aware(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
