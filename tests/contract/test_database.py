"""Leases, journal and approvals on a real SQLite file and a real PostgreSQL server."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import psutil
import pytest
import sqlalchemy as sa
from tests.conftest import Until
from tests.postgresql import Server

from gpufleet.core.journal import sealed, verify
from gpufleet.core.leases import LEASE_FOR, granted
from gpufleet.edges.database import Database
from gpufleet.edges.exemption_table import ExemptionTable
from gpufleet.edges.journal_table import Journal
from gpufleet.edges.lease_table import LeaseLost, LeaseTable
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.fence import Fence
from gpufleet.spec.records import Claim, Exemption, Fact


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def jump(self, by: timedelta) -> None:
        self.now += by


def leases_of(database: Database, clock: Callable[[], datetime]) -> LeaseTable:
    return LeaseTable(database, clock, granted, LEASE_FOR)


def journal_of(database: Database, writer: str = "here") -> Journal:
    return Journal(database, writer, lambda: datetime.now(UTC), sealed)


def claim(owner: str, target: str = "environment") -> Claim:
    return Claim(target=target, owner=owner, holder=f"{owner} by test")


def test_of_many_that_ask_at_once_one_gets_the_lease(database: Database) -> None:
    leases = leases_of(database, lambda: datetime.now(UTC))
    together = threading.Barrier(8)

    def ask(number: int) -> str:
        together.wait()
        try:
            leases.acquire(claim(f"flow-{number}"))
        except Retryable as error:
            return error.what
        return ""

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert answers.count("") == 1
    assert all(answer.startswith("held by flow-") for answer in answers if answer)


def test_of_many_that_ask_at_once_for_a_lease_that_was_given_back_one_gets_it(
    database: Database,
) -> None:
    leases = leases_of(database, lambda: datetime.now(UTC))
    token = 0
    for turn in range(20):
        together = threading.Barrier(4)

        def ask(owner: str, together: threading.Barrier = together) -> Fence | None:
            together.wait()
            try:
                return leases.acquire(claim(owner))
            except Retryable:
                return None

        with ThreadPoolExecutor(4) as threads:
            owners = [f"flow-{turn}-{number}" for number in range(4)]
            [fence] = [fence for fence in threads.map(ask, owners) if fence]
        assert fence.token == token + 1
        leases.release(fence)
        token = fence.token


def test_a_lease_that_was_taken_over_is_lost_for_its_old_holder(database: Database) -> None:
    clock = Clock()
    leases = leases_of(database, clock)
    old = leases.acquire(claim("first"))
    clock.jump(LEASE_FOR)
    new = leases.acquire(claim("second"))
    assert new.token > old.token
    with pytest.raises(LeaseLost):
        leases.check(old)
    with pytest.raises(LeaseLost):
        leases.renew(old)
    leases.release(old)
    leases.check(new)


def test_a_clock_that_jumps_takes_no_lease_from_a_holder_that_nobody_replaced(
    database: Database,
) -> None:
    clock = Clock()
    leases = leases_of(database, clock)
    fence = leases.acquire(claim("first"))
    clock.jump(timedelta(days=90))
    leases.check(fence)
    with pytest.raises(Retryable, match="held by first"):
        leases.acquire(claim("second"))


def test_a_released_lease_is_free_and_its_token_goes_on(database: Database) -> None:
    leases = leases_of(database, Clock())
    first = leases.acquire(claim("first"))
    leases.release(first)
    assert leases.held() == []
    assert leases.acquire(claim("second")).token == first.token + 1


def _take_and_wait(url: str) -> None:
    leases = leases_of(Database(url), lambda: datetime.now(UTC))
    leases.acquire(claim("gone", "executor:gone"))
    signal.pause()


def test_the_lease_of_a_killed_process_of_this_machine_is_free_at_once(
    database: Database, database_url: str, until: Until
) -> None:
    leases = leases_of(database, lambda: datetime.now(UTC))
    process = multiprocessing.get_context("spawn").Process(
        target=_take_and_wait, args=(database_url,)
    )
    process.start()
    until(leases.held)
    assert leases.abandoned("executor:") == []
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    [(lease, is_dead)] = leases.abandoned("executor:")
    assert is_dead
    assert lease.owner == "gone"
    assert leases.acquire(claim("next", "executor:gone")).token == lease.token + 1


def test_many_writers_of_one_chain_leave_it_whole(database: Database) -> None:
    journal = journal_of(database)

    def write(number: int) -> None:
        for each in range(10):
            journal.append(Fact(id=f"{number}-{each}", event="e", actor="test"))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(6)))
    records = list(journal.records())
    assert len(records) == 60
    assert verify(records, (), journal.heads()) == []


def test_a_fact_that_is_written_twice_stands_once(database: Database) -> None:
    journal = journal_of(database)
    first = journal.append(Fact(id="x", event="e", actor="mara", body={"n": 1}))
    again = journal.append(Fact(id="x", event="e", actor="mara", body={"n": 2}))
    assert first == again
    assert len(list(journal.records())) == 1


def test_each_way_of_tampering_with_the_table_is_found(database: Database) -> None:
    def spoilt(*statements: str) -> list[str]:
        with database.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM fleet_journal"))
            connection.execute(sa.text("DELETE FROM fleet_journal_heads"))
        journal = journal_of(database)
        for number in range(5):
            journal.append(Fact(id=f"{number}", event="e", actor="mara"))
        with database.engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))
        return sorted({found.fault for found in verify(journal.records(), (), journal.heads())})

    assert spoilt() == []
    assert spoilt("UPDATE fleet_journal SET actor='eve' WHERE sequence=3") == ["changed"]
    assert spoilt("DELETE FROM fleet_journal WHERE sequence=3") == ["missing"]
    assert spoilt("DELETE FROM fleet_journal WHERE sequence=5") == ["truncated"]
    assert spoilt(
        "UPDATE fleet_journal SET sequence=99 WHERE sequence=2",
        "UPDATE fleet_journal SET sequence=2 WHERE sequence=3",
        "UPDATE fleet_journal SET sequence=3 WHERE sequence=99",
    ) == ["reordered"]


def test_a_record_comes_back_as_it_was_written(database: Database) -> None:
    journal = journal_of(database)
    written = journal.append(
        Fact(event="e", actor="Zoë", target="a/b", body={"list": [1, 2.5, None], "text": "ü\n"})
    )
    assert list(journal.records()) == [written]


def test_work_goes_on_when_a_killed_server_is_back(
    postgresql: Server, until: Until, request: pytest.FixtureRequest
) -> None:
    database = Database(postgresql.new_database("killed"))
    database.migrate()
    journal = journal_of(database)
    journal.append(Fact(id="before", event="e", actor="test"))
    postgresql.kill()
    request.addfinalizer(database.close)
    written: list[str] = []
    thread = threading.Thread(
        target=lambda: written.append(journal.append(Fact(id="during", event="e", actor="test")).id)
    )
    thread.start()
    postgresql.start()
    until(lambda: written)
    thread.join()
    assert [record.id for record in journal.records()] == ["before", "during"]
    assert verify(journal.records(), (), journal.heads()) == []


def test_a_database_that_is_not_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpufleet.edges.database._RETRY_FOR_S", 0.1)
    with pytest.raises(Retryable, match="the database does not answer") as caught:
        Database(f"postgresql://u:hidden@/none?host={tmp_path}").migrate()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "nonsense", ""])
def test_another_kind_of_database_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput, match=r"is not"):
        Database(url)


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    journal = journal_of(database)
    journal.append(Fact(id="before", event="e", actor="test"))

    @sa.event.listens_for(database.engine, "connect")
    def _limit(connection: sa.engine.interfaces.DBAPIConnection, _: FrameType | None) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA max_page_count=1")

    database.engine.dispose()
    with pytest.raises(Retryable, match="the disk is full"):
        journal.append(Fact(id="during", event="e", actor="test", body={"big": "x" * 10**6}))
    again = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    whole = journal_of(again)
    assert [record.id for record in whole.records()] == ["before"]
    assert verify(whole.records(), (), whole.heads()) == []


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    database = Database(url)
    database.migrate()
    journal = journal_of(database)
    locked, release = threading.Event(), threading.Event()

    def lock() -> None:
        def hold(connection: sa.Connection) -> None:
            connection.execute(sa.text("UPDATE fleet_journal_heads SET anchored=0"))
            locked.set()
            release.wait(30)

        Database(url).write(hold)

    holder = threading.Thread(target=lock)
    holder.start()
    locked.wait(30)
    threading.Timer(0.3, release.set).start()
    journal.append(Fact(id="x", event="e", actor="test"))
    assert release.is_set()
    holder.join()


def test_a_wall_clock_that_is_set_makes_no_holder_look_dead(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = leases_of(database, lambda: datetime.now(UTC))
    leases.acquire(claim("flow-1"))
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 3600)
    with pytest.raises(Retryable, match="held by flow-1"):
        leases.acquire(claim("flow-2"))


def exemption(clock: Clock, name: str = "exempt-1") -> Exemption:
    return Exemption(
        id=name,
        purpose="self-healing",
        target="fra1",
        actor="ada@here",
        granted_at=clock.now,
        expires_at=clock.now + timedelta(hours=1),
    )


def test_an_exemption_holds_for_its_target_until_it_ends(database: Database) -> None:
    clock = Clock()
    table = ExemptionTable(database, clock)
    granted = exemption(clock)
    token = table.grant(granted)
    assert table.find(token, "fra1") == granted
    assert table.find(token, "dub1") is None
    assert table.find("self-made", "fra1") is None
    clock.jump(timedelta(hours=1))
    assert table.find(token, "fra1") is None
    clock.jump(timedelta(hours=-1))
    table.end(granted)
    clock.jump(timedelta(seconds=1))
    assert table.find(token, "fra1") is None


def test_the_database_holds_no_token_of_an_exemption(database: Database) -> None:
    token = ExemptionTable(database, Clock()).grant(exemption(Clock()))
    rows = database.read(
        lambda connection: connection.execute(sa.text("SELECT * FROM fleet_exemptions")).all()
    )
    assert token not in str(rows)
