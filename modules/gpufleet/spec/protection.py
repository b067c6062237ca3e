"""What else must come back besides model artifacts: protected sets, and what brought one back.

A protected set is one snapshot of the kind `state`: a folder for each part, and `set.json`, which
says what it holds and of what time.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import Field

from gpufleet.spec.quantities import Spec
from gpufleet.spec.records import Anchor, JournalReport
from gpufleet.spec.snapshots import FORMAT

REVISION: Final = "protected"
"""Revision of every protected set's snapshot."""
SET_FILE: Final = "set.json"
"""Of a protected set, beside the folders of its parts."""
SQLITE_FILE: Final = "fleet.db"
POSTGRESQL_FILE: Final = "fleet.dump"
HEADS_FILE: Final = "heads.json"


class Part(StrEnum):
    """What a protected set holds; also the name of its folder in the snapshot."""

    DATABASE = "database"
    """Leases, journal, approvals, gateway keys (hashed), flows: `fleet.db`, or `fleet.dump`."""
    STATE = "state"
    """Stacks: `PROJECT/NAME.json` (its secrets are encrypted) and `PROJECT/Pulumi.NAME.yaml`."""
    FLEET = "fleet"
    """Fleet file, plan, shared parts, calendars, prices; paths as beside the fleet file."""
    POINTERS = "pointers"
    """Images and model artifacts by digest, and the public keys that signatures are checked by."""
    AUDIT_HEADS = "audit-heads"
    """The heads of the journal's and of the audit records' chains: `heads.json`."""


class DatabaseKind(StrEnum):
    """Which database was copied."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


class PartFacts(Spec):
    """What a set holds of one part."""

    part: Part
    at: datetime
    """Everything that was there at this moment is in it."""
    files: int
    size_bytes: int
    missing: list[str] = Field(default_factory=list)
    """What should be in it and could not be had, each with why."""


class AuditHead(Spec):
    """How far a chain of audit records had been shipped."""

    chain: str
    sequence: int
    """Of the last record."""
    hash: str
    """SHA-256 of the last record."""
    sites: list[str]
    """Whose object stores have its last segment."""


class Heads(Spec):
    """The heads of all chains at a moment; what comes back is checked against them."""

    journal: list[Anchor]
    audit: list[AuditHead]


class ProtectedSet(Spec):
    """What `set.json` says."""

    format: int = FORMAT
    fleet: str
    environment: str
    at: datetime
    """The recovery point: everything that was there at this moment is in the set."""
    database: DatabaseKind
    fleet_file: str
    """Name of the fleet file in the part `fleet`."""
    tool: str
    parts: list[PartFacts]
    elsewhere: list[str]
    """What is not in it and a person has to keep elsewhere."""

    def facts_of(self, part: Part) -> PartFacts | None:
        """What it holds of a part; None where it has nothing of it."""
        return next((facts for facts in self.parts if facts.part == part), None)


class ProtectPlan(Spec):
    """What taking a protected set would do."""

    stores: dict[str, str]
    """Where it would be, by site."""
    parts: list[Part]
    database: DatabaseKind
    newest: datetime | None
    """Recovery point of the newest set that is there; None before the first."""
    rpo_s: float
    """Longest age that the fleet file allows, s."""


class ProtectReport(Spec):
    """What taking a protected set came to."""

    snapshots: dict[str, str]
    """ID of the set's snapshot, by the site whose store has it."""
    unreached: dict[str, str]
    """Why a site's store does not have it, by site."""
    at: datetime
    """The recovery point."""
    parts: list[PartFacts]
    bytes_total: int
    bytes_stored: int
    """Added to all stores together."""
    seconds: float

    @property
    def missing(self) -> list[str]:
        """What should be in it and is not."""
        return [each for facts in self.parts for each in facts.missing]


class BroughtBack(Spec):
    """What bringing a part back came to; every byte of it was verified."""

    snapshot: str
    passed_over: dict[str, str] = Field(default_factory=dict)
    """Why a newer set was not used, by the ID of its snapshot."""
    part: Part
    at: datetime
    """The recovery point of this part."""
    folder: str
    """Holds the part's files."""
    files: int
    size_bytes: int
    bytes_fetched: int
    seconds: float
    journal: JournalReport | None = None
    """Of a database: its journal against its hashes, and against the heads of the set. None for
    another part, and for a dump, which can be read once it was restored only."""


class PutBack(Spec):
    """What putting a part in place came to."""

    part: Part
    replaced: list[str]
    """What took the place of something else, or was not there; what was there is kept beside it."""
    kept: list[str] = Field(default_factory=list)
    """What was there in the same form."""
