"""Who decides, when nothing may change, what is kept, what may be spent, and what may go wrong."""

from datetime import date, time
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpufleet.spec.quantities import Count, Fraction, Money, Name, Seconds, Spec, Text

SshPublicKey = Annotated[
    str,
    Field(
        pattern=r"^(sk-)?(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521))(@openssh\.com)? "
        r"[A-Za-z0-9+/]+={0,3}( [^\n]{1,80})?$"
    ),
]
Email = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$", max_length=120)]
RelativePath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$", max_length=200)
]
"""A path below the fleet file's folder: never absolute, no `..`."""


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


class Identity(Spec):
    """A person or an automation that signs."""

    name: Text
    email: Email
    roles: Annotated[list[Role], Field(min_length=1)]
    ssh_keys: Annotated[list[SshPublicKey], Field(min_length=1)]


class FreezeCalendar(Spec):
    """An iCalendar file whose events are times in which nothing may change."""

    file: RelativePath
    """Path of the `.ics` file, relative to the fleet file."""
    sites: list[Name] = Field(default_factory=list)
    """Sites it holds for; every site where the list is empty."""
    stale_after_s: Seconds
    """Age of the file's last modification stamp beyond which it counts as unreadable: frozen."""


class PatchCadence(Spec):
    """How often a kind of software is brought up to date, and when."""

    every_s: Seconds
    window_starts: time
    """Local time of the site at which the maintenance window opens."""
    window_s: Seconds
    weekdays: Annotated[list[Annotated[int, Field(ge=1, le=7)]], Field(min_length=1)]
    """ISO weekdays of the window's start, Monday is 1."""
    time_zone: Text = "UTC"
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
    capital_yearly: Money
    hosted_monthly: Money
    """Most that all hosted APIs together may cost in a month."""
    owner: Name
    """An identity with the role finance or sponsor."""


class Retention(Spec):
    """How long records are kept, and whether they hold content."""

    audit_s: Seconds
    content_s: Seconds | None = None
    """How long prompts and answers are kept; only their hashes are where it is not given."""


class SnapshotRetention(Spec):
    """How many snapshots are kept (grandfather, father, son)."""

    daily: Count = 7
    weekly: Count = 5
    monthly: Count = 12


class Shift(Spec):
    """Who answers, and when."""

    identities: Annotated[list[Name], Field(min_length=1)]
    hours: Text
    """Such as `24x7` or `Mon-Fri 08:00-18:00 Europe/Berlin`."""
    monthly_cost: Money


class EscalationStep(Spec):
    """Who is called next if nobody has answered."""

    after_s: Seconds
    to: Annotated[list[Name], Field(min_length=1)]


class Severity(StrEnum):
    """How much a risk would hurt."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Risk(Spec):
    """Something that may go wrong, with the one who watches it."""

    description: Text
    owner: Name
    likelihood: Severity
    impact: Severity
    mitigation: Text
    review_by: date


class Governance(Spec):
    """What binds people in this environment."""

    approvals_required: Annotated[int, Field(ge=0, le=5)] = 1
    """Signatures by others that a change of this environment needs."""
    calendar_required: bool = True
    """Whether an environment without any freeze calendar counts as frozen."""
    cost_buffer: Fraction = 0.15
    """Share that is added to every forecast."""
