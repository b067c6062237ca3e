"""The environment's database: SQLite beside its state, or PostgreSQL by URL.

DBOS keeps its workflows in it, and gpufleet its leases, journal, approvals and progress.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from psycopg import OperationalError as DriverError
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from gpufleet.edges.workspace import (
    DATABASE_URL_FILE,
    DATABASE_URL_VARIABLE,
    EnvironmentDir,
)
from gpufleet.spec.errors import BadInput, FleetError, Retryable

POSTGRESQL: Final = "postgresql+psycopg"
_BUSY_MS: Final = 30_000
_RETRY_FOR_S: Final = 60
"""A restart of PostgreSQL, or a failover to its standby."""

T = TypeVar("T")

tables: Final = sa.MetaData()
"""Every table of gpufleet's own; each is declared by the edge that uses it."""


class Moment(sa.types.TypeDecorator[datetime]):
    """A moment in UTC, kept as text that sorts by time: SQLite has no time zones."""

    impl = sa.String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> str | None:
        """To text."""
        del dialect
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:  # noqa: ANN401 - as SQLAlchemy declares it
        """From text."""
        del dialect
        return None if value is None else datetime.fromisoformat(value)


class Database:
    """A connection pool, with transactions that outlive a restart of the server.

    Args:
        url: `sqlite:///FILE` or `postgresql://...`.

    Raises:
        BadInput: the URL is not one of these.
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)
        self.engine = _engine(self.url)

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    def migrate(self) -> None:
        """Make the tables that are not there yet.

        Raises:
            Retryable: the database cannot be reached.
        """
        known = self.read(lambda connection: set(sa.inspect(connection).get_table_names()))
        # Whoever only looks waits for no writer.
        if not known.issuperset(tables.tables):
            self.write(lambda connection: tables.create_all(connection, checkfirst=True))

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction.

        It is run again where the connection was lost, even if the loss hid a commit: `work` has to
        find what an earlier run of it has done.

        Raises:
            Retryable: the database is full, locked or cannot be reached for a minute.
        """
        return self._persistently(work, self._begin)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work`, which changes nothing.

        Raises:
            Retryable: as `write`.
        """
        return self._persistently(work, self.engine.connect)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with self.engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                # Its driver begins with the first change: what was read before it may be old then.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def _persistently(
        self,
        work: Callable[[sa.Connection], T],
        connect: Callable[[], AbstractContextManager[sa.Connection]],
    ) -> T:
        attempts = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(_RETRY_FOR_S),
            wait=wait_exponential_jitter(multiplier=0.05, max=2, jitter=0.1),
            reraise=True,
        )
        try:
            for attempt in attempts:
                with attempt, connect() as connection:
                    return work(connection)
        except DBAPIError as error:
            raise self._explained(error) from None
        raise AssertionError("the last attempt raises")

    def _explained(self, error: DBAPIError) -> FleetError:
        said = str(error.orig).strip().splitlines()[0][:300]
        if "disk is full" in said or "No space left" in said:
            return Retryable(
                "the disk is full", where=self.shown, mend="free some space, then run it again"
            )
        return Retryable(
            f"the database does not answer: {said}",
            where=self.shown,
            mend="start it or mend its URL; nothing was lost, and what waits goes on by itself",
        )


def open_database(state: EnvironmentDir) -> Database:
    """The database of an environment.

    By the variable `GPUFLEET_DATABASE_URL`, else by the file `database.url` of the environment's
    state (mode 0600, written by `up` from that variable for the worker), else SQLite.

    Raises:
        BadInput: the URL is not one of a database that gpufleet knows.
    """
    return Database(database_url(state))


def database_url(state: EnvironmentDir) -> str:
    """The URL of an environment's database."""
    kept = state.root / DATABASE_URL_FILE
    if given := os.environ.get(DATABASE_URL_VARIABLE) or (
        kept.is_file() and kept.read_text().strip()
    ):
        return str(given)
    return f"sqlite:///{state.root / 'fleet.db'}"


def _checked(url: str) -> sa.URL:
    where = DATABASE_URL_VARIABLE
    mend = f"set {where} to postgresql://USER:PASSWORD@HOST/DATABASE, or leave it out"
    try:
        parsed = sa.make_url(url)
    except SQLAlchemyError:
        # Not shown: it may hold a password.
        raise BadInput("is not the URL of a database", where=where, mend=mend) from None
    if parsed.drivername in {"postgresql", "postgres", POSTGRESQL}:
        return parsed.set(drivername=POSTGRESQL)
    if parsed.drivername == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        return parsed
    kind = parsed.drivername
    raise BadInput(f"`{kind}` is not a kind that is known", where=where, mend=mend)


def _engine(url: sa.URL) -> sa.Engine:
    if url.drivername == POSTGRESQL:
        postgresql = sa.create_engine(
            url, pool_pre_ping=True, pool_size=10, connect_args={"connect_timeout": 10}
        )
        event.listen(postgresql, "handle_error", _mark_unreachable)
        return postgresql
    Path(str(url.database)).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = sa.create_engine(url)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: object) -> None:  # noqa: ANN401 - the driver's own connection
        # A reader that becomes a writer would find the lock taken: DBOS's writers queue from the
        # start, as ours do in `write`.
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        # A commit is one write to the log: 1.6 ms for a step of a flow instead of 8.7 ms.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def _mark_unreachable(context: ExceptionContext) -> None:
    """Mark a server that takes no connection as a lost one, so that DBOS waits until it is back.

    It knows the driver's older words for it only, and would let the flow fail.
    """
    if context.connection is None and isinstance(context.original_exception, OSError | DriverError):
        context.is_disconnect = True


def _may_pass(error: BaseException) -> bool:
    """A lost connection, a busy file, or two writers of one row: the next try finds out."""
    if isinstance(error, IntegrityError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    said = str(error.orig)
    if "disk is full" in said or "No space left" in said or "readonly database" in said:
        return False
    return isinstance(error, OperationalError) or error.connection_invalidated
