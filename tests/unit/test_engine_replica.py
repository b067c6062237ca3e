"""A simulated replica over its lives: load, first token, faults, probes, drain."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest
from tests.engines import SETTINGS, address, slower, until
from tests.stand_in_replica import stand_in_replica

from gpufleet.core.serving import Probe
from gpufleet.local.engine import replica as replica_module
from gpufleet.local.engine.faults import hit
from gpufleet.local.engine.replica import Identity, Phase, Replica, View
from gpufleet.local.engine.settings import EngineSettings, Probes
from gpufleet.spec.simulation import Fault, FaultKind

SHORT = Probes(startup=Probe(1, 1, 30), readiness=Probe(0, 1, 1), liveness=Probe(3600, 1, 1))


class Lived:
    """A replica that lives, and everything that its pod's status had to say."""

    def __init__(self, settings: Callable[[], EngineSettings], probes: Probes) -> None:
        self.views: list[View] = []
        identity = Identity("u", "ns", "chat-0", "chat", address())
        self.replica = Replica(
            identity, settings, probes, 0, None, lambda _, view: self.views.append(view)
        )
        self.url = f"http://{identity.address}:8000"
        self.task = asyncio.create_task(self.replica.live())

    async def phase(self, phase: Phase, restarts: int = 0) -> View:
        """Wait until it is in a phase of a life."""
        await until(lambda: (self.view.phase, self.view.restarts) == (phase, restarts))
        return self.view

    @property
    def view(self) -> View:
        """As it is."""
        return self.replica.view


def check(
    promise: Callable[[Lived, aiohttp.ClientSession], Awaitable[None]],
    settings: EngineSettings | Callable[[], EngineSettings] = SETTINGS,
    probes: Probes = SHORT,
) -> None:
    async def run() -> None:
        given = settings if callable(settings) else lambda: settings
        lived = Lived(given, probes)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as client:
            await promise(lived, client)
        await lived.replica.leave(0)
        await lived.task

    asyncio.run(run())


async def ask(lived: Lived, client: aiohttp.ClientSession, tokens: int = 1) -> int:
    body = {"model": "small", "prompt": "1", "max_tokens": tokens, "ignore_eos": True}
    async with client.post(f"{lived.url}/v1/completions", json=body) as response:
        await response.read()
        return response.status


def test_a_replica_is_ready_when_it_has_produced_a_token_and_not_before() -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(f"{lived.url}/health")
        await lived.phase(Phase.READY)
        async with client.get(f"{lived.url}/metrics") as response:
            assert 'finished_reason="length"} 1' in await response.text()
        assert [view.phase for view in lived.views] == [Phase.READY]

    check(promise, replace(SETTINGS, spec=replace(SETTINGS.spec, load_s=0.2)))


@pytest.mark.parametrize(
    ("kind", "reason", "code"),
    [(FaultKind.OOM, "OOMKilled", 137), (FaultKind.CRASH, "Error", 1)],
)
def test_a_dead_process_resets_its_connections_and_loads_again(
    kind: FaultKind, reason: str, code: int
) -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        running = asyncio.create_task(ask(lived, client, 4000))
        engine = lived.replica.engine
        assert engine
        await until(lambda: engine.batch.running == 1)
        lived.replica.inject(Fault(kind=kind))
        with pytest.raises(aiohttp.ClientError):
            await running
        view = await lived.phase(Phase.READY, restarts=1)
        assert view.last_death
        assert (view.last_death.reason, view.last_death.exit_code) == (reason, code)
        assert [each.phase for each in lived.views] == [Phase.READY, Phase.LOADING, Phase.READY]
        assert await ask(lived, client) == 200

    check(promise, slower(0.05))


def test_a_dead_process_stays_away_as_long_as_it_is_told_or_until_all_is_cleared() -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        lived.replica.inject(Fault(kind=FaultKind.CRASH, for_s=3600))
        await lived.phase(Phase.LOADING, restarts=1)
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(lived, client)
        assert lived.replica.seen().faults == ["stays down"]
        lived.replica.clear()
        await lived.phase(Phase.READY, restarts=1)

    check(promise)


def test_who_loses_power_ends_and_tells_nobody() -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        told = list(lived.views)
        lived.replica.inject(Fault(kind=FaultKind.POWER, for_s=3600))
        await lived.phase(Phase.LOADING, restarts=1)
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(lived, client)
        assert lived.views == told
        assert lived.replica.seen().faults == ["no power"]
        lived.replica.clear()
        await lived.phase(Phase.READY, restarts=1)
        assert [each.phase for each in lived.views] == [Phase.READY, Phase.LOADING, Phase.READY]

    check(promise)


