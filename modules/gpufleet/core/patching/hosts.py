"""The hosts of a fleet as Ansible is told of them: variables, groups, and who cannot be patched."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from pydantic import JsonValue

from gpufleet.core.inventory import Node, expand
from gpufleet.core.patching.capacity import declared_capacity
from gpufleet.core.patching.fabric import least_bus_gb_per_s
from gpufleet.core.patching.waves import plan_waves
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.hardware import NodeGroup
from gpufleet.spec.patching import HostChange, Part, PatchOrder, Wave

IN_SERVICE: Final = "in-service"
QUARANTINED: Final = "quarantined"
STATES: Final = (IN_SERVICE, QUARANTINED)
"""What is remembered of a host; one that nothing is remembered of is in service."""
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_]")
_KEY_CHANGED: Final = re.compile(
    r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|host key is known"
)
_KEY_REFUSED: Final = re.compile(r"Permission denied|Too many authentication failures")
_SHOWN: Final = 200


@dataclass(frozen=True)
class Host:
    """One host, called like its node."""

    name: str
    site: str
    rack: str
    node_group: str
    gpu_type: str
    pools: tuple[str, ...]
    """Pools whose replicas it may hold, sorted."""
    variables: Mapping[str, JsonValue]
    """What Ansible is told of it."""

    @property
    def is_reached(self) -> bool:
        """Whether its node group says how."""
        return "ansible_host" in self.variables

    @property
    def left_out(self) -> str:
        """Why it cannot be patched; empty where it can."""
        group = f"node group `{self.node_group}`"
        if not self.is_reached:
            field_ = f"node_groups.{self.node_group}.ssh"
            return f"{group} does not say how its hosts are reached ({field_})"
        if not self.pools:
            return (
                f"it is in no pool: no placement names its {group}, so nothing says what has to"
                " stay in service"
            )
        return ""

    @property
    def change(self) -> HostChange:
        """Where it stands and what it serves, for whoever asks whether it may be patched."""
        return HostChange(
            host=self.name,
            site=self.site,
            rack=self.rack,
            node_group=self.node_group,
            pools=list(self.pools),
            before="",
            after="",
        )


@dataclass(frozen=True)
class Inventory:
    """Everything that Ansible is told of a fleet."""

    hosts: Mapping[str, Host]
    """By name, in the order of the fleet file."""
    groups: Mapping[str, Sequence[str]]
    """Names of hosts by group; a declared thing without hosts is an empty group."""
    variables: Mapping[str, JsonValue] = field(default_factory=dict)
    """What holds for every host."""


def inventory_of(
    fleet: Fleet,
    folder: PurePath,
    *,
    clusters: Mapping[str, Mapping[str, str]],
    states: Mapping[str, str],
) -> Inventory:
    """The inventory of a fleet.

    Args:
        fleet: as declared.
        folder: the fleet file's, which the paths in it are relative to.
        clusters: by site, `kubeconfig` and `context` of its cluster; none while it is provisioned.
        states: what is remembered of hosts, one of `STATES`.
    """
    hosts = {
        node.name: _host(fleet, node, folder, clusters.get(node.site, {})) for node in expand(fleet)
    }
    declared = {
        "site": fleet.sites.keys(),
        "rack": fleet.racks.keys(),
        "node_group": fleet.node_groups.keys(),
        "pool": fleet.pools.keys(),
        "gpu_type": {group.gpu_type for group in fleet.node_groups.values()},
        "state": set(STATES),
    }
    groups: dict[str, list[str]] = {
        group_name(kind, name): [] for kind, names in declared.items() for name in sorted(names)
    }
    for host in hosts.values():
        for group in _groups_of(host, states.get(host.name, IN_SERVICE)):
            groups.setdefault(group, []).append(host.name)
    for wave in declared_waves(fleet, hosts.values()):
        groups[group_name("wave", str(wave.number))] = wave.hosts
    return Inventory(hosts, groups)


def declared_waves(fleet: Fleet, hosts: Iterable[Host]) -> list[Wave]:
    """The waves of every host that can be patched, by what the fleet file declares alone.

    So they are the same in each run by hand, whatever an earlier one has done. A flow plans its own
    by what the clusters show, and names its hosts.
    """
    changes = [host.change for host in hosts if not host.left_out]
    # Of the order only the shares are read.
    order = PatchOrder(component=PatchTarget.DRIVER, part=Part.DRIVER, version="any")
    return plan_waves(changes, declared_capacity(fleet), order).waves


def why_no_wave(found: Inventory, wave: str) -> str:
    """Why there is no wave of this number; empty where there is."""
    group = group_name("wave", wave)
    if found.groups.get(group):
        return ""
    count = sum(1 for name in found.groups if name.startswith(group_name("wave", "")))
    if count:
        return f"there is no {group}: the hosts that can be patched are in waves 1 to {count}"
    if not any(host.is_reached for host in found.hosts.values()):
        return (
            f"there is no {group}: no node group of the fleet file says how its hosts are reached"
            " (node_groups.NAME.ssh)"
        )
    whys = Counter(
        host.left_out or "its pool has nothing to spare" for host in found.hosts.values()
    )
    return f"there is no {group}, as no host can be patched: {whys.most_common(1)[0][0]}"


def group_name(kind: str, name: str) -> str:
    """A group's name, such as `node_group_fra1_chat`: Ansible wants identifiers."""
    return f"{kind}_{_NOT_IN_A_NAME.sub('_', name)}"


