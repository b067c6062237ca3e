"""Fleets changed so that everything that monitoring may watch is there."""

from gpufleet.spec import Fleet
from gpufleet.spec.hardware import ExistingCluster
from gpufleet.spec.serving import Prewarm


def on_clusters(fleet: Fleet, *, with_gateway: bool = True) -> Fleet:
    """The fleet on clusters of one's own, with an image of the gateway or without."""
    image = fleet.images.gpufleet if with_gateway else None
    return fleet.model_copy(
        update={
            "images": fleet.images.model_copy(update={"gateway": image}),
            "sites": {
                name: site.model_copy(
                    update={"cluster": ExistingCluster(provider="existing", context=name)}
                )
                for name, site in fleet.sites.items()
            },
        }
    )


def with_a_peak(fleet: Fleet) -> Fleet:
    """The fleet with a declared peak of its first pool."""
    name, pool = next(iter(fleet.pools.items()))
    peak = Prewarm(
        name="quarter end",
        recurrence="FREQ=DAILY",
        lead_s=600,
        duration_s=3600,
        replicas={next(iter(pool.placements)): 1},
    )
    changed = pool.model_copy(update={"prewarm": (peak,)})
    return fleet.model_copy(update={"pools": {**fleet.pools, name: changed}})
