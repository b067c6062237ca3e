"""Resources that components declare, recorded."""

from collections.abc import Iterator

import pytest
from tests.recorded import Recorder, recording


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as found:
        yield found
