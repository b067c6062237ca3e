"""Labels and taints on the nodes of a cluster that gpufleet did not make itself."""

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from gpufleet.core import vocabulary as names
from gpufleet.core.inventory import Node


class NodeLabels(pulumi.ComponentResource):
    """Server-side-apply patches: our labels, the GPU taint, and how GPUs are given; nothing else.

    Args:
        name: name of the component.
        nodes: the nodes, which have to be there.
        opts: with the cluster's provider.
        taints: False where nodes are tainted when they register.
    """

    def __init__(
        self,
        name: str,
        nodes: Sequence[Node],
        opts: pulumi.ResourceOptions | None = None,
        *,
        taints: bool = True,
    ) -> None:
        super().__init__("gpufleet:platform:NodeLabels", name, None, opts)
        for node in nodes:
            ours = {key: value for key, value in node.labels.items() if key.startswith(names.GROUP)}
            k8s.core.v1.NodePatch(
                node.name,
                metadata={"name": node.name, "labels": ours},
                spec=_tainted(node) if taints else None,
                opts=pulumi.ResourceOptions(parent=self),
            )
            if node.claimed:
                self._switch_to_claims(node)
        self.register_outputs({"count": len(nodes)})

    def _switch_to_claims(self, node: Node) -> None:
        k8s.core.v1.NodePatch(
            f"{node.name}-device-plugin",
            metadata={
                "name": node.name,
                "labels": {
                    switch: node.labels[switch]
                    for switch in (names.DEVICE_PLUGIN_SWITCH, names.DRA_DRIVER_SWITCH)
                },
                # A GPU operator that was there before us has set this label by itself.
                "annotations": {"pulumi.com/patchForce": "true"},
            },
            opts=pulumi.ResourceOptions(parent=self),
        )


def _tainted(node: Node) -> dict[str, Any]:
    return {
        "taints": [
            {"key": taint.key, "value": taint.value, "effect": taint.effect}
            for taint in node.taints
        ]
    }
