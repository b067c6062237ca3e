"""How many nodes restore at once: as many as the store and the network can fill, and no more."""

from dataclasses import dataclass
from math import ceil
from typing import Final

AT_ONCE_UNKNOWN: Final = 4
"""Where nobody knows what the store and the network give."""


@dataclass(frozen=True)
class Links:
    """What bytes can pass, bytes/s."""

    node_bytes_per_s: float
    """Into one node that is alone: its network, its disk, whichever is less."""
    store_bytes_per_s: float | None = None
    """Out of the store to all nodes together; None where nobody knows."""
    network_bytes_per_s: float | None = None
    """Between the store and the nodes, shared by all; None where nobody knows."""

    @property
    def shared_bytes_per_s(self) -> float | None:
        """What all nodes together get; None where nobody knows."""
        known = [each for each in (self.store_bytes_per_s, self.network_bytes_per_s) if each]
        return min(known, default=None)


def parallelism(nodes: int, links: Links) -> int:
    """Nodes that restore at once.

    With more of them at once none would be done earlier, and the first much later: service comes
    back node by node.

    Args:
        nodes: that restore, at least one.
        links: what can pass.
    """
    shared = links.shared_bytes_per_s
    at_once = AT_ONCE_UNKNOWN if shared is None else int(shared // links.node_bytes_per_s)
    return max(1, min(nodes, at_once))


def predicted_s(bytes_each: int, nodes: int, links: Links) -> tuple[float, float]:
    """Seconds until the first nodes are done, and until all are.

    Args:
        bytes_each: that each node fetches.
        nodes: that restore.
        links: what can pass.
    """
    at_once = parallelism(nodes, links)
    shared = links.shared_bytes_per_s
    rate = links.node_bytes_per_s
    if shared is not None:
        rate = min(rate, shared / at_once)
    wave_s = bytes_each / rate
    return wave_s, wave_s * ceil(nodes / at_once)
