"""What the Prometheus of a real cluster scrapes: an embedded site has its own configuration."""

from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.monitoring.pools import REPLICAS_JOB

_POD_LABELS: Final = (
    names.FLEET,
    names.POOL,
    names.CLASS,
    names.MODEL,
    names.TEAM,
    names.USE_CASE,
)


def replaced(label: str, value: str) -> dict[str, Any]:
    """A relabelling that sets a label: the same jobs have the same names on every kind of site."""
    return {"targetLabel": label, "replacement": value}


def pool_monitor(fleet: str, site: str) -> dict[str, Any]:
    """The PodMonitor of the engines of all pools; gateway and worker bring their own monitors."""
    worker = names.metric_label(names.WORKER_INDEX)
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {
            "name": "gpufleet-pools",
            "namespace": names.MONITORING_NAMESPACE,
            "labels": {names.MANAGED: "true", names.FLEET: fleet},
        },
        "spec": {
            "namespaceSelector": {
                "matchNames": [names.INTERACTIVE_NAMESPACE, names.BATCH_NAMESPACE]
            },
            "selector": {"matchExpressions": [{"key": names.POOL, "operator": "Exists"}]},
            "podTargetLabels": list(_POD_LABELS),
            "podMetricsEndpoints": [
                {
                    "port": "http",
                    "interval": "15s",
                    "scrapeTimeout": "4s",
                    "relabelings": [
                        # Of a replica over nodes only the leader serves.
                        {
                            "sourceLabels": [f"__meta_kubernetes_pod_label_{worker}"],
                            "regex": "0?",
                            "action": "keep",
                        },
                        replaced("job", REPLICAS_JOB),
                        replaced(names.metric_label(names.SITE), site),
                    ],
                }
            ],
        },
    }
