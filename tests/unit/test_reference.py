"""The generated reference is fresh, whole, and agrees with the loader."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.reports.fleet_reference import json_schema, markdown
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.source import read_document
from gpufleet.tasks.reference import pages, stale, write

FILES = sorted((PROJECT_ROOT / "fleets").glob("**/*.yaml"))
ARTICLE = PROJECT_ROOT / "fleets" / "article" / "production.yaml"


@cache
def validator() -> Draft202012Validator:
    schema = json.loads(json_schema())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def data(file: Path) -> dict[str, Any]:
    """A file as an editor reads it: dates are text."""
    text = json.dumps(read_document(file, str(file)).data, default=date.isoformat)
    found: dict[str, Any] = json.loads(text)
    return found


def fields(node: object, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        for name, field in node.get("properties", {}).items():
            yield f"{path}.{name}", field
        for name, part in node.get("$defs", {}).items():
            yield from fields(part, name)


def test_the_committed_pages_are_fresh() -> None:
    assert stale(PROJECT_ROOT) == [], "run ./fleet docs and commit the result"


def test_a_changed_or_missing_page_is_stale_and_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_bytes((PROJECT_ROOT / "tasks.py").read_bytes())
    assert sorted(write(tmp_path)) == sorted(pages(tmp_path))
    assert write(tmp_path) == []
    page = tmp_path / "docs" / "fleet-file.md"
    page.write_text(page.read_text() + "\n")
    assert stale(tmp_path) == [page]


def test_generating_twice_gives_the_same() -> None:
    assert json_schema() == json_schema()
    assert markdown() == markdown()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROJECT_ROOT)))
def test_editors_accept_every_file_of_the_shipped_fleets(file: Path) -> None:
    assert [error.message for error in validator().iter_errors(data(file))] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROJECT_ROOT)))
def test_every_shipped_file_tells_editors_where_the_schema_is(file: Path) -> None:
    head, _, target = file.read_text().partition("\n")[0].partition("$schema=")
    assert head == "# yaml-language-server: "
    assert (file.parent / target).resolve() == PROJECT_ROOT / "docs" / "fleet.schema.json"


@pytest.mark.parametrize(
    ("path", "value", "accepted"),
    [
        (("sites", "main", "pue"), 0.5, False),
        (("sites", "main", "pu"), 1.5, False),
        (("use_cases", "answers", "slo", "p95_s"), "2s", True),
        (("use_cases", "answers", "slo", "p95_s"), 2, True),
        (("use_cases", "answers", "slo", "p95_s"), "2GiB", False),
        (("use_cases", "answers", "slo", "error_rate"), 2, False),
        (("use_cases", "answers", "class"), "interactiv", False),
        (("models", "llama-3.1-8b", "kv_bytes_per_token"), "128KiB", True),
        (("models", "llama-3.1-8b", "kv_bytes_per_token"), "2s", False),
        (("models", "llama-3.1-8b", "digest"), "sha256:1", False),
        (("node_groups", "h100", "price_per_node"), "290000.50", True),
        (("node_groups", "h100", "racks"), ["r1", "r1"], False),
        (("gpus",), {"h100-sxm": {"power_w": 650}}, True),
    ],
)
def test_editors_and_the_loader_agree(
    tmp_path: Path, path: tuple[str, ...], value: object, *, accepted: bool
) -> None:
    content = part = data(ARTICLE)
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    assert validator().is_valid(content) is accepted
    file = tmp_path / "production.yaml"
    file.write_text(yaml.safe_dump(content))
    with nullcontext() if accepted else pytest.raises(BadInput):
        load_fleet(file)


def test_every_field_says_what_it_means() -> None:
    schema = Fleet.model_json_schema()
    dumb = [
        path
        for path, field in fields(schema, "Fleet")
        if not field.get("description") and "$ref" not in json.dumps(field)
    ]
    assert dumb == []
    assert "|  |\n" not in markdown().replace("| required |", "")


def test_every_field_of_the_models_stands_in_the_page() -> None:
    page = markdown()
    for path, _ in fields(Fleet.model_json_schema(by_alias=True)):
        assert f"| `{path.rpartition('.')[2]}` |" in page
