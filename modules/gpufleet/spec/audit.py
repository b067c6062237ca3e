"""What is known of audit records as they are kept: segments, deletions, findings, questions."""

from datetime import datetime

from gpufleet.spec.quantities import Seconds, Spec

UNCLASSIFIED = "unclassified"
"""Stands for the data class of requests that named no use case."""
CONTENT = "-content-"
"""Stands between data class and use case in the name under which prompts and answers are kept: for
another time than their records, and where the use case's residency allows."""


class Segment(Spec):
    """A run of records of one chain, as it is shipped and kept."""

    chain: str
    """Writer, a dot, and data class."""
    data_class: str
    first: int
    """Sequence of its first record."""
    last: int
    previous: str
    """SHA-256 of the record before its first; 64 zeros where there is none."""
    head: str
    """SHA-256 of its last record."""
    digest: str
    """SHA-256 of all of its bytes."""
    size_bytes: int
    records: int
    begins: datetime
    """When the earliest of its requests came."""
    ends: datetime
    """When the latest of its requests came."""

    @property
    def key(self) -> str:
        """Its name in the object stores; it says what the head has to be."""
        return f"{self.data_class}/{self.chain}/{self.first:012d}-{self.last:012d}-{self.head}"


class KeptSegment(Segment):
    """A segment that was shipped."""

    shipped_at: datetime
    keep_until: datetime
    """When its retention ends; nobody can delete it before."""
    sites: list[str]
    """Whose object stores have it."""
    deleted_at: datetime | None = None


class Deletion(Spec):
    """The statement that segments of a chain were deleted because their retention had ended."""

    chain: str
    data_class: str
    retention_s: Seconds
    """What was declared."""
    segments: list[Segment]
    """In order, none left out between them."""
    deleted_at: datetime
    by: str


class AuditFinding(Spec):
    """Something that was done to audit records behind their back."""

    chain: str
    sequence: int
    fault: str
    """`changed`, `missing`, `reordered` or `truncated`."""
    detail: str


class AuditReport(Spec):
    """The outcome of a verification."""

    records: int
    chains: int
    segments: int
    """In the object stores."""
    local: int
    """Segments that are not shipped yet."""
    deleted: int
    """Records that were deleted with proof."""
    findings: list[AuditFinding]

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


class AuditQuery(Spec):
    """Which records are asked for; what is None does not matter."""

    team: str | None = None
    use_case: str | None = None
    key: str | None = None
    """Id of a key; `oidc:SUBJECT` for a token."""
    request: str | None = None
    route: str | None = None
    status: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    content: bool = False
    """Whether prompts and answers are asked for; else who, when and what became of it."""


class DeletionPlan(Spec):
    """Segments whose retention has ended."""

    segments: list[KeptSegment]
    records: int
    size_bytes: int
    applied: bool


class ShippingReport(Spec):
    """What a round of shipping did."""

    shipped: int
    """Segments that are in an object store now and no more here."""
    interrupted: int
    """Records that were written for requests whose process has ended."""
    unshipped_s: float
    """Age of the oldest record that is not in an object store, s."""
    waiting_bytes: int
    """What is not in an object store."""
