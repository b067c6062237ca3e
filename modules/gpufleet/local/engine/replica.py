"""A simulated replica over all its lives: load, first token, readiness, death, drain."""

import asyncio
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import aiohttp

from gpufleet.core.serving import ENGINE_PORT
from gpufleet.local.engine.engine import Engine
from gpufleet.local.engine.faults import Faults
from gpufleet.local.engine.server import EngineServer
from gpufleet.local.engine.settings import EngineSettings, Probes
from gpufleet.spec.simulation import STAYS_DOWN, Fault, FaultKind, SimulatedReplica

_BIND_AGAIN_S: Final = 1.0
_LIVE_AGAIN_S: Final = 5.0
_FIRST: Final = asyncio.FIRST_COMPLETED
_KILLED: Final = 137
"""128 + SIGKILL."""


class Phase(StrEnum):
    """What a replica is doing."""

    LOADING = "loading"
    READY = "ready"
    NOT_READY = "not ready"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True)
class Death:
    """How a life ended, as a kubelet writes it."""

    reason: str
    exit_code: int
    started: datetime
    ended: datetime


@dataclass(frozen=True)
class Identity:
    """Whose replica it is."""

    uid: str
    namespace: str
    pod: str
    pool: str
    address: str


@dataclass(frozen=True)
class View:
    """What the pod's status has to say of a replica."""

    phase: Phase
    restarts: int
    started: datetime
    has_started: bool
    """Whether this life has produced a token."""
    last_death: Death | None

    @property
    def is_ready(self) -> bool:
        """Whether requests may be sent to it."""
        return self.phase is Phase.READY