def demand_patchable(hosts: Mapping[str, Host], names: AbstractSet[str]) -> None:
    """Refuse hosts that cannot be patched, or that the fleet does not have.

    Raises:
        BadInput: names the first, and how many there are.
    """
    for name in sorted(names):
        host = hosts.get(name)
        why = host.left_out if host else "is not in the fleet file"
        if why:
            others = sum(1 for each in names if each not in hosts or hosts[each].left_out) - 1
            more = f" (and {others} more)" if others else ""
            raise BadInput(
                f"{why}{more}",
                where=f"host {name}",
                mend=f"leave it out (--limit 'all:!{name}'), or mend the fleet file",
            )


def why_unreachable(name: str, message: str, known_hosts: str) -> str:
    """What a person is told of a host that SSH did not reach.

    Args:
        name: of the host.
        message: what ssh said.
        known_hosts: the file with the keys that are trusted.
    """
    if _KEY_CHANGED.search(message):
        return (
            f"host {name}: its SSH host key is not the one in {known_hosts}; nothing was sent."
            " If the host was installed anew, put its new key there, else find out who answers"
        )
    if _KEY_REFUSED.search(message):
        return f"host {name}: refuses the login; check the user and the key of the SSH agent"
    last = (message.strip().splitlines() or ["no answer"])[-1].strip()
    return f"host {name}: cannot be reached by SSH: {last[:_SHOWN]}"


def _host(fleet: Fleet, node: Node, folder: PurePath, cluster: Mapping[str, str]) -> Host:
    group = fleet.node_groups[node.group]
    gpu_type = fleet.gpus[node.gpu_type]
    placed = (name for name, pool in fleet.pools.items() if node.group in pool.placements)
    pools = tuple(sorted(placed))
    variables: dict[str, JsonValue] = {
        "gpufleet_site": node.site,
        "gpufleet_rack": node.rack,
        "gpufleet_node_group": node.group,
        "gpufleet_pools": list(pools),
        "gpufleet_gpu_type": node.gpu_type,
        "gpufleet_gpus": node.gpus,
        "gpufleet_gpu_access": group.gpu_access.value,
        "gpufleet_gpu_fabric": gpu_type.fabric.value,
        "gpufleet_least_bus_gb_per_s": least_bus_gb_per_s(gpu_type, node.gpus),
        "gpufleet_pins": group.pins.model_dump(mode="json", exclude_none=True),
        **{f"gpufleet_kube_{key}": value for key, value in cluster.items()},
        **_ssh(group, node.name, folder),
        **_bmc(group, node.name, folder),
    }
    return Host(node.name, node.site, node.rack, node.group, node.gpu_type, pools, variables)


def _ssh(group: NodeGroup, node: str, folder: PurePath) -> dict[str, JsonValue]:
    if group.ssh is None:
        return {}
    ssh = group.ssh
    known_hosts = str(folder / ssh.known_hosts)
    # OpenSSH splits the value itself, so a path with spaces needs quotes of its own.
    options = [
        "-o StrictHostKeyChecking=yes",
        f"""-o 'UserKnownHostsFile="{known_hosts}"'""",
        "-o GlobalKnownHostsFile=/dev/null",
    ]
    full_name = f"{node}.{ssh.domain}" if ssh.domain else node
    return {
        "ansible_host": ssh.addresses.get(node, full_name),
        "ansible_user": ssh.user,
        "ansible_port": ssh.port,
        "ansible_ssh_common_args": " ".join(options),
        "gpufleet_known_hosts": known_hosts,
        "gpufleet_reboot_within_s": ssh.reboot_within_s,
    }


def _bmc(group: NodeGroup, node: str, folder: PurePath) -> dict[str, JsonValue]:
    if group.bmc is None:
        return {}
    authority = group.bmc.certificate_authority
    return {
        "gpufleet_bmc_endpoint": group.bmc.endpoint.replace("{node}", node),
        "gpufleet_bmc_system": group.bmc.system.replace("{node}", node),
        "gpufleet_bmc_certificate_authority": str(folder / authority) if authority else "",
        "gpufleet_bmc_activation": group.bmc.bmc_activation.value,
        "gpufleet_vbios_activation": group.bmc.vbios_activation.value,
    }


def _groups_of(host: Host, state: str) -> list[str]:
    return [
        group_name("site", host.site),
        group_name("rack", host.rack),
        group_name("node_group", host.node_group),
        group_name("gpu_type", host.gpu_type),
        group_name("state", state),
        *(group_name("pool", pool) for pool in host.pools),
    ]
