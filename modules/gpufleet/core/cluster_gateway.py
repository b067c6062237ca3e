"""The gateway on a cluster: where it runs, what it may do there, and whom it reaches."""

from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.serving import ENGINE_PORT
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster

SELECTOR: Final = {"app.kubernetes.io/name": names.GATEWAY}
"""Of its pods, as the Service finds them."""


def runs_at(fleet: Fleet, site: str) -> bool:
    """Whether pods of the gateway run at a site: not where it runs beside an embedded platform."""
    return fleet.images.gateway is not None and not isinstance(
        fleet.sites[site].cluster, EmbeddedCluster
    )


def role_rules(namespace: str) -> list[dict[str, list[str]]]:
    """RBAC rules of its control process in one namespace: it sees pods of pools, and its routes."""
    if namespace == names.GATEWAY_NAMESPACE:
        return [
            {
                "apiGroups": [""],
                "resources": ["configmaps"],
                "resourceNames": [names.GATEWAY_ROUTES],
                "verbs": ["get"],
            }
        ]
    return [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]


def network_policy(ports: list[int]) -> dict[str, Any]:
    """Who may ask its pods, and whom they ask.

    Clients come through a proxy whose namespace is not ours to know, and keys guard the public
    port. Engines of further sites have addresses outside of this cluster.

    Args:
        ports: of API servers, database, object stores and hosted APIs.
    """
    monitoring = {
        "namespaceSelector": {"matchLabels": {names.NAMESPACE: names.PROMETHEUS_NAMESPACE}}
    }
    return {
        "podSelector": {"matchLabels": SELECTOR},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"namespaceSelector": {}}], "ports": [_tcp(names.GATEWAY_PORT)]},
            {"from": [monitoring], "ports": [_tcp(names.GATEWAY_METRICS_PORT)]},
        ],
        "egress": [{"ports": [_tcp(port) for port in sorted({ENGINE_PORT, *ports})]}],
    }


def _tcp(port: int) -> dict[str, Any]:
    return {"port": port, "protocol": "TCP"}
