"""Inference pools of one site, over the ground that the platform stack laid."""

import pulumi

from gpufleet.components.field_owner import own_fields
from gpufleet.components.freeze_guard import hold_in_freeze
from gpufleet.components.gateway_deployment import deploy_gateway
from gpufleet.components.gateway_route import GatewayRoute
from gpufleet.components.monitoring import Monitoring
from gpufleet.components.platform_outputs import PlatformOutputs
from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.components.site import DeclaredSite
from gpufleet.components.small_states import small_states
from gpufleet.core.gateway.routes import routes_text
from gpufleet.edges.price_file import price_table

declared = DeclaredSite.from_config()
hold_in_freeze(declared)
own_fields()

opts = pulumi.ResourceOptions(provider=declared.provider())
platform = PlatformOutputs(declared.platform)
context = PoolContext(declared.fleet, platform.get("prometheus_url"))

with small_states():
    pools = [ServingPool(pool, context, opts) for pool in declared.pools()]
if declared.shard == 1:
    prices = price_table(declared.fleet, declared.path)
    deploy_gateway(declared, opts)
    GatewayRoute("gateway", declared.fleet.slug, routes_text(declared.fleet, prices), opts)
    with small_states():
        Monitoring("monitoring", declared.fleet, declared.name, opts)

pulumi.export("services", [pool.service for pool in pools])
