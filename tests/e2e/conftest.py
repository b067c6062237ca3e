"""A fresh clone of the project, with its own environment, state and processes."""

from collections.abc import Iterator

import pytest
from tests.e2e.cloned import Clone, copy_project


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A fresh clone; whatever it started is stopped at the end."""
    root = tmp_path_factory.mktemp("clone") / "gpufleet"
    copy_project(root)
    made = Clone(root)
    try:
        yield made
    finally:
        made.variables = {}
        for file in sorted((root / "fleets").glob("*/*.yaml")):
            made.run("./fleet", "down", "--purge", "--fleet", str(file))
