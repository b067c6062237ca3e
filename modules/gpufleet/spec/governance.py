"""Who decides, when nothing may change, what is kept, what may be spent, and what may go wrong."""

import base64
import binascii
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from gpufleet.spec import forms
from gpufleet.spec.quantities import (
    Count,
    Date,
    Fraction,
    Integer,
    LocalTime,
    Money,
    Name,
    Names,
    RelativePath,
    Seconds,
    Spec,
    Text,
)
from gpufleet.spec.windows import ChangeKind, Scope, WindowKind


def _ssh_key(line: str) -> str:
    """Refuse a line whose key was cut or changed while it was copied."""
    kind, encoded = line.split(" ")[:2]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        blob = b""
    head = len(kind).to_bytes(4, "big") + kind.encode()
    if not blob.startswith(head) or not _is_whole(blob):
        message = f"is not a whole {kind} public key; copy the line again"
        raise ValueError(message)
    return line


def _is_whole(blob: bytes) -> bool:
    """Whether length-prefixed fields fill the blob exactly, as RFC 4253 section 6.6 asks."""
    at = 0
    while at < len(blob):
        at += 4 + int.from_bytes(blob[at : at + 4], "big")
    return at == len(blob)


SshPublicKey = Annotated[
    str, Field(pattern=forms.SSH_KEY, max_length=2000), AfterValidator(_ssh_key)
]
Email = Annotated[str, Field(pattern=forms.EMAIL, max_length=120)]
ImageSource = Annotated[str, Field(pattern=forms.IMAGE_SOURCE, max_length=200)]
CalendarUrl = Annotated[str, Field(pattern=forms.CALENDAR_URL, max_length=1000)]


class Role(StrEnum):
    """What a person may approve."""

    SPONSOR = "sponsor"
    PLATFORM = "platform"
    SECURITY = "security"
    PRODUCT_OWNER = "product-owner"
    FINANCE = "finance"


class Team(Spec):
    """A team that owns use cases."""

    owner: Name
    """An identity."""
    cost_center: Text
    """As finance writes it."""


class Identity(Spec):
    """A person or an automation that signs."""

    name: Text
    """As colleagues know them."""
    email: Email
    """Where approvals are asked for."""
    roles: Annotated[list[Role], Field(min_length=1)]
    """What they may approve."""
    ssh_keys: Annotated[list[SshPublicKey], Field(min_length=1)]
    """Keys that their signatures are checked with; a key belongs to one identity."""


class FreezeCalendar(Spec):
    """An iCalendar file whose events are times in which nothing may change, or alone may.

    Either `file` or `url` is given. What it holds for may be narrowed here, and by each event.
    """

    file: RelativePath | None = None
    """Path of the `.ics` file, relative to the fleet file."""
    url: CalendarUrl | None = None
    """Address of the calendar, https; a copy is kept and asked for again every few minutes."""
    kind: WindowKind = WindowKind.BLACKOUT
    """`blackout`: nothing of its scope may change in its events; `maintenance`: that may change
    only in them. A blackout within a maintenance window wins."""
    sites: Names = Field(default_factory=list)
    """Sites it holds for; every site where the list is empty."""
    pools: Names = Field(default_factory=list)
    """Pools it holds for; every pool where the list is empty."""
    changes: Annotated[list[ChangeKind], Field(json_schema_extra={"uniqueItems": True})] = Field(
        default_factory=list
    )
    """Kinds of change it holds for; every kind where the list is empty."""
    time_zone: Text | None = None
    """IANA name of the zone of events that name none, where the calendar names none either."""
    stale_after_s: Seconds
    """Age beyond which it counts as unreadable, so as frozen: of a file's last modification stamp;
    of an address, the time since it was last asked for with success."""

    @property
    def scope(self) -> Scope:
        """What all of it holds for."""
        return Scope(
            sites=frozenset(self.sites),
            pools=frozenset(self.pools),
            changes=frozenset(self.changes),
        )


class PatchCadence(Spec):
    """How often a kind of software is brought up to date, and when."""

    every_s: Seconds
    """Longest time between two updates."""
    window_starts: LocalTime
    """Local time of the site at which the maintenance window opens."""
    window_s: Seconds
    """Length of the window; it may go over midnight."""
    weekdays: Annotated[list[Annotated[Integer, Field(ge=1, le=7)]], Field(min_length=1)]
    """ISO weekdays of the window's start, Monday is 1."""
    time_zone: Text = "UTC"
    """IANA name of the zone of `window_starts`."""
    critical_within_s: Seconds
    """Longest time from the release of a critical fix to its roll-out."""


