"""What every host has installed, in the environment's database: as reported, with since when."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.spec import patch_cycle
from gpufleet.spec.patch_cycle import InstalledVersion

PINNED: Final = patch_cycle.PINNED
_versions: Final = sa.Table(
    "fleet_host_versions",
    tables,
    sa.Column("node", sa.String(60), primary_key=True),
    sa.Column("part", sa.String(40), primary_key=True),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("since", Moment, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
    sa.Column("flow", sa.String(200), nullable=False),
)


class HostVersionTable:
    """Keeps one row for each host and part.

    Args:
        database: where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def saw(self, node: str, found: dict[str, str], seen_at: datetime, flow: str = "") -> None:
        """Keep what a host has now.

        A part counts as brought up to date when its version changes, and when a patch has looked
        at it: a host that had the wanted version already is no older for it. What was seen later
        than `seen_at` stays.

        Args:
            node: the host.
            found: version by part, such as `{"driver": "580.105.08"}`; parts that are left out stay
                as they were, and so do parts with an empty version.
            seen_at: when, with a time zone.
            flow: the patch that has installed or verified these parts; empty where one only looked.
        """

        def work(connection: sa.Connection) -> None:
            for part, version in found.items():
                if version:
                    _keep(connection, node, part, version, seen_at, flow)

        self._database.write(work)

    def began(self, nodes: Iterable[tuple[str, str, str]], at: datetime) -> None:
        """Begin the clock of parts that no host has reported yet.

        From then on the age of what only the fleet file tells is counted. A pin that changes does
        not bring anything up to date.

        Args:
            nodes: node, part and pinned version of each.
            at: when, with a time zone.
        """
        wanted = list(nodes)

        def work(connection: sa.Connection) -> None:
            known = {
                (row.node, row.part)
                for row in connection.execute(sa.select(_versions.c.node, _versions.c.part))
            }
            fresh = [
                {
                    "node": node,
                    "part": part,
                    "version": version,
                    "since": at,
                    "seen_at": at,
                    "flow": PINNED,
                }
                for node, part, version in wanted
                if (node, part) not in known
            ]
            if fresh:
                connection.execute(sa.insert(_versions), fresh)

        self._database.write(work)

    def rows(self) -> list[InstalledVersion]:
        """Every row, by node and part."""
        found = self._database.read(
            lambda connection: (
                connection.execute(
                    sa.select(_versions).order_by(_versions.c.node, _versions.c.part)
                )
                .mappings()
                .all()
            )
        )
        return [InstalledVersion.model_validate(dict(row)) for row in found]


def _keep(  # noqa: PLR0913, PLR0917 - of one part of one host
    connection: sa.Connection, node: str, part: str, version: str, seen_at: datetime, flow: str
) -> None:
    same = sa.and_(_versions.c.node == node, _versions.c.part == part)
    kept = connection.execute(sa.select(_versions).where(same)).one_or_none()
    if kept is None:
        row = {"node": node, "part": part, "version": version, "since": seen_at}
        connection.execute(sa.insert(_versions).values(**row, seen_at=seen_at, flow=flow))
        return
    if kept.seen_at > seen_at:
        return
    is_news = bool(flow) or (kept.version != version and kept.flow != PINNED)
    connection.execute(
        sa.update(_versions)
        .where(same)
        .values(
            version=version,
            seen_at=seen_at,
            since=seen_at if is_news else kept.since,
            flow=flow or ("" if kept.flow == PINNED else kept.flow),
        )
    )
