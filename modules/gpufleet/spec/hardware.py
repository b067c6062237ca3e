"""Sites, racks, GPU types, node groups, suppliers: what a company owns and where it stands."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gpufleet.spec import forms
from gpufleet.spec.clusters import HostSelector, ProvisionedCluster
from gpufleet.spec.quantities import (
    Bytes,
    Count,
    Date,
    Fraction,
    HostName,
    Integer,
    Money,
    Name,
    Names,
    Number,
    PackageVersion,
    Port,
    Positive,
    Rate,
    RelativePath,
    Seconds,
    Spec,
    Text,
    Whole,
)

Version = Annotated[str, StringConstraints(pattern=forms.VERSION, strict=True)]


class EmbeddedCluster(Spec):
    """A control plane that gpufleet runs on this machine, with simulated nodes."""

    provider: Literal["embedded"] = "embedded"
    """Simulated nodes on this machine."""
    load_time_scale: Annotated[Number, Field(gt=0, le=1)] = 0.01
    """Simulated replicas load in this share of their revision's `load_time_s`."""


class ExistingCluster(Spec):
    """A Kubernetes cluster that is there already, reached by a context of the kubeconfig."""

    provider: Literal["existing"]
    """A cluster of your own."""
    context: Text
    """Context name in the kubeconfig."""


Cluster = Annotated[
    EmbeddedCluster | ExistingCluster | ProvisionedCluster, Field(discriminator="provider")
]


class AddressingStyle(StrEnum):
    """Where requests to an object store name the bucket."""

    PATH = "path"
    """In the path."""
    VIRTUAL = "virtual"
    """In front of the store's host name."""


class ObjectStorage(Spec):
    """An S3 object store with versions and Object Lock; keys come from the machine's AWS chain."""

    endpoint: Annotated[str, Field(pattern=forms.ENDPOINT, max_length=200)]
    """Such as `https://s3.fra1.example.com`."""
    region: Name
    """Name of the region that requests are signed for."""
    style: AddressingStyle = AddressingStyle.PATH
    """Where requests name the bucket."""
    certificate_authority: RelativePath | None = None
    """Who signed its certificate; the system's authorities where it is not given."""
    kms_key: Annotated[str, Field(pattern=forms.KMS_KEY, max_length=200)] | None = None
    """The store encrypts snapshots with this key of its key service (SSE-KMS), an ID or an ARN."""


class Site(Spec):
    """A place with its own cluster, power contract and legal region."""

    region: Name
    """Legal region of the site; `residency` of use cases refers to it."""
    power_price_per_kwh: Money
    """Price of electrical energy, in the fleet's currency for each kWh."""
    pue: Annotated[Number, Field(ge=1, le=3)]
    """Power usage effectiveness: facility power over IT power."""
    facility_cost_per_kw_month: Money = Decimal(0)
    """Space and facility, in the fleet's currency for each kW of rated IT power and month."""
    spare_nodes: Whole = 0
    """Nodes kept empty for failures."""
    cluster: Cluster = EmbeddedCluster()
    """Where the site's cluster comes from."""
    object_store: ObjectStorage | None = None
    """The site's object store; an embedded site runs its own where none is given."""


class Rack(Spec):
    """A failure domain inside a site."""

    site: Name
    """A site."""
    power_limit_w: Positive
    """Rated power of the rack, W."""


class GpuFabric(StrEnum):
    """Where the NVSwitches are that connect the GPUs of a node."""

    NONE = "none"
    """There are none: PCIe, bridges, or links from GPU to GPU."""
    NVSWITCH = "nvswitch"
    """On the node's PCI bus; its fabric manager runs them (HGX up to H200)."""
    NVLINK5 = "nvlink5"
    """On the board, behind ConnectX bridges; its fabric manager runs them (HGX B200, B300)."""
    EXTERNAL = "external"
    """In the rack: their own hosts run the fabric manager (GB200 NVL72)."""


class GpuType(Spec):
    """What one GPU of a type is able to do, from its data sheet or from measurement."""

    product: Text
    """Product name as GPU feature discovery writes it in `nvidia.com/gpu.product`."""
    memory_bytes: Bytes
    """Memory of one GPU."""
    memory_bandwidth_bytes_per_s: Positive
    """Peak memory bandwidth, bytes/s."""
    bf16_flops_per_s: Positive
    """Dense bf16 throughput, FLOP/s."""
    fp8_flops_per_s: Positive | None = None
    """Dense fp8 throughput, FLOP/s; empty where the type has none."""
    fp4_flops_per_s: Positive | None = None
    """Dense fp4 throughput, FLOP/s; empty where the type has none."""
    link_bytes_per_s: Positive
    """Bandwidth of the links between GPUs of one node, bytes/s each way for each GPU."""
    fabric: GpuFabric = GpuFabric.NONE
    """Where the NVSwitches of a node with eight of these GPUs are; a node of four has none."""
    network_bytes_per_s: Positive
    """Bandwidth between nodes, bytes/s each way for each GPU."""
    power_w: Positive
    """Rated board power, W."""
    annual_failure_rate: Fraction = 0.09
    """Share of GPUs that fail within a year (9 %: arXiv:2407.21783, section 3.3.4)."""


class DriverPin(Spec):
    """The exact software and firmware of the nodes of a group."""

    driver: Version
    """NVIDIA kernel driver version; the fabric manager has to be the same."""
    cuda: Version
    """CUDA version that the driver carries."""
    vbios: Version | None = None
    """Version of the GPUs' firmware."""
    bmc: Version | None = None
    """Version of the baseboard management controller's firmware."""
    dcgm: PackageVersion | None = None
    """Version of the data centre GPU manager's package."""
    container_toolkit: PackageVersion | None = None
    """Version of the `nvidia-container-toolkit` package."""
    containerd: PackageVersion | None = None
    """Version of the `containerd` package."""
    kernel: PackageVersion | None = None
    """Release of the kernel, as `uname -r` gives it."""


