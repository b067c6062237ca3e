"""YAML with positions: what was written, and where, so that an error can point at it.

The parts of a fleet file are plain data by YAML 1.2's core schema (`no` and `22:00` are text): no
tags, no aliases (an alias bomb is a few lines), no duplicate keys, at most `MAX_BYTES`, `MAX_DEPTH`
and `MAX_VALUES`.
"""

import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from gpufleet.spec.errors import BadInput

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 40
MAX_VALUES: Final = 100_000
MAX_KEY: Final = 200

FieldPath = tuple[str | int, ...]
Value = Any
"""What YAML gives: None, bool, int, float, str, date, lists and mappings of these."""

_SCALARS: Final[Mapping[str, tuple[re.Pattern[str], Callable[[str], Value]]]] = MappingProxyType(
    {
        "null": (re.compile(r"~|null|Null|NULL|"), lambda _: None),
        "bool": (
            re.compile(r"true|True|TRUE|false|False|FALSE"),
            lambda text: text.lower() == "true",
        ),
        "int": (re.compile(r"[-+]?[0-9]+"), int),
        "float": (
            re.compile(
                r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
                r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
            ),
            lambda text: float(re.sub(r"\.([A-Za-z])", r"\1", text)),
        ),
        "timestamp": (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), date.fromisoformat),
    }
)
"""The types of plain values by YAML 1.2: how they look, and how they are made."""

_TAG: Final = "tag:yaml.org,2002:"
_TAGS: Final = frozenset(_TAG + kind for kind in (*_SCALARS, "str", "map", "seq"))


def _loader() -> Any:  # noqa: ANN401 - a class made from one of two that yaml may have
    """YAML's safe loader with the implicit types of `_SCALARS` only."""
    found = [(_TAG + kind, pattern) for kind, (pattern, _) in _SCALARS.items()]
    anchored = [(tag, re.compile(rf"(?:{pattern.pattern})\Z")) for tag, pattern in found]
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return type("PlainLoader", (base,), {"yaml_implicit_resolvers": {None: anchored}})


_Loader: Final = _loader()


@dataclass(frozen=True)
class Position:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Document:
    """One parsed file: its data, and the position of every key and item by path."""

    data: dict[str, Value]
    positions: dict[FieldPath, Position]


def read_document(path: Path, shown_as: str) -> Document:
    """Parse one file of a fleet.

    Args:
        path: the file.
        shown_as: its name in error messages.

    Raises:
        BadInput: it is missing, too large, not UTF-8 text, not YAML, empty, or not plain data.
    """
    text = _read_text(path, shown_as)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _yaml_error(error, shown_as) from None
    except RecursionError:
        raise BadInput("is nested too deeply", where=shown_as) from None
    if node is None:
        raise BadInput(
            "the file is empty", where=shown_as, mend="start from fleets/article/production.yaml"
        )
    builder = _Builder(shown_as)
    data = builder.build(node, (), 0)
    if not isinstance(data, dict):
        raise BadInput(
            "is not a mapping of sections",
            where=str(builder.positions[()]),
            mend="start from fleets/article/production.yaml",
        )
    return Document(data, builder.positions)


def _read_text(path: Path, shown_as: str) -> str:
    raw = _read_bytes(path, shown_as)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise BadInput("is not UTF-8 text", where=f"{shown_as}:{line}:{column}") from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        column = at - text.rfind("\n", 0, at)
        raise BadInput("is binary, not YAML text", where=f"{shown_as}:{line}:{column}")
    return text


def _read_bytes(path: Path, shown_as: str) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            inside = sorted(file.name for file in path.glob("*.yaml"))
            mend = f"name a file in it: {', '.join(inside[:10])}" if inside else ""
            raise BadInput("is a folder, not a file", where=shown_as, mend=mend)
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe that nobody writes to would wait for ever.
            raise BadInput("is not a regular file", where=shown_as)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInput("no such file", where=shown_as, mend="see fleets/ for examples") from None
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=shown_as) from None
    if len(raw) > MAX_BYTES:
        raise BadInput(
            f"is larger than {MAX_BYTES // 2**20} MiB",
            where=shown_as,
            mend="a fleet file declares groups, not single GPUs; split shared parts by `include`",
        )
    return raw


def _yaml_error(error: yaml.YAMLError, shown_as: str) -> BadInput:
    mark = getattr(error, "problem_mark", None)
    where = f"{shown_as}:{mark.line + 1}:{mark.column + 1}" if mark else shown_as
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return BadInput(f"is not valid YAML: {problem}", where=where)


class _Builder:
    """Turns a node tree into data, and remembers where each part stands."""

    def __init__(self, shown_as: str) -> None:
        self.file = shown_as
        self.positions: dict[FieldPath, Position] = {}
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: FieldPath, depth: int) -> Value:
        if id(node) in self._seen:
            # The node's own mark is where the anchor stands, not the alias.
            place = self.positions.get(path) or self.positions[path[:-1]]
            raise _refusal(
                place,
                path,
                "is repeated by an alias (`*name`)",
                mend="write the value out, or share whole parts by `include`",
            )
        self._seen.add(id(node))
        place = self.positions.setdefault(path, self._position(node))
        if depth > MAX_DEPTH:
            raise _refusal(place, path, "is nested too deeply")
        if len(self._seen) > MAX_VALUES:
            raise _refusal(place, path, f"the file holds more than {MAX_VALUES} values")
        if node.tag not in _TAGS:
            raise _refusal(place, path, f"has the tag {node.tag!r:.80}; only plain values are read")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        return _scalar(node, place, path)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath, depth: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            place = self._position(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or len(key_node.value) > MAX_KEY:
                what = f"a key has to be a plain name of at most {MAX_KEY} characters"
                raise _refusal(place, path, what)
            key = str(key_node.value)
            if key in result:
                first = self.positions[(*path, key)]
                what = f"`{key}` stands twice (first in line {first.line})"
                raise _refusal(place, (*path, key), what)
            self.positions[(*path, key)] = place
            result[key] = self.build(value_node, (*path, key), depth + 1)
        return result

    def _position(self, node: yaml.Node) -> Position:
        return Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)


def _scalar(node: yaml.Node, place: Position, path: FieldPath) -> Value:
    kind = node.tag.removeprefix(_TAG)
    if kind not in _SCALARS:
        return node.value
    pattern, make = _SCALARS[kind]
    try:
        if pattern.fullmatch(node.value):
            return make(node.value)
    except ValueError:
        pass
    kind = {"timestamp": "date"}.get(kind, kind)
    raise _refusal(place, path, f"{node.value!r:.60} is not a valid {kind}")


def _refusal(place: Position, path: FieldPath, what: str, mend: str = "") -> BadInput:
    return BadInput(what, where=f"{place}: {dotted(path)}" if path else str(place), mend=mend)


def dotted(path: FieldPath) -> str:
    """A path as people write it: `pools.chat.placements.fra1-h100.replicas`, `racks[2]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
