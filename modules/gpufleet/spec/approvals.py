"""What is asked of a second person, and what that person signs."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import Field, JsonValue

from gpufleet.spec.governance import Role
from gpufleet.spec.quantities import Digest, Spec

REQUEST: Final = "gpufleet-request"
APPROVAL: Final = "gpufleet-approval"
"""Namespaces of the signatures: a signature for one purpose never passes for the other."""


class Action(StrEnum):
    """What needs the signatures of others."""

    CHANGE = "change"
    OVERRIDE = "override"
    DRILL = "drill"
    PROMOTION = "promotion"
    SIGN_OFF = "sign-off"


ROLES: Final[Mapping[Action, frozenset[Role]]] = {
    Action.CHANGE: frozenset({Role.PLATFORM, Role.SECURITY, Role.SPONSOR}),
    Action.OVERRIDE: frozenset({Role.SPONSOR, Role.SECURITY}),
    Action.DRILL: frozenset({Role.PLATFORM, Role.SPONSOR}),
    Action.PROMOTION: frozenset({Role.PRODUCT_OWNER, Role.PLATFORM, Role.SPONSOR}),
    Action.SIGN_OFF: frozenset(Role),
}
"""Who may approve what."""


class Scope(Spec):
    """What an approval holds for, and for nothing else."""

    fleet: str
    environment: str
    action: Action
    targets: list[str] = Field(default_factory=list)
    """Sites, pools or nodes, sorted; all of the environment where the list is empty."""


class ApprovalRequest(Spec):
    """A plan that waits for the signatures of others; the one who asks signs this."""

    id: str
    """The flow's id, so that no other flow can use what was signed for this one."""
    scope: Scope
    plan_digest: Digest
    summary: dict[str, JsonValue] = Field(default_factory=dict)
    """The plan, as the signers see it."""
    requester: str
    """Identity, or system user where the environment asks for no approval."""
    requested_at: datetime
    expires_at: datetime


class Approval(Spec):
    """What a signer states; the signature covers all of it."""

    request: str
    scope: Scope
    plan_digest: Digest
    signer: str
    signed_at: datetime
    expires_at: datetime


class Signed(Spec):
    """A statement with its signature."""

    statement: str
    """Canonical JSON, exactly as it was signed."""
    signature: str
    """Armored, by `ssh-keygen -Y sign`."""


class Standing(Spec):
    """How a request stands."""

    valid: list[str]
    """Identities whose signatures count."""
    needed: int
    refused: list[str]
    """Why each other signature does not count."""

    @property
    def is_granted(self) -> bool:
        """Whether enough others have signed."""
        return len(self.valid) >= self.needed
