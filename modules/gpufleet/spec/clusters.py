"""A cluster that is provisioned on bare metal: Cluster API with Metal3 hosts and kubeadm."""

import ipaddress
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from gpufleet.spec import forms
from gpufleet.spec.quantities import Digest, Integer, Name, Seconds, Spec, Text

HOST_LABEL: Final = "gpufleet.dev/node-group"
"""Label of the BareMetalHosts of a node group that declares no `host_selector`."""
MAX_SELECTOR_LABELS: Final = 10


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        message = f"has to be a network such as 10.0.0.0/16: {error}"
        raise ValueError(message) from None
    return text


Network = Annotated[Text, AfterValidator(_network)]
"""An IP network in CIDR notation, without host bits."""

HostSelector = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=forms.LABEL_KEY, max_length=253, strict=True)],
        Annotated[str, StringConstraints(pattern=forms.LABEL_VALUE, strict=True)],
    ],
    Field(min_length=1, max_length=MAX_SELECTOR_LABELS),
]
"""Labels that a BareMetalHost of the management cluster has to carry."""


class DiskFormat(StrEnum):
    """How a node image is laid out."""

    RAW = "raw"
    QCOW2 = "qcow2"


class NodeImage(Spec):
    """The disk image that hosts are written with; its content is pinned, its place is not."""

    url: Annotated[str, Field(pattern=forms.IMAGE_URL, max_length=500)]
    """Where hosts fetch it; it carries kubelet and kubeadm of `kubernetes_version`."""
    digest: Digest
    """SHA-256 of the file; a host refuses anything else."""
    disk_format: DiskFormat = DiskFormat.QCOW2
    """Layout of the file."""


class ControlPlane(Spec):
    """The hosts that run API server and etcd of a provisioned cluster."""

    endpoint: Annotated[str, Field(pattern=forms.HOST_PORT, max_length=260)]
    """Host and port of the API server: a load balancer, or an address that the image serves."""
    nodes: Annotated[Integer, Field(ge=1, le=7)] = 3
    """Number of hosts; odd, so that etcd keeps a majority when one is lost."""
    host_selector: HostSelector
    """Labels of the hosts that may be taken."""
    image: NodeImage | None = None
    """Where it differs from the cluster's."""


class HealthCheck(Spec):
    """When a machine is given up and its host is provisioned anew."""

    not_ready_s: Annotated[Seconds, Field(ge=60)] = 600.0
    """A node that is not ready for so long is unhealthy."""
    startup_s: Annotated[Seconds, Field(ge=600)] = 5400.0
    """From the start of provisioning to a node; servers with GPUs take long to boot."""
    max_unhealthy: Annotated[Integer, Field(ge=1, le=100)] = 1
    """More at once in a node group are taken for a fault of network or power: none is replaced."""


class ProvisionedCluster(Spec):
    """A cluster made by Cluster API on a management cluster, from Metal3's bare-metal hosts."""

    provider: Literal["cluster-api"]
    """A cluster that is provisioned by a management cluster."""
    management_context: Text
    """Context name of the management cluster in the kubeconfig."""
    namespace: Name
    """Namespace on the management cluster that holds the BareMetalHosts."""
    kubernetes_version: Annotated[str, StringConstraints(pattern=forms.KUBERNETES, strict=True)]
    """Version of every node; the image has to carry it."""
    control_plane: ControlPlane
    pod_network: Network
    """Addresses of pods: a /24 for each node."""
    service_network: Network
    """Addresses of services."""
    image: NodeImage
    health: HealthCheck = HealthCheck()
    context: Text | None = None
    """Context name of the cluster itself, once its kubeconfig is merged into yours. Until then
    only the management cluster is written to; taken out again, all that stands on it is deleted."""
