"""The declared engines: `tools/engines.toml`, and the key under which a build is cached."""

import hashlib
import json
import platform
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SOURCES: Final = ("go.mod", "go.sum", "*.go")


@dataclass(frozen=True)
class ModuleFiles:
    """Files to copy out of a pinned Go module: `path` inside it, into the folder `to`."""

    module: str
    version: str
    path: str
    to: str
    definitions: bool = False
    """Make the Helm chart `charts/TO` of the custom resource definitions instead of copying."""


@dataclass(frozen=True)
class PathCheck:
    """What makes a binary on PATH good enough: the arguments `ask` make it tell its version."""

    ask: tuple[str, ...]
    accepts: str
    """Versions, as PEP 440 writes ranges."""


@dataclass(frozen=True)
class Engine:
    """One engine: how to recognize it on PATH and how to make it."""

    name: str
    folder: Path
    version: str
    package: str
    ldflags: str
    generate: bool
    binaries: tuple[str, ...]
    """All of them; the first is the package's, `also` names the package of further ones, and the
    rest are links to the first."""
    also: dict[str, str]
    on_path: dict[str, PathCheck]
    """Binaries that count only together; empty where only our own build will do."""
    files: tuple[ModuleFiles, ...]
    optional: bool
    """Made only where it is asked for by name."""

    @property
    def key(self) -> str:
        """Changes with every pin, source, flag and kind of machine: 16 hexadecimal digits."""
        recipe = [
            self.version,
            self.package,
            self.ldflags,
            self.binaries,
            self.also,
            [vars(file) for file in self.files],
        ]
        digest = hashlib.sha256(json.dumps(recipe).encode())
        digest.update(f"{platform.system()}/{platform.machine()}".encode())
        for pattern in SOURCES:
            for path in sorted(self.folder.glob(pattern)):
                digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()[:16]


def read_table(tools: Path) -> dict[str, Engine]:
    """Every declared engine by name, in the order of the file."""
    with (tools / "engines.toml").open("rb") as file:
        table = tomllib.load(file)
    return {name: _engine(name, tools / name, entry) for name, entry in table.items()}


def _engine(name: str, folder: Path, entry: dict[str, Any]) -> Engine:
    return Engine(
        name=name,
        folder=folder,
        version=entry["version"],
        package=entry.get("package", ""),
        ldflags=entry.get("ldflags", ""),
        generate=entry.get("generate", False),
        binaries=(*entry.get("binaries", ()), *entry.get("also", {})),
        also=dict(entry.get("also", {})),
        on_path={
            binary: PathCheck(tuple(check["ask"]), check["accepts"])
            for binary, check in entry.get("on_path", {}).items()
        },
        files=tuple(ModuleFiles(**file) for file in entry.get("files", ())),
        optional=entry.get("optional", False),
    )
