"""Capacity plans: from fleet file and traces to a plan, to its file, to what would be if."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gpufleet.core.capacity.arrivals import Trace
from gpufleet.core.capacity.plan import make_plan
from gpufleet.core.capacity.what_if import Change, changed
from gpufleet.core.explain import derived_numbers, planned_numbers
from gpufleet.core.plan_difference import number_changes, pool_differences
from gpufleet.core.sources import Sources
from gpufleet.edges.whole_files import write_whole
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.recorded import recorded_traces
from gpufleet.spec.errors import BadInput, FleetError
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.load import load_declared, load_fleet, load_positions, outdated
from gpufleet.spec.plan_file import laid_over, plan_file_of, plan_path, rendered
from gpufleet.spec.plan_reports import ExplainedNumber, Explanation, PlanDifference, WhatIf
from gpufleet.spec.plans import Plan
from gpufleet.spec.problem import Problem
from gpufleet.spec.source import Document

_LARGEST_FACTOR: Final = 1000.0


def plan_capacity(workspace: Workspace, fleet_file: Path, *, pool: str = "") -> Plan:
    """The plan of an environment as its fleet file declares it; changes nothing.

    Args:
        workspace: the clone.
        fleet_file: `fleets/NAME/ENVIRONMENT.yaml`.
        pool: tell this one alone; all are planned, since they share what is owned.

    Raises:
        BadInput: the fleet file, a trace, or a target that nothing reaches.
        PolicyRefused: the inventory or the budget holds no plan; with what fits.
    """
    fleet, document = load_declared(fleet_file)
    _demand_name(pool, fleet.pools, "--pool", "pool")
    plan = _planned(fleet, _sources(workspace, document), recorded_traces(fleet, fleet_file))
    try:
        told = outdated(fleet_file)
    except BadInput as wrong:
        told = f"the plan file of now does not hold: {wrong.what} ({wrong.where})"
    return plan.model_copy(
        update={
            "pools": [each for each in plan.pools if pool in {"", each.pool}],
            "warnings": [*([told] if told else []), *plan.warnings],
        }
    )


def plan_fleet(
    workspace: Workspace, fleet: Fleet, document: Document, traces: Mapping[str, Trace]
) -> Plan:
    """The plan of a fleet that differs from its file, such as by other traffic.

    Args:
        workspace: the clone.
        fleet: to be planned.
        document: where the fields of its file stand.
        traces: that the file names.

    Raises:
        BadInput, PolicyRefused: as `plan_capacity`.
    """
    return _planned(fleet, _sources(workspace, document), traces)


def _planned(fleet: Fleet, sources: Sources, traces: Mapping[str, Trace]) -> Plan:
    begun = time.perf_counter()
    plan = make_plan(fleet, traces, sources)
    return plan.model_copy(update={"seconds": round(time.perf_counter() - begun, 3)})


def _sources(workspace: Workspace, document: Document) -> Sources:
    return Sources(document, str(workspace.root))


def what_if(  # noqa: PLR0913 - one argument for each assumption
    workspace: Workspace,
    fleet_file: Path,
    *,
    traffic: str = "",
    lost_site: str = "",
    model_size: str = "",
    use_case: str = "",
) -> WhatIf:
    """The plan with some assumptions beside the one without.

    Args:
        workspace: the clone.
        fleet_file: `fleets/NAME/ENVIRONMENT.yaml`.
        traffic: a factor above 0.
        lost_site: a site's name.
        model_size: a factor above 0.
        use_case: the only one that `traffic` and `model_size` are about.

    Raises:
        BadInput: no assumption, or one that cannot be; and as `plan_capacity`.
        PolicyRefused: what is assumed fits neither inventory nor budget; with what fits.
    """
    fleet, document = load_declared(fleet_file)
    _demand_name(lost_site, fleet.sites, "--lose-site", "site")
    _demand_name(use_case, fleet.use_cases, "--use-case", "use case")
    change = Change(
        traffic=_factor(traffic, "--traffic"),
        model_size=_factor(model_size, "--model-size"),
        lost_site=lost_site,
        use_case=use_case,
    )
    if not change.told():
        mend = "such as --traffic 2, --lose-site SITE or --model-size 2"
        what = "nothing is assumed: a factor of 1 changes nothing"
        raise BadInput(what, where="plan.whatif", mend=mend)
    if set(fleet.sites) == {lost_site}:
        raise BadInput("it is the only site: nothing would be left", where="--lose-site")
    traces = recorded_traces(fleet, fleet_file)
    otherwise, unserved = changed(fleet, change)
    if not otherwise.pools:
        raise BadInput("no pool has a place left", where="--lose-site")
    sources = _sources(workspace, document)
    before = _planned(fleet, sources, traces)
    after = _planned(otherwise, sources, traces)
    return pool_differences(before, after, change.told(), unserved)


def apply_plan(workspace: Workspace, fleet_file: Path, *, apply: bool) -> PlanDifference:
    """What the plan would change in the environment; with `apply`, write its file.

    Raises:
        BadInput, PolicyRefused: as `plan_capacity`.
        Retryable: the file cannot be written now.
    """
    declared, document = load_declared(fleet_file)
    traces = recorded_traces(declared, fleet_file)
    plan = _planned(declared, _sources(workspace, document), traces)
    file = plan_path(fleet_file)
    text = rendered(plan, fleet_file.name)
    try:
        now, known = load_fleet(fleet_file), ""
    except BadInput as wrong:
        # A plan file that does not fit the fleet any more is what this mends.
        now, known = declared, f"the plan file of now does not hold: {wrong.what}"
    written = apply and write_whole(file, text)
    return PlanDifference(
        file=str(file),
        changes=number_changes(now, laid_over(declared, plan_file_of(plan))),
        written=written,
        warnings=[*([known] if known else []), *plan.warnings],
    )


def _factor(given: str, flag: str) -> float:
    if not given:
        return 1.0
    try:
        factor = float(given)
    except ValueError:
        factor = math.nan
    if not 0 < factor <= _LARGEST_FACTOR:
        what = f"has to be a factor above 0, at most {_LARGEST_FACTOR:g}, not {given!r:.40}"
        raise BadInput(what, where=flag, mend=f"such as {flag} 2")
    return factor


def _demand_name(given: str, valid: Mapping[str, object], flag: str, kind: str) -> None:
    if given and given not in valid:
        problem = Problem((), f"there is no {kind} `{given:.60}`", given, tuple(valid))
        raise BadInput(problem.what, where=flag, mend=problem.advice())


def explain(workspace: Workspace, fleet_file: Path, pool: str) -> Explanation:
    """Every number of a pool, planned and derived, with its source.

    Where no plan can be made, what the pool has now is explained all the same.

    Raises:
        BadInput: the fleet file, or a pool that it does not declare.
    """
    fleet, document = load_declared(fleet_file)
    _demand_name(pool, fleet.pools, "POOL", "pool")
    warnings = [outdated(fleet_file)]
    planned: list[ExplainedNumber] = []
    try:
        traces = recorded_traces(fleet, fleet_file)
        plan = _planned(fleet, _sources(workspace, document), traces)
    except FleetError as refused:
        warnings.append(f"no plan can be made: {refused.what}")
    else:
        (mine,) = (each for each in plan.pools if each.pool == pool)
        planned = planned_numbers(plan, mine)
    sources = _sources(workspace, load_positions(fleet_file))
    return Explanation(
        pool=pool,
        planned=bool(planned),
        numbers=[*planned, *derived_numbers(load_fleet(fleet_file), pool, sources)],
        warnings=[told for told in warnings if told],
    )
