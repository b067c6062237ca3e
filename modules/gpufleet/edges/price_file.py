"""The hosted prices that an environment decides by."""

from pathlib import Path

from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.prices import PriceTable, built_in_prices, read_prices

_MAX_BYTES = 2**20


def price_table(fleet: Fleet, fleet_file: Path) -> PriceTable:
    """The company's own prices where the fleet file names a file, else the built-in ones.

    Raises:
        BadInput: the file cannot be read, or a line of it is wrong.
    """
    if fleet.costs.hosted_prices is None:
        return built_in_prices()
    file = fleet_file.parent / fleet.costs.hosted_prices
    try:
        content = file.read_bytes()
        if len(content) > _MAX_BYTES:
            raise BadInput("is larger than 1 MiB", where=str(file))
        return read_prices(content.decode("utf-8-sig"), fleet.costs.hosted_prices)
    except (OSError, UnicodeDecodeError) as error:
        where = f"{fleet_file}: costs.hosted_prices"
        raise BadInput(f"{file} cannot be read: {error}", where=where) from None
