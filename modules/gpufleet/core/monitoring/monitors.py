"""What the Prometheus of a real cluster scrapes: an embedded site has its own configuration."""

from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.monitoring.objectives import GATEWAY_JOB
from gpufleet.core.monitoring.pools import REPLICAS_JOB

_POD_LABELS: Final = (
    names.FLEET,
    names.POOL,
    names.CLASS,
    names.MODEL,
    names.TEAM,
    names.USE_CASE,
)
METRICS_PORT: Final = "metrics"
"""Name of the port of the gateway's control process."""


def replaced(label: str, value: str) -> dict[str, Any]:
    """A relabelling that sets a label: the same jobs have the same names on every kind of site."""
    return {"targetLabel": label, "replacement": value}


def pod_monitors(fleet: str, site: str) -> tuple[dict[str, Any], ...]:
    """PodMonitor objects: the engines of all pools, and the gateway."""
    at_site = replaced(names.metric_label(names.SITE), site)
    leader = {
        "sourceLabels": [f"__meta_kubernetes_pod_label_{names.metric_label(names.WORKER_INDEX)}"],
        "regex": "0?",
        "action": "keep",
    }
    return (
        _monitor(
            fleet,
            "gpufleet-pools",
            [names.INTERACTIVE_NAMESPACE, names.BATCH_NAMESPACE],
            {"matchExpressions": [{"key": names.POOL, "operator": "Exists"}]},
            # Of a replica over nodes only the leader serves.
            _endpoint("http", [leader, replaced("job", REPLICAS_JOB), at_site]),
        ),
        _monitor(
            fleet,
            "gpufleet-gateway",
            [names.GATEWAY_NAMESPACE],
            {"matchLabels": {"app.kubernetes.io/name": names.GATEWAY}},
            _endpoint(METRICS_PORT, [replaced("job", GATEWAY_JOB), at_site]),
        ),
    )


def _monitor(
    fleet: str,
    name: str,
    namespaces: list[str],
    selected: dict[str, Any],
    endpoint: dict[str, Any],
) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {
            "name": name,
            "namespace": names.MONITORING_NAMESPACE,
            "labels": {names.MANAGED: "true", names.FLEET: fleet},
        },
        "spec": {
            "namespaceSelector": {"matchNames": namespaces},
            "selector": selected,
            "podTargetLabels": list(_POD_LABELS),
            "podMetricsEndpoints": [endpoint],
        },
    }


def _endpoint(port: str, relabelings: list[dict[str, Any]]) -> dict[str, Any]:
    return {"port": port, "interval": "15s", "scrapeTimeout": "4s", "relabelings": relabelings}
