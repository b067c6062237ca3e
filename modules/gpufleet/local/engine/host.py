"""Every simulated replica of a site, in one event loop of a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from gpufleet.local.engine.faults import hit
from gpufleet.local.engine.replica import Death, Identity, Replica, View
from gpufleet.local.engine.settings import EngineSettings, Probes
from gpufleet.spec.simulation import Fault, SimulatedReplica

_PROBE_EVERY_S: Final = 1.0
OnChange = Callable[[Identity, View], None]


@dataclass(frozen=True)
class Start:
    """What a replica is started with.

    `settings` is asked again at the start of each of its lives.
    """

    settings: Callable[[], EngineSettings]
    probes: Probes
    restarts: int = 0
    last_death: Death | None = None


class Host:
    """Starts and stops replicas; callable from any thread.

    Args:
        on_change: called in the loop's thread, whenever a pod's status has to say something else.
    """

    def __init__(self, on_change: OnChange) -> None:
        self.loop = asyncio.new_event_loop()
        self._on_change = on_change
        self._replicas: dict[str, Replica] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="engines")

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()
        self.soon(self._probe())

    def begin(self, identity: Identity, start: Start) -> None:
        """Start a replica; nothing where it runs already."""
        self.loop.call_soon_threadsafe(self._begin, identity, start)

    def leave(self, uid: str, within_s: float) -> None:
        """Let a replica drain and go; nothing where it runs no longer."""
        self.loop.call_soon_threadsafe(self._leave, uid, within_s)

    def seen(self) -> list[SimulatedReplica]:
        """Every replica; only in the loop's own thread."""
        return [replica.seen() for replica in self._replicas.values()]

    def inject(self, fault: Fault) -> list[SimulatedReplica]:
        """Let a fault happen, and tell whom it hits; only in the loop's own thread."""
        by_name = {
            (replica.identity.namespace, replica.identity.pod): replica
            for replica in self._replicas.values()
        }
        found = hit(fault, self.seen())
        for each in found:
            by_name[each.namespace, each.pod].inject(fault)
        return found

    def clear(self) -> None:
        """End every fault; only in the loop's own thread."""
        for replica in self._replicas.values():
            replica.clear()

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the loop."""
        self.loop.call_soon_threadsafe(self._keep, work)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _begin(self, identity: Identity, start: Start) -> None:
        if identity.uid in self._replicas:
            return
        replica = Replica(
            identity,
            start.settings,
            start.probes,
            start.restarts,
            start.last_death,
            self._on_change,
        )
        self._replicas[identity.uid] = replica
        self._keep(self._live(replica))

    async def _live(self, replica: Replica) -> None:
        try:
            await replica.live()
        finally:
            self._replicas.pop(replica.identity.uid, None)

    def _leave(self, uid: str, within_s: float) -> None:
        if replica := self._replicas.get(uid):
            self._keep(replica.leave(within_s))

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_EVERY_S)
            for replica in list(self._replicas.values()):
                replica.probe()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        # The loop itself holds its tasks weakly.
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
