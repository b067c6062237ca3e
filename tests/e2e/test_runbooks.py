"""Runbooks work: every command of every page is run, in order, as an operator would."""

import os
import re
import textwrap
from pathlib import Path

import pytest
from tests.e2e.cloned import ROOT, Clone

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

ARTICLE = "fleets/article/production.yaml"
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(page for page in (ROOT / "runbooks").glob("*.md") if page.name != "README.md")


@pytest.fixture(scope="module", autouse=True)
def _environment_that_alerts_are_about(clone: Clone) -> None:
    clone.fleet("up", "--fleet", ARTICLE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_runbook_works(clone: Clone, page: Path) -> None:
    script = "\n".join(textwrap.dedent(block) for block in BLOCK.findall(page.read_text()))
    clone.variables = {"FLEET": ARTICLE, "PATH": os.environ["PATH"]}
    done = clone.run("bash", "-euo", "pipefail", "-c", script)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
