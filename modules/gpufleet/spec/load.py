"""From the files of a fleet to a checked `Fleet`, or to one error that points at the line."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gpufleet.spec.checks import problems
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.problem import Problem, refusal
from gpufleet.spec.source import Document, FieldPath, Position, dotted, read_document
from gpufleet.spec.wording import worded


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
        raise refusal(document, worded(error.errors(), data, Fleet)) from None
    if found := list(problems(fleet)):
        raise refusal(document, found)
    return fleet


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
