"""The leases of an environment, in its database."""

import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil
import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.edges.processes import start_of
from gpufleet.spec.errors import Failed
from gpufleet.spec.fence import Fence
from gpufleet.spec.records import Claim, Lease

_leases: Final = sa.Table(
    "fleet_leases",
    tables,
    sa.Column("target", sa.String(200), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("acquired_at", Moment, nullable=False),
    sa.Column("renewed_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class LeaseLost(Failed):
    """Somebody else has taken over; whoever meets this stops at once and changes nothing more."""


class LeaseTable:
    """Takes, renews and gives back leases.

    Args:
        database: where they are.
        clock: tells the time.
        granted: decides on a claim, given the lease as it is recorded, the time, and whether its
            holder is known to be dead.
        lasts: how long a lease holds that is not renewed.
        demand_free: asked before every claim; raises where something else is in its way.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime],
        granted: Callable[[Lease | None, Claim, datetime, bool], Lease],
        lasts: timedelta,
        demand_free: Callable[[Claim], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._granted = granted
        self._lasts = lasts
        self._demand_free = demand_free

    def acquire(self, claim: Claim) -> Fence:
        """Take a lease, or take it again.

        Raises:
            Retryable: somebody else holds it; something else is in its way; or the database does
                not answer.
        """
        self._demand_free(claim)

        def work(connection: sa.Connection) -> Fence:
            row = connection.execute(
                sa.select(_leases).where(_leases.c.target == claim.target).with_for_update()
            ).one_or_none()
            lease = self._granted(
                _lease(row) if row else None,
                claim,
                self._clock(),
                _is_dead(row.process) if row else False,
            )
            values = {**lease.model_dump(), "process": _this_process()}
            if row:
                connection.execute(
                    sa.update(_leases).where(_leases.c.target == claim.target).values(**values)
                )
            else:
                connection.execute(sa.insert(_leases).values(**values))
            return Fence(lease.target, lease.owner, lease.token)

        return self._database.write(work)

    def renew(self, fence: Fence) -> None:
        """Hold on to a lease.

        Raises:
            LeaseLost: somebody else has it.
        """
        now = self._clock()
        renewed = self._database.write(
            lambda connection: (
                connection.execute(
                    sa.update(_leases)
                    .where(*_is(fence))
                    .values(renewed_at=now, expires_at=now + self._lasts)
                ).rowcount
            )
        )
        if not renewed:
            raise self._lost(fence)

    def check(self, fence: Fence) -> None:
        """Make sure that a lease is still held, and renew it where it would end soon.

        One that has run out is still held as long as nobody else has taken it: clocks jump.

        Raises:
            LeaseLost: somebody else has it.
        """
        expires_at = self._database.read(
            lambda connection: connection.execute(
                sa.select(_leases.c.expires_at).where(*_is(fence))
            ).scalar_one_or_none()
        )
        if expires_at is None:
            raise self._lost(fence)
        if expires_at - self._clock() < self._lasts / 2:
            self.renew(fence)

    def release(self, fence: Fence) -> None:
        """Give a lease back; its token is kept, so that the next one is higher."""
        self._database.write(
            lambda connection: connection.execute(
                sa.update(_leases).where(*_is(fence)).values(expires_at=_NEVER)
            )
        )

    def abandon(self, fence: Fence) -> None:
        """Leave a lease with its work undone: whoever looks for abandoned ones finds it at once."""
        now = self._clock()
        self._database.write(
            lambda connection: connection.execute(
                sa.update(_leases).where(*_is(fence)).values(expires_at=now)
            )
        )

    def forget(self, fence: Fence) -> None:
        """Give back a lease whose target never comes again."""
        self._database.write(
            lambda connection: connection.execute(sa.delete(_leases).where(*_is(fence)))
        )

    def held(self) -> list[Lease]:
        """Every lease that has not ended."""
        now = self._clock()
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_leases).where(_leases.c.expires_at > now).order_by(_leases.c.target)
            ).all()
        )
        return [_lease(row) for row in rows]

    def abandoned(self, prefix: str) -> list[tuple[Lease, bool]]:
        """Leases of targets with a prefix that have run out, or whose holder is dead.

        Beside each, whether its holder is known to be dead: that a lease has run out may also be
        the doing of a clock that jumped.
        """
        now = self._clock()
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_leases).where(
                    _leases.c.target.startswith(prefix, autoescape=True),
                    _leases.c.expires_at > _NEVER,
                )
            ).all()
        )
        found = [(_lease(row), _is_dead(row.process)) for row in rows]
        return [(lease, is_dead) for lease, is_dead in found if is_dead or lease.expires_at <= now]

    def _lost(self, fence: Fence) -> LeaseLost:
        return LeaseLost(
            f"is lost (token {fence.token}): another worker has taken over",
            where=f"lease `{fence.target}`",
            mend="nothing more is done here; ./fleet flows.list shows where it goes on",
        )


def _is(fence: Fence) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _leases.c.target == fence.target,
        _leases.c.owner == fence.owner,
        _leases.c.token == fence.token,
    )


def _lease(row: Any) -> Lease:  # noqa: ANN401 - a row of the table
    return Lease(**{name: getattr(row, name) for name in Lease.model_fields})


def _this_process() -> str:
    pid = os.getpid()
    return json.dumps({"host": _host(), "pid": pid, "started": start_of(pid)}, sort_keys=True)


def _is_dead(process: str) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    kept = json.loads(process)
    if kept["host"] != _host():
        return False
    if start_of(kept["pid"]) != kept["started"]:
        return True
    try:
        return psutil.Process(kept["pid"]).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _host() -> str:
    """This machine and boot; a container's own where it runs in one."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot} {_namespace()}"


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
