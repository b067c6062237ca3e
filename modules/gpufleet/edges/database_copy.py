"""Copies of a running database as it is at one moment, and the file of one put in place."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import psutil
import sqlalchemy as sa

from gpufleet.edges.database import POSTGRESQL, Database
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.protection import DatabaseKind

_CLIENT_WITHIN_S: Final = 3600
_OTHERS: Final = sa.text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_BUSY_S: Final = 30
_WAL_SUFFIXES: Final = ("-wal", "-shm")


def kind_of(database: Database) -> DatabaseKind:
    """Which kind a database is."""
    is_server = database.url.drivername == POSTGRESQL
    return DatabaseKind.POSTGRESQL if is_server else DatabaseKind.SQLITE


def copy_sqlite(database: Database, to: Path) -> None:
    """Copy a SQLite database as it is at one moment, by its online backup; writers go on.

    Args:
        database: it.
        to: file that is made, mode 0600.

    Raises:
        Retryable: it is locked for too long, or the disk is full.
        Failed: what was copied is not whole.
    """
    source = Path(str(database.url.database)).absolute()
    os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            closing(
                sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
            ) as old,
            closing(sqlite3.connect(to)) as new,
        ):
            # All pages in one step, which no writer can make begin anew.
            old.backup(new, pages=-1)
            # One file, without a log beside it.
            new.execute("PRAGMA journal_mode=DELETE")
            check_whole(new, str(source))
    except sqlite3.OperationalError as error:
        raise Retryable(
            f"the database cannot be copied: {error}",
            where=str(source),
            mend="free some space if the disk is full, then run it again",
        ) from None
    except sqlite3.DatabaseError as error:
        raise Failed(f"the database is damaged: {error}", where=str(source)) from None


def check_sqlite(file: Path) -> None:
    """Check that a file is a whole SQLite database.

    Raises:
        Failed: it is not.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as found:
            check_whole(found, str(file))
    except sqlite3.DatabaseError as error:
        raise Failed(f"is no whole database: {error}", where=str(file)) from None


def check_whole(connection: sqlite3.Connection, where: str) -> None:
    """Let SQLite check every page, index and reference.

    Raises:
        Failed: something is wrong.
    """
    said = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if said != ["ok"]:
        raise Failed(f"the database is damaged: {'; '.join(said)[:300]}", where=where)


def dump_postgresql(database: Database, to: Path) -> None:
    """Dump a PostgreSQL database as it is at one moment, by `pg_dump`; writers go on.

    Args:
        database: it.
        to: file that is made, in pg_dump's custom format; not compressed, so that what two dumps
            share is stored once.

    Raises:
        BadInput: there is no `pg_dump`.
        Retryable: the server does not answer.
        Failed: `pg_dump` refuses, as one that is older than the server does.
    """
    options = ["--format=custom", "--compress=0", "--no-owner", f"--file={to}"]
    _run_client("pg_dump", database, options, "{}")
    to.chmod(0o600)


def restore_postgresql(database: Database, dump: Path) -> None:
    """Put a dump in the place of all that a database has, in one transaction, by `pg_restore`.

    Raises:
        BadInput: there is no `pg_restore`.
        Retryable: somebody is connected, or the server does not answer.
        Failed: `pg_restore` refuses.
    """
    if others := database.read(lambda connection: connection.execute(_OTHERS).scalar_one()):
        raise Retryable(
            f"{others} others are connected", where=database.shown, mend="end every worker first"
        )
    # Its own connections would hold what is replaced.
    database.close()
    options = ["--clean", "--if-exists", "--no-owner", "--single-transaction"]
    _run_client("pg_restore", database, [*options, "--exit-on-error"], "--dbname={}", dump)


def put_sqlite(file: Path, database: Path, stamp: str) -> Path | None:
    """Put a copy in the place of a database that nobody has open; where the old one is now.

    Raises:
        Retryable: it cannot be put there.
    """
    kept = database.with_name(f"{database.name}.before-{stamp}")
    made = database.with_name(f".{database.name}.{os.getpid()}")
    try:
        shutil.copyfile(file, made)
        made.chmod(0o600)
        had_one = database.exists()
        for suffix in ("", *_WAL_SUFFIXES):
            # The old one's log would be taken for the new one's.
            old = database.with_name(f"{database.name}{suffix}")
            if old.exists():
                old.replace(kept.with_name(f"{kept.name}{suffix}"))
        made.replace(database)
    except OSError as error:
        raise Retryable(f"cannot be put in place: {error}", where=str(database)) from None
    return kept if had_one else None


def holders_of(file: Path) -> list[int]:
    """Processes of this machine that have a file open, as far as this user may see."""
    wanted = str(file.absolute())
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(opened.path == wanted for opened in process.open_files()):
                found.append(process.pid)
    return found


def _run_client(
    name: str, database: Database, options: list[str], address: str, *operands: Path
) -> None:
    """Run a client of PostgreSQL; the password goes by the environment, seen by nobody else."""
    tool = shutil.which(name)
    if tool is None:
        raise BadInput(
            f"there is no {name} on PATH",
            where=database.shown,
            mend="install PostgreSQL's client of the server's version (Debian: postgresql-client)",
        )
    password = database.url.password
    url = database.url.set(drivername="postgresql", password=None).render_as_string()
    try:
        done = subprocess.run(
            [tool, "--no-password", *options, address.format(url), *map(str, operands)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_CLIENT_WITHIN_S,
            env={**os.environ, **({"PGPASSWORD": str(password)} if password else {})},
        )
    except subprocess.TimeoutExpired:
        what = f"{name} was not done in {_CLIENT_WITHIN_S} s"
        raise Retryable(what, where=database.shown) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        why = lines[0].removeprefix(f"{name}: error: ")[:300]
        if "connection to server" in why:
            raise Retryable(
                f"the database does not answer: {why}", where=database.shown, mend="start it"
            )
        raise Failed(f"{name} says: {why}", where=database.shown)
