"""The scenarios that can be drilled, as data: what fails, what is proven, what a person does."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gpufleet.spec.errors import BadInput


@dataclass(frozen=True)
class Scenario:
    """Something that goes wrong."""

    name: str
    title: str
    """What has happened, as a person would say it."""
    target: str
    """What is lost: such as `site`."""
    fails: str
    """What a drill does to its stand-ins, in isolation."""
    proves: str
    """What has come back when it is met."""
    leaves_out: tuple[str, ...] = ()
    """What it does not show."""


SITE_LOST: Final = Scenario(
    name="site-lost",
    title="A whole site is lost",
    target="site",
    fails="every stand-in replica at the site ends at once and does not come back",
    proves=(
        "each interactive pool of the site comes up at the other sites, on free GPUs and within "
        "the residency of its use cases, and the gateway answers with its revision's tokens"
    ),
    leaves_out=(
        "batch pools are not asked to yield: that would touch production",
        "the site's API server and object store go on: only its replicas are gone",
    ),
)

SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {each.name: each for each in (SITE_LOST,)}
)


def scenario_of(name: str) -> Scenario:
    """A scenario by its name.

    Raises:
        BadInput: there is none.
    """
    found = SCENARIOS.get(name)
    if found is None:
        known = ", ".join(SCENARIOS)
        raise BadInput(
            f"there is no scenario `{name[:60]}`", where="--scenario", mend=f"one of {known}"
        )
    return found
