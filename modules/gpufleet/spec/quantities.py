"""Typed values of the fleet file: names, digests, durations, sizes, money.

A field's name tells the unit of its value in Python (`p95_s`, `weights_bytes`); in the file the
value may be a plain number in that unit or a quantity with its unit (`250ms`, `4h`, `80GiB`).
"""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from gpufleet.spec import forms

DURATION_UNITS_S: Final = {
    "ms": 0.001,
    "s": 1.0,
    "min": 60.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
    "w": 604_800.0,
    "y": 31_536_000.0,
}
SIZE_UNITS_BYTES: Final = {
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
MAX_SECONDS: Final = 3.2e9
MAX_BYTES: Final = 2**60
MAX_MONEY: Final = 10**12
MONEY_PATTERN: Final = r"^[0-9]{1,13}(\.[0-9]{1,18})?$"
_QUANTITY: Final = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)


def quantity_pattern(units: Mapping[str, float]) -> str:
    """The pattern of a quantity with one of these units, for the JSON Schema."""
    return rf"^\s*[0-9]{{1,18}}(\.[0-9]{{1,18}})?\s*({'|'.join(units)})?\s*$"


def _scaled(value: object, units: Mapping[str, float], expected: str) -> object:
    """A quantity string as a number in the base unit; other types are left to pydantic."""
    if not isinstance(value, str):
        return _no_bool(value)
    match = _QUANTITY.fullmatch(value)
    if match is None:
        message = f"{value!r:.60} is not {expected}"
        raise ValueError(message)
    number, unit = match.groups()
    if unit and unit not in units:
        message = f"{value!r:.60} has the unit `{unit:.20}`, expected {expected}"
        raise ValueError(message)
    return float(number) * (units[unit] if unit else 1)


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _scaled(value, DURATION_UNITS_S, "a duration such as 250ms, 2s, 15min, 4h, 30d")


def _size(value: object) -> object:
    scaled = _scaled(value, SIZE_UNITS_BYTES, "a size such as 512MiB, 80GiB, 1.5TB")
    return round(scaled) if isinstance(value, str) and isinstance(scaled, float) else scaled


def _money(value: object) -> object:
    # YAML gives a float for 0.21; its shortest text is what the author wrote.
    return Decimal(str(value)) if isinstance(_no_bool(value), float | int) else value


def _no_bool(value: object) -> object:
    # pydantic's lax mode takes true for 1; in a fleet file that is always a slip.
    if isinstance(value, bool):
        message = f"has to be a number, not {str(value).lower()}"
        raise ValueError(message)  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _no_number(value: object) -> object:
    # pydantic's lax mode takes a number for seconds since 1970.
    if isinstance(value, int | float):
        message = f"has to be written like 2026-03-31 (a date) or 22:00 (a time), not {value!r:.30}"
        raise ValueError(message)  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _local(value: time) -> time:
    if value.tzinfo is not None:
        message = "has to be a local time without an offset; the zone stands in `time_zone`"
        raise ValueError(message)
    return value


def _distinct(names: list[str]) -> list[str]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        message = f"lists `{twice[0]}` twice"
        raise ValueError(message)
    return names


Name = Annotated[str, StringConstraints(pattern=forms.NAME, strict=True)]
"""A DNS label of at most 40 characters, so that every object name derived from it fits in 63."""

Names = Annotated[
    list[Name], AfterValidator(_distinct), Field(json_schema_extra={"uniqueItems": True})
]
"""Names, each of them once."""

RevisionName = Annotated[str, StringConstraints(pattern=forms.REVISION_NAME, strict=True)]
"""Like `Name`, with dots (`llama-3.3-70b`), at most 60 characters."""

Digest = Annotated[str, StringConstraints(pattern=forms.DIGEST, strict=True)]
"""A content digest: `sha256:` and 64 hexadecimal digits."""

RelativePath = Annotated[str, Field(pattern=forms.RELATIVE_PATH, max_length=200)]
"""A path below the fleet file's folder: never absolute, no `..`."""
HostName = Annotated[str, StringConstraints(pattern=forms.HOST_NAME, strict=True)]
PackageVersion = Annotated[str, StringConstraints(pattern=forms.PACKAGE_VERSION, strict=True)]
"""As a package manager writes it."""
ImageReference = Annotated[str, StringConstraints(pattern=forms.IMAGE, strict=True)]
"""A container image by digest: `registry/repository@sha256:...`. Tags can move and are refused."""

Text = Annotated[
    str,
    StringConstraints(pattern=forms.TEXT, min_length=1, max_length=500, strip_whitespace=True),
]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_no_bool)]
Seconds = Annotated[
    float,
    BeforeValidator(_duration),
    Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SECONDS},
                {"type": "string", "pattern": quantity_pattern(DURATION_UNITS_S)},
            ]
        }
    ),
]
Bytes = Annotated[
    int,
    BeforeValidator(_size),
    Field(gt=0, le=MAX_BYTES),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0, "maximum": MAX_BYTES},
                {"type": "string", "pattern": quantity_pattern(SIZE_UNITS_BYTES)},
            ]
        }
    ),
]
Money = Annotated[
    Decimal,
    BeforeValidator(_money),
    Field(ge=0, le=MAX_MONEY, allow_inf_nan=False),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": MAX_MONEY},
                {"type": "string", "pattern": MONEY_PATTERN},
            ]
        }
    ),
]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0, le=1e30)]
Rate = Annotated[Number, Field(ge=0, le=1e30)]
Count = Annotated[Integer, Field(ge=1, le=1_000_000)]
Port = Annotated[Integer, Field(ge=1, le=65_535)]
Whole = Annotated[Integer, Field(ge=0, le=1_000_000)]
TokenCount = Annotated[Integer, Field(ge=1, le=100_000_000)]
Date = Annotated[date, BeforeValidator(_no_number)]
LocalTime = Annotated[time, BeforeValidator(_no_number), AfterValidator(_local)]


class Spec(BaseModel):
    """The base of every part of a fleet file: frozen, and no field that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
