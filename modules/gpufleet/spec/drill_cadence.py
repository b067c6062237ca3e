"""How often what has to come back is proven to come back."""

from enum import StrEnum

from pydantic import Field

from gpufleet.spec.quantities import Seconds, Spec

_DAY_S = 86_400.0


class ScenarioName(StrEnum):
    """What can be drilled."""

    SITE_LOST = "site-lost"
    NODE_LOST = "node-lost"
    GPU_LOST = "gpu-lost"
    CACHE_CORRUPTED = "cache-corrupted"
    STORE_LOST = "store-lost"
    BAD_SNAPSHOT = "bad-snapshot"
    STATE_LOST = "state-lost"
    DATABASE_LOST = "database-lost"


class DrillCadence(Spec):
    """How often drills are met, and restores proven."""

    every_s: Seconds = 90 * _DAY_S
    """Longest time between two drills of a scenario that met their objectives."""
    scenarios: dict[ScenarioName, Seconds] = Field(default_factory=dict)
    """The same of single scenarios."""
    restore_every_s: Seconds = 30 * _DAY_S
    """Longest time between two proven restores of a revision that a pool serves."""

    def of(self, scenario: ScenarioName) -> float:
        """Of a scenario, s."""
        return self.scenarios.get(scenario, self.every_s)
