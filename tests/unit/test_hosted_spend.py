"""A cap on hosted APIs holds over gateways that are replaced."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from gpufleet.edges.database import Database
from gpufleet.edges.spend_ledger import LEDGER_FILE, Caps, Reservation, SpendLedger
from gpufleet.flows.hosted_spend import GONE_AFTER, share_spend

NOW = datetime(2026, 6, 10, tzinfo=UTC)
CAPS = Caps(use_case=Decimal(10), all_hosted=None)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    opened.migrate()
    yield opened
    opened.close()


def gateway(folder: Path) -> SpendLedger:
    folder.mkdir()
    return SpendLedger(folder / LEDGER_FILE)


def spend(ledger: SpendLedger, amount: str, now: datetime = NOW) -> bool:
    wanted = Reservation(f"r{amount}", "assist", Decimal(amount), 60)
    return ledger.reserve(wanted, CAPS, now.timestamp())


def test_what_a_replaced_gateway_has_spent_counts_for_the_next_one(
    tmp_path: Path, database: Database
) -> None:
    assert spend(gateway(tmp_path / "old"), "8")
    share_spend(database, tmp_path / "old", 1, NOW)
    new, later = gateway(tmp_path / "new"), NOW + timedelta(seconds=1)
    share_spend(database, tmp_path / "new", 1, later)
    assert not spend(new, "3", later)
    assert spend(new, "2", later)


def test_each_gateway_counts_its_part_of_what_is_gone(tmp_path: Path, database: Database) -> None:
    assert spend(gateway(tmp_path / "old"), "8")
    share_spend(database, tmp_path / "old", 2, NOW)
    later = NOW + 2 * GONE_AFTER
    ledgers = [gateway(tmp_path / name) for name in ("first", "second")]
    for name in ("first", "second"):
        share_spend(database, tmp_path / name, 2, later)
    assert [ledger.spent("assist", later.timestamp()) for ledger in ledgers] == [4, 4]


def test_gateways_that_are_there_do_not_count_each_others_spend(
    tmp_path: Path, database: Database
) -> None:
    first, second = gateway(tmp_path / "first"), gateway(tmp_path / "second")
    assert spend(first, "8")
    now = NOW
    for _ in range(100):
        share_spend(database, tmp_path / "first", 2, now)
        share_spend(database, tmp_path / "second", 2, now)
        now += timedelta(seconds=5)
    assert second.spent("assist", now.timestamp()) == 0
    assert first.spent("assist", now.timestamp()) == 8


def test_a_gateway_that_was_cut_off_counts_its_own_spend_once(
    tmp_path: Path, database: Database
) -> None:
    ledger = gateway(tmp_path / "first")
    assert spend(ledger, "8")
    share_spend(database, tmp_path / "first", 1, NOW)
    later = NOW + 5 * GONE_AFTER
    share_spend(database, tmp_path / "first", 1, later)
    assert ledger.spent("assist", later.timestamp()) == 8


def test_last_months_spend_is_left_behind(tmp_path: Path, database: Database) -> None:
    assert spend(gateway(tmp_path / "old"), "8")
    share_spend(database, tmp_path / "old", 1, NOW)
    july = datetime(2026, 7, 1, tzinfo=UTC)
    new = gateway(tmp_path / "new")
    share_spend(database, tmp_path / "new", 1, july)
    assert new.spent("assist", july.timestamp()) == 0
