"""The object stores of an environment's sites."""

from gpufleet.edges.object_client import Place
from gpufleet.edges.object_store import ObjectStore
from gpufleet.flows.ground import Ground
from gpufleet.spec.errors import BadInput
from gpufleet.spec.hardware import AddressingStyle, ObjectStorage


def places_of(ground: Ground) -> dict[str, Place]:
    """Where the store of each site is that has one, by site.

    Raises:
        BadInput: the file of a store's certificate authority is not there.
    """
    places = {}
    for name, site in ground.fleet.sites.items():
        declared = site.object_store
        place = _declared(ground, declared) if declared else Place.embedded(ground.state, name)
        if place:
            places[name] = place
    return places


def _declared(ground: Ground, store: ObjectStorage) -> Place:
    authority = store.certificate_authority
    file = ground.fleet_file.parent / authority if authority else None
    if file is not None and not file.is_file():
        raise BadInput("the store's certificate authority is not there", where=str(file))
    return Place(
        store.endpoint,
        store.region,
        ca=str(file) if file else None,
        style="virtual" if store.style is AddressingStyle.VIRTUAL else "path",
    )


def stores_of(ground: Ground) -> dict[str, ObjectStore]:
    """The store of each site that has one, by site."""
    return {site: ObjectStore(place) for site, place in places_of(ground).items()}
