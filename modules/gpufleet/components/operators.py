"""Operators of a real cluster, by pinned Helm charts. The embedded platform runs its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pulumi
import pulumi_kubernetes as k8s

from gpufleet.core import vocabulary as names
from gpufleet.core.monitoring.gpus import GPU_JOB
from gpufleet.core.monitoring.monitors import replaced
from gpufleet.core.monitoring.site_rules import CLUSTER_RETENTION_S
from gpufleet.spec.hardware import GpuAccess


@dataclass(frozen=True)
class Chart:
    """A Helm chart at an exact version; an `oci://` chart has no repository."""

    name: str
    namespace: str
    version: str
    repository: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


CHARTS: Final = (
    Chart("oci://registry.k8s.io/kueue/charts/kueue", "kueue-system", "0.14.0"),
    Chart(
        "keda",
        "keda",
        "2.21.0",
        "https://kedacore.github.io/charts",
        {"prometheus": {"operator": {"enabled": True, "serviceMonitor": {"enabled": True}}}},
    ),
    Chart("oci://registry.k8s.io/lws/charts/lws", "lws-system", "0.7.0"),
    Chart(
        "kube-prometheus-stack",
        names.PROMETHEUS_NAMESPACE,
        "77.0.0",
        "https://prometheus-community.github.io/helm-charts",
        {
            "alertmanager": {"enabled": True},
            "grafana": {
                "enabled": True,
                # The chart's own dashboards stand beside Grafana, ours with the rules.
                "sidecar": {"dashboards": {"searchNamespace": "ALL"}},
            },
            "kube-state-metrics": {
                # By them the alerts on GPUs say which model is hit.
                "metricLabelsAllowlist": [f"pods=[{names.POOL},{names.MODEL}]"],
            },
            "prometheus": {
                "prometheusSpec": {
                    "retention": f"{CLUSTER_RETENTION_S // 86400}d",
                    # Else only what this chart made itself is picked up, and ours is not.
                    "ruleSelectorNilUsesHelmValues": False,
                    "podMonitorSelectorNilUsesHelmValues": False,
                    "serviceMonitorSelectorNilUsesHelmValues": False,
                }
            },
        },
    ),
    Chart(
        "gpu-operator",
        "gpu-operator",
        "v25.3.2",
        "https://helm.ngc.nvidia.com/nvidia",
        {
            # Ansible owns drivers and the container toolkit: two owners would fight on a node.
            "driver": {"enabled": False},
            "toolkit": {"enabled": False},
            "nfd": {"enabled": True},
            "dcgmExporter": {
                "enabled": True,
                "serviceMonitor": {
                    "enabled": True,
                    "interval": "15s",
                    # Namespace and pod are those that hold the GPU, not the exporter's own.
                    "honorLabels": True,
                    "relabelings": [replaced("job", GPU_JOB)],
                },
            },
        },
    ),
)

DRA_DRIVER: Final = Chart(
    "nvidia-dra-driver-gpu",
    "nvidia-dra-driver",
    "25.12.0",
    "https://helm.ngc.nvidia.com/nvidia",
    {
        # The chart wants to be told that the device plugin is off where this driver runs: those
        # nodes carry a label that keeps the GPU operator's plugin away.
        "gpuResourcesEnabledOverride": True,
        "nvidiaDriverRoot": "/",
        "resources": {"computeDomains": {"enabled": False}},
        "kubeletPlugin": {
            "nodeSelector": {
                names.GPU_ACCESS: GpuAccess.DRA.value,
                # Off while a driver is patched: else its pod holds the GPUs.
                names.DRA_DRIVER_SWITCH: "true",
            },
            "tolerations": [
                {"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
            ],
        },
    },
)
"""Only where a node group gives its GPUs by claims."""


class Operators(pulumi.ComponentResource):
    """Every chart of `CHARTS`, each in its own namespace, waited for.

    Args:
        name: name of the component.
        opts: with the cluster's provider.
        claims: whether `DRA_DRIVER` is wanted too.
    """

    def __init__(
        self, name: str, opts: pulumi.ResourceOptions | None = None, *, claims: bool = False
    ) -> None:
        super().__init__("gpufleet:platform:Operators", name, None, opts)
        self.resources: list[pulumi.Resource] = [
            k8s.helm.v3.Release(
                chart.name.rsplit("/", 1)[-1],
                name=chart.name.rsplit("/", 1)[-1],
                chart=chart.name,
                version=chart.version,
                namespace=chart.namespace,
                create_namespace=True,
                repository_opts={"repo": chart.repository} if chart.repository else None,
                values=dict(chart.values),
                atomic=True,
                timeout=900,
                opts=pulumi.ResourceOptions(parent=self),
            )
            for chart in (*CHARTS, *([DRA_DRIVER] if claims else []))
        ]
        self.register_outputs({"count": len(self.resources)})
