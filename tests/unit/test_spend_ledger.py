"""What hosted APIs have cost this month."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.edges.spend_ledger import Caps, Reservation, SpendLedger, SpendUnknown

JUNE_S = datetime(2026, 6, 10, tzinfo=UTC).timestamp()
JULY_S = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
CAPS = Caps(use_case=Decimal(10), all_hosted=Decimal(15))


def _wanted(name: str, most: str, use_case: str = "assist") -> Reservation:
    return Reservation(name, use_case, Decimal(most), 60)


def test_a_request_is_let_in_only_if_the_most_that_it_may_cost_fits_both_caps(
    tmp_path: Path,
) -> None:
    ledger = SpendLedger(tmp_path / "spend")
    assert ledger.reserve(_wanted("a", "6"), CAPS, JUNE_S)
    assert not ledger.reserve(_wanted("b", "6"), CAPS, JUNE_S)
    assert ledger.reserve(_wanted("c", "6", "search"), CAPS, JUNE_S)
    assert not ledger.reserve(_wanted("d", "4", "search"), CAPS, JUNE_S)
    ledger.settle("a", Decimal("0.5"))
    ledger.settle("a", Decimal(100))
    assert ledger.spent("assist", JUNE_S) == Decimal("0.5")
    assert ledger.spent(None, JUNE_S) == Decimal("6.5")
    assert ledger.reserve(_wanted("d", "4", "search"), CAPS, JUNE_S)


def test_what_died_before_it_was_settled_is_spent(tmp_path: Path) -> None:
    ledger = SpendLedger(tmp_path / "spend")
    assert ledger.reserve(_wanted("a", "9"), CAPS, JUNE_S)
    assert not ledger.reserve(_wanted("b", "2"), CAPS, JUNE_S + 1000)
    ledger.settle("a", Decimal(0))
    assert ledger.spent("assist", JUNE_S + 1000) == Decimal(9)


def test_a_new_month_begins_in_utc_and_a_clock_that_goes_back_frees_nothing(
    tmp_path: Path,
) -> None:
    ledger = SpendLedger(tmp_path / "spend")
    assert ledger.reserve(_wanted("a", "9"), CAPS, JULY_S - 1)
    assert ledger.reserve(_wanted("b", "9"), CAPS, JULY_S)
    assert not ledger.reserve(_wanted("c", "9"), CAPS, JULY_S)
    for back_s in (1, 86_400 * 40, 86_400 * 400):
        assert not ledger.reserve(_wanted("c", "9"), CAPS, JULY_S - back_s)


def test_a_ledger_that_cannot_be_read_lets_nothing_be_spent(tmp_path: Path) -> None:
    (tmp_path / "spend").write_bytes(b"this is no database" * 100)
    ledger = SpendLedger(tmp_path / "spend")
    with pytest.raises(SpendUnknown):
        ledger.reserve(_wanted("a", "1"), CAPS, JUNE_S)
    with pytest.raises(SpendUnknown):
        SpendLedger(tmp_path / "no folder" / "spend").spent("assist", JUNE_S)


def test_racing_workers_never_pass_a_cap(tmp_path: Path) -> None:
    def work(worker: int) -> int:
        ledger = SpendLedger(tmp_path / "spend")
        return sum(
            ledger.reserve(_wanted(f"{worker}-{number}", "1"), CAPS, JUNE_S) for number in range(6)
        )

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 10


@settings(max_examples=20, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            st.decimals("0.000001", 8, places=7),
            st.none() | st.decimals(0, 8, places=7),
            st.integers(0, 40 * 86_400),
        ),
        max_size=12,
    )
)
def test_what_was_let_in_never_costs_more_than_the_caps(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[Decimal, Decimal | None, int]],
) -> None:
    ledger, now_s = SpendLedger(tmp_path_factory.mktemp("spend") / "file"), JUNE_S
    for number, (most, actual, step_s) in enumerate(asked):
        now_s += step_s
        if ledger.reserve(Reservation(str(number), "assist", most, 60), CAPS, now_s) and actual:
            ledger.settle(str(number), min(actual, most))
        assert ledger.spent("assist", now_s) <= CAPS.use_case


def test_a_clock_that_was_far_ahead_once_ends_nothing_and_looking_changes_nothing(
    tmp_path: Path,
) -> None:
    ledger = SpendLedger(tmp_path / "spend")
    assert ledger.reserve(_wanted("a", "9"), CAPS, JUNE_S)
    assert ledger.spent("assist", JULY_S + 86_400 * 4000) == 0
    assert ledger.reserve(_wanted("b", "2"), CAPS, JULY_S + 86_400 * 4000)
    ledger.settle("b", Decimal(2))
    # July has its own cap again, less what was spent under the wrong date.
    assert ledger.spent("assist", JULY_S) == 2
    assert ledger.reserve(_wanted("c", "8"), CAPS, JULY_S)
    assert not ledger.reserve(_wanted("d", "1"), CAPS, JULY_S)
    assert ledger.reserve(_wanted("e", "8"), CAPS, JULY_S + 86_400 * 40)
