"""Checks of what provisions a cluster, and of how pods get its GPUs."""

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Final

from gpufleet.spec.clusters import HOST_LABEL, ProvisionedCluster
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import GpuAccess, NodeGroup
from gpufleet.spec.problem import Problem
from gpufleet.spec.serving import ServingClass
from gpufleet.spec.source import FieldPath

MAX_NAME: Final = 63
NODE_PREFIX: Final = 24
"""Prefix of the part of an IPv4 pod network that each node gets: kube-controller-manager's default
for `--node-cidr-mask-size-ipv4`."""
NODE_PREFIX_IPV6: Final = 64
"""The same for IPv6."""
DRA_SINCE: Final = (1, 34)
"""The first Kubernetes that serves resource.k8s.io/v1."""
MAX_PORT: Final = 65_535

_Networks = ipaddress.IPv4Network | ipaddress.IPv6Network


def host_selector(name: str, group: NodeGroup) -> dict[str, str]:
    """The labels by which a node group's hosts are chosen."""
    return group.host_selector or {HOST_LABEL: name}


def cluster_name(fleet: Fleet, site: str) -> str:
    """Name of a site's cluster on its management cluster."""
    return f"{fleet.slug}-{site}"


def cluster_problems(fleet: Fleet) -> Iterator[Problem]:
    """Every problem of provisioned clusters, host selectors and access to GPUs."""
    for name, site in fleet.sites.items():
        if isinstance(site.cluster, ProvisionedCluster):
            at: FieldPath = ("sites", name, "cluster")
            yield from _control_plane(at, site.cluster)
            yield from _networks(fleet, at, name, site.cluster)
            yield from _names(fleet, at, name)
            yield from _selectors(fleet, at, name, site.cluster)
            yield from _version(fleet, at, name, site.cluster)
    yield from _unused_selectors(fleet)
    yield from _batch(fleet)


def _control_plane(at: FieldPath, cluster: ProvisionedCluster) -> Iterator[Problem]:
    plane = cluster.control_plane
    if plane.nodes % 2 == 0:
        what = f"is {plane.nodes}, and etcd keeps no better majority than with {plane.nodes - 1}"
        yield Problem((*at, "control_plane", "nodes"), what, mend="declare an odd number")
    host, _, port = plane.endpoint.rpartition(":")
    path = (*at, "control_plane", "endpoint")
    if not 0 < int(port) <= MAX_PORT:
        yield Problem(path, f"has the port {port}, which no server can have")
    for field in ("pod_network", "service_network"):
        if _holds(getattr(cluster, field), host):
            yield Problem(path, f"stands inside `{field}`, which only the cluster itself reaches")


def _holds(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network)
    except ValueError:
        return False


def _networks(
    fleet: Fleet, at: FieldPath, site: str, cluster: ProvisionedCluster
) -> Iterator[Problem]:
    pods, services = map(ipaddress.ip_network, (cluster.pod_network, cluster.service_network))
    if pods.version != services.version:
        yield Problem((*at, "service_network"), "is of another IP version than `pod_network`")
    elif pods.overlaps(services):
        what = f"overlaps `pod_network` ({services} and {pods})"
        yield Problem((*at, "service_network"), what)
    nodes = cluster.control_plane.nodes + sum(
        group.nodes for group in fleet.node_groups_at(site).values()
    )
    if nodes > (room := _nodes_that_fit(pods)):
        yield Problem(
            (*at, "pod_network"),
            f"has room for {room} nodes, and the site declares {nodes}",
            mend=f"each node takes a /{_node_prefix(pods)}: declare a larger network",
        )


def _nodes_that_fit(pods: _Networks) -> int:
    spare_bits = _node_prefix(pods) - pods.prefixlen
    return 2**spare_bits if spare_bits >= 0 else 0


def _node_prefix(pods: _Networks) -> int:
    return NODE_PREFIX if isinstance(pods, ipaddress.IPv4Network) else NODE_PREFIX_IPV6


def _names(fleet: Fleet, at: FieldPath, site: str) -> Iterator[Problem]:
    cluster = cluster_name(fleet, site)
    for group in fleet.node_groups_at(site):
        name = f"{cluster}-{group}"
        if len(name) > MAX_NAME:
            what = f"gives the name `{name}` of more than {MAX_NAME} characters"
            yield Problem(at, what, mend="shorten `fleet`, `environment`, the site or the group")


def _selectors(
    fleet: Fleet, at: FieldPath, site: str, cluster: ProvisionedCluster
) -> Iterator[Problem]:
    """Whether all hosts of one are also chosen by another: then who gets a host is chance."""
    taken: list[tuple[FieldPath, str, Mapping[str, str]]] = [
        (
            (*at, "control_plane", "host_selector"),
            "the control plane",
            cluster.control_plane.host_selector,
        )
    ]
    for name, group in fleet.node_groups_at(site).items():
        path: FieldPath = ("node_groups", name, "host_selector")
        taken.append((path, f"node group `{name}`", host_selector(name, group)))
    for (_, one, first), (at_fault, _, second) in combinations(taken, 2):
        if first.items() <= second.items() or second.items() <= first.items():
            mend = "a host belongs to one of them: let one label differ"
            yield Problem(at_fault, f"chooses hosts of {one} too", mend=mend)


def _version(
    fleet: Fleet, at: FieldPath, site: str, cluster: ProvisionedCluster
) -> Iterator[Problem]:
    major, minor, _ = map(int, cluster.kubernetes_version.split("."))
    groups = fleet.node_groups_at(site)
    using = [name for name, group in groups.items() if group.gpu_access is GpuAccess.DRA]
    if using and (major, minor) < DRA_SINCE:
        yield Problem(
            (*at, "kubernetes_version"),
            f"has no ResourceClaims, which node group `{using[0]}` asks for",
            mend="1.34 and later have; or declare `gpu_access: device-plugin`",
        )


def _unused_selectors(fleet: Fleet) -> Iterator[Problem]:
    for name, group in fleet.node_groups.items():
        site = fleet.sites.get(group.site)
        if group.host_selector and site and not isinstance(site.cluster, ProvisionedCluster):
            yield Problem(
                ("node_groups", name, "host_selector"),
                f"chooses nothing: site {group.site} has `provider: {site.cluster.provider}`",
                mend="hosts are chosen where a site has `provider: cluster-api`; remove it here",
            )


def _batch(fleet: Fleet) -> Iterator[Problem]:
    """Kueue counts GPUs by the extended resource; claims would pass its quota uncounted."""
    for pool_name, pool in fleet.pools.items():
        for group_name in pool.placements if pool.class_ is ServingClass.BATCH else ():
            group = fleet.node_groups.get(group_name)
            if group and group.gpu_access is GpuAccess.DRA:
                yield Problem(
                    ("node_groups", group_name, "gpu_access"),
                    f"is dra, and Kueue counts no claims for the batch pool `{pool_name}`",
                    mend="declare `gpu_access: device-plugin` for batch work",
                )
