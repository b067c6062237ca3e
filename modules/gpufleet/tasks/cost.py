"""What the environment costs: forecast, actual, and why they differ."""

from invoke import Context

from gpufleet.tasks.command import (
    APPLY_HELP,
    FLEET_HELP,
    JSON_HELP,
    command,
    opened_ground,
    print_json,
)

_FOCUS_HELP = "Also write the amounts as FOCUS 1.2 rows into this CSV file."
_SPAN_HELP = {
    "month": "Such as 2026-11. Default: the current month, up to the last whole hour.",
    "begin": "First day, such as 2026-11-05, instead of a month.",
    "end": "Last day. Default: the first one.",
}


@command(
    {
        "months": "How many months, from the current one.",
        "focus": _FOCUS_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def forecast(
    _: Context, months: str = "3", focus: str = "", fleet: str = "", json: bool = False
) -> None:
    """What the coming months cost, by declared traffic with its peaks.

    Example: ./fleet cost.forecast --months 6 --focus forecast.csv
    """
    from gpufleet.flows.costs import forecast_costs, months_of, write_focus
    from gpufleet.tasks import cost_view

    ground = opened_ground(fleet)
    report = forecast_costs(ground, months_of(months))
    if focus:
        write_focus(ground, report, focus)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        cost_view.show_costs(report)


@command(
    {
        **_SPAN_HELP,
        "collect": "Ask Prometheus what was served; kept with --apply.",
        "prometheus": "Its address, where a site is not embedded.",
        "usage": "Take what was served from this CSV file; kept with --apply.",
        "apply": APPLY_HELP,
        "focus": _FOCUS_HELP,
        "fleet": FLEET_HELP,
        "json": JSON_HELP,
    }
)
def actual(
    _: Context,
    month: str = "",
    begin: str = "",
    end: str = "",
    collect: bool = False,
    prometheus: str = "",
    usage: str = "",
    apply: bool = False,
    focus: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """What was served has cost; first collect what was served.

    Example: ./fleet cost.actual --month 2026-11 --collect --apply
    """
    from gpufleet.flows import costs
    from gpufleet.tasks import cost_view

    costs.demand_effect(
        collect=collect,
        prometheus=prometheus,
        usage=usage,
        apply=apply,
        focus=focus,
        period=month or begin or end,
    )
    ground = opened_ground(fleet)
    span = costs.Span.of(ground.clock(), month=month, begin=begin, end=end)
    if collect or usage:
        plan = costs.plan_of(ground, span, usage=usage, prometheus=prometheus)
        written = costs.write_collection(ground, plan) if apply else None
        if not apply:
            if json:
                print_json(cost_view.collection(plan, written))
            else:
                cost_view.show_collection(plan, written)
            return
        if not json:
            cost_view.show_collection(plan, written)
        span = plan.span if usage else span
    report = costs.actual_costs(ground, span)
    if focus:
        costs.write_focus(ground, report, focus)
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        cost_view.show_costs(report)


@command({**_SPAN_HELP, "fleet": FLEET_HELP, "json": JSON_HELP})
def compare(
    _: Context,
    month: str = "",
    begin: str = "",
    end: str = "",
    fleet: str = "",
    json: bool = False,
) -> None:
    """Why the actual cost differs from the forecast: volume, mix, utilization, price, idle.

    Example: ./fleet cost.compare --month 2026-11
    """
    from gpufleet.flows.costs import Span, compare_costs
    from gpufleet.tasks import cost_view

    ground = opened_ground(fleet)
    span = Span.of(ground.clock(), month=month, begin=begin, end=end)
    found = compare_costs(ground, span)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        cost_view.show_comparison(found)
