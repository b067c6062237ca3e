"""Overrides of freezes, in the environment's database, with what was signed for them."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from pydantic import ValidationError

from gpufleet.edges.approval_table import ApprovalTable, is_by
from gpufleet.edges.database import Database, Moment, database_url, open_database, tables
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.spec.approvals import REQUEST
from gpufleet.spec.errors import BadInput
from gpufleet.spec.governance import Identity
from gpufleet.spec.overrides import Override, OverrideEvidence

_overrides: Final = sa.Table(
    "fleet_overrides",
    tables,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("kept_at", Moment, nullable=False),
    sa.Column("ends_at", Moment, nullable=False),
    sa.Column("revoked_at", Moment),
    sa.Column("revoked_by", sa.String(200)),
    sa.Column("closed_at", Moment),
)
_FILE: Final = "sqlite:///"


class OverrideTable:
    """Keeps, revokes and closes overrides.

    Args:
        database: where they are.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def keep(self, override: Override) -> None:
        """Keep an override that is asked for; the same one again changes nothing."""
        row = {
            "id": override.id,
            "statement": override.model_dump_json(),
            "kept_at": self._clock(),
            "ends_at": override.ends_at,
        }

        def work(connection: sa.Connection) -> None:
            same = _overrides.c.id == override.id
            if connection.execute(sa.select(_overrides.c.id).where(same)).one_or_none() is None:
                connection.execute(sa.insert(_overrides).values(**row))

        self._database.write(work)

    def revoke(self, id: str, actor: str) -> bool:  # noqa: A002 - the field's name
        """End an override for good; False if it was revoked before, or had ended."""
        now = self._clock()
        mine = (
            _overrides.c.id == id,
            _overrides.c.revoked_at.is_(None),
            _overrides.c.ends_at > now,
        )
        values = {"revoked_at": now, "revoked_by": actor}
        return bool(
            self._database.write(
                lambda connection: (
                    connection.execute(sa.update(_overrides).where(*mine).values(**values)).rowcount
                )
            )
        )

    def close(self, id: str) -> None:  # noqa: A002 - the field's name
        """Look no more at an override that has ended."""
        now = self._clock()
        self._database.write(
            lambda connection: connection.execute(
                sa.update(_overrides).where(_overrides.c.id == id).values(closed_at=now)
            )
        )

    def find(self, id: str, identities: dict[str, Identity]) -> OverrideEvidence:  # noqa: A002 - the field's name
        """One override.

        Raises:
            BadInput: there is none with this id.
        """
        found = self._read(identities, _overrides.c.id == id)
        if not found:
            raise BadInput("there is no such override", where=id, mend="./fleet freeze.overrides")
        return found[0]

    def all(self, identities: dict[str, Identity]) -> list[OverrideEvidence]:
        """Every override, newest first."""
        return self._read(identities)

    def unclosed(self, identities: dict[str, Identity]) -> list[OverrideEvidence]:
        """Overrides whose end was not journalled yet, newest first."""
        return self._read(identities, _overrides.c.closed_at.is_(None))

    def current(self, identities: dict[str, Identity], now: datetime) -> list[OverrideEvidence]:
        """Overrides that nobody has revoked and that end later than now, newest first."""
        return self._read(identities, _overrides.c.revoked_at.is_(None), _overrides.c.ends_at > now)

    def _read(
        self, identities: dict[str, Identity], *where: sa.ColumnElement[bool]
    ) -> list[OverrideEvidence]:
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_overrides).where(*where).order_by(_overrides.c.kept_at.desc())
            ).all()
        )
        table = ApprovalTable(self._database, self._clock)
        found = []
        for row in rows:
            try:
                override = Override.model_validate_json(row.statement)
                request, signed = table.request(row.id)
            except (ValidationError, BadInput):
                # Of another version, or without its request: it lifts nothing.
                continue
            approvals, _bad = table.approvals(row.id, identities)
            found.append(
                OverrideEvidence(
                    override=override,
                    request=request,
                    is_request_signed=is_by(request.requester, signed, identities, REQUEST),
                    approvals=approvals,
                    revoked_at=row.revoked_at,
                    revoked_by=row.revoked_by or "",
                )
            )
        return found


def current_overrides(
    state: EnvironmentDir, identities: dict[str, Identity], now: datetime
) -> list[OverrideEvidence]:
    """What `OverrideTable.current` finds in an environment's database; none before it was made.

    Raises:
        Retryable: the database does not answer.
    """
    url = database_url(state)
    if url.startswith(_FILE) and not Path(url.removeprefix(_FILE)).is_file():
        return []
    database = open_database(state)
    try:
        made = database.read(lambda found: sa.inspect(found).has_table(_overrides.name))
        return OverrideTable(database, lambda: now).current(identities, now) if made else []
    finally:
        database.close()
