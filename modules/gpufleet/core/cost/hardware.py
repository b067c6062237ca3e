"""What one GPU costs in an hour: hardware, power, facility, on-call."""

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import NodeGroup

HOURS_PER_YEAR: Final = Decimal(8760)
HOURS_PER_MONTH: Final = HOURS_PER_YEAR / 12
"""730: a month as finance spreads a year."""
_W_PER_KW: Final = Decimal(1000)
_DAYS_PER_YEAR: Final = 365.25


@dataclass(frozen=True)
class HourlyCost:
    """Cost of one GPU of a node group in an hour, in the fleet's currency.

    `amortization`, `facility` and `oncall` are spent whether the GPU works or not.
    """

    amortization: Decimal
    facility: Decimal
    oncall: Decimal
    power_per_kwh: Decimal
    """Price of a kWh of IT power, cooling included (price x PUE)."""
    idle_w: Decimal
    """Drawn without work: the GPU's idle share, and its share of the node, W."""
    full_w: Decimal
    """Drawn at rated power, W."""

    @property
    def fixed(self) -> Decimal:
        """What is spent whether the GPU works or not, without power."""
        return self.amortization + self.facility + self.oncall

    def watts_at(self, utilization: float) -> Decimal:
        """Power drawn at a utilization from 0 to 1, W: linear between idle and rated.

        The linear model of Fan, Weber, Barroso, "Power provisioning for a warehouse-sized
        computer", ISCA 2007.
        """
        return self.idle_w + (self.full_w - self.idle_w) * decimal(utilization)

    def power_of(self, watts: Decimal) -> Decimal:
        """Cost of drawing so many watts (measured, at the node) for an hour."""
        return watts / _W_PER_KW * self.power_per_kwh

    def power_at(self, utilization: float) -> Decimal:
        """Cost of an hour's power, cooling included, by rated watts."""
        return self.power_of(self.watts_at(utilization))

    def total(self, utilization: float) -> Decimal:
        """All of it at a utilization from 0 to 1."""
        return self.fixed + self.power_at(utilization)


def gpu_hour(fleet: Fleet, group_name: str, *, day: date | None = None) -> HourlyCost:
    """What one GPU of a node group costs in an hour.

    Total cost of ownership as in Barroso, Hoelzle, Ranganathan, "The Datacenter as a Computer",
    3rd edition, chapter 6::

        amortization = price_per_node x (1 + capital_overhead) / GPUs of a node / (years x 8760)
        power        = watts / 1000 x PUE x price per kWh
        facility     = rated watts / 1000 x facility cost per kW and month / 730
        on-call      = monthly cost of all shifts / GPUs of the environment / 730

    Args:
        fleet: declares all of it.
        group_name: a node group.
        day: hardware that is written off by then costs no amortization; left out, it is not.
    """
    group = fleet.node_groups[group_name]
    site = fleet.sites[group.site]
    gpu_w = decimal(fleet.gpus[group.gpu_type].power_w)
    node_w = decimal(group.idle_power_w) / group.gpus_per_node
    rated_w = gpu_w + node_w
    shifts = sum((shift.monthly_cost for shift in fleet.staffing.values()), Decimal(0))
    return HourlyCost(
        amortization=Decimal(0) if is_written_off(group, day) else _amortization(fleet, group),
        facility=rated_w / _W_PER_KW * site.facility_cost_per_kw_month / HOURS_PER_MONTH,
        oncall=shifts / owned_gpus(fleet) / HOURS_PER_MONTH,
        power_per_kwh=site.power_price_per_kwh * decimal(site.pue),
        idle_w=gpu_w * decimal(fleet.costs.gpu_idle_power_share) + node_w,
        full_w=rated_w,
    )


def is_written_off(group: NodeGroup, day: date | None) -> bool:
    """Whether a group's amortization has ended on a day."""
    return day is not None and day >= written_off(group)


def written_off(group: NodeGroup) -> date:
    """The first day without amortization."""
    return group.purchased + timedelta(days=group.amortization_years * _DAYS_PER_YEAR)


def owned_gpus(fleet: Fleet) -> int:
    """GPUs of the whole environment, used or idle."""
    return sum(group.gpus for group in fleet.node_groups.values())


def decimal(number: float) -> Decimal:
    """A declared number as it was written: 0.21 is not 0.2099999."""
    return Decimal(str(number))


def _amortization(fleet: Fleet, group: NodeGroup) -> Decimal:
    capital = group.price_per_node * (1 + decimal(fleet.costs.capital_overhead))
    hours = decimal(group.amortization_years) * HOURS_PER_YEAR
    return capital / group.gpus_per_node / hours
