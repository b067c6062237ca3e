"""Doing everything, also after what fails."""

from collections.abc import Callable

from gpufleet.spec.errors import FleetError


def in_spite_of_errors(*work: Callable[[], object]) -> None:
    """Do everything, also after what fails.

    Raises:
        FleetError: the first one.
    """
    first: FleetError | None = None
    for each in work:
        try:
            each()
        except FleetError as error:
            first = first or error
    if first:
        raise first
