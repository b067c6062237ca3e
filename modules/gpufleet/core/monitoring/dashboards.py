"""Dashboards as ConfigMaps that Grafana's sidecar picks up: fleet, pool, use case, GPU, cost."""

from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from gpufleet.core import engine_metrics as engine
from gpufleet.core import vocabulary as names
from gpufleet.core.gateway import series
from gpufleet.core.monitoring import gpus, pools
from gpufleet.core.monitoring.burn import BAD_SHARE
from gpufleet.core.monitoring.objectives import BUDGET, COUNTED, UNSERVED
from gpufleet.core.monitoring.rules import MODEL, POOL, selector
from gpufleet.spec.fleet import Fleet

_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH: Final = 12
_HEIGHT: Final = 8
_TIME: Final = ("now-6h", "now")


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        title: of it.
        unit: as Grafana names units.
        queries: PromQL by legend; a legend is a Grafana template.
        is_number: whether only the last value is shown.
    """

    title: str
    unit: str
    queries: dict[str, str]
    is_number: bool = False


@dataclass(frozen=True)
class Board:
    """One dashboard.

    Args:
        name: ends the name of its ConfigMap.
        title: of it.
        panels: two a row.
        variable: a label to choose by, and the series that has all of its values.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    variable: tuple[str, str] | None = None


def boards(currency: str) -> tuple[Board, ...]:
    """Every dashboard.

    Args:
        currency: of the fleet.
    """
    return (_fleet(), _pool(), _use_case(), _gpu(), _cost(currency))


def dashboard_objects(fleet: Fleet) -> tuple[dict[str, Any], ...]:
    """ConfigMaps, each with one dashboard as compact JSON."""
    labels = {names.MANAGED: "true", names.FLEET: fleet.slug, "grafana_dashboard": "1"}
    return tuple(
        {
            "metadata": {
                "name": f"gpufleet-dashboard-{board.name}",
                "namespace": names.MONITORING_NAMESPACE,
                "labels": labels,
            },
            "data": {f"gpufleet-{board.name}.json": _json(board)},
        }
        for board in boards(fleet.currency)
    )


def _json(board: Board) -> str:
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"gpufleet-{board.name}")
        .tags([names.PRODUCT])
        .readonly()
        .refresh("30s")
        .time(*_TIME)
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    )
    if board.variable:
        label, values = board.variable
        made = made.with_variable(
            dashboard.QueryVariable("chosen")
            .label(label.removeprefix("gpufleet_dev_"))
            .query(f"label_values({values}, {label})")
            .datasource(_SOURCE)
            .include_all(include_all=True)
            .multi(multi=True)
        )
    for panel in board.panels:
        made = made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, separators=(",", ":")).encode(made.build())


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel:
    made = stat.Panel() if panel.is_number else timeseries.Panel()
    made = made.title(panel.title).unit(panel.unit).datasource(_SOURCE)
    made = made.span(_WIDTH).height(_HEIGHT)
    for letter, (legend, expr) in zip(ascii_uppercase, panel.queries.items(), strict=False):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(letter)
        made = made.with_target(query)
    return made


def _fleet() -> Board:
    asked = f"{series.REQUESTS}{selector(outcome=COUNTED)}"
    return Board(
        "fleet",
        "gpufleet: fleet",
        (
            Panel(
                "Alerts that fire",
                "short",
                {"{{severity}}": 'count by (severity) (ALERTS{alertstate="firing"})'},
                is_number=True,
            ),
            Panel(
                "Use cases that are not served",
                "short",
                {"": f"sum({UNSERVED})"},
                is_number=True,
            ),
            Panel(
                "Requests by use case",
                "reqps",
                {"{{use_case}}": f"sum by (use_case) (rate({asked}[5m]))"},
            ),
            Panel(
                "Share of requests by route",
                "percentunit",
                {
                    "{{route}}": (
                        f"sum by (route) (rate({asked}[5m])) "
                        f"/ on () group_left () sum(rate({asked}[5m]))"
                    )
                },
            ),
            Panel(
                "Error budget burn over an hour",
                "short",
                {"{{use_case}} {{slo}}": f"{BAD_SHARE}1h / on (use_case, slo) {BUDGET}"},
            ),
            Panel(
                "Replicas that answer, of those declared",
                "percentunit",
                {f"{{{{{POOL}}}}}": f"{pools.ENGINES_UP} / on ({POOL}) {pools.DECLARED}"},
            ),
        ),
    )


def _pool() -> Board:
    chosen = f'{{{POOL}=~"$chosen"}}'
    legend = f"{{{{{POOL}}}}}"
    queued = f"{engine.QUEUE_TIME}_bucket{chosen}"
    return Board(
        "pool",
        "gpufleet: pools",
        (
            Panel(
                "Running requests, of what the replicas take",
                "percentunit",
                {
                    legend: (
                        f"sum by ({POOL}) ({engine.RUNNING}{chosen}) / (count by ({POOL}) "
                        f"({engine.RUNNING}{chosen}) * on ({POOL}) {pools.CONCURRENCY})"
                    )
                },
            ),
            Panel(
                "Waiting requests",
                "short",
                {legend: f"sum by ({POOL}) ({engine.WAITING}{chosen})"},
            ),
            Panel(
                "Time in queue, p95",
                "s",
                {
                    legend: (f"histogram_quantile(0.95, sum by (le, {POOL}) (rate({queued}[5m])))"),
                    "{{pool}} predicted": f'{series.PREDICTED_QUEUE_S}{{pool=~"$chosen"}}',
                },
            ),
            Panel(
                "KV cache in use",
                "percentunit",
                {legend: f"avg by ({POOL}) ({engine.KV_USAGE}{chosen})"},
            ),
            Panel(
                "Preemptions",
                "ops",
                {legend: f"sum by ({POOL}) (rate({engine.PREEMPTIONS}{chosen}[5m]))"},
            ),
            Panel(
                "Generated tokens",
                "ops",
                {legend: f"sum by ({POOL}) (rate({engine.GENERATION_TOKENS}{chosen}[5m]))"},
            ),
            Panel(
                "Replicas",
                "short",
                {
                    f"{legend} answer": f"{pools.ENGINES_UP}{chosen}",
                    f"{legend} declared": f"{pools.DECLARED}{chosen}",
                    "{{pool}} ejected": f'{series.EJECTED}{{pool=~"$chosen"}}',
                },
            ),
        ),
        (POOL, pools.DECLARED),
    )


