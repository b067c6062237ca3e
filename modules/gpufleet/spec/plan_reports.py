"""What tasks tell about plans: differences, what would be if, and why a number is what it is."""

from decimal import Decimal

from gpufleet.spec.quantities import Spec


class NumberChange(Spec):
    """One number of a pool that a plan sets otherwise."""

    pool: str
    field: str
    """Such as `placements.fra1-chat.replicas`."""
    before: str
    """As it is now; empty where it is not set."""
    after: str


class PlanDifference(Spec):
    """What a plan would change in its file, or has changed."""

    file: str
    """The plan file."""
    changes: list[NumberChange]
    written: bool
    """Whether the file was written; not where it is the same already."""
    warnings: list[str]


class PoolDifference(Spec):
    """A pool with and without a change."""

    pool: str
    gpus_before: int
    """Steady, burst, and for the loss of a site: those of its cost."""
    gpus_after: int
    replicas_max_before: int
    replicas_max_after: int
    gpu_type_before: str
    gpu_type_after: str
    p95_s_before: float
    p95_s_after: float
    cost_monthly_before: Decimal
    cost_monthly_after: Decimal


class WhatIf(Spec):
    """What a change of the fleet file would do to its plan."""

    assumed: list[str]
    """What was changed, such as `traffic x 2`."""
    pools: list[PoolDifference]
    unserved: list[str]
    """Pools that have no place left."""
    gpus_before: int
    gpus_after: int
    cost_monthly_before: Decimal
    """Of the GPUs that pools keep."""
    cost_monthly_after: Decimal
    currency: str
    warnings: list[str]


class ExplainedNumber(Spec):
    """A number of a pool, how it came about, and where from."""

    number: str
    """Such as `replicas_max`, or `fra1: grace_s`."""
    value: str
    text: str
    """The arithmetic, or the rule that it follows from."""
    source: str
    """`file:line:column: field`, a measurement, or a shipped table; empty where it is the rule."""


class Explanation(Spec):
    """Every number of a pool."""

    pool: str
    planned: bool
    """Whether the numbers come from a plan that was just made; else from the files alone."""
    numbers: list[ExplainedNumber]
    warnings: list[str]
