"""What a management controller (Redfish) says: firmware, health, and how far an update is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True)
class Software:
    """One entry of the firmware inventory."""

    uri: str
    id: str
    version: str
    updateable: bool = True
    is_updating: bool = False
    """Whether the controller says that it is being written (`Status.State` is Updating)."""


@dataclass(frozen=True)
class Condition:
    """How a host is, seen from its controller."""

    power: str
    """Redfish's `PowerState`: On, Off, PoweringOn, PoweringOff; empty where it is not told."""
    unhealthy: Mapping[str, str] = field(default_factory=dict)
    """Health by resource (system, chassis, controllers, power supplies, batteries) where it is
    neither OK nor untold."""


class UpdateState(StrEnum):
    """How far an update is."""

    RUNNING = "running"
    WAITING = "waiting"
    """Pending or suspended: perhaps for its turn, perhaps for a reset."""
    STAGED = "staged"
    """Written as far as can be: the rest comes with a reset, which only a restart gives."""
    COMPLETED = "completed"
    FAILED = "failed"
    GONE = "gone"
    """The controller knows nothing of it: it may have restarted, and may still be writing."""


@dataclass(frozen=True)
class UpdateProgress:
    """An update as the controller's task tells it."""

    state: UpdateState
    percent: int = 0
    message: str = ""


@dataclass(frozen=True)
class FirmwareResult:
    """What came of an update."""

    before: Mapping[str, str]
    """Version by entry of the inventory."""
    after: Mapping[str, str]
    changed: bool
    activated: bool = True
    """Whether the new version runs already; if not, it does after the host's restart."""
