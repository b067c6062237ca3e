"""The declared images: `images/images.toml`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec.errors import BadInput

USER: Final = 10001
"""Of every container, as Pod Security `restricted` asks for one that is not root."""


@dataclass(frozen=True)
class Recipe:
    """What goes into one image, and how it is started; paths are from the project's root."""

    name: str
    home: str
    """Folder of the image's own files, absolute."""
    debian: Path
    packages: Path
    engines: tuple[str, ...]
    sources: tuple[str, ...]
    rootfs: Path
    entrypoint: tuple[str, ...]
    environment: dict[str, str]


def read_recipes(root: Path = PROJECT_ROOT) -> dict[str, Recipe]:
    """Every declared image by name, in the order of the file."""
    with (root / "images" / "images.toml").open("rb") as file:
        table = tomllib.load(file)
    return {
        name: Recipe(
            name=name,
            home=entry["home"],
            debian=root / entry["debian"],
            packages=root / entry["packages"],
            engines=tuple(entry.get("engines", ())),
            sources=tuple(entry.get("sources", ())),
            rootfs=root / entry["rootfs"],
            entrypoint=tuple(entry["entrypoint"]),
            environment=dict(entry.get("environment", {})),
        )
        for name, entry in table.items()
    }


def find_recipe(name: str, root: Path = PROJECT_ROOT) -> Recipe:
    """One declared image.

    Raises:
        BadInput: there is none of this name.
    """
    recipes = read_recipes(root)
    if name not in recipes:
        raise BadInput("there is no such image", where=name, mend=f"one of {', '.join(recipes)}")
    return recipes[name]
