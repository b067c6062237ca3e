"""The ground for pools at one site: definitions, operators, namespaces, quotas, queues."""

import pulumi

from gpufleet.components.definitions import Definitions
from gpufleet.components.field_owner import own_fields
from gpufleet.components.freeze_guard import hold_in_freeze
from gpufleet.components.node_labels import NodeLabels
from gpufleet.components.operators import Operators
from gpufleet.components.site import DeclaredSite
from gpufleet.components.site_platform import SitePlatform
from gpufleet.core.inventory import expand_site
from gpufleet.core.quotas import SitePlan

declared = DeclaredSite.from_config()
hold_in_freeze(declared)
own_fields()

base = pulumi.ResourceOptions(provider=declared.provider())
if declared.embedded:
    definitions = Definitions("definitions", opts=base).resources
else:
    definitions = Definitions("definitions", ("gateway-api",), opts=base).resources
    definitions += Operators("operators", base).resources
    NodeLabels("nodes", expand_site(declared.fleet, declared.name), base)

extended = pulumi.ResourceOptions(provider=declared.provider(after=definitions))
SitePlatform(SitePlan.of(declared.fleet, declared.name), extended)

pulumi.export("autoscaler", "none" if declared.embedded else "keda")
pulumi.export("prometheus_url", "http://prometheus-operated.monitoring.svc:9090")
