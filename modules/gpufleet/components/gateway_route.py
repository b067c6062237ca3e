"""How clients reach the gateway of a site; revision weights are the gateway's own."""

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.core import vocabulary as names
from gpufleet.spec.gateway import ROUTES_FILE


class GatewayRoute(pulumi.ComponentResource):
    """The gateway's Service, the HTTPRoute that exposes it, and what it is told.

    Args:
        name: of the component.
        fleet: slug of the environment.
        routes: what it is told, as JSON.
        opts: with the cluster's provider.
    """

    def __init__(
        self,
        name: str,
        fleet: str,
        routes: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("gpufleet:serving:GatewayRoute", name, None, opts)
        about = {
            "name": names.GATEWAY,
            "namespace": names.GATEWAY_NAMESPACE,
            "labels": {names.MANAGED: "true", names.FLEET: fleet},
        }
        children = pulumi.ResourceOptions(parent=self)
        k8s.core.v1.ConfigMap(
            f"{name}-routes",
            metadata={**about, "name": names.GATEWAY_ROUTES},
            data={ROUTES_FILE: routes},
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
