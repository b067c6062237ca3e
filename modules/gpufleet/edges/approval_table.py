"""Requests for approval and what was signed for them, in the environment's database."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from pydantic import ValidationError

from gpufleet.edges.database import Database, Moment, tables
from gpufleet.edges.ssh_signatures import is_signed
from gpufleet.spec.approvals import APPROVAL, REQUEST, Approval, ApprovalRequest, Signed
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.governance import Identity

_requests: Final = sa.Table(
    "fleet_approval_requests",
    tables,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("kept_at", Moment, nullable=False),
)
_approvals: Final = sa.Table(
    "fleet_approvals",
    tables,
    sa.Column("request", sa.String(200), primary_key=True),
    sa.Column("signer", sa.String(120), primary_key=True),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("kept_at", Moment, nullable=False),
)


class ApprovalTable:
    """Keeps statements with their signatures; what it returns is checked each time.

    Args:
        database: where they are.
        clock: tells the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def ask(self, request: ApprovalRequest, signed: Signed) -> None:
        """Keep a request; the same one again changes nothing.

        Raises:
            BadInput: another request has this id.
        """

        def work(connection: sa.Connection) -> None:
            found = connection.execute(
                sa.select(_requests.c.statement).where(_requests.c.id == request.id)
            ).scalar_one_or_none()
            if found is None:
                row = {"id": request.id, "kept_at": self._clock(), **signed.model_dump()}
                connection.execute(sa.insert(_requests).values(**row))
            elif found != signed.statement:
                raise BadInput("another request has this id", where=f"request {request.id}")

        self._database.write(work)

    def give(self, approval: Approval, signed: Signed) -> None:
        """Keep an approval; a later one of the same signer replaces it."""

        def work(connection: sa.Connection) -> None:
            key = (
                _approvals.c.request == approval.request,
                _approvals.c.signer == approval.signer,
            )
            connection.execute(sa.delete(_approvals).where(*key))
            row = {"request": approval.request, "signer": approval.signer}
            connection.execute(
                sa.insert(_approvals).values(**row, kept_at=self._clock(), **signed.model_dump())
            )

        self._database.write(work)

    def request(self, id: str) -> tuple[ApprovalRequest, Signed]:  # noqa: A002 - the field's name
        """A request as it was kept.

        Raises:
            BadInput: there is none with this id.
        """
        row = self._database.read(
            lambda connection: connection.execute(
                sa.select(_requests).where(_requests.c.id == id)
            ).one_or_none()
        )
        if row is None:
            raise BadInput("there is no such request", where=id, mend="./fleet approve.list")
        signed = Signed(statement=row.statement, signature=row.signature)
        return ApprovalRequest.model_validate_json(row.statement), signed

    def requests(self) -> list[ApprovalRequest]:
        """Every request, newest first."""
        rows = self._database.read(
            lambda connection: (
                connection.execute(
                    sa.select(_requests.c.statement).order_by(_requests.c.kept_at.desc())
                )
                .scalars()
                .all()
            )
        )
        return [ApprovalRequest.model_validate_json(row) for row in rows]

    def approvals(
        self, request: str, identities: dict[str, Identity]
    ) -> tuple[list[Approval], list[str]]:
        """The approvals of a request whose signatures are good, and what is wrong with others."""
        rows = self._database.read(
            lambda connection: connection.execute(
                sa.select(_approvals)
                .where(_approvals.c.request == request)
                .order_by(_approvals.c.kept_at)
            ).all()
        )
        good: list[Approval] = []
        bad: list[str] = []
        for row in rows:
            try:
                approval = Approval.model_validate_json(row.statement)
            except ValidationError:
                bad.append(f"{row.signer}: its statement cannot be read")
                continue
            signed = Signed(statement=row.statement, signature=row.signature)
            if is_by(approval.signer, signed, identities, APPROVAL):
                good.append(approval)
            else:
                bad.append(f"{approval.signer}: the signature is not by a declared key")
        return good, bad


def demand_signed_request(
    request: ApprovalRequest, signed: Signed, identities: dict[str, Identity]
) -> None:
    """Make sure that the one who asks is who they say, so that nobody approves their own request.

    Raises:
        PolicyRefused: the request is not signed by a key of its requester.
    """
    if not is_by(request.requester, signed, identities, REQUEST):
        raise PolicyRefused(
            f"is not signed by a declared key of {request.requester}",
            where=f"request {request.id}",
            mend="ask with --identity NAME --key FILE, as the fleet file declares them",
        )


def is_by(name: str, signed: Signed, identities: dict[str, Identity], namespace: str) -> bool:
    """Whether a statement was signed for a purpose with a declared key of an identity."""
    identity = identities.get(name)
    return identity is not None and is_signed(
        signed.statement.encode(),
        signed.signature,
        keys=identity.ssh_keys,
        namespace=namespace,
        identity=name,
    )
