"""The ground for inference pools at one site: definitions, operators, namespaces, quotas, queues."""

import pulumi

from gpufleet.components.definitions import Definitions
from gpufleet.components.freeze_guard import hold_in_freeze
from gpufleet.components.node_labels import NodeLabels
from gpufleet.components.operators import Operators
from gpufleet.components.site import DeclaredSite
from gpufleet.components.site_platform import SitePlatform
from gpufleet.core.inventory import expand_site
from gpufleet.core.quotas import SitePlan
from gpufleet.edges.engines import pinned_files

declared = DeclaredSite.from_config()
hold_in_freeze(declared)

opts = pulumi.ResourceOptions(provider=declared.provider())
crds = pinned_files()
if declared.embedded:
    definitions = Definitions("definitions", crds, opts=opts).resources
else:
    definitions = Definitions("definitions", crds, ("gateway-api",), opts=opts).resources
    definitions += Operators("operators", opts).resources
    NodeLabels("nodes", expand_site(declared.fleet, declared.name), opts)

SitePlatform(SitePlan.of(declared.fleet, declared.name), definitions, opts)

pulumi.export("autoscaler", "none" if declared.embedded else "keda")
pulumi.export("prometheus_url", "http://prometheus-operated.monitoring.svc:9090")
