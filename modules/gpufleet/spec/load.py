"""From the files of a fleet to a checked `Fleet`, or to one error that points at the line."""

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gpufleet.spec.checks import problems
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plan_file import (
    PlanFile,
    laid_over,
    laid_positions,
    plan_path,
    planned_from,
    strange_pools,
)
from gpufleet.spec.problem import Problem, position, refusal
from gpufleet.spec.source import Document, FieldPath, Position, dotted, read_document
from gpufleet.spec.wording import worded


def load_fleet(path: Path) -> Fleet:
    """Read an environment as it is meant to be: its fleet file, and the plan that stands beside it.

    A plan that was made for another fleet file holds all the same, since a plan that silently did
    not would change every pool at once; `outdated` tells it, for those who show it to people.

    Args:
        path: `fleets/NAME/ENVIRONMENT.yaml`.

    Raises:
        BadInput: with file, line, column, field, what is wrong and the nearest valid name.
    """
    return _load(path)[0]


def load_positions(path: Path) -> Document:
    """Where every field of `load_fleet` stands: in the fleet file, a shared part, or the plan file.

    Raises:
        BadInput: as `load_fleet`.
    """
    return _load(path)[1]


def load_declared(path: Path) -> tuple[Fleet, Document]:
    """Read a fleet file with the shared parts that it includes, and no plan; with positions.

    Raises:
        BadInput: with file, line, column, field, what is wrong and the nearest valid name.
    """
    document = _with_includes(path)
    data = {**document.data, "gpus": _with_catalogue(document.data.get("gpus"))}
    try:
        fleet = Fleet.model_validate(data)
    except ValidationError as error:
        raise refusal(document, worded(error.errors(), data, Fleet)) from None
    if found := list(problems(fleet)):
        raise refusal(document, found)
    return fleet, document


def load_plan(path: Path) -> PlanFile | None:
    """The plan file beside a fleet file, by itself; None where there is none.

    Args:
        path: the fleet file.

    Raises:
        BadInput: it is not a plan file.
    """
    found = _plan(path)
    return found[0] if found else None


def outdated(path: Path) -> str:
    """One line that says so if the plan beside a fleet file was made for another; else empty.

    Raises:
        BadInput: as `load_fleet`.
    """
    plan = load_plan(path)
    if plan is None or plan.fleet_digest == planned_from(load_declared(path)[0]):
        return ""
    return f"{plan_path(path).name} was made for an earlier fleet file: ./fleet plan.apply"


def _load(path: Path) -> tuple[Fleet, Document]:
    fleet, document = load_declared(path)
    found = _plan(path)
    if found is None:
        return fleet, document
    plan, plan_document = found
    if strangers := list(strange_pools(fleet, plan)):
        raise refusal(plan_document, strangers)
    laid = laid_over(fleet, plan)
    both = laid_positions(document, plan_document)
    if wrong := list(problems(laid)):
        raise refusal(both, [_mended(problem, both, plan_path(path)) for problem in wrong])
    return laid, both


def _mended(problem: Problem, both: Document, plan: Path) -> Problem:
    """A problem of a generated file is mended by planning again, not by hand."""
    if position(both, problem.path).file != str(plan):
        return problem
    return replace(problem, candidates=(), mend="plan again: ./fleet plan.apply --apply")


def _plan(path: Path) -> tuple[PlanFile, Document] | None:
    file = plan_path(path)
    if not file.exists():
        return None
    document = read_document(file, str(file))
    try:
        return PlanFile.model_validate(document.data), document
    except ValidationError as error:
        raise refusal(document, worded(error.errors(), document.data, PlanFile)) from None


def built_in_gpus() -> dict[str, Any]:
    """The GPU catalogue that ships with gpufleet, by type name, as plain data."""
    text = resources.files("gpufleet.spec").joinpath("gpus.yaml").read_text(encoding="utf-8")
    catalogue: dict[str, Any] = yaml.safe_load(text)
    return catalogue


def _with_includes(path: Path) -> Document:
    main = read_document(path, str(path))
    names = main.data.get("include", [])
    if not isinstance(names, list):
        raise refusal(main, [Problem(("include",), "has to be a list of names")])
    folder = path.parent / "shared"
    available = tuple(sorted(file.stem for file in folder.glob("*.yaml")))
    data, positions = dict(main.data), dict(main.positions)
    for index, name in enumerate(names):
        at: FieldPath = ("include", index)
        # Only a name that the folder lists is ever made a path.
        if name not in available:
            what = f"there is no shared part `{name!s:.60}`"
            mend = "" if available else f"shared parts stand in {folder}/NAME.yaml"
            raise refusal(main, [Problem(at, what, str(name), available, mend)])
        if name in names[:index]:
            raise refusal(main, [Problem(at, f"includes `{name}` twice")])
        shared = folder / f"{name}.yaml"
        _merge(data, positions, read_document(shared, str(shared)))
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
    for path, place in part.positions.items():
        positions.setdefault(path, place)


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
