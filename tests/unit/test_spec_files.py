"""Files that are no fleet files: each is refused quickly, with one error, and nothing is run."""

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.source import MAX_BYTES, read_document

ARTICLE = (PROJECT_ROOT / "fleets" / "article" / "production.yaml").read_text()
SAMPLE = PROJECT_ROOT / "fleets" / "sample"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refused(folder: Path, content: bytes | str) -> str:
    file = folder / "production.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as raised:
        load_fleet(file)
    return str(raised.value).replace(str(file), "FILE")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "FILE: the file is empty"),
        ("# only a comment\n", "FILE: the file is empty"),
        ("just text", "FILE:1:1: is not a mapping of sections"),
        ("- a\n- b\n", "FILE:1:1: is not a mapping of sections"),
        ("fleet: a\n---\nfleet: b\n", "FILE:2:1: is not valid YAML"),
        ("fleet: [a\n", "FILE:2:1: is not valid YAML"),
        ("fleet: a\n\tsites: b\n", "FILE:2:1: is not valid YAML"),
        (b"fleet: a\nname: \xff\xfe\n", "FILE:2:7: is not UTF-8 text"),
        (b"\x7fELF\x02\x01\x00\x00\x00", "FILE:1:7: is binary, not YAML text"),
        (ARTICLE.encode("utf-16"), "FILE:1:1: is not UTF-8 text"),
        (b"fleet: \x07\n", "is not valid YAML"),
        ("fleet: a\nfleet: b\n", "FILE:2:1: fleet: `fleet` stands twice (first in line 1)"),
        (BOMB, "FILE:2:1: b[0]: is repeated by an alias (`*name`)"),
        ("a: &a [*a]\n", "is repeated by an alias"),
        ("fleet: &f a\nenvironment: *f\n", "FILE:2:1: environment: is repeated by an alias"),
        ("a: {<<: {b: 1}}\n", "FILE:1:1: a: unknown field"),
        ("fleet: !!python/object/apply:os.abort []\n", "FILE:1:1: fleet: has the tag"),
        ("fleet: !!set {a, b}\n", "FILE:1:1: fleet: has the tag"),
        ("fleet: !!int a\n", "FILE:1:1: fleet: 'a' is not a valid int"),
        ("fleet: !!timestamp a\n", "FILE:1:1: fleet: 'a' is not a valid date"),
        (f"fleet: {'9' * 5000}\n", "is not a valid int"),
        ("? [a]\n: b\n", "FILE:1:3: a key has to be a plain name"),
        (f"{'k' * 300}: 1\n", "a key has to be a plain name of at most 200 characters"),
        ("a: " + "[" * 50 + "]" * 50, "is nested too deeply"),
        ("[" * 100_000, "is not valid YAML: exceeded maximum nesting depth"),
        ("a: [" + "1," * 100_001 + "1]", "holds more than 100000 values"),
    ],
)
def test_what_is_no_fleet_file_is_refused_at_its_place(
    tmp_path: Path, content: bytes | str, told: str
) -> None:
    assert told in refused(tmp_path, content)


def test_a_file_of_50_mb_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    file = tmp_path / "production.yaml"
    with file.open("wb") as out:
        out.truncate(50_000_000)
    before = time.process_time()
    with pytest.raises(BadInput, match=f"is larger than {MAX_BYTES // 2**20} MiB"):
        load_fleet(file)
    assert time.process_time() - before < 1


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        load_fleet(tmp_path / "lost.yaml")
    with pytest.raises(BadInput, match="is a folder, not a file") as raised:
        load_fleet(SAMPLE)
    assert raised.value.mend == "name a file in it: production.yaml, staging.yaml"
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with pytest.raises(BadInput, match="is not a regular file"):
        load_fleet(pipe)
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    with pytest.raises(BadInput, match="cannot be read"):
        load_fleet(tmp_path / "loop.yaml")


@pytest.mark.parametrize("content", [ARTICLE.replace("\n", "\r\n"), "\ufeff" + ARTICLE])
def test_line_ends_and_a_byte_order_mark_of_other_systems_are_read(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "production.yaml"
    file.write_bytes(content.encode())
    assert load_fleet(file).slug == "article-production"


def test_columns_count_characters_not_bytes(tmp_path: Path) -> None:
    assert "FILE:1:11: x.b: " in refused(tmp_path, "x: {ä: 1, b: !!set {}}")


@pytest.fixture
def company(tmp_path: Path) -> Path:
    """The file of a copy of the sample fleet."""
    shutil.copytree(SAMPLE, tmp_path / "sample")
    return tmp_path / "sample" / "production.yaml"


def change(file: Path, old: str, new: str) -> str:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput) as raised:
        load_fleet(file.parents[1] / "production.yaml" if file.parent.name == "shared" else file)
    return str(raised.value).replace(f"{file.parent}/", "")


