"""A fresh clone of the project, with its own environment, state and processes."""

from collections.abc import Iterator

import pytest
from tests.e2e.cloned import Clone, copy_project


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A fresh clone."""
    root = tmp_path_factory.mktemp("clone") / "gpufleet"
    copy_project(root)
    return Clone(root)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_running(clone: Clone) -> Iterator[None]:
    """Whatever a module's tests have started is stopped at its end: the next has the machine."""
    yield
    clone.variables = {}
    for file in sorted((clone.root / "fleets").glob("*/*.yaml")):
        clone.run("./fleet", "down", "--purge", "--fleet", str(file))
