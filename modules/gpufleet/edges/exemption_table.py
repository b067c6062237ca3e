"""Exemptions from freezes, in the environment's database: whoever has the token may change."""

import hashlib
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, open_database, tables
from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.spec.records import Exemption

TOKEN_VARIABLE: Final = "GPUFLEET_EXEMPTION"  # noqa: S105 - the name, not a token
"""Hands a token to the stacks' programs; it is in no file and on no command line."""
_exemptions: Final = sa.Table(
    "fleet_exemptions",
    tables,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("token_digest", sa.String(64), nullable=False, unique=True),
    sa.Column("purpose", sa.String(120), nullable=False),
    sa.Column("target", sa.String(200), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("granted_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
)


class ExemptionTable:
    """Grants, finds and ends exemptions; of a token only its digest is kept.

    Args:
        database: where they are.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def grant(self, exemption: Exemption) -> str:
        """Keep an exemption; returns its token, which nobody can ask for again."""
        token = secrets.token_urlsafe(32)
        row = {**exemption.model_dump(), "token_digest": _digest(token)}
        self._database.write(
            lambda connection: connection.execute(sa.insert(_exemptions).values(**row))
        )
        return token

    def find(self, token: str, target: str) -> Exemption | None:
        """The exemption of a token, if it is for this target and has not ended."""
        now = self._clock()
        row = self._database.read(
            lambda connection: connection.execute(
                sa.select(_exemptions).where(
                    _exemptions.c.token_digest == _digest(token),
                    _exemptions.c.target == target,
                    _exemptions.c.expires_at > now,
                )
            ).one_or_none()
        )
        return (
            Exemption(**{name: getattr(row, name) for name in Exemption.model_fields})
            if row
            else None
        )

    def end(self, exemption: Exemption) -> None:
        """Let an exemption end now."""
        now = self._clock()
        self._database.write(
            lambda connection: connection.execute(
                sa.update(_exemptions)
                .where(_exemptions.c.id == exemption.id)
                .values(expires_at=now)
            )
        )


def given_exemption(state: EnvironmentDir, target: str, now: datetime) -> Exemption | None:
    """The exemption whose token this process was handed, if it holds for a target.

    Raises:
        Retryable: the database does not answer.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        return None
    database = open_database(state)
    try:
        return ExemptionTable(database, lambda: now).find(token, target)
    finally:
        database.close()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
