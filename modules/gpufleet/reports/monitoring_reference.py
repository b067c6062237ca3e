"""The page on monitoring: its text, and every alert with its runbook."""

from collections.abc import Iterator
from importlib import resources

from gpufleet.core.monitoring.rules import Alert
from gpufleet.core.monitoring.site_rules import alerts
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import EmbeddedCluster, ExistingCluster
from gpufleet.spec.serving import Pool, Prewarm


def markdown(fleet: Fleet) -> str:
    """The page.

    Args:
        fleet: any; its alerts have the same names as those of all others.
    """
    page = resources.files("gpufleet.reports").joinpath("monitoring.md")
    text = page.read_text(encoding="utf-8")
    return "\n".join([text, *_table(fleet)]) + "\n"


def _table(fleet: Fleet) -> Iterator[str]:
    site = next(iter(fleet.sites))
    embedded, cluster = (
        {(alert.name, alert.severity): alert for alert in alerts(_on(fleet, site, kind), site)}
        for kind in (EmbeddedCluster(), ExistingCluster(provider="existing", context=site))
    )
    yield "| alert | severity | after | what it means |"
    yield "|---|---|---|---|"
    for key, alert in (embedded | cluster).items():
        where = "" if key in embedded else " On a cluster only."
        yield (
            f"| [{alert.name}](../{alert.runbook_path}) | {alert.severity} | "
            f"{_duration(alert.for_s)} | {_meaning(alert)}{where} |"
        )


def _on(fleet: Fleet, site: str, cluster: EmbeddedCluster | ExistingCluster) -> Fleet:
    """The fleet at one site of a kind, with a gateway and a declared peak: all that is watched."""
    changed = fleet.sites[site].model_copy(update={"cluster": cluster})
    images = fleet.images.model_copy(update={"gateway": fleet.images.gpufleet})
    name, pool = next(iter(fleet.pools.items()))
    pools = {**fleet.pools, name: pool.model_copy(update={"prewarm": (_peak(pool),)})}
    return fleet.model_copy(update={"images": images, "sites": {site: changed}, "pools": pools})


def _peak(pool: Pool) -> Prewarm:
    return Prewarm(
        name="peak",
        recurrence="FREQ=DAILY",
        lead_s=600,
        duration_s=3600,
        replicas={next(iter(pool.placements)): 1},
    )


def _meaning(alert: Alert) -> str:
    """Its description; of a promise what holds for that of every use case."""
    if "use_case" not in alert.labels:
        return alert.description
    return f"Of each use case: {alert.description.partition('. ')[2]}"


def _duration(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds else "at once"
