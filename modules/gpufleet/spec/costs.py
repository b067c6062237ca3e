"""How an environment's costs are counted, where a company counts otherwise than the defaults."""

from typing import Annotated

from pydantic import Field

from gpufleet.spec.quantities import Fraction, Number, RelativePath, Seconds, Spec


class LeverShares(Spec):
    """What share of the work a lever is taken to move, until you have measured it."""

    low_risk: Fraction = 0.3
    """Requests that a smaller model would answer well enough."""
    cached_prompt: Fraction = 0.3
    """Prompt tokens that repeat a beginning which the engine or the provider still has."""
    cached_answer: Fraction = 0.05
    """Requests that repeat an earlier one, whose answer is given again."""
    deferrable: Fraction = 1.0
    """Requests of batch use cases that may wait for a quiet hour."""


class Costs(Spec):
    """Shares and assumptions that amounts of money are computed with."""

    capital_overhead: Annotated[Number, Field(ge=0, le=5)] = 0.15
    """Network, storage, racks and installation, as a share of the nodes' purchase price."""
    gpu_idle_power_share: Fraction = 0.2
    """Share of its rated power that a GPU draws without work; measured watts replace it."""
    default_utilization: Annotated[Number, Field(gt=0, le=1)] = 0.6
    """Share of its capacity that a pool is expected to serve before anything was observed."""
    hosted_prices: RelativePath | None = None
    """CSV file with your own hosted prices, relative to the fleet file, instead of the built-in
    table; its first line is `# priced: YYYY-MM-DD`."""
    levers: LeverShares = LeverShares()
    prices_stale_after_s: Seconds = 180 * 86_400
    """Age from which hosted prices and exchange rates decide nothing any more."""
