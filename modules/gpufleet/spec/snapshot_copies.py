"""Copies of snapshots at another site: what making one came to, and what was mended by one."""

from dataclasses import dataclass, field
from datetime import datetime

from gpufleet.spec.snapshots import Damage


@dataclass(frozen=True)
class ReplicatePlan:
    """What replicating snapshots would do."""

    source: str
    target: str
    snapshots: tuple[str, ...]
    """IDs of those that the target lacks in part or whole, from the newest on."""
    complete: int
    """How many of those that were chosen it has already."""
    bytes_lacking: int
    """Plain bytes of the chunks that it lacks."""
    locked_until: datetime | None
    """By Object Lock; None where the bucket is there and has none."""


@dataclass(frozen=True)
class ReplicateReport:
    """What replicating snapshots came to; every frame was verified on its way."""

    source: str
    target: str
    snapshots: tuple[str, ...]
    """IDs of those of which something was copied, from the newest on."""
    complete: int
    """How many of those that were chosen the target had already."""
    objects_copied: int
    bytes_copied: int
    seconds: float
    damaged: dict[str, tuple[Damage, ...]] = field(default_factory=dict)
    """What the source lacks of snapshots that were not copied, by their IDs."""

    @property
    def good(self) -> bool:
        """Whether the target has all that was chosen."""
        return not self.damaged


@dataclass(frozen=True)
class Mend:
    """One object that is brought back or, without `--apply`, would be."""

    key: str
    """Below the store's prefix."""
    what: str
    """What was wrong with it, or with what it takes the place of."""
    source: str
    """Where the good copy is: an older version, or the store of another site."""


@dataclass(frozen=True)
class RepairReport:
    """What repairing a snapshot came to; what was brought back was read again."""

    snapshot: str
    chunks: int
    """That the snapshot needs; all were read."""
    mends: tuple[Mend, ...]
    lost: tuple[Damage, ...]
    """What has no good copy anywhere that answered."""
    silent: tuple[str, ...]
    """Stores of other sites that did not answer."""
    bytes_put: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing is lost."""
        return not self.lost
