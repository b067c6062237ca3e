"""The lab that the tests of a session share."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.hosts.debian_root import NoDebian
from tests.hosts.lab import Lab
from tests.hosts.network import CannotMake
from tests.hosts.requirements import why_not

_TIMEOUT_S: Final = 1200
"""Of a test here: the first one on a machine makes the hosts' Debian."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.hosts)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Eight running hosts. A test that changes them asks for `hosts`, or for `one`."""
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Lab())
        except (NoDebian, CannotMake) as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture
def hosts(lab: Lab) -> Iterator[Lab]:
    """The same hosts; after the test each is as new: its own storage is made anew."""
    yield lab
    lab.renew()


@pytest.fixture
def one(lab: Lab) -> Iterator[Lab]:
    """The same hosts; after the test the first, `gpu-001`, is as new."""
    yield lab
    lab.renew("gpu-001")
