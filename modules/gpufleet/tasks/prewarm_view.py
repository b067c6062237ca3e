"""What people see of pre-warming."""

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from gpufleet.spec.prewarming import (
    NodesFilled,
    PrewarmSchedule,
    PrewarmVerification,
    PrewarmWindow,
    ScheduledWindow,
)
from gpufleet.tasks.console import facts, plain_table

_WIDTH: Final = 48
_LEGEND: Final = "▒ weights   ▓ engine loads   · spare   v asked for a token   █ open"


def show_schedule(found: PrewarmSchedule) -> None:
    """A picture of each window, then what stands ahead of them, then what to know."""
    if not found.windows:
        facts.print(f"no window opens from {found.begin} to {found.end}")
    for window in found.windows:
        _picture(window)
    if found.windows:
        facts.print(_LEGEND, style="dim")
    for image in found.images:
        facts.print(f"on every node of its group ahead of any start: {image}", soft_wrap=True)
    for warning in found.warnings:
        facts.print(f"note: {warning}", style="yellow", soft_wrap=True)


def _picture(window: ScheduledWindow) -> None:
    facts.print(
        f"{window.pool} at {window.site}: {window.peak}, {window.replicas} replicas "
        f"({window.node_group}), {window.time_zone}",
        style="bold",
        soft_wrap=True,
    )
    if window.starts_at is None:
        facts.print(f"  nothing starts them; opens {_local(window, window.opens_at)}", style="red")
        return
    facts.print(f"  {bar(window)}")
    times = {
        "starts": window.starts_at,
        "weights there": window.restored_at,
        "warm": window.warm_at,
        "asked from": window.verify_at,
        "opens": window.opens_at,
        "closes": window.closes_at,
    }
    told, day = [], ""
    for what, text in times.items():
        if text is not None:
            date, _, clock = _local(window, text).rpartition(" ")
            told.append(f"{what} {clock}" if date == day else f"{what} {date} {clock}")
            day = date
    facts.print(f"  {', '.join(told)}", soft_wrap=True)
    if pulled := window.weights:
        of = f"snapshot {pulled.snapshot}" if pulled.snapshot else "its newest snapshot"
        facts.print(
            f"  weights of {pulled.revision} to {pulled.nodes} nodes of {window.node_group} from "
            f"{_local(window, pulled.begins_at)}, {of}",
            soft_wrap=True,
        )
    facts.print()


def bar(window: PrewarmWindow) -> str:
    """From the start to the opening, to scale."""
    if window.starts_at is None or window.restored_at is None or window.warm_at is None:
        return ""
    begin, end = _moment(window.starts_at), _moment(window.opens_at)
    whole_s = max((end - begin).total_seconds(), 1.0)

    def place(text: str) -> int:
        share = (_moment(text) - begin).total_seconds() / whole_s
        return round(min(1.0, max(0.0, share)) * _WIDTH)

    restored, warm, asked = (
        place(window.restored_at),
        place(window.warm_at),
        place(window.verify_at),
    )
    line = list("▒" * restored + "▓" * (warm - restored) + "·" * (_WIDTH - warm))
    if asked < _WIDTH:
        line[asked] = "v"
    return "".join(line) + "████"


def show_verification(found: PrewarmVerification) -> None:
    """Each window with its replicas, or the next one where none is due."""
    if not found.proofs:
        facts.print(f"no window is due at {found.at}")
    else:
        table = plain_table()
        for column in ("SITE", "POOL", "PEAK", "OPENS"):
            table.add_column(column, no_wrap=True)
        for column in ("WANTED", "READY", "WARM"):
            table.add_column(column, justify="right", no_wrap=True)
        for proof in found.proofs:
            window = proof.window
            table.add_row(
                window.site,
                window.pool,
                window.peak,
                _local(window, window.opens_at),
                str(window.replicas),
                str(proof.ready),
                f"[red]{proof.warm}[/]" if proof.missing else f"[green]{proof.warm}[/]",
            )
        facts.print(table, soft_wrap=True)
        for proof in found.proofs:
            _filled(proof.window, proof.weights)
            if proof.problem:
                facts.print(f"{proof.window.site}: {proof.problem}", style="red", soft_wrap=True)
            for replica in proof.replicas:
                if not replica.warm:
                    facts.print(f"{replica.pod}: {replica.why_not}", style="red", soft_wrap=True)
    if found.next:
        facts.print(
            f"next: {found.next.pool} at {found.next.site} for {found.next.peak}, asked from "
            f"{_local(found.next, found.next.verify_at)}",
            soft_wrap=True,
        )


def _filled(window: PrewarmWindow, weights: NodesFilled | None) -> None:
    if weights is None:
        return
    of = len(weights.done) + len(weights.missing) + weights.waiting
    facts.print(
        f"{window.site}: weights for {window.peak} on {len(weights.done)} of {of} nodes of "
        f"{window.node_group}, by Job {weights.job}",
        soft_wrap=True,
    )
    for node in weights.missing:
        facts.print(f"{node}: weights not pulled ahead", style="yellow", soft_wrap=True)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _local(window: PrewarmWindow, text: str) -> str:
    return _moment(text).astimezone(ZoneInfo(window.time_zone)).strftime("%a %Y-%m-%d %H:%M:%S")
