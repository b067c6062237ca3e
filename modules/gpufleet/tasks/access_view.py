"""How API keys are asked for and shown."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from gpufleet.spec.access import ApiKey, IssuedKey, KeyRequest
from gpufleet.spec.errors import BadInput
from gpufleet.spec.quantities import Seconds
from gpufleet.tasks.command import print_json
from gpufleet.tasks.console import facts, notes, plain_table

if TYPE_CHECKING:
    from collections.abc import Sequence

_FLAGS = {
    "team": "--team",
    "use_cases": "--use-cases",
    "rate_rpm": "--rate-rpm",
    "concurrency_limit": "--concurrency",
    "expires_in_s": "--expires-in",
}


def request(
    team: str, use_cases: str, rate_rpm: str, concurrency: str, expires_in: str
) -> KeyRequest:
    """A request for a key from the flags as they were typed.

    Raises:
        BadInput: one of them is no such value.
    """
    given = {
        "team": team,
        "use_cases": [name.strip() for name in use_cases.split(",") if name.strip()],
        "rate_rpm": rate_rpm or None,
        "concurrency_limit": concurrency or None,
        "expires_in_s": expires_in or None,
    }
    try:
        return KeyRequest.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        flag = _FLAGS[str(first["loc"][0])]
        raise BadInput(first["msg"], where=flag, mend="./fleet access.issue --help") from None


def duration(text: str, flag: str) -> timedelta:
    """A flag such as `1h`.

    Raises:
        BadInput: it is no duration.
    """
    try:
        return timedelta(seconds=TypeAdapter(Seconds).validate_python(text))
    except ValidationError as error:
        raise BadInput(error.errors()[0]["msg"], where=flag, mend="such as 1h") from None


def state(key: ApiKey, now: datetime) -> str:
    """Valid, expired or revoked."""
    if key.revoked_at is not None:
        return "revoked"
    return "valid" if key.is_valid(now) else "expired"


def told(key: ApiKey, now: datetime) -> dict[str, Any]:
    """A key for machines."""
    return {**key.model_dump(mode="json"), "state": state(key, now)}


def show_request(wanted: KeyRequest, *, json: bool) -> None:
    """What would be issued."""
    if json:
        print_json({**wanted.model_dump(mode="json"), "applied": False})
        return
    facts.print(f"a key for team {wanted.team} to use {', '.join(wanted.use_cases)}")
    rate = f"{wanted.rate_rpm} requests a minute" if wanted.rate_rpm else "any rate"
    flight = f"{wanted.concurrency_limit} in flight" if wanted.concurrency_limit else "any number"
    days = f"{wanted.expires_in_s / 86_400:g} days" if wanted.expires_in_s else "until revoked"
    facts.print(f"{rate}, {flight}, {days}; --apply issues it")


def show_issued(issued: IssuedKey, *, json: bool) -> None:
    """A new key, the only time that its text is seen."""
    if json:
        print_json({**issued.key.model_dump(mode="json"), "key": issued.text})
        return
    notes.print(
        f"key {issued.key.id} of team {issued.key.team}; keep it now, it is not shown again"
    )
    facts.print(issued.text, markup=False, soft_wrap=True)


def show_plan(what: str, key: ApiKey, *, json: bool) -> None:
    """What would be done to a key."""
    if json:
        print_json({**key.model_dump(mode="json"), "would": what, "applied": False})
        return
    facts.print(f"key {key.id} of team {key.team} ({', '.join(key.use_cases)}): {what}")
    facts.print("--apply does it")


def show_revoked(key: ApiKey, *, json: bool) -> None:
    """A key that was revoked."""
    if json:
        print_json(key.model_dump(mode="json"))
        return
    facts.print(f"key {key.id} was revoked at {key.revoked_at:%Y-%m-%d %H:%M:%S} UTC")


def show_keys(keys: "Sequence[ApiKey]", now: datetime) -> None:
    """Keys, oldest first."""
    if not keys:
        facts.print("no key was issued yet: ./fleet access.issue --help")
        return
    table = plain_table()
    for column in ("ID", "TEAM", "STATE", "EXPIRES", "RPM", "IN FLIGHT", "LAST USE", "USE CASES"):
        table.add_column(column, no_wrap=column != "USE CASES")
    for key in keys:
        is_valid = state(key, now) == "valid"
        table.add_row(
            key.id,
            key.team,
            Text(state(key, now), style="green" if is_valid else "red"),
            _day(key.expires_at),
            f"{key.rate_rpm or '-'}",
            f"{key.concurrency_limit or '-'}",
            _day(key.last_used_at),
            ", ".join(key.use_cases),
        )
    facts.print(table, soft_wrap=True)


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "-"
