"""A provisioned cluster as Cluster API objects: plain data for the management cluster.

Kinds and fields are those of Cluster API 1.14 (contract v1beta2) and of Metal3's provider 1.13 and
later. A template cannot be changed once machines are made from it, so its name ends in a digest of
its content: a changed image or label makes another template, and the machines follow.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.inventory import GPU_TAINT, access_labels
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.spec.cluster_checks import cluster_name, host_selector
from gpufleet.spec.clusters import NodeImage, ProvisionedCluster
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import NodeGroup

CORE: Final = "cluster.x-k8s.io"
CONTROL_PLANE: Final = "controlplane.cluster.x-k8s.io"
BOOTSTRAP: Final = "bootstrap.cluster.x-k8s.io"
INFRASTRUCTURE: Final = "infrastructure.cluster.x-k8s.io"
CLUSTER_LABEL: Final = "cluster.x-k8s.io/cluster-name"
CONTROL_PLANE_LABEL: Final = "cluster.x-k8s.io/control-plane"
TEMPLATES: Final = frozenset({"KubeadmConfigTemplate", "Metal3MachineTemplate"})
"""Kinds of which old ones stay: machines that are being replaced still refer to them."""
LASTING: Final = frozenset({"Cluster", "KubeadmControlPlane", "Metal3Cluster"})
"""Kinds whose deletion would wipe every host of the cluster."""
EMPTY_DRAIN_S: Final = 600
"""A node without pools is drained in so many seconds."""
QUORUM: Final = 3
"""From so many control plane hosts on, one can be replaced without another to spare."""

Object = dict[str, Any]

_HOST_NAME: Final = "{{ ds.meta_data.local_hostname }}"
"""Filled in on the host by cloud-init: the BareMetalHost's name, which is the node's."""
_HOST_UUID: Final = "metal3.io/uuid={{ ds.meta_data.uuid }}"
"""The label by which Metal3's provider finds the node of a host."""


def cluster_objects(fleet: Fleet, site: str, cluster: ProvisionedCluster) -> tuple[Object, ...]:
    """Every object of a site's cluster, each after those that it refers to."""
    return _Builder(fleet, site, cluster).objects()


def drain_timeout_s(group: NodeGroup, pools: tuple[PoolAtSite, ...]) -> int:
    """How long the drain of a node may take before its machine is deleted all the same, s.

    The pods of a node go in waves as large as the pool's disruption budget allows. A wave takes
    its longest generation, and the budget lets the next one go when the replacements serve.
    """
    timeout_s = EMPTY_DRAIN_S
    for pool in pools:
        on_node = group.gpus_per_node // pool.gpus_per_node
        waves = math.ceil(on_node / (pool.disruptions * pool.nodes_per_replica))
        timeout_s = max(timeout_s, waves * (pool.grace_s + pool.startup.budget_s))
    return timeout_s


