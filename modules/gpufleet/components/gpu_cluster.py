"""The cluster of a site, in one of three ways: embedded, existing, or provisioned."""

from typing import Any

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.components.definitions import Definitions
from gpufleet.components.node_labels import NodeLabels
from gpufleet.components.operators import Operators
from gpufleet.components.site import DeclaredSite
from gpufleet.core import claims
from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_api import LASTING, TEMPLATES, cluster_objects
from gpufleet.core.inventory import expand_site
from gpufleet.core.quotas import claims_gpus
from gpufleet.spec.clusters import ProvisionedCluster


class GpuCluster(pulumi.ComponentResource):
    """A site's cluster with what pools need from it: definitions, operators, labels, devices.

    - embedded: definitions only; the platform runs the operators and labels the nodes itself.
    - existing: definitions, operators by their charts, our labels and taint on its nodes.
    - provisioned: first objects of Cluster API on the management cluster. Then, once the fleet
      file names its context, as an existing one.

    Outputs:
        plain: options with a provider for what Kubernetes itself defines; None while there is no
            cluster to reach.
        extended: with one that knows every definition.
    """

    def __init__(self, declared: DeclaredSite) -> None:
        super().__init__("gpufleet:platform:GpuCluster", declared.name)
        self._declared = declared
        self._claims = claims_gpus(declared.fleet, declared.name)
        self.plain: pulumi.ResourceOptions | None = None
        self.extended: pulumi.ResourceOptions | None = None
        if isinstance(declared.cluster, ProvisionedCluster):
            self._provision(declared.cluster)
        if not declared.fleet.awaits_cluster(declared.name):
            first = declared.provider()
            definitions = self._embedded(first) if declared.embedded else self._adopted(first)
            self.plain = pulumi.ResourceOptions(provider=first)
            self.extended = pulumi.ResourceOptions(provider=declared.provider(after=definitions))
        self.register_outputs({"reachable": self.extended is not None})

    def _inside(self, provider: pulumi.ProviderResource) -> pulumi.ResourceOptions:
        # What stood at the top of the stack before there was this component stays what it is.
        before = [pulumi.Alias(parent=pulumi.ROOT_STACK_RESOURCE)]
        return pulumi.ResourceOptions(parent=self, provider=provider, aliases=before)

    def _embedded(self, provider: pulumi.ProviderResource) -> list[pulumi.Resource]:
        inside = self._inside(provider)
        if self._claims:
            # On other clusters the driver's own chart brings it.
            CustomResource(
                names.GPU_DEVICE_CLASS,
                api_version=claims.API,
                kind="DeviceClass",
                metadata={"name": names.GPU_DEVICE_CLASS, "labels": {names.MANAGED: "true"}},
                spec=claims.device_class(),
                opts=inside,
            )
        return Definitions("definitions", opts=inside).resources

    def _adopted(self, provider: pulumi.ProviderResource) -> list[pulumi.Resource]:
        declared = self._declared
        inside = self._inside(provider)
        definitions = Definitions("definitions", ("gateway-api",), opts=inside).resources
        operators = Operators("operators", inside, claims=self._claims).resources
        nodes = expand_site(declared.fleet, declared.name)
        # A provisioned node is tainted when it registers, before any pod can come to it.
        tainted = isinstance(declared.cluster, ProvisionedCluster)
        NodeLabels("nodes", nodes, inside, taints=not tainted)
        return [*definitions, *operators]

    def _provision(self, cluster: ProvisionedCluster) -> None:
        inside = pulumi.ResourceOptions(
            parent=self, provider=self._declared.management_provider(cluster)
        )
        things = cluster_objects(self._declared.fleet, self._declared.name, cluster)
        kept = pulumi.ResourceOptions(retain_on_delete=True)
        templates = [_object(thing, inside, kept) for thing in things if thing["kind"] in TEMPLATES]
        for thing in things:
            if thing["kind"] not in TEMPLATES:
                protect = thing["kind"] in LASTING
                own = pulumi.ResourceOptions(protect=protect, depends_on=templates)
                _object(thing, inside, own)


def _object(
    thing: dict[str, Any], inside: pulumi.ResourceOptions, own: pulumi.ResourceOptions
) -> pulumi.Resource:
    opts = pulumi.ResourceOptions.merge(inside, own)
    return CustomResource(
        f"{thing['kind']}-{thing['metadata']['name']}".lower(),
        api_version=thing["apiVersion"],
        kind=thing["kind"],
        metadata=thing["metadata"],
        spec=thing["spec"],
        opts=opts,
    )
