"""What is scraped, recorded, alerted and drawn at one site, as objects of its cluster."""

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from gpufleet.core.monitoring.dashboards import dashboard_objects
from gpufleet.core.monitoring.monitors import pool_monitor
from gpufleet.core.monitoring.site_rules import rule_objects
from gpufleet.spec.fleet import Fleet


class Monitoring(pulumi.ComponentResource):
    """A PodMonitor and PrometheusRules for Prometheus' operator, dashboards for Grafana's sidecar.

    On an embedded site neither runs: the objects are made all the same, so that they are checked by
    the same definitions, and its Prometheus reads the same rules from a file.

    Args:
        name: of the component.
        fleet: what they follow from.
        site: where.
        opts: with a provider that knows the operator's definitions.
    """

    def __init__(
        self,
        name: str,
        fleet: Fleet,
        site: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("gpufleet:monitoring:Monitoring", name, None, opts)
        inside = pulumi.ResourceOptions(parent=self)
        objects = [pool_monitor(fleet.slug, site), *rule_objects(fleet, site)]
        for thing in objects:
            CustomResource(
                f"{thing['kind'].lower()}-{thing['metadata']['name']}",
                api_version=thing["apiVersion"],
                kind=thing["kind"],
                metadata=thing["metadata"],
                spec=thing["spec"],
                opts=inside,
            )
        for board in dashboard_objects(fleet):
            k8s.core.v1.ConfigMap(
                board["metadata"]["name"],
                metadata=board["metadata"],
                data=board["data"],
                opts=inside,
            )
        self.register_outputs({"objects": len(objects)})
