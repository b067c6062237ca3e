"""Custom resource definitions, from the charts that `tools/files` pins."""

from typing import Final

import pulumi
import pulumi_kubernetes as k8s

from gpufleet.core import vocabulary as names

OPERATORS: Final = ("kueue", "keda", "gateway-api", "prometheus-operator", "lws")
CHARTS: Final = "../../.fleet/charts"
"""Linked there by `./fleet up`; relative, so that the state is the same on every machine."""


class Definitions(pulumi.ComponentResource):
    """The CRDs of the named operators, as one Helm release for each.

    Not one by one: after each definition the provider reads the whole OpenAPI schema of the
    cluster again, which takes longer than everything else in the stack together.

    Args:
        name: name of the component.
        operators: folders of `CHARTS`.
    """

    def __init__(
        self,
        name: str,
        operators: tuple[str, ...] = OPERATORS,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("gpufleet:platform:Definitions", name, None, opts)
        self.resources: list[pulumi.Resource] = [
            k8s.helm.v3.Release(
                names.definitions_release(operator),
                name=names.definitions_release(operator),
                namespace=names.DEFINITIONS_NAMESPACE,
                chart=f"{CHARTS}/{operator}",
                max_history=2,
                timeout=180,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for operator in operators
        ]
        self.register_outputs({"operators": list(operators)})