class Replica:
    """Lives in the event loop of its host.

    Args:
        identity: whose it is.
        settings: asked for at the start of each life, since the fleet file may have changed.
        probes: when it is taken out, and when it is started again.
        restarts: of earlier lives, before the node agent itself was started.
        last_death: of the last of them.
        on_change: told what its pod's status has to say, whenever that changes.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a replica is made of
        self,
        identity: Identity,
        settings: Callable[[], EngineSettings],
        probes: Probes,
        restarts: int,
        last_death: Death | None,
        on_change: Callable[[Identity, View], None],
    ) -> None:
        self.identity = identity
        self.faults = Faults()
        self.engine: Engine | None = None
        self._settings = settings
        self._settings_now: EngineSettings | None = None
        self._probes = probes
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Death | None] = self._loop.create_future()
        self._hangs_since: float | None = None
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._is_dark = False
        self._clears: list[asyncio.TimerHandle] = []
        now = datetime.now(UTC)
        self._view = View(Phase.LOADING, restarts, now, has_started=False, last_death=last_death)

    @property
    def view(self) -> View:
        """What the pod's status has to say."""
        return self._view

    async def live(self) -> None:
        """One life after the other, until it was told to go and has drained."""
        while True:
            death = await self._any_life()
            if death is None or self._view.phase is Phase.DRAINING:
                break
            self._ending = self._loop.create_future()
            self._show(
                View(
                    Phase.LOADING,
                    self._view.restarts + 1,
                    death.ended,
                    has_started=False,
                    last_death=death,
                )
            )
        for timer in self._clears:
            timer.cancel()
        self._show(replace(self._view, phase=Phase.GONE))

    async def leave(self, within_s: float) -> None:
        """Refuse what is new, end what has begun, and go."""
        self._show(replace(self._view, phase=Phase.DRAINING))
        if self.engine:
            self.engine.draining = True
            idle = self._loop.create_task(self.engine.idle())
            either: set[asyncio.Future[Any]] = {idle, self._ending}
            await asyncio.wait(either, timeout=within_s, return_when=_FIRST)
            idle.cancel()
        self._end(None)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong from now on."""
        if fault.kind is FaultKind.POWER:
            self._is_dark = True
            self._may_start.clear()
            if fault.for_s is not None:
                self._clears.append(self._loop.call_later(fault.for_s, self._light))
            self._die("Error", _KILLED)
            return
        if fault.kind in {FaultKind.OOM, FaultKind.CRASH}:
            if fault.for_s is not None:
                self._may_start.clear()
                self._clears.append(self._loop.call_later(fault.for_s, self._may_start.set))
            oom = fault.kind is FaultKind.OOM
            self._die("OOMKilled" if oom else "Error", _KILLED if oom else 1)
            return
        self.faults.begin(fault)
        if fault.kind is FaultKind.HANG:
            self._hang()
        self._take_speed()
        if fault.for_s is not None:
            self._clears.append(self._loop.call_later(fault.for_s, self.clear, fault))

    def clear(self, only: Fault | None = None) -> None:
        """All is well again; with `only` as far as that fault went."""
        for fault in list(self.faults.standing.values()):
            # By identity: a later one may say the same, and lasts longer.
            is_meant = only is None or only is fault
            if is_meant and self.faults.end(fault) and fault.kind is FaultKind.HANG:
                self._go_on()
        if only is None:
            self._light()
        self._take_speed()

    def probe(self) -> None:
        """What the pod's probes would find by now."""
        if self._hangs_since is None or not self._view.has_started:
            return
        passed_s = self._loop.time() - self._hangs_since
        if passed_s >= self._probes.liveness.budget_s:
            self._die("Error", _KILLED)
        elif passed_s >= self._probes.readiness.budget_s and self._view.is_ready:
            self._show(replace(self._view, phase=Phase.NOT_READY))

    def seen(self) -> SimulatedReplica:
        """For people."""
        identity, engine, settings = self.identity, self.engine, self._settings_now
        batch = engine.batch if engine else None
        return SimulatedReplica(
            pool=identity.pool,
            namespace=identity.namespace,
            pod=identity.pod,
            model=settings.model if settings else "",
            address=f"http://{identity.address}:{ENGINE_PORT}",
            state=self._view.phase.value,
            restarts=self._view.restarts,
            running=batch.running if batch else 0,
            waiting=batch.waiting if batch else 0,
            kv_usage=batch.kv_usage(self._loop.time()) if batch else 0.0,
            faults=[*self.faults.words(), *self._down()],
            speed=settings.spec.speed.source if settings else "",
        )

    def _down(self) -> list[str]:
        if self._may_start.is_set():
            return []
        return ["no power" if self._is_dark else STAYS_DOWN]

    async def _any_life(self) -> Death | None:
        """A life; one that cannot begin or breaks off unforeseen is a death, and told why."""
        try:
            return await self._life()
        except Exception:  # noqa: BLE001 - its pod would be loading for ever
            sys.stderr.write(f"{self.identity.pod}: {traceback.format_exc()}")
        if await self._ends_within(_LIVE_AGAIN_S):
            return self._ending.result()
        return Death("Error", 1, self._view.started, datetime.now(UTC))

    async def _life(self) -> Death | None:
        """From the start of the process to its end; None where it went as it was told."""
        settings = self._settings_now = self._settings()
        starting = self._loop.create_task(self._may_start.wait())
        either: set[asyncio.Future[Any]] = {starting, self._ending}
        await asyncio.wait(either, return_when=_FIRST)
        starting.cancel()
        if await self._ends_within(settings.spec.load_s):
            return self._ending.result()
        engine = Engine(settings, self.faults)
        server = EngineServer(engine)
        try:
            if not await self._listens(server):
                return self._ending.result()
            self.engine = engine
            if FaultKind.HANG in self.faults.standing:
                self._hang()
            if await self._gives_a_token(settings.model):
                self._show(replace(self._view, phase=Phase.READY, has_started=True))
            death = await self._ending
            if death:
                server.reset()
            return death
        finally:
            self.engine = None
            self._hangs_since = None
            engine.end()
            await server.close()

    async def _listens(self, server: EngineServer) -> bool:
        """Open its port; False where it was told to end before."""
        while True:
            try:
                await server.open(self.identity.address)
            except OSError as error:
                sys.stderr.write(f"{self.identity.pod}: {error}; again in {_BIND_AGAIN_S:.0f} s\n")
                if await self._ends_within(_BIND_AGAIN_S):
                    return False
            else:
                return True

    async def _gives_a_token(self, model: str) -> bool:
        """Ask it, as the pod's startup probe does; False where it ended before.

        One that never gives one is killed when the probe's budget is used up.
        """
        startup = self._probes.startup
        deadline_s = self._loop.time() + startup.budget_s
        while self._loop.time() < deadline_s:
            asking = self._loop.create_task(self._ask(model, startup.timeout_s))
            either: set[asyncio.Future[Any]] = {asking, self._ending}
            await asyncio.wait(either, return_when=_FIRST)
            if self._ending.done():
                asking.cancel()
                return False
            if await asking:
                return True
            if await self._ends_within(startup.period_s):
                return False
        self._die("Error", _KILLED)
        return False

    async def _ask(self, model: str, timeout_s: float) -> bool:
        """Whether it produces a token."""
        body = {"model": model, "prompt": "1", "max_tokens": 1}
        url = f"http://{self.identity.address}:{ENGINE_PORT}/v1/completions"
        timeout = aiohttp.ClientTimeout(timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, json=body) as response,
            ):
                response.raise_for_status()
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError):
            return False
        return bool(answer["usage"]["completion_tokens"] >= 1)

    async def _ends_within(self, seconds: float) -> bool:
        await asyncio.wait({self._ending}, timeout=seconds)
        return self._ending.done()

    def _die(self, reason: str, exit_code: int) -> None:
        """This life ends; standing faults of the process end with it."""
        if hang := self.faults.standing.get(FaultKind.HANG):
            self.faults.end(hang)
        self._end(Death(reason, exit_code, self._view.started, datetime.now(UTC)))

    def _end(self, death: Death | None) -> None:
        if not self._ending.done():
            self._ending.set_result(death)

    def _hang(self) -> None:
        if self.engine and self._hangs_since is None:
            self._hangs_since = self._loop.time()
            self.engine.hang()

    def _go_on(self) -> None:
        if self.engine and self._hangs_since is not None:
            self._hangs_since = None
            self.engine.go_on()
            if self._view.phase is Phase.NOT_READY:
                self._show(replace(self._view, phase=Phase.READY))

    def _take_speed(self) -> None:
        if self.engine:
            self.engine.take_speed()

    def _light(self) -> None:
        """Its machine runs: it may start, and what happened meanwhile is told."""
        self._may_start.set()
        if self._is_dark:
            self._is_dark = False
            self._on_change(self.identity, self._view)

    def _show(self, view: View) -> None:
        if view != self._view:
            self._view = view
            # Who has no power tells nothing; that it is gone is its host's own affair.
            if not self._is_dark or view.phase is Phase.GONE:
                self._on_change(self.identity, view)