def test_that_a_replica_without_power_is_gone_is_known_on_its_host() -> None:
    async def promise(lived: Lived, _: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        lived.replica.inject(Fault(kind=FaultKind.POWER))
        await lived.phase(Phase.LOADING, restarts=1)
        await lived.replica.leave(0)
        await lived.task
        assert [each.phase for each in lived.views] == [Phase.READY, Phase.GONE]

    check(promise)


def test_a_replica_that_cannot_be_started_dies_and_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_module, "_LIVE_AGAIN_S", 0.01)
    settings: list[EngineSettings] = []

    def asked() -> EngineSettings:
        if not settings:
            settings.append(SETTINGS)
            raise ValueError("half a file")
        return settings[0]

    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        assert lived.replica.seen().model == ""
        view = await lived.phase(Phase.READY, restarts=1)
        assert view.last_death
        assert view.last_death.exit_code == 1
        assert await ask(lived, client) == 200

    check(promise, asked)


def test_a_replica_that_never_could_be_started_goes_when_it_is_told() -> None:
    def asked() -> EngineSettings:
        raise ValueError("no such engine")

    async def promise(lived: Lived, _: aiohttp.ClientSession) -> None:
        await lived.replica.leave(0)
        await lived.phase(Phase.GONE)

    check(promise, asked)


def test_a_hung_replica_is_not_ready_once_its_probe_fails_and_ready_again_after() -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        lived.replica.inject(Fault(kind=FaultKind.HANG))
        asked = asyncio.create_task(ask(lived, client))
        assert lived.view.is_ready
        lived.replica.probe()
        assert not lived.view.is_ready
        assert lived.replica.seen().faults == ["hang"]
        lived.replica.clear()
        assert lived.view.is_ready
        assert await asked == 200
        assert lived.view.restarts == 0

    check(promise)


def test_a_hung_replica_is_started_again_when_its_liveness_probe_gives_up() -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        lived.replica.inject(Fault(kind=FaultKind.HANG))
        lived.replica.probe()
        view = await lived.phase(Phase.READY, restarts=1)
        assert view.last_death
        assert view.last_death.exit_code == 137
        assert await ask(lived, client) == 200

    check(promise, probes=replace(SHORT, liveness=Probe(0, 1, 1)))


def test_a_replica_that_is_slow_is_so_until_the_time_is_over() -> None:
    async def promise(lived: Lived, _: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        engine = lived.replica.engine
        assert engine
        lived.replica.inject(Fault(kind=FaultKind.SLOW, factor=4.0, for_s=0.05))
        assert engine.batch.slowdown == 4
        await until(lambda: engine.batch.slowdown == 1)

    check(promise)


def test_a_later_equal_fault_outlasts_the_end_of_the_earlier_one() -> None:
    async def promise(lived: Lived, _: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        first, second = (Fault(kind=FaultKind.SLOW, factor=4.0, for_s=3600) for _ in range(2))
        lived.replica.inject(first)
        lived.replica.inject(second)
        lived.replica.clear(first)
        assert lived.replica.seen().faults == ["slow x 4"]
        lived.replica.clear(second)
        assert lived.replica.seen().faults == []

    check(promise)


def test_what_has_begun_ends_before_a_replica_goes_and_nothing_new_begins() -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        engine = lived.replica.engine
        assert engine
        running = asyncio.create_task(ask(lived, client, 100))
        await until(lambda: engine.batch.running == 1)
        leaving = asyncio.create_task(lived.replica.leave(60))
        await lived.phase(Phase.DRAINING)
        async with client.get(f"{lived.url}/health") as response:
            assert response.status == 503
        assert await ask(lived, client) == 503
        assert await running == 200
        await leaving
        await lived.task
        assert lived.view.phase is Phase.GONE
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(lived, client)

    check(promise, slower(0.01))


def test_a_replica_whose_grace_is_over_goes_with_whatever_runs() -> None:
    async def promise(lived: Lived, client: aiohttp.ClientSession) -> None:
        await lived.phase(Phase.READY)
        engine = lived.replica.engine
        assert engine
        running = asyncio.create_task(ask(lived, client, 4000))
        await until(lambda: engine.batch.running == 1)
        await lived.replica.leave(0.01)
        await lived.task
        with pytest.raises(aiohttp.ClientError):
            await running

    check(promise, slower(0.05))


def test_a_fault_hits_the_share_of_a_pool_that_it_names() -> None:
    found = [stand_in_replica("chat", f"chat-{at}") for at in range(5)]
    found.append(stand_in_replica("code", "code-0"))

    def names(**fault: object) -> list[str]:
        return [each.pod for each in hit(Fault.model_validate(fault), found)]

    assert len(names(kind="hang")) == 6
    assert names(kind="hang", pool="chat", share=0.3) == ["chat-0", "chat-1"]
    assert names(kind="hang", pod="code-0") == ["code-0"]
    assert names(kind="hang", pool="none") == []
    # Of these the share counts requests.
    assert len(names(kind="errors", pool="chat", share=0.3)) == 5
