"""Whether a host that has restarted is through with it, so that it can be judged.

What will not change any more, such as a service that has failed, is no reason to wait: it is
judged, and fails there.
"""

from collections.abc import Mapping
from typing import Final

from gpufleet.core.patching.fabric import fabric_states
from gpufleet.core.patching.validation import Answer, Expected, has_fabric_manager

_ON_ITS_WAY: Final = frozenset({"initializing", "starting", "stopping"})
"""Of `systemctl is-system-running`; `degraded` is up too, with a unit that has failed."""
_STARTS: Final = frozenset({"activating", "reloading"})
_REGISTERS: Final = frozenset({"Not Started", "In Progress"})
_NOT_READY: Final = "CUDA error 802"
"""CUDA_ERROR_SYSTEM_NOT_READY: the fabric is not up yet (CUDA driver API, CUresult)."""


def unsettled(said: Mapping[str, Answer], expected: Expected) -> str:
    """What a host is still about; empty where it can be judged.

    Args:
        said: what its commands answered: `system`, `fabric_state`, `fabric`, `switches`, `cuda`.
        expected: what it is to have.
    """
    system = said.get("system", Answer()).out.strip()
    if system in _ON_ITS_WAY:
        return f"the system is {system}"
    return _fabric_unsettled(said) if has_fabric_manager(said, expected) else ""


def _fabric_unsettled(said: Mapping[str, Answer]) -> str:
    manager = said.get("fabric_state", Answer()).out.strip()
    if manager in _STARTS:
        return f"the fabric manager is {manager}"
    if manager != "active":
        return ""
    states = fabric_states(said.get("fabric", Answer()).out)
    if registering := [state for state in states if state in _REGISTERS]:
        return f"the fabric of {len(registering)} GPUs is {registering[0].lower()}"
    if _NOT_READY in said.get("cuda", Answer()).error:
        return "CUDA says that the system is not ready (802)"
    return ""
