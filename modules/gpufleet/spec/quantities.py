"""Typed values of the fleet file: names, digests, durations, sizes, money.

A field's name tells the unit of its value in Python (`p95_s`, `weights_bytes`); in the file the
value may be a plain number in that unit or a quantity with its unit (`250ms`, `4h`, `80GiB`).
"""

import re
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

_DURATION_S: Final = {
    "ms": 0.001,
    "s": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
    "w": 604_800.0,
    "y": 31_536_000.0,
}
_SIZE_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def _scaled(value: object, units: dict[str, float] | dict[str, int], expected: str) -> object:
    """A quantity string as a number in the base unit; other types are left to pydantic."""
    if not isinstance(value, str):
        return value
    match = _QUANTITY.fullmatch(value)
    if match is None:
        message = f"{value!r} is not {expected}"
        raise ValueError(message)
    number, unit = match.groups()
    if unit and unit not in units:
        message = f"{value!r} has the unit {unit!r}, expected {expected}"
        raise ValueError(message)
    return float(number) * (units[unit] if unit else 1)


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _scaled(value, _DURATION_S, "a duration such as 250ms, 2s, 15m, 4h, 30d")


def _size(value: object) -> object:
    scaled = _scaled(value, _SIZE_BYTES, "a size such as 512MiB, 80GiB, 1.5TB")
    return round(scaled) if isinstance(scaled, float) else scaled


def _money(value: object) -> object:
    # YAML gives a float for 0.21; its shortest text is what the author wrote.
    if isinstance(value, float | int) and not isinstance(value, bool):
        try:
            return Decimal(str(value))
        except InvalidOperation:  # pragma: no cover - str of a number always parses
            return value
    return value


def _no_bool(value: object) -> object:
    # pydantic's lax mode takes true for 1; in a fleet file that is always a slip.
    if isinstance(value, bool):
        message = f"{str(value).lower()} is not a number"
        raise ValueError(message)  # noqa: TRY004 - pydantic reports ValueError only
    return value


Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", strict=True)
]
"""A DNS label of at most 40 characters, so that every object name derived from it fits in 63."""

RevisionName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,58}[a-z0-9])?$", strict=True)
]
"""Like `Name`, with dots (`llama-3.3-70b`), at most 60 characters."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", strict=True)]
"""A content digest: `sha256:` and 64 hexadecimal digits."""

ImageReference = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$", strict=True
    ),
]
"""A container image by digest: `registry/repository@sha256:...`. Tags can move and are refused."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]
Seconds = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=3.2e9, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]
Money = Annotated[Decimal, BeforeValidator(_money), Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1_000_000)]
Whole = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=1_000_000)]


class Spec(BaseModel):
    """The base of every part of a fleet file: frozen, and no field that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
