"""Every rule of one site, in groups."""

from typing import Any, Final

from gpufleet.core import cluster_gateway
from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_worker import worker_site
from gpufleet.core.monitoring.burn import burn_group, shared_group
from gpufleet.core.monitoring.gpus import gpu_group
from gpufleet.core.monitoring.objectives import objectives_of
from gpufleet.core.monitoring.platform import platform_alerts
from gpufleet.core.monitoring.pools import pool_alerts, pool_records
from gpufleet.core.monitoring.rules import Alert, Group
from gpufleet.core.monitoring.service import gateway_alerts
from gpufleet.core.serving import pools_at
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster

EMBEDDED_RETENTION_S: Final = 86400
CLUSTER_RETENTION_S: Final = 10 * 86400
"""What our chart of Prometheus is told to keep."""


def retention_s(fleet: Fleet, site: str) -> int:
    """How long the Prometheus of a site keeps its series, s."""
    return EMBEDDED_RETENTION_S if _is_embedded(fleet, site) else CLUSTER_RETENTION_S


def rule_groups(fleet: Fleet, site: str) -> tuple[Group, ...]:
    """The groups of a site: its pools, GPUs and platform; and the gateway with every use case."""
    embedded = _is_embedded(fleet, site)
    groups = (
        pool_records(pools_at(fleet, site)),
        pool_alerts(pools_at(fleet, site), embedded=embedded),
        gpu_group(),
        platform_alerts(
            has_worker=watches_worker(fleet, site),
            has_gateway=watches_gateway(fleet, site),
            has_peaks=any(pool.prewarm for pool in fleet.pools.values()),
            embedded=embedded,
        ),
    )
    return (*groups, *_service(fleet, site)) if watches_gateway(fleet, site) else groups


def watches_gateway(fleet: Fleet, site: str) -> bool:
    """Whether the alerts on the gateway are a site's.

    Each cluster has its own where an image of it is declared, and the embedded sites share one,
    which the first of them watches.
    """
    return cluster_gateway.runs_at(fleet, site) or site == _first_embedded(fleet)


def watches_worker(fleet: Fleet, site: str) -> bool:
    """Whether the alerts on the worker are a site's: there is one, and one site tells of it."""
    return site in {worker_site(fleet), _first_embedded(fleet)}


def _first_embedded(fleet: Fleet) -> str | None:
    return next((name for name in fleet.sites if _is_embedded(fleet, name)), None)


def _service(fleet: Fleet, site: str) -> tuple[Group, ...]:
    kept_s = retention_s(fleet, site)
    objectives = objectives_of(fleet)
    return (
        gateway_alerts(),
        shared_group(kept_s),
        *(
            burn_group(
                use_case,
                tuple(each for each in objectives if each.use_case == use_case),
                kept_s,
            )
            for use_case in fleet.use_cases
        ),
    )


def alerts(fleet: Fleet, site: str) -> tuple[Alert, ...]:
    """Every alert of a site."""
    return tuple(alert for group in rule_groups(fleet, site) for alert in group.alerts)


def rules_file(fleet: Fleet, site: str) -> dict[str, Any]:
    """The content of the site's rules file, as Prometheus reads it."""
    return {"groups": [group.data() for group in rule_groups(fleet, site)]}


def rule_objects(fleet: Fleet, site: str) -> tuple[dict[str, Any], ...]:
    """PrometheusRule objects of a site: one for each group, none of them large."""
    labels = {names.MANAGED: "true", names.FLEET: fleet.slug}
    return tuple(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {
                "name": group.name,
                "namespace": names.MONITORING_NAMESPACE,
                "labels": labels,
            },
            "spec": {"groups": [group.data()]},
        }
        for group in rule_groups(fleet, site)
    )


def _is_embedded(fleet: Fleet, site: str) -> bool:
    return isinstance(fleet.sites[site].cluster, EmbeddedCluster)
