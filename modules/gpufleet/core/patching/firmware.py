"""Whether a firmware update may begin, and whether it is done."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from gpufleet.core.patching import versions
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.firmware import Condition, Software
from gpufleet.spec.hardware import Activation
from gpufleet.spec.patching import Part

ON: Final = "On"
SHUTDOWN: Final = "GracefulShutdown"
CYCLE: Final = "PowerCycle"

_ENTRIES: Final = {
    Part.BMC: r"(HGX_)?(FW_)?BMC(_?\d+)?",
    Part.VBIOS: r"(HGX_)?(FW_)?(GPU(_?SXM)?_?\d+|VBIOS)",
}
"""Ids of the inventory's entries by part: those of HGX boards and of plain controllers.

Roots of trust (`HGX_FW_ERoT_GPU_SXM_1`) have firmware of their own and are not meant.
"""
_POWER: Final = {Part.BMC: ("On", "Off"), Part.VBIOS: ("On",)}


def expression_of(part: Part, system: str, declared: str = "") -> str:
    """The regular expression for whole ids of a part's entries, in capitals or not.

    Args:
        part: `bmc` or `vbios`.
        system: Redfish id of the host; one service may stand for several hosts.
        declared: an expression in place of the usual one.
    """
    return declared or rf"({re.escape(system)}[-_])?({_ENTRIES[part]})"


def activation_of(part: Part, declared: str = "") -> Activation:
    """What makes a part's new firmware run, where nobody says so."""
    usual = Activation.REBOOT if part is Part.VBIOS else Activation.NONE
    return Activation(declared) if declared else usual


def resets_for(allowed: Collection[str], power: str) -> list[str]:
    """The resets, one after the other, by which a host's power goes off and on.

    File systems want a host that shuts down in order, so that the one step comes second.

    Args:
        allowed: what the controller offers, in Redfish's words.
        power: of the host; one that is off, as of a run that was killed, is only put on.
    """
    if power == "Off":
        return [ON]
    if {SHUTDOWN, ON} <= set(allowed):
        return [SHUTDOWN, ON]
    return [CYCLE] if CYCLE in allowed else []


def is_older(entries: Iterable[Software], wanted: str) -> bool:
    """Whether the wanted version is older than what one of them has."""
    return any(versions.firmware(entry.version, wanted) > 0 for entry in entries)


def is_done(entries: Iterable[Software], wanted: str) -> bool:
    """Whether every entry has the version."""
    return all(entry.version == wanted for entry in entries)


def versions_of(entries: Iterable[Software]) -> dict[str, str]:
    """Version by entry."""
    return {entry.id: entry.version for entry in entries}


def as_one(versions: Mapping[str, str]) -> str:
    """One version for all entries, or all that they have, with commas."""
    return ",".join(sorted(set(versions.values())))


def demand_ready(part: Part, condition: Condition) -> None:
    """Refuse a host whose controller sees a fault, or whose power is not settled.

    Raises:
        PolicyRefused: firmware may be lost where power fails in the middle.
    """
    if condition.unhealthy:
        faults = ", ".join(f"{name} is {health}" for name, health in condition.unhealthy.items())
        raise PolicyRefused(
            f"no firmware is written to a host with a fault: {faults}",
            mend="mend the fault, or quarantine the host",
        )
    allowed = _POWER[part]
    if condition.power and condition.power not in allowed:
        raise PolicyRefused(
            f"no firmware is written while the host's power is {condition.power}",
            mend=f"it has to be {' or '.join(allowed)}",
        )


def demand_forward(entries: Sequence[Software], wanted: str, *, rehearsed: bool) -> None:
    """Refuse an older version that nobody has rehearsed: many controllers cannot go back.

    Raises:
        PolicyRefused: an entry has a newer version.
    """
    newer = [entry for entry in entries if versions.firmware(entry.version, wanted) > 0]
    if newer and not rehearsed:
        raise PolicyRefused(
            f"firmware goes forward only: {newer[0].id} has {newer[0].version}, not {wanted}",
            mend="rehearse the way back on one host, then gpufleet_downgrade_rehearsed=true",
        )
    fixed = [entry.id for entry in entries if not entry.updateable and entry.version != wanted]
    if fixed:
        raise PolicyRefused(f"the controller does not update {', '.join(fixed)}")
