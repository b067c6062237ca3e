"""Whether what a host would have after a patch goes together; asked before anything is touched.

What the table does not know is refused, unless the fleet file declares it as assumed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from gpufleet.core.patching import versions
from gpufleet.spec.compatibility import (
    Architecture,
    Assumption,
    CompatibilityTable,
    Requirement,
    built_in_compatibility,
)
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import DriverPin
from gpufleet.spec.patch_cycle import InstalledVersion
from gpufleet.spec.patching import HostChange, Part, PatchOrder

_BUILT_IN: Final = "built in"
_FIELDS: Final = {
    "driver": "driver",
    "fabric-manager": "fabric_manager",
    "kernel": "kernel",
    "container-toolkit": "container_toolkit",
    "vbios": "vbios",
    "bmc": "bmc",
}
"""Where a part that hosts report stands in a `HostStack`."""


@dataclass(frozen=True)
class HostStack:
    """Software and firmware of a host; empty where nobody knows."""

    driver: str
    cuda: str = ""
    fabric_manager: str = ""
    kernel: str = ""
    """As `uname -r` gives it."""
    container_toolkit: str = ""
    vbios: str = ""
    bmc: str = ""

    @classmethod
    def pinned(cls, pins: DriverPin) -> "HostStack":
        """What a node group declares; its fabric manager has the driver's version."""
        return cls(
            driver=pins.driver,
            cuda=pins.cuda,
            fabric_manager=pins.driver,
            kernel=pins.kernel or "",
            container_toolkit=pins.container_toolkit or "",
            vbios=pins.vbios or "",
            bmc=pins.bmc or "",
        )

    def seen(self, versions: Mapping[str, str]) -> "HostStack":
        """The same host with what was read from it, by part; what was not read stays as pinned."""
        known = {
            _FIELDS[part]: version
            for part, version in versions.items()
            if part in _FIELDS and version
        }
        if "driver" in known:
            # Of a host that runs, both have the same version, or it would not.
            known.setdefault("fabric_manager", known["driver"])
        return replace(self, **known)

    def after(self, order: PatchOrder) -> "HostStack":
        """The same host once an order was carried out."""
        match order.part:
            case Part.DRIVER:
                return replace(self, driver=order.version, fabric_manager=order.version)
            case Part.KERNEL:
                return replace(self, kernel=order.version)
            case Part.TOOLKIT:
                return replace(self, container_toolkit=order.version)
            case Part.VBIOS:
                return replace(self, vbios=order.version)
            case Part.BMC:
                return replace(self, bmc=order.version)
            case Part.CONTAINERD | Part.SECURITY:
                return self


def demand_order_compatible(
    fleet: Fleet,
    order: PatchOrder,
    hosts: Iterable[HostChange],
    seen: Iterable[InstalledVersion],
) -> None:
    """Refuse an order that would give a host what does not go together.

    Args:
        fleet: with its pins, requirements and assumptions.
        order: what is to be installed.
        hosts: that are to change.
        seen: what hosts have reported; the pins of their group hold for the rest.

    Raises:
        BadInput: names the group, what does not go together, and what would.
    """
    found: dict[str, dict[str, str]] = {}
    for row in seen:
        found.setdefault(row.node, {})[row.part] = row.version
    stacks = {
        (
            change.node_group,
            HostStack.pinned(fleet.node_groups[change.node_group].pins)
            .seen(found.get(change.host, {}))
            .after(order),
        ): None
        for change in hosts
    }
    for node_group, stack in stacks:
        demand_compatible(fleet, node_group, stack)


def demand_compatible(fleet: Fleet, node_group: str, stack: HostStack) -> None:
    """Refuse a combination that is not supported, or not known.

    Args:
        fleet: with its own requirements and assumptions.
        node_group: whose hosts.
        stack: what a host of it would have.

    Raises:
        BadInput: names the group, what does not go together, and what would.
    """
    found = list(incompatibilities(fleet, node_group, stack))
    if not found:
        return
    supported = [
        branch
        for branch in built_in_compatibility().branches
        if branch != versions.branch(stack.driver)
        and not _wrong(fleet, node_group, replace(stack, driver=branch, fabric_manager=branch))
    ]
    fits = f"drivers that go with the rest: {', '.join(supported)}; " if supported else ""
    raise BadInput(
        "; ".join(found),
        where=f"node_groups.{node_group}",
        mend=f"{fits}what a vendor or a test of your own vouches for is declared in the fleet "
        "file, under compatibility.assume",
    )


