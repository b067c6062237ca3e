"""Overrides of freezes: what somebody asks for, what others have signed, and how it stands."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpufleet.spec.approvals import Approval, ApprovalRequest
from gpufleet.spec.quantities import Name, Names, Spec, Text
from gpufleet.spec.windows import ChangeKind


class Override(Spec):
    """The right to change something in a freeze, for a time; others sign its digest."""

    id: str
    """Also of the request for its approval."""
    sites: Annotated[Names, Field(min_length=1)]
    changes: Annotated[list[ChangeKind], Field(min_length=1)]
    pools: Names = Field(default_factory=list)
    """Only what belongs to these pools; everything of the sites where the list is empty."""
    node_groups: Names = Field(default_factory=list)
    """Only hosts of these node groups; every host where the list is empty."""
    flow: str = ""
    """Only this flow; every one where it is empty."""
    why: Text
    requester: Name
    """An identity."""
    begins_at: datetime
    ends_at: datetime


class OverrideEvidence(Spec):
    """An override with what was signed for it; each signature was checked when this was read."""

    override: Override
    request: ApprovalRequest
    is_request_signed: bool
    """Whether a declared key of the requester has signed the request."""
    approvals: list[Approval]
    """Those whose signatures are good."""
    revoked_at: datetime | None = None
    revoked_by: str = ""


class OverrideState(StrEnum):
    """How far an override is."""

    ASKED = "asked"
    """Others have not signed it yet."""
    GRANTED = "granted"
    """Signed; it begins later."""
    ACTIVE = "active"
    ENDED = "ended"
    REVOKED = "revoked"
    INVALID = "invalid"
    """What is kept of it is not what was signed, or not what the fleet file allows."""


class OverrideRow(Spec):
    """An override, as people ask for it."""

    override: Override
    state: OverrideState
    approved_by: list[str]
    why_not: str
    """Why it does not hold; empty where it does."""


class QueueRow(Spec):
    """A flow that waits for an opening of the calendars."""

    flow: str
    kind: str
    actor: str
    asked_at: str
    """When it was asked for, ISO 8601."""
    waits_since: str
    """Since when it has been waiting, ISO 8601; empty where nobody knows."""
    sites: list[str]
    """Sites that hold it back."""
    reason: str
    opens: str
    """When it can go on at the earliest, ISO 8601; empty where no opening is known."""
