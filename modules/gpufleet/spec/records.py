"""What the shared database holds: leases, journal records, approvals and the progress of flows."""

import uuid
from datetime import datetime

from pydantic import Field, JsonValue

from gpufleet.spec.quantities import Spec


class Claim(Spec):
    """Who wants to change what."""

    target: str
    """What is asked for, such as `environment` or `executor:ID`."""
    owner: str
    """Flow or executor that asks."""
    holder: str
    """The same for people: who, on which machine."""


class Lease(Claim):
    """The right of one operator to change one target, until it expires."""

    token: int
    """Grows with each change of owner: whoever carries a lower one has lost the lease."""
    acquired_at: datetime
    renewed_at: datetime
    expires_at: datetime


class Exemption(Spec):
    """The right of one flow to change a target in a freeze, until it ends."""

    id: str
    purpose: str
    """Why it may, such as `self-healing`."""
    target: str
    """Name of a site."""
    actor: str
    granted_at: datetime
    expires_at: datetime


class Fact(Spec):
    """Something that happened and has to be remembered."""

    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Given by whoever writes; writing the same id again adds nothing."""
    event: str
    """What happened, such as `change.started`."""
    actor: str
    """Identity or system user on whose behalf."""
    flow: str = ""
    target: str = ""
    body: dict[str, JsonValue] = Field(default_factory=dict)


class JournalRecord(Fact):
    """One fact in the chain of one writer."""

    writer: str
    """The installation that wrote it; each has a chain of its own."""
    sequence: int
    """1 for the first record of a writer."""
    at: datetime
    previous: str
    """Hash of the record before it; zeros for the first."""
    hash: str
    """SHA-256 over everything else but the sequence, hexadecimal."""


class Anchor(Spec):
    """The head of a chain at a time, kept where nobody can change it."""

    writer: str
    sequence: int
    hash: str
    at: datetime


class JournalFinding(Spec):
    """Something that is wrong with a journal."""

    writer: str
    sequence: int
    fault: str
    """`changed`, `missing`, `reordered` or `truncated`."""
    detail: str


class JournalLoss(Spec):
    """Records of a chain that were lost when an older copy of the database was put in place."""

    writer: str
    first: int
    last: int
    """The furthest that an anchor knows of; there may have been more."""
    restored_at: datetime
    by: str
    """Who put the copy in place."""
    proven: bool = False
    """Whether a store still has the copy that was put in place, and it agrees."""


class JournalReport(Spec):
    """The outcome of a verification."""

    records: int
    writers: int
    anchors: int
    findings: list[JournalFinding]
    lost: list[JournalLoss] = Field(default_factory=list)
    """What a restored database did not have any more, by its own statement."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was found, and what is lost was lost by a restoration that is proven."""
        return not self.findings and all(each.proven for each in self.lost)
