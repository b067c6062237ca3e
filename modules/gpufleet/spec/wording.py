"""What pydantic found in a fleet file, in the words of a person."""

import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gpufleet.spec import forms
from gpufleet.spec.problem import Problem
from gpufleet.spec.source import FieldPath, Value

_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "decimal": "an amount such as 1200 or 0.21",
    "bool": "true or false",
    "date": "a date such as 2026-03-31",
    "time": "a time of day such as 22:00",
    "string": "text",
    "dict": "a mapping of names",
    "list": "a list",
    "model": "a mapping of fields",
}
"""What a value has to be, by the first word of pydantic's error type."""

_BOUNDS: Final = {
    "greater_than": "be above {gt:.15g}",
    "greater_than_equal": "be at least {ge:.15g}",
    "less_than": "be below {lt:.15g}",
    "less_than_equal": "be at most {le:.15g}",
    "string_too_long": "be at most {max_length} characters long",
    "string_too_short": "be at least {min_length} characters long",
    "too_short": "have {min_length} or more entries",
    "too_long": "have {max_length} or fewer entries",
}
_MAX_SHOWN: Final = 60
_CHOICES: Final = frozenset({"enum", "literal_error", "union_tag_invalid"})
_MISSING: Final = "missing"
_UNKNOWN: Final = "extra_forbidden"


def worded(errors: Iterable[ErrorDetails], data: Value, model: type[BaseModel]) -> list[Problem]:
    """The problems behind pydantic's errors: unknown fields, then wrong values, then missing ones.

    A field that is missing because its name was mistyped is told once, as the unknown field.

    Args:
        errors: of one validation.
        data: what was validated.
        model: the model that it was validated against.
    """
    found: dict[FieldPath, tuple[str, Problem]] = {}
    for error in errors:
        path = _written(error["loc"], data, missing=error["type"] == _MISSING)
        # A value that fits no branch of a union gives one error for each branch.
        found.setdefault(path, (error["type"], _problem(error, path, model)))
    unknown = [problem for kind, problem in found.values() if kind == _UNKNOWN]
    wrong = [problem for kind, problem in found.values() if kind not in {_UNKNOWN, _MISSING}]
    mistyped = {(*problem.path[:-1], problem.nearest) for problem in unknown}
    missing = [
        problem
        for kind, problem in found.values()
        if kind == _MISSING and problem.path not in mistyped
    ]
    return unknown + wrong + missing


def _written(location: Sequence[str | int], data: Value, *, missing: bool) -> FieldPath:
    """pydantic's location without the tags of unions, which nobody wrote."""
    path: FieldPath = ()
    for part in location:
        inside = dict(enumerate(data)) if isinstance(data, list) else data
        if isinstance(inside, dict) and part in inside:
            path, data = (*path, part), inside[part]
    return (*path, location[-1]) if missing else path


def _problem(error: ErrorDetails, path: FieldPath, model: type[BaseModel]) -> Problem:
    if error["type"] == _UNKNOWN:
        return Problem(path, "unknown field", str(path[-1]), tuple(_fields_at(model, path[:-1])))
    if error["type"] == _MISSING:
        return Problem(path, "is missing")
    context = error.get("ctx", {})
    if discriminator := str(context.get("discriminator", "")).strip("'"):
        path = (*path, discriminator)
        if error["type"] == "union_tag_not_found":
            return Problem(path, "is missing")
    given = context.get("tag", error["input"])
    what = f"the name {_what(error, given)}" if error["loc"][-1] == "[key]" else _what(error, given)
    choice = Problem(path, what, str(given), _choices(error))
    return choice if choice.nearest else Problem(path, what, mend=_quoting(error))


def _what(error: ErrorDetails, given: Value) -> str:
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    expected = _expected(error["type"], error.get("ctx", {}), _choices(error))
    if expected is None:
        return error["msg"]
    secret = error.get("ctx", {}).get("pattern") in forms.SECRET_LIKE
    return f"has to {expected}" if secret else f"has to {expected}, not {_shown(given)}"


def _expected(kind: str, context: Mapping[str, Any], choices: Sequence[str]) -> str | None:
    """What a value has to be or have; None where pydantic's own words have to do."""
    if choices:
        return f"be one of {', '.join(choices)}"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format_map(context)
    if meaning := forms.MEANINGS.get(context.get("pattern", "")):
        return f"be {meaning}"
    expected = _KINDS.get(kind) or _KINDS.get(kind.partition("_")[0])
    return expected and f"be {expected}"


def _choices(error: ErrorDetails) -> tuple[str, ...]:
    """The names that an enumeration or a union offers."""
    if error["type"] not in _CHOICES:
        return ()
    context = error.get("ctx", {})
    return tuple(re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"]))


def _quoting(error: ErrorDetails) -> str:
    given = error.get("input")
    if error["type"] == "string_type" and isinstance(given, int | float):
        return "put it in quotes, so that YAML does not read a number"
    return ""


def _shown(value: Value) -> str:
    """A value as it was written, in short."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case dict() | list():
            return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
        case str():
            return repr(value[:_MAX_SHOWN]) + ("..." if len(value) > _MAX_SHOWN else "")
        case _:
            return f"{value!s:.{_MAX_SHOWN}}"


def _fields_at(model: type[BaseModel], path: FieldPath) -> Iterator[str]:
    """The YAML names of the fields that are valid at a path below a model."""
    current: list[Any] = [model]
    for part in path:
        current = [step for kind in current for step in _step(kind, part)]
    for kind in current:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                yield field.alias or name


def _step(kind: Any, part: str | int) -> list[Any]:  # noqa: ANN401 - a type expression
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                return _unwrapped(field.annotation)
    if get_origin(kind) in (dict, list):
        return _unwrapped(get_args(kind)[-1])
    return []


def _unwrapped(kind: Any) -> list[Any]:  # noqa: ANN401 - a type expression
    if get_origin(kind) is Annotated:
        return _unwrapped(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [inner for option in get_args(kind) for inner in _unwrapped(option)]
    return [kind]
