"""The ground for pools at one site: its cluster, namespaces, quotas, queues."""

import pulumi

from gpufleet.components.freeze_guard import hold_in_freeze
from gpufleet.components.gpu_cluster import GpuCluster
from gpufleet.components.site import DeclaredSite
from gpufleet.components.site_platform import SitePlatform
from gpufleet.core.quotas import SitePlan

declared = DeclaredSite.from_config()
hold_in_freeze(declared)

cluster = GpuCluster(declared)
if cluster.extended:
    SitePlatform(SitePlan.of(declared.fleet, declared.name), cluster.extended)

pulumi.export("autoscaler", "none" if declared.embedded else "keda")
pulumi.export("prometheus_url", "http://prometheus-operated.monitoring.svc:9090")