def incompatibilities(fleet: Fleet, node_group: str, stack: HostStack) -> Iterator[str]:
    """What does not go together, each in a sentence without its stop."""
    if stack.fabric_manager and stack.fabric_manager != stack.driver:
        yield (
            f"fabric manager {stack.fabric_manager} has to be of the same version as driver "
            f"{stack.driver}"
        )
    yield from _wrong(fleet, node_group, stack)


def _wrong(fleet: Fleet, node_group: str, stack: HostStack) -> list[str]:
    group = fleet.node_groups[node_group]
    declared = fleet.compatibility
    found = [
        why
        for requirement in declared.requirements
        if _covers(requirement.driver, stack.driver)
        and (not requirement.gpu_types or group.gpu_type in requirement.gpu_types)
        for why in _unmet(requirement, stack)
    ]
    if not any(_assumes(each, node_group, stack.driver) for each in declared.assume):
        product = fleet.gpus[group.gpu_type].product
        found += _unknown(built_in_compatibility(), product, stack)
    return found


def _assumes(assumption: Assumption, node_group: str, driver: str) -> bool:
    return _covers(assumption.driver, driver) and (
        not assumption.node_groups or node_group in assumption.node_groups
    )


def _covers(declared: str, driver: str) -> bool:
    """Whether a driver is the declared one, or of the declared branch."""
    return driver == declared or versions.branch(driver) == declared


def _unknown(table: CompatibilityTable, product: str, stack: HostStack) -> Iterator[str]:
    """What the table refuses, or does not know."""
    branch = versions.branch(stack.driver)
    row = table.branches.get(branch)
    if row is None:
        yield f"nothing is known of driver {stack.driver}: no row for branch {branch}"
        return
    architecture = architecture_of(table, product)
    if architecture is None:
        yield f"nothing is known of drivers for {product}"
    else:
        yield from _not_of(table.architectures[architecture], architecture, stack.driver)
    if stack.cuda and int(versions.branch(stack.cuda)) > row.cuda_major:
        yield (
            f"driver {stack.driver} runs programs of CUDA {row.cuda_major} and older, and cuda is "
            f"{stack.cuda}"
        )
    minima = Requirement(
        driver=branch,
        kernel_min=row.kernel_min,
        container_toolkit_min=row.container_toolkit_min,
        source=_BUILT_IN,
    )
    yield from _unmet(minima, stack)


def architecture_of(table: CompatibilityTable, product: str) -> str | None:
    """The architecture whose words a product's name holds, such as hopper of NVIDIA-H100-PCIe."""
    told = f"-{product.replace(' ', '-')}-".casefold()
    for name, row in table.architectures.items():
        if any(f"-{word}-".casefold() in told for word in row.products):
            return name
    return None


def _not_of(architecture: Architecture, name: str, driver: str) -> Iterator[str]:
    # A whole branch stands for its newest driver.
    is_branch = driver == versions.branch(driver)
    first = versions.branch(architecture.driver_min) if is_branch else architecture.driver_min
    if versions.debian(driver, first) < 0:
        yield f"driver {driver} is too old for {name}, which needs {architecture.driver_min}"
    last = architecture.branch_max
    if last and versions.debian(versions.branch(driver), last) > 0:
        yield f"driver {driver} does not serve {name} any more; {last} is its last branch"


def _unmet(requirement: Requirement, stack: HostStack) -> Iterator[str]:
    """Minima that a host is below; what nobody knows of the host is not checked."""
    driver = f"driver {stack.driver}"
    kernel = versions.kernel(stack.kernel)
    for what, has, needs, compare in (
        ("kernel", kernel, requirement.kernel_min, versions.debian),
        (
            "container toolkit",
            stack.container_toolkit,
            requirement.container_toolkit_min,
            versions.debian,
        ),
        ("VBIOS", stack.vbios, requirement.vbios_min, versions.firmware),
        ("BMC", stack.bmc, requirement.bmc_min, versions.firmware),
    ):
        if has and needs and compare(has, needs) < 0:
            yield f"{driver} needs {what} {needs} or newer, and it is {has}{_by(requirement)}"
    below = requirement.kernel_below
    if kernel and below and versions.debian(kernel, below) >= 0:
        yield f"{driver} needs a kernel older than {below}, and it is {kernel}{_by(requirement)}"


def _by(requirement: Requirement) -> str:
    return "" if requirement.source == _BUILT_IN else f" ({requirement.source})"