class SshAccess(Spec):
    """How the hosts of a node group are reached.

    The private key is that of the caller's own SSH agent or configuration, never in the fleet file.
    The worker uses the agent of whoever ran the last `./fleet up` with one.
    """

    user: Name = "gpufleet"
    """Login name; it may become root by sudo."""
    port: Port = 22
    """Where its SSH server listens."""
    domain: HostName | None = None
    """Hosts are called `NODE.DOMAIN`; `NODE` where it is not given."""
    addresses: dict[Name, HostName] = Field(default_factory=dict)
    """Address by node, where names do not resolve."""
    known_hosts: RelativePath
    """File with the hosts' keys, relative to the fleet file: a key that is not in it is refused."""
    reboot_within_s: Seconds = 1800
    """Longest time from the order to restart until a host answers again; later it is lost."""


class Activation(StrEnum):
    """What has to follow before a firmware that was written runs."""

    NONE = "none"
    """Nothing: the controller starts it by itself."""
    REBOOT = "reboot"
    """A restart of the host's operating system."""
    POWER_CYCLE = "power-cycle"
    """The host's power off and on again, by its controller: boards of HGX want it."""


class BmcAccess(Spec):
    """How the baseboard management controllers (Redfish) of a node group are reached.

    User and password are in the variables `GPUFLEET_BMC_USER` and `GPUFLEET_BMC_PASSWORD`; the
    worker uses those of the last `./fleet up`.
    """

    endpoint: Annotated[str, Field(pattern=forms.BMC_ENDPOINT, max_length=200)]
    """Such as `https://{node}-bmc.example.com`; `{node}` is the node's name."""
    system: Annotated[str, Field(pattern=forms.BMC_SYSTEM, max_length=120)] = "{node}"
    """The Redfish id of the node's ComputerSystem."""
    certificate_authority: RelativePath | None = None
    """Who signed the controllers' certificates; the system's authorities where it is not given."""
    bmc_activation: Activation = Activation.NONE
    """What makes a new firmware of the controllers themselves run."""
    vbios_activation: Activation = Activation.REBOOT
    """What makes a new firmware of the GPUs run."""


class GpuAccess(StrEnum):
    """How pods get the GPUs of a node."""

    DEVICE_PLUGIN = "device-plugin"
    DRA = "dra"


class NodeGroup(Spec):
    """Equal nodes, bought together, spread over racks of one site."""

    site: Name
    """A site."""
    racks: Annotated[Names, Field(min_length=1)]
    """Racks of the same site; nodes are dealt to them in turn."""
    gpu_type: Name
    """A type of the built-in catalogue or of `gpus`."""
    nodes: Annotated[Integer, Field(ge=1, le=10_000)]
    """Number of nodes."""
    gpus_per_node: Annotated[Integer, Field(ge=1, le=16)] = 8
    """GPUs of one node."""
    cpus_per_node: Count = 128
    """Logical CPUs of one node."""
    memory_bytes_per_node: Bytes = 2 * 2**40
    """Host memory of one node."""
    local_storage_bytes_per_node: Bytes = 15 * 10**12
    """Node-local NVMe for weights, bytes."""
    gpu_access: GpuAccess = GpuAccess.DEVICE_PLUGIN
    """`device-plugin`: pods request `nvidia.com/gpu`; `dra`: they claim devices."""
    host_selector: HostSelector | None = None
    """Labels of the BareMetalHosts that a `cluster-api` site takes; `gpufleet.dev/node-group:` and
    the group's name where it is left out. The hosts are named like the nodes: `GROUP-001`."""
    ssh: SshAccess | None = None
    """How its hosts are reached for patching; none of them is patched where it is not given."""
    bmc: BmcAccess | None = None
    """How the hosts' management controllers are reached for firmware."""
    pins: DriverPin
    supplier: Name | None = None
    """Who sold it."""
    purchased: Date
    """Day of the purchase; amortization begins."""
    price_per_node: Money
    """Purchase price of one node with its GPUs, in the fleet's currency."""
    amortization_years: Annotated[Number, Field(gt=0, le=10)] = 4
    """Years after which the hardware is written off."""
    idle_power_w: Rate = 0
    """Power of a node without load beside its GPUs, W."""

    @property
    def gpus(self) -> int:
        """GPUs of the whole group."""
        return self.nodes * self.gpus_per_node


class ContractStatus(StrEnum):
    """How firm a supplier's promise is."""

    FRAMEWORK = "framework"
    RESERVED = "reserved"
    NONE = "none"


class Supplier(Spec):
    """Who sells the hardware, how long it takes, and what is negotiated."""

    lead_time_s: Seconds
    """From the order to the delivery at the dock."""
    contract: ContractStatus = ContractStatus.NONE
    """How firm its promise is."""
    reserved_gpus: Whole = 0
    """GPUs that the contract keeps ready for us."""
    contract_ends: Date | None = None
    """The contract's last day."""
    rma_turnaround_s: Seconds
    """From shipping a failed GPU to holding its replacement."""
    contact: Text
    """Where orders and returns are sent."""

    @model_validator(mode="after")
    def _reservation_needs_contract(self) -> Self:
        if self.reserved_gpus and self.contract is not ContractStatus.RESERVED:
            message = "reserved_gpus needs contract: reserved"
            raise ValueError(message)
        return self
