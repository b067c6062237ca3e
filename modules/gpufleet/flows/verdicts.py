"""Where each use case should be served, by its plan and the prices of the day."""

from datetime import date
from pathlib import Path

from gpufleet.core.cost.hosted import demand_fresh
from gpufleet.core.cost.verdict import decide
from gpufleet.edges.clock import clock_of
from gpufleet.edges.price_file import price_table
from gpufleet.edges.workspace import Workspace
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.plans import Plan
from gpufleet.spec.prices import PriceTable
from gpufleet.spec.verdicts import DecisionReport


def fresh_prices(workspace: Workspace, fleet_file: Path) -> PriceTable:
    """The hosted prices that may decide today; planning takes longer than to find that none may.

    Raises:
        BadInput: the table, or a missing exchange rate.
        PolicyRefused: prices or rate are stale.
    """
    fleet = load_fleet(fleet_file)
    table = price_table(fleet, fleet_file)
    demand_fresh(fleet, table, _today(workspace, fleet))
    return table


def decide_use_cases(workspace: Workspace, fleet_file: Path, plan: Plan) -> DecisionReport:
    """Local, hosted or hybrid for each use case of a plan.

    Args:
        workspace: the clone.
        fleet_file: that was planned.
        plan: of all its pools.

    Raises:
        BadInput: a hosted model without a price, or a missing exchange rate.
        PolicyRefused: prices or rate are stale.
    """
    fleet = load_fleet(fleet_file)
    table = price_table(fleet, fleet_file)
    return decide(fleet, plan.pools, table, _today(workspace, fleet))


def _today(workspace: Workspace, fleet: Fleet) -> date:
    simulated = len(embedded_sites(fleet)) == len(fleet.sites)
    return clock_of(workspace.for_fleet(fleet), simulated=simulated)().date()