class PatchTarget(StrEnum):
    """What a cadence holds for."""

    DRIVER = "driver"
    FIRMWARE = "firmware"
    RUNTIME = "runtime"
    OS = "os"


class Budget(Spec):
    """Most that the environment may cost, in the fleet's currency."""

    monthly: Money
    """Most that the environment may cost in a month."""
    capital_yearly: Money
    """Most that may be spent on hardware in a year."""
    hosted_monthly: Money
    """Most that all hosted APIs together may cost in a month."""
    owner: Name
    """An identity with the role finance or sponsor."""


class Retention(Spec):
    """How long records are kept, and whether they hold content."""

    audit_s: Seconds
    """How long audit records are kept."""
    content_s: Seconds | None = None
    """How long prompts and answers are kept; only their hashes are where it is not given."""
    audit_required: bool = True
    """Whether a request that cannot be recorded is refused."""


class SnapshotRetention(Spec):
    """How many snapshots are kept (grandfather, father, son)."""

    daily: Count = 7
    """Days of which one snapshot each is kept."""
    weekly: Count = 5
    """Weeks of which one snapshot each is kept."""
    monthly: Count = 12
    """Months of which one snapshot each is kept."""


class SnapshotKeys(Spec):
    """What snapshots are encrypted and signed with. Keys are in files, never in the fleet file.

    Files are named relative to the fleet file. Where a variable names one, that one is used.
    """

    encryption_key: Name | None = None
    """Name of the key that chunks are encrypted with before they leave the machine; changing it
    takes a new store."""
    encryption_key_file: RelativePath | None = None
    """Holds it: 64 hexadecimal digits. Variable: `GPUFLEET_SNAPSHOT_KEY_FILE`."""
    signing_key_file: RelativePath | None = None
    """Private key (PEM, P-256, P-384 or P-521) that takes are signed with. Variable:
    `GPUFLEET_SIGNING_KEY_FILE`."""
    signing_certificates: RelativePath | None = None
    """The signing key's certificate and those above it (PEM), which go with each signature."""
    public_key: RelativePath | None = None
    """Public key (PEM) whose signatures count."""
    certificate_authority: RelativePath | None = None
    """Certificates (PEM) of authorities; a signature by a certificate of theirs counts."""
    signatures_required: bool = False
    """Whether a restore refuses a snapshot without a signature that counts."""


class Shift(Spec):
    """Who answers, and when."""

    identities: Annotated[Names, Field(min_length=1)]
    """Who answers in turn."""
    hours: Text
    """Such as `24x7` or `Mon-Fri 08:00-18:00 Europe/Berlin`."""
    monthly_cost: Money
    """What the shift costs in a month."""


class EscalationStep(Spec):
    """Who is called next if nobody has answered."""

    after_s: Seconds
    """Time since the alert."""
    to: Annotated[Names, Field(min_length=1)]
    """Identities."""


class Severity(StrEnum):
    """How much a risk would hurt."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Risk(Spec):
    """Something that may go wrong, with the one who watches it."""

    description: Text
    """What may go wrong."""
    owner: Name
    """An identity."""
    likelihood: Severity
    """How likely it is."""
    impact: Severity
    """How much it would hurt."""
    mitigation: Text
    """What is done about it."""
    review_by: Date
    """Day by which the owner looks at it again."""


class Governance(Spec):
    """What binds people in this environment."""

    approvals_required: Annotated[Integer, Field(ge=0, le=5)] = 0
    """Signatures by others that a change of this environment needs, once it stands."""
    calendar_required: bool = True
    """Whether an environment without any freeze calendar counts as frozen."""
    override_max_s: Seconds = 14_400
    """Longest time that an override of a freeze may hold."""
    image_sources: list[ImageSource] = Field(default_factory=list)
    """Further sources of images, such as those of batch jobs; declared images' are allowed anyway.

    A repository, or everything below a folder where it ends in a slash.
    """
    cost_buffer: Fraction = 0.15
    """Share that is added to every forecast."""
