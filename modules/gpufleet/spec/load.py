"""From the files of a fleet to a checked `Fleet`, or to one error that points at the line."""

import difflib
import types
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gpufleet.spec.checks import Problem, problems
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.source import Document, FieldPath, Position, dotted, read_document

MAX_SHOWN: Final = 10
_PLAIN: Final = {
    "missing": "is missing",
    "dict_type": "has to be a mapping of names",
    "list_type": "has to be a list",
    "string_type": "has to be text",
    "model_type": "has to be a mapping of fields",
}


def load_fleet(path: Path) -> Fleet:
    """Read an environment's fleet file with the shared parts that it includes.

    Args:
        path: `fleets/NAME/ENVIRONMENT.yaml`.

    Raises:
        BadInput: with file, line, column, field, what is wrong and the nearest valid name.
    """
    document = _with_includes(path)
    data = {**document.data, "gpus": _with_catalogue(document.data.get("gpus"))}
    try:
        fleet = Fleet.model_validate(data)
    except ValidationError as error:
        raise _refusal(document, [_as_problem(entry) for entry in error.errors()]) from None
    if found := list(problems(fleet)):
        raise _refusal(document, found)
    return fleet


def built_in_gpus() -> dict[str, Any]:
    """The GPU catalogue that ships with gpufleet, by type name, as plain data."""
    text = resources.files("gpufleet.spec").joinpath("gpus.yaml").read_text(encoding="utf-8")
    catalogue: dict[str, Any] = yaml.safe_load(text)
    return catalogue


def _with_includes(path: Path) -> Document:
    main = read_document(path, str(path))
    names = main.data.get("include")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return main
    data, positions = dict(main.data), dict(main.positions)
    for index, name in enumerate(names):
        shared = path.parent / "shared" / f"{name}.yaml"
        if Path(name).name != name or not shared.is_file():
            valid = sorted(file.stem for file in (path.parent / "shared").glob("*.yaml"))
            raise _refusal(
                main,
                [
                    Problem(
                        ("include", index), f"there is no shared part `{name}`", name, tuple(valid)
                    )
                ],
            )
        part = read_document(shared, str(shared))
        _merge(data, positions, part)
    return Document(data, positions)


def _merge(data: dict[str, Any], positions: dict[FieldPath, Position], part: Document) -> None:
    """Add a shared part's sections; a name that stands in both is an error, never an override."""
    for section, value in part.data.items():
        mine: Any = data.get(section)
        both = isinstance(mine, dict) and isinstance(value, dict)
        twice = [(section, name) for name in value if name in mine] if both else []
        if (section in data and not both) or twice:
            path: FieldPath = twice[0] if twice else (section,)
            raise BadInput(
                f"stands in {positions[path]} already",
                where=f"{part.positions[path]}: {dotted(path)}",
                mend="a shared part adds names, and never overrides; keep one of the two",
            )
        data[section] = {**mine, **value} if both else value
    for path, position in part.positions.items():
        positions.setdefault(path, position)


def _with_catalogue(declared: object) -> object:
    if declared is None:
        return built_in_gpus()
    if not isinstance(declared, dict):
        return declared
    catalogue = built_in_gpus()
    for name, fields in declared.items():
        known = catalogue.get(name)
        catalogue[name] = {**known, **fields} if known and isinstance(fields, dict) else fields
    return catalogue


def _as_problem(entry: ErrorDetails) -> Problem:
    path: FieldPath = tuple(entry["loc"])
    kind = entry["type"]
    if kind == "extra_forbidden":
        name = str(path[-1])
        return Problem(path, "unknown field", name, tuple(_fields_at(Fleet, path[:-1])))
    if path and path[-1] == "[key]":
        path = path[:-1]
        return Problem(path, f"{path[-1]!r} is not a valid name: {_reason(entry)}")
    return Problem(path, _PLAIN.get(kind) or _reason(entry))


def _reason(entry: ErrorDetails) -> str:
    given = entry.get("input")
    reason = entry["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if isinstance(given, str | int | float) and repr(given) not in reason:
        reason = f"{given!r:.80}: {reason}"
    return reason


def _fields_at(model: type[BaseModel], path: FieldPath) -> Iterable[str]:
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
        return [kind]  # a union's tag in pydantic's location: stay where we are
    if get_origin(kind) in (dict, list):
        return _unwrapped(get_args(kind)[-1])
    return []


def _unwrapped(kind: Any) -> list[Any]:  # noqa: ANN401 - a type expression
    if get_origin(kind) is Annotated:
        return _unwrapped(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [inner for option in get_args(kind) for inner in _unwrapped(option)]
    return [kind]


def _refusal(document: Document, found: list[Problem]) -> BadInput:
    """One error for all problems: the first in full, up to `MAX_SHOWN` further ones below it."""
    first, *rest = found
    mend = _mend(first)
    if rest:
        lines = [f"{_where(document, problem)}: {problem.what}" for problem in rest[:MAX_SHOWN]]
        hidden = len(rest) - MAX_SHOWN
        lines += [f"... and {hidden} more"] if hidden > 0 else []
        mend = "\n  also ".join([mend, *lines]) if mend else "also " + "\n  also ".join(lines)
    return BadInput(first.what, where=_where(document, first), mend=mend)


def _mend(problem: Problem) -> str:
    if problem.mend or not problem.candidates:
        return problem.mend
    near = difflib.get_close_matches(problem.given, problem.candidates, n=1, cutoff=0.5)
    if near:
        return f"did you mean `{near[0]}`?"
    listed = ", ".join(sorted(problem.candidates)[:MAX_SHOWN])
    return f"valid here: {listed}"


def _where(document: Document, problem: Problem) -> str:
    """Position of the field, or of the nearest part above it that was written."""
    known: FieldPath = ()
    for part in problem.path:
        if (*known, part) in document.positions:
            known = (*known, part)
    position = document.positions[known]
    return f"{position}: {dotted(problem.path)}" if problem.path else str(position)
