"""What hosted APIs have cost this month: reserved before a request, settled after it.

SQLite, so that several processes see one sum. Whoever cannot read it must not spend: every method
raises `SpendUnknown` then.
"""

import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Final

LEDGER_FILE: Final = "spend.sqlite"
"""Name of the ledger in a gateway's folder."""
_MICRO: Final = 1_000_000
"""Sums are whole millionths of the currency: SQLite has no decimals."""
_BUSY_S: Final = 1.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS spend (
    month TEXT NOT NULL, use_case TEXT NOT NULL, micro INTEGER NOT NULL,
    PRIMARY KEY (month, use_case)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservation (
    request_id TEXT PRIMARY KEY, month TEXT NOT NULL, use_case TEXT NOT NULL,
    micro INTEGER NOT NULL, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS name (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gone (
    month TEXT NOT NULL, use_case TEXT NOT NULL, micro INTEGER NOT NULL,
    PRIMARY KEY (month, use_case)) WITHOUT ROWID;
"""


class SpendUnknown(RuntimeError):
    """The ledger cannot be read or written: nothing may be spent."""


@dataclass(frozen=True)
class Caps:
    """What may be spent in a month, in the fleet's currency."""

    use_case: Decimal
    all_hosted: Decimal | None
    """None for no cap over all use cases."""


@dataclass(frozen=True)
class Reservation:
    """Money that is set aside for one request."""

    request_id: str
    use_case: str
    most: Decimal
    """Highest cost, in the fleet's currency."""
    for_s: float
    """After this time the request is taken to be dead."""


class SpendLedger:
    """One pod's hosted spend, by month (UTC) and use case. Safe over processes and threads.

    Args:
        file: of the database; made where it is missing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def reserve(self, reservation: Reservation, caps: Caps, now_s: float) -> bool:
        """Set aside what a request may cost at most; False where a cap has no room for it.

        What dies before it is settled is spent: an API may have charged for it.

        Args:
            reservation: what is set aside.
            caps: of this pod.
            now_s: seconds since 1970. Where a clock was ahead once, what was spent in months to
                come counts in this one too: no clock gives a cap anew, none ends it for good.
        """
        micro = _micro(reservation.most)
        with self._transaction() as database:
            month = _month(now_s)
            _settle_expired(database, now_s)
            own = _committed(database, month, reservation.use_case)
            if own + micro > _micro_down(caps.use_case):
                return False
            if caps.all_hosted is not None:
                total = _committed(database, month, None)
                if total + micro > _micro_down(caps.all_hosted):
                    return False
            database.execute(
                "INSERT INTO reservation VALUES (?, ?, ?, ?, ?)",
                (
                    reservation.request_id,
                    month,
                    reservation.use_case,
                    micro,
                    now_s + reservation.for_s,
                ),
            )
        return True

    def settle(self, request_id: str, actual: Decimal) -> None:
        """Put what a request has cost in its reservation's place; once, later calls do nothing."""
        with self._transaction() as database:
            row = database.execute(
                "DELETE FROM reservation WHERE request_id = ? RETURNING month, use_case",
                (request_id,),
            ).fetchone()
            if row is not None:
                _add(database, row[0], row[1], _micro(actual))

    def spent(self, use_case: str | None, now_s: float) -> Decimal:
        """This month's spend, open reservations included; of all use cases for None."""
        with self._transaction() as database:
            return Decimal(_committed(database, _month(now_s), use_case)) / _MICRO

    @property
    def name(self) -> str:
        """Its own, made once: two ledgers never have the same."""
        with self._transaction() as database:
            row = database.execute("SELECT name FROM name").fetchone()
            if row is None:
                row = (uuid.uuid4().hex,)
                database.execute("INSERT INTO name VALUES (?)", row)
        return str(row[0])

    def sums(self, now_s: float) -> dict[tuple[str, str], int]:
        """What this pod has spent and reserved itself, millionths, by month and use case.

        Of this month and those after it.
        """
        query = (
            "SELECT month, use_case, sum(micro) FROM "
            "(SELECT month, use_case, micro FROM spend UNION ALL "
            "SELECT month, use_case, micro FROM reservation) "
            "WHERE month >= ? GROUP BY month, use_case"
        )
        with self._transaction() as database:
            rows = database.execute(query, (_month(now_s),)).fetchall()
        return {(month, use_case): micro for month, use_case, micro in rows}

    def put_gone(self, sums: Mapping[tuple[str, str], int]) -> None:
        """Count this pod's part of what pods have spent that are gone, in place of earlier sums."""
        with self._transaction() as database:
            database.execute("DELETE FROM gone")
            rows = [(month, use_case, micro) for (month, use_case), micro in sums.items()]
            database.executemany("INSERT INTO gone VALUES (?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the write lock from its begin: no sum is read before it."""
        try:
            database = sqlite3.connect(self._file, timeout=_BUSY_S, isolation_level=None)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("BEGIN IMMEDIATE")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(statement)
                yield database
                database.execute("COMMIT")
            finally:
                database.close()
        except (sqlite3.Error, OSError) as error:
            raise SpendUnknown(f"{self._file}: {error}") from error


def _month(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m")


def _settle_expired(database: sqlite3.Connection, now_s: float) -> None:
    rows = database.execute(
        "DELETE FROM reservation WHERE expires_at < ? RETURNING month, use_case, micro", (now_s,)
    ).fetchall()
    for month, use_case, micro in rows:
        _add(database, month, use_case, micro)


def _add(database: sqlite3.Connection, month: str, use_case: str, micro: int) -> None:
    database.execute(
        "INSERT INTO spend VALUES (?, ?, ?) "
        "ON CONFLICT (month, use_case) DO UPDATE SET micro = micro + excluded.micro",
        (month, use_case, micro),
    )


def _committed(database: sqlite3.Connection, month: str, use_case: str | None) -> int:
    """What is spent and reserved in a month and in those after it, millionths."""
    total = 0
    for table in ("spend", "reservation", "gone"):
        query = f"SELECT coalesce(sum(micro), 0) FROM {table} WHERE month >= ?"  # noqa: S608 - fixed names
        row = (
            database.execute(query, (month,))
            if use_case is None
            else database.execute(query + " AND use_case = ?", (month, use_case))
        ).fetchone()
        total += int(row[0])
    return total


def _micro(amount: Decimal) -> int:
    return int((amount * _MICRO).to_integral_value(ROUND_UP))


def _micro_down(amount: Decimal) -> int:
    return int(amount * _MICRO)