def _use_case() -> Board:
    chosen = '{use_case=~"$chosen"}'

    def quantile(stem: str) -> str:
        return f"histogram_quantile(0.95, sum by (le, use_case) (rate({stem}_bucket{chosen}[5m])))"

    return Board(
        "use-case",
        "gpufleet: use cases",
        (
            Panel(
                "Error budget burn over an hour",
                "short",
                {"{{use_case}} {{slo}}": f"{BAD_SHARE}1h{chosen} / on (use_case, slo) {BUDGET}"},
            ),
            Panel(
                "Error budget burn over six hours",
                "short",
                {"{{use_case}} {{slo}}": f"{BAD_SHARE}6h{chosen} / on (use_case, slo) {BUDGET}"},
            ),
            Panel("Latency, p95", "s", {"{{use_case}}": quantile(series.REQUEST_S)}),
            Panel("Time to first token, p95", "s", {"{{use_case}}": quantile(series.TTFT_S)}),
            Panel(
                "Requests by outcome",
                "reqps",
                {
                    "{{use_case}} {{outcome}}": (
                        f"sum by (use_case, outcome) (rate({series.REQUESTS}{chosen}[5m]))"
                    )
                },
            ),
            Panel(
                "Requests by route",
                "reqps",
                {
                    "{{use_case}} {{route}}": (
                        f"sum by (use_case, route) (rate({series.REQUESTS}{chosen}[5m]))"
                    )
                },
            ),
            Panel(
                "In flight",
                "short",
                {"{{use_case}}": f"sum by (use_case) ({series.IN_FLIGHT}{chosen})"},
            ),
        ),
        ("use_case", BUDGET),
    )


def _gpu() -> Board:
    gpu, model = "{{Hostname}} {{gpu}}", f"{{{{{MODEL}}}}}"
    return Board(
        "gpu",
        "gpufleet: GPUs",
        (
            Panel("Utilization by model", "percentunit", {model: gpus.MODEL_UTILIZATION}),
            Panel("GPUs by model", "short", {model: gpus.MODEL_GPUS}, is_number=True),
            Panel(
                "Memory in use",
                "percentunit",
                {gpu: f"{gpus.MEMORY_USED} / ({gpus.MEMORY_USED} + {gpus.MEMORY_FREE})"},
            ),
            Panel("Temperature", "celsius", {gpu: gpus.TEMPERATURE_C}),
            Panel("Power", "watt", {gpu: gpus.POWER_W}),
            Panel("Last XID", "short", {gpu: f"{gpus.XID} > 0"}),
            Panel("Throttle reasons (bits)", "short", {gpu: f"{gpus.THROTTLE} > 4"}),
            Panel("Rows remapped", "short", {gpu: f"{gpus.REMAPPED_ROWS} > 0"}),
        ),
    )


def _cost(currency: str) -> Board:
    idle = f"{gpus.MODEL_GPUS} * on ({MODEL}) (1 - {gpus.MODEL_UTILIZATION})"
    return Board(
        "cost",
        "gpufleet: cost",
        (
            Panel(
                "Hosted APIs this month, of the cap",
                "percentunit",
                {
                    "{{use_case}}": (
                        f"sum by (use_case) ({series.HOSTED_SPEND}) "
                        f"/ (max by (use_case) ({series.HOSTED_CAP}) > 0)"
                    )
                },
            ),
            Panel(
                f"Hosted APIs this month, {currency}",
                "short",
                {"{{use_case}}": f"sum by (use_case) ({series.HOSTED_SPEND})"},
                is_number=True,
            ),
            Panel(
                f"Saved by cached answers in a day, {currency}",
                "short",
                {"{{use_case}}": f"sum by (use_case) (increase({series.CACHE_SAVED}[1d]))"},
                is_number=True,
            ),
            Panel(
                "Share of requests answered from the cache",
                "percentunit",
                {
                    "{{use_case}}": (
                        f"sum by (use_case) (rate({series.CACHE_HITS}[1h])) "
                        f"/ sum by (use_case) (rate({series.REQUESTS}[1h]))"
                    )
                },
            ),
            Panel(
                "Tokens by use case and model",
                "ops",
                {
                    "{{use_case}} {{model}} {{kind}}": (
                        f"sum by (use_case, model, kind) (rate({series.TOKENS}[5m]))"
                    )
                },
            ),
            Panel("Idle GPUs by model", "short", {f"{{{{{MODEL}}}}}": idle}),
            Panel("Power by model", "watt", {f"{{{{{MODEL}}}}}": gpus.MODEL_POWER_W}),
        ),
    )
