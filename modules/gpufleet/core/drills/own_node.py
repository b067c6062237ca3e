"""A node of a drill's own: as those of its group, but for whoever does not belong to the drill."""

from dataclasses import replace
from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.inventory import Node, Taint, expand
from gpufleet.spec.fleet import Fleet

HOSTNAME: Final = "kubernetes.io/hostname"


def own_node(fleet: Fleet, group: str, flow: str) -> Node:
    """The node that a drill adds to a group, and loses.

    It has the group's labels and GPUs, and a taint that only the drill's stand-ins tolerate. No
    declared node has its name, so that nothing counts its GPUs as free.

    Args:
        fleet: as declared.
        group: of it.
        flow: of the drill.
    """
    like = next(node for node in expand(fleet) if node.group == group)
    name = f"{group}-drill"
    return replace(
        like,
        name=name,
        labels={**like.labels, HOSTNAME: name, names.DRILL: flow},
        taints=(*like.taints, Taint(names.DRILL, flow, "NoSchedule")),
    )
