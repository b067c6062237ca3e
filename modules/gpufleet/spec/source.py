"""YAML with positions: what was written, and where, so that an error can point at it.

The parts of a fleet file are plain data: no tags, no aliases (an alias bomb is a few lines), no
duplicate keys, at most `MAX_BYTES` and `MAX_DEPTH`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from gpufleet.spec.errors import BadInput

MAX_BYTES: Final = 4 * 2**20
MAX_DEPTH: Final = 40
_MARKER: Final = "tag:yaml.org,2002:"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

FieldPath = tuple[str | int, ...]
Value = Any
"""What YAML gives: None, bool, int, float, str, date, lists and mappings of these."""


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
        raise BadInput("is not a mapping of sections", where=f"{shown_as}:1:1")
    return Document(data, builder.positions)


def _read_text(path: Path, shown_as: str) -> str:
    try:
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
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput("is not UTF-8 text", where=f"{shown_as}:{line}") from None
    if "\0" in text:
        raise BadInput("is binary, not YAML text", where=shown_as)
    return text


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
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: FieldPath, depth: int) -> Value:
        position = self._position(node)
        self.positions.setdefault(path, position)
        if depth > MAX_DEPTH:
            raise BadInput("is nested too deeply", where=str(position))
        if id(node) in self._seen:
            raise BadInput(
                "is repeated by an alias (`*name`)",
                where=f"{position}: {dotted(path)}",
                mend="write the value out, or share whole parts by `include`",
            )
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath, depth: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            key_position = self._position(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise BadInput("a key has to be a plain name", where=str(key_position))
            key = str(key_node.value)
            if key in result:
                first = self.positions[(*path, key)]
                raise BadInput(
                    f"`{key}` stands twice (first in line {first.line})",
                    where=f"{key_position}: {dotted((*path, key))}",
                )
            self.positions[(*path, key)] = key_position
            result[key] = self.build(value_node, (*path, key), depth + 1)
        return result

    def _scalar(self, node: yaml.Node, path: FieldPath) -> Value:
        kind = node.tag.removeprefix(_MARKER)
        if kind not in {"str", "int", "float", "bool", "null", "timestamp"}:
            raise BadInput(
                f"has the tag {node.tag!r}; only plain values are read",
                where=f"{self._position(node)}: {dotted(path)}",
            )
        try:
            value: Value = self._scalars.construct_object(node)
        except (ValueError, OverflowError):
            raise BadInput(
                f"{node.value!r} is not a valid {kind}",
                where=f"{self._position(node)}: {dotted(path)}",
            ) from None
        return value

    def _position(self, node: yaml.Node) -> Position:
        return Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)


def dotted(path: FieldPath) -> str:
    """A path as people write it: `pools.chat.placements.fra1-h100.replicas`, `racks[2]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
