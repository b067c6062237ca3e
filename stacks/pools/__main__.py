"""The inference pools of one site, over the ground that the platform stack laid."""

import pulumi

from gpufleet.components.freeze_guard import hold_in_freeze
from gpufleet.components.gateway_route import GatewayRoute
from gpufleet.components.platform_outputs import PlatformOutputs
from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.components.site import DeclaredSite
from gpufleet.core.serving import pools_at

declared = DeclaredSite.from_config()
hold_in_freeze(declared)

opts = pulumi.ResourceOptions(provider=declared.provider())
platform = PlatformOutputs(f"organization/gpufleet-platform/{pulumi.get_stack()}")
context = PoolContext(
    restore_image=declared.fleet.images.gpufleet,
    prometheus_url=platform.get("prometheus_url"),
)

pools = [ServingPool(pool, context, opts) for pool in pools_at(declared.fleet, declared.name)]
GatewayRoute("gateway", declared.fleet.slug, opts)

pulumi.export("services", [pool.service for pool in pools])
