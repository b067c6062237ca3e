"""What the pages say exists: commands, options, files, exit codes."""

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Collection, Config
from invoke.loader import FilesystemLoader

from gpufleet.spec import errors

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "runbooks", "benchmarks", "docs")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"\./fleet(?: +'[^'`]*'| +[^\s`|&;)\"#<>]+| +\"[^\"`]*\")*")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
ELLIPSES = {"TASK", "NAMESPACE.TASK", "..."}


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tasks() -> Collection:
    module, _ = FilesystemLoader(start=str(ROOT), config=Config()).load("tasks")
    return Collection.from_module(module)


def blocks(page: Path, language: str) -> Iterator[str]:
    for found, text in BLOCK.findall(page.read_text()):
        if found == language:
            yield textwrap.dedent(text)


def calls(page: Path) -> Iterator[list[str]]:
    """Every `./fleet ...` of a page, in words; also those inside text."""
    for call in CALL.findall(page.read_text()):
        words = shlex.split(call)[1:]
        if words and words[0] not in ELLIPSES:
            yield words


def test_the_two_commands_stand_at_the_top_of_the_readme() -> None:
    first = next(blocks(ROOT / "README.md", "sh"))
    commands = [line.split("#")[0].strip() for line in first.splitlines()]
    assert commands == ["./fleet up", "./fleet test"]
    assert (ROOT / "README.md").read_text().index(first) < 500


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_call_on_a_page_is_a_task_with_these_options(page: Path) -> None:
    collection = tasks()
    for words in calls(page):
        if words[0].startswith("-"):
            continue
        task = collection[words[0]]
        names = {each.name.rstrip("_").replace("_", "-") for each in task.get_arguments()}
        known = {f"--{name}" for name in {*names, "help"}}
        assert {word for word in words if word.startswith("--")} <= known, words


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(ROOT.glob("runbooks/*.md")), ids=shown)
def test_the_commands_of_a_runbook_are_sound_shell(page: Path) -> None:
    script = "\n".join(blocks(page, "sh"))
    told = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout


def test_the_readme_tells_every_exit_code() -> None:
    line = next(
        line for line in (ROOT / "README.md").read_text().splitlines() if "Exit codes" in line
    )
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(number) for number in re.findall(r"\b\d+\b", line)} == codes


def test_the_readme_tells_every_task() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in tasks().task_names if f"`./fleet {name}`" not in text] == []


def test_the_article_on_the_front_page_is_the_one_in_the_file() -> None:
    declared = (ROOT / "fleets" / "article" / "production.yaml").read_text().splitlines()
    declared = [line.strip() for line in declared]
    quoted = next(blocks(ROOT / "README.md", "yaml")).splitlines()
    assert [line.strip() for line in quoted if line.strip() not in declared] == []
