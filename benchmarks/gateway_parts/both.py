"""Both gateways before the same engines, one after the other."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway_parts.sides import Engines, Pools, Side, ours, plain

from gpufleet.edges.gateway_environment import gateway_python


class Both:
    """Starts engines, and each gateway before them.

    Args:
        folder: for their files.
        workers: processes of each gateway.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._workers = workers
        self._python = gateway_python(lambda _: None)
        self._count = 0
        self.engines: Engines

    @contextmanager
    def running(self, pools: Pools) -> Iterator[Iterator[Side]]:
        """The gateways in turn, each alone, over engines that are new for each."""
        turns = self._turns(pools)
        try:
            yield turns
        finally:
            turns.close()

    def _turns(self, pools: Pools) -> Generator[Side, None, None]:
        for start in (plain, ours):
            self._count += 1
            self.engines = Engines(pools)
            try:
                with start(
                    self._python, self._folder / f"{self._count}", pools, self._workers
                ) as side:
                    yield side
            finally:
                self.engines.stop()
