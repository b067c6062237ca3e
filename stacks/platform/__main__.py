"""The ground for pools at one site: its cluster, namespaces, quotas, queues."""

import pulumi

from gpufleet.components.admission import Admission
from gpufleet.components.field_owner import own_fields
from gpufleet.components.freeze_guard import hold_in_freeze
from gpufleet.components.gpu_cluster import GpuCluster
from gpufleet.components.site import DeclaredSite
from gpufleet.components.site_platform import SitePlatform
from gpufleet.components.worker_deployment import deploy_worker
from gpufleet.core.quotas import SitePlan

declared = DeclaredSite.from_config()
hold_in_freeze(declared)
own_fields()

cluster = GpuCluster(declared)
if cluster.plain and cluster.extended:
    admission = Admission("admission", declared.fleet, cluster.plain)
    plan = SitePlan.of(declared.fleet, declared.name)
    site = SitePlatform(plan, admission.resources, cluster.extended)
    worker = deploy_worker(declared, cluster.extended, [site])
    admission.hold_when_unknown([site, *worker])

pulumi.export("prometheus_url", declared.prometheus_url)
