"""How clients reach the gateway of a site; revision weights are the gateway's own."""

from collections.abc import Mapping

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.core import vocabulary as names


class GatewayRoute(pulumi.ComponentResource):
    """The gateway's Service, the HTTPRoute that exposes it, and what it accepts of use cases.

    Args:
        name: of the component.
        fleet: slug of the environment.
        limits: the data of the ConfigMap with its limits; none is made without any.
        opts: with the cluster's provider.
    """

    def __init__(
        self,
        name: str,
        fleet: str,
        limits: Mapping[str, str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("gpufleet:serving:GatewayRoute", name, None, opts)
        about = {
            "name": names.GATEWAY,
            "namespace": names.GATEWAY_NAMESPACE,
            "labels": {names.MANAGED: "true", names.FLEET: fleet},
        }
        children = pulumi.ResourceOptions(parent=self)
        if limits:
            k8s.core.v1.ConfigMap(
                f"{name}-limits",
                metadata={**about, "name": names.GATEWAY_LIMITS},
                data=dict(limits),
                opts=children,
            )
        service = k8s.core.v1.Service(
            f"{name}-gateway",
            metadata={**about, "annotations": {"pulumi.com/skipAwait": "true"}},
            spec={
                "type": "ClusterIP",
                "selector": {"app.kubernetes.io/name": names.GATEWAY},
                "ports": [{"name": "http", "port": names.GATEWAY_PORT, "targetPort": "http"}],
            },
            opts=children,
        )
        CustomResource(
            f"{name}-route",
            api_version="gateway.networking.k8s.io/v1",
            kind="HTTPRoute",
            metadata=about,
            spec={
                "parentRefs": [{"name": names.GATEWAY}],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
                        "backendRefs": [{"name": names.GATEWAY, "port": names.GATEWAY_PORT}],
                    }
                ],
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[service]),
        )
        self.register_outputs({"service": f"{names.GATEWAY}.{names.GATEWAY_NAMESPACE}.svc"})
