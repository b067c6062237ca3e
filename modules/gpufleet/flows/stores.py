"""The object stores of an environment's sites."""

from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.flows.ground import Ground


def places_of(ground: Ground) -> dict[str, Place]:
    """Where the store of each site is that has one, by site."""
    places = {}
    for name, site in ground.fleet.sites.items():
        declared = site.object_store
        place = (
            Place(declared.endpoint, declared.region)
            if declared
            else Place.embedded(ground.state, name)
        )
        if place:
            places[name] = place
    return places


def stores_of(ground: Ground) -> dict[str, ObjectStore]:
    """The store of each site that has one, by site."""
    return {site: ObjectStore(place) for site, place in places_of(ground).items()}
