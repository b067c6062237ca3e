"""A PostgreSQL database beside another one, for who looks at a dump without replacing anything."""

import hashlib
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError, ProgrammingError

from gpufleet.edges.database import Database
from gpufleet.edges.database_copy import restore_postgresql
from gpufleet.spec.errors import Failed, Retryable

_PREFIX: Final = "gpufleet_spare_"


def restored_spare(database: Database, owner: str, dump: Path) -> Database:
    """A dump in a new database on the same server; one that the same owner left is replaced.

    Args:
        database: of the server.
        owner: whose it is, such as a flow.
        dump: as `dump_postgresql` makes it.

    Raises:
        BadInput: there is no `pg_restore`.
        Failed: the user may make no database, or `pg_restore` refuses.
        Retryable: the server does not answer.
    """
    drop_spare(database, owner)
    _run(database, f"CREATE DATABASE {_name(owner)}")
    url = database.url.set(database=_name(owner))
    made = Database(url.render_as_string(hide_password=False))
    restore_postgresql(made, dump)
    return made


def drop_spare(database: Database, owner: str) -> None:
    """Remove what `restored_spare` has made; nothing where there is none. From PostgreSQL 13 on.

    Raises:
        Failed: the user may not.
        Retryable: the server does not answer.
    """
    _run(database, f"DROP DATABASE IF EXISTS {_name(owner)} WITH (FORCE)")


def _name(owner: str) -> str:
    return f"{_PREFIX}{hashlib.sha256(owner.encode()).hexdigest()[:16]}"


def _run(database: Database, statement: str) -> None:
    try:
        # No transaction may hold it.
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)
    except DBAPIError as error:
        said = str(error.orig).strip()[:200]
        if isinstance(error, ProgrammingError):
            raise Failed(
                f"the server refuses a database beside it: {said}",
                where=database.shown,
                mend="let its user make databases (ALTER ROLE ... CREATEDB)",
            ) from None
        raise Retryable(f"the database does not answer: {said}", where=database.shown) from None