@pytest.mark.parametrize(
    ("include", "told"),
    [
        (
            "[company, model]",
            "include[1]: there is no shared part `model`\n  did you mean `models`?",
        ),
        (
            "[company, ../../article/production]",
            "there is no shared part `../../article/production`",
        ),
        ("[company, /etc/passwd]", "there is no shared part `/etc/passwd`"),
        ("[company, models, company]", "include[2]: includes `company` twice"),
        ("[company, {a: b}]", "include[1]: there is no shared part"),
        ("company", "include: has to be a list of names"),
    ],
)
def test_an_include_of_nothing_is_refused_at_its_item(
    company: Path, include: str, told: str
) -> None:
    assert told in change(company, "[company, models]", include)


def test_an_error_in_a_shared_part_points_into_that_part(company: Path) -> None:
    told = change(company.parent / "shared" / "models.yaml", "license: mit", "licence: mit")
    assert told.startswith("models.yaml:")
    assert "models.deepseek-r1-671b.licence: unknown field\n  did you mean `license`?" in told


def test_a_shared_part_cannot_override(company: Path) -> None:
    told = change(company, "pools:", "teams:\n  legal: {owner: sofia, cost_center: '1'}\npools:")
    assert "shared/company.yaml" in told
    assert "teams.legal: stands in" in told
    assert "never overrides" in told


def test_a_shared_part_cannot_include(company: Path) -> None:
    part = company.parent / "shared" / "models.yaml"
    told = change(part, "models:", "include: [company]\nmodels:")
    assert "include: stands in" in told


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_raise_anything_else(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path, content)


KEYS = st.sampled_from(
    ["fleet", "environment", "sites", "pools", "main", "region", "pue", "placements", "gpus"]
)
SCALARS = st.sampled_from(
    [
        *("1", "-0", "1e9", "0x1f", "017", "1_0", "12:30:45", "2026-01-01", ".inf", "2GiB"),
        *("~", "", "yes", "'x'", '"\\ud800"', "[]", "|", "*a", "&a b", "<<", "="),
        *("!!float x", "!!bool x", "!!int ''"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda entries: "{" + ", ".join(f"{k}: {v}" for k, v in entries.items()) + "}"
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sections=st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_no_yaml_raises_anything_else(tmp_path: Path, sections: dict[str, str]) -> None:
    refused(tmp_path, "".join(f"{key}: {value}\n" for key, value in sections.items()))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_a_good_fleet_replaced_by_another_raises_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    lines = ARTICLE.splitlines()
    places = [index for index, line in enumerate(lines) if ": " in line and "#" not in line]
    index = data.draw(st.sampled_from(places))
    key, _, _ = lines[index].partition(": ")
    lines[index] = f"{key}: {data.draw(VALUES)}"
    file = tmp_path / "production.yaml"
    file.write_text("\n".join(lines))
    try:
        load_fleet(file)
    except BadInput as error:
        assert str(file) in error.where  # noqa: PT017 - most replacements are refused, some are fine


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_renamed_field_is_named_at_its_place(tmp_path: Path, data: st.DataObject) -> None:
    document = read_document(PROJECT_ROOT / "fleets" / "article" / "production.yaml", "x")
    fields = [
        path
        for path in document.positions
        if path
        and isinstance(path[-1], str)
        and path[-2:-1] != ("placements",)
        and not (len(path) == 2 and isinstance(document.data[str(path[0])], dict))
    ]
    path = data.draw(st.sampled_from(sorted(fields, key=str)))
    place = document.positions[path]
    lines = ARTICLE.splitlines()
    line, column = place.line - 1, place.column - 1
    assert lines[line][column:].startswith(str(path[-1]))
    lines[line] = f"{lines[line][:column]}zz-{lines[line][column:]}"
    told = refused(tmp_path, "\n".join(lines))
    assert told.startswith(f"FILE:{place.line}:{place.column}: ")
    assert f"zz-{path[-1]}: unknown field" in told.splitlines()[0]
