"""How overrides of freezes, and what waits for an opening, look on a terminal."""

from typing import TYPE_CHECKING

from rich.text import Text

from gpufleet.tasks.console import facts, folding_table

if TYPE_CHECKING:
    from gpufleet.spec.overrides import Override, OverrideRow, QueueRow

_STYLES = {
    "active": "green",
    "granted": "cyan",
    "asked": "yellow",
    "invalid": "red",
    "revoked": "magenta",
}


def show_planned(override: "Override", *, asked: bool) -> None:
    """An override that is, or would be, asked for."""
    verb = "asked" if asked else "would ask"
    facts.print(f"{verb}: {_scope(override)} may change in a freeze", soft_wrap=True)
    facts.print(f"from {override.begins_at:%Y-%m-%d %H:%M %Z}", end=" ")
    facts.print(f"to {override.ends_at:%Y-%m-%d %H:%M %Z}: {override.why}", soft_wrap=True)
    if asked:
        command = f"./fleet approve.sign {override.id} --identity NAME --apply"
        facts.print(f"another identity signs it: {command}", soft_wrap=True)


def show_overrides(rows: "list[OverrideRow]") -> None:
    """Overrides, newest first."""
    if not rows:
        facts.print("nobody has asked for an override")
        return
    table = folding_table(
        "OVERRIDE", "STATE", "ASKED BY", "SIGNED BY", "BEGINS", "ENDS", "SCOPE AND WHY"
    )
    for row in rows:
        override = row.override
        parts = (_scope(override), override.why, row.why_not)
        table.add_row(
            override.id,
            Text(row.state, style=_STYLES.get(row.state, "")),
            override.requester,
            ", ".join(row.approved_by),
            f"{override.begins_at:%Y-%m-%d %H:%M %Z}",
            f"{override.ends_at:%Y-%m-%d %H:%M %Z}",
            Text("; ".join(part for part in parts if part)),
        )
    facts.print(table, soft_wrap=True)


def show_queue(rows: "list[QueueRow]") -> None:
    """Flows that wait, the next to go first."""
    if not rows:
        facts.print("nothing waits for an opening")
        return
    table = folding_table("FLOW", "FOR", "WAITS SINCE", "OPENS", "WHY")
    for row in rows:
        table.add_row(
            row.flow, row.actor, row.waits_since, row.opens or "not known", Text(row.reason)
        )
    facts.print(table, soft_wrap=True)


def _scope(override: "Override") -> str:
    parts = [f"{'/'.join(override.changes)} at {', '.join(override.sites)}"]
    if override.pools:
        parts.append(f"pools {', '.join(override.pools)}")
    if override.node_groups:
        parts.append(f"node groups {', '.join(override.node_groups)}")
    if override.flow:
        parts.append(f"flow {override.flow}")
    return ", ".join(parts)
