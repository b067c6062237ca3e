"""The faults of one simulated replica, and which replicas a fault hits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpufleet.spec.simulation import OF_REQUESTS, Fault, FaultKind, SimulatedReplica


def hit(fault: Fault, replicas: Sequence[SimulatedReplica]) -> list[SimulatedReplica]:
    """The replicas that a fault hits, by name; a share of them is rounded up."""
    found = sorted(
        (
            replica
            for replica in replicas
            if fault.pool in {None, replica.pool} and fault.pod in {None, replica.pod}
        ),
        key=lambda replica: (replica.pool, replica.namespace, replica.pod),
    )
    if fault.kind in OF_REQUESTS:
        return found
    return found[: math.ceil(len(found) * fault.share - 1e-9)]


@dataclass(eq=False)
class Faults:
    """What is wrong with a replica now, beyond the end of its process."""

    standing: dict[FaultKind, Fault] = field(default_factory=dict)
    _due: dict[FaultKind, float] = field(default_factory=dict)

    def begin(self, fault: Fault) -> None:
        """From now on; replaces one of the same kind."""
        self.standing[fault.kind] = fault
        self._due.pop(fault.kind, None)

    def end(self, fault: Fault) -> bool:
        """No longer, if it is still this one; whether it was."""
        if self.standing.get(fault.kind) is fault:
            del self.standing[fault.kind]
            return True
        return False

    def strikes(self, kind: FaultKind) -> bool:
        """Whether this request is one of the share, spread evenly over all requests."""
        fault = self.standing.get(kind)
        if fault is None:
            return False
        due = self._due.get(kind, 0.0) + fault.share
        self._due[kind] = due - (due >= 1 - 1e-9)
        return due >= 1 - 1e-9

    @property
    def slowdown(self) -> float:
        """Factor on every step."""
        fault = self.standing.get(FaultKind.SLOW)
        return fault.factor if fault else 1.0

    def words(self) -> list[str]:
        """Each in a few words."""
        return [_words(fault) for fault in self.standing.values()]


def _words(fault: Fault) -> str:
    if fault.kind is FaultKind.SLOW:
        return f"slow x {fault.factor:g}"
    return f"{fault.kind} {fault.share:.0%}" if fault.kind in OF_REQUESTS else fault.kind.value