class _Builder:
    def __init__(self, fleet: Fleet, site: str, cluster: ProvisionedCluster) -> None:
        self._fleet = fleet
        self._site = site
        self._cluster = cluster
        self._name = cluster_name(fleet, site)

    def objects(self) -> tuple[Object, ...]:
        made = [self._infrastructure(), *self._control_plane(), self._whole()]
        for name, group in self._fleet.node_groups_at(self._site).items():
            made += self._node_group(name, group)
        return tuple(made)

    def _object(self, api: str, kind: str, name: str, spec: Object, **labels: str) -> Object:
        return {
            "apiVersion": f"{api}/v1beta2",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": self._cluster.namespace,
                "labels": {
                    names.MANAGED: "true",
                    names.FLEET: self._fleet.slug,
                    names.SITE: self._site,
                    CLUSTER_LABEL: self._name,
                    **labels,
                },
            },
            "spec": spec,
        }

    def _template(self, api: str, kind: str, name: str, spec: Object) -> Object:
        content = {"template": {"spec": spec}}
        return self._object(api, kind, f"{name}-{_digest(content)}", content)

    def _whole(self) -> Object:
        cluster = self._cluster
        return self._object(
            CORE,
            "Cluster",
            self._name,
            {
                "clusterNetwork": {
                    "pods": {"cidrBlocks": [cluster.pod_network]},
                    "services": {"cidrBlocks": [cluster.service_network]},
                    "serviceDomain": "cluster.local",
                },
                "infrastructureRef": _reference(INFRASTRUCTURE, "Metal3Cluster", self._name),
                "controlPlaneRef": _reference(CONTROL_PLANE, "KubeadmControlPlane", self._name),
            },
        )

    def _infrastructure(self) -> Object:
        host, _, port = self._cluster.control_plane.endpoint.rpartition(":")
        endpoint = {"host": host, "port": int(port)}
        spec = {"controlPlaneEndpoint": endpoint, "cloudProviderEnabled": False}
        return self._object(INFRASTRUCTURE, "Metal3Cluster", self._name, spec)

    def _control_plane(self) -> list[Object]:
        plane = self._cluster.control_plane
        hosts = self._hosts(
            f"{self._name}-control-plane", plane.host_selector, plane.image or self._cluster.image
        )
        registration = {"nodeRegistration": _registration({})}
        spec = {
            "version": f"v{self._cluster.kubernetes_version}",
            "replicas": plane.nodes,
            "machineTemplate": {
                "spec": {
                    "infrastructureRef": _reference_to(hosts),
                    "deletion": {"nodeDrainTimeoutSeconds": EMPTY_DRAIN_S},
                }
            },
            # Bare metal has no host to spare; with fewer than three, one has to come first.
            "rollout": _rolling({"maxSurge": 0 if plane.nodes >= QUORUM else 1}),
            "kubeadmConfigSpec": {
                "initConfiguration": registration,
                "joinConfiguration": registration,
            },
        }
        return [
            hosts,
            self._object(CONTROL_PLANE, "KubeadmControlPlane", self._name, spec),
            self._health(f"{self._name}-control-plane", {CONTROL_PLANE_LABEL: ""}),
        ]

    def _node_group(self, name: str, group: NodeGroup) -> list[Object]:
        full_name = f"{self._name}-{name}"
        hosts = self._hosts(full_name, host_selector(name, group), self._cluster.image)
        labels = {
            names.SITE: self._site,
            names.NODE_GROUP: name,
            **access_labels(group),
            "topology.kubernetes.io/region": self._site,
            "topology.kubernetes.io/zone": self._site,
        }
        taint = {"key": GPU_TAINT.key, "value": GPU_TAINT.value, "effect": GPU_TAINT.effect}
        registration = {**_registration(labels), "taints": [taint]}
        join = {"joinConfiguration": {"nodeRegistration": registration}}
        config = self._template(BOOTSTRAP, "KubeadmConfigTemplate", full_name, join)
        deployment = self._deployment(full_name, name, group, config, hosts)
        return [hosts, config, deployment, self._health(full_name, {names.NODE_GROUP: name})]

    def _deployment(
        self, full_name: str, name: str, group: NodeGroup, config: Object, hosts: Object
    ) -> Object:
        machines = {CLUSTER_LABEL: self._name, names.NODE_GROUP: name}
        pools = tuple(pool for pool in pools_at(self._fleet, self._site) if pool.group_name == name)
        timeout_s = drain_timeout_s(group, pools)
        spec = {
            "clusterName": self._name,
            "replicas": group.nodes,
            "selector": {"matchLabels": machines},
            # A group takes every host that it has: a new machine needs an old one's host.
            "rollout": _rolling({"maxSurge": 0, "maxUnavailable": 1}),
            "remediation": {"maxInFlight": 1},
            "template": {
                "metadata": {"labels": machines},
                "spec": {
                    "clusterName": self._name,
                    "version": f"v{self._cluster.kubernetes_version}",
                    "bootstrap": {"configRef": _reference_to(config)},
                    "infrastructureRef": _reference_to(hosts),
                    "deletion": {"nodeDrainTimeoutSeconds": timeout_s},
                },
            },
        }
        return self._object(CORE, "MachineDeployment", full_name, spec, **{names.NODE_GROUP: name})

    def _hosts(self, name: str, selector: Mapping[str, str], image: NodeImage) -> Object:
        spec = {
            "automatedCleaningMode": "metadata",
            "hostSelector": {"matchLabels": dict(selector)},
            "image": {
                "url": image.url,
                "checksum": image.digest.removeprefix("sha256:"),
                "checksumType": "sha256",
                "diskFormat": image.disk_format.value,
            },
        }
        return self._template(INFRASTRUCTURE, "Metal3MachineTemplate", name, spec)

    def _health(self, name: str, machines: Mapping[str, str]) -> Object:
        health = self._cluster.health
        conditions = [
            {"type": "Ready", "status": status, "timeoutSeconds": math.ceil(health.not_ready_s)}
            for status in ("False", "Unknown")
        ]
        spec = {
            "clusterName": self._name,
            "selector": {"matchLabels": {CLUSTER_LABEL: self._name, **machines}},
            "checks": {
                "nodeStartupTimeoutSeconds": math.ceil(health.startup_s),
                "unhealthyNodeConditions": conditions,
            },
            "remediation": {"triggerIf": {"unhealthyLessThanOrEqualTo": health.max_unhealthy}},
        }
        return self._object(CORE, "MachineHealthCheck", name, spec)


def _registration(labels: Mapping[str, str]) -> Object:
    """How a kubelet registers its node.

    A kubelet may give itself these labels: NodeRestriction refuses those below kubernetes.io and
    k8s.io, with the topology ones excepted.
    """
    written = [_HOST_UUID, *(f"{key}={value}" for key, value in labels.items())]
    arguments = [{"name": "node-labels", "value": ",".join(written)}]
    return {"name": _HOST_NAME, "kubeletExtraArgs": arguments}


def _rolling(how: Mapping[str, int]) -> Object:
    return {"strategy": {"type": "RollingUpdate", "rollingUpdate": dict(how)}}


def _reference(api: str, kind: str, name: str) -> Object:
    return {"apiGroup": api, "kind": kind, "name": name}


def _reference_to(thing: Object) -> Object:
    api, _, _ = thing["apiVersion"].partition("/")
    return _reference(api, thing["kind"], thing["metadata"]["name"])


def _digest(content: Object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
