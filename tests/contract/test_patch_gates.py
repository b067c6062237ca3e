"""Gates of a patch, asked of Prometheus' own promtool."""

import subprocess
from pathlib import Path

import pytest
import yaml
from tests.watched_fleets import on_clusters

from gpufleet.core.patching.gates import gates_of
from gpufleet.edges.engines import resolve
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
POOL = 'gpufleet_dev_pool="chat"'
XID = 'DCGM_FI_DEV_XID_ERRORS{Hostname="n1",gpu="0"}'
OTHER = 'DCGM_FI_DEV_XID_ERRORS{Hostname="n2",gpu="0"}'
BAD = 'use_case:gpufleet_slo_bad:ratio_rate5m{use_case="support-chat",slo="errors"}'
REQUESTS = 'gpufleet_gateway_requests_total{use_case="support-chat",outcome="ok"}'
RESTARTS = 'gpufleet_agent_restarts_total{namespace="gpufleet-interactive",pool="chat"}'
UP = f"pool:gpufleet_engines_up:count{{{POOL}}}"
DECLARED = f"pool:gpufleet_replicas:declared{{{POOL}}}"


@pytest.fixture(scope="module")
def promtool() -> Path:
    return resolve(lambda _: None, ["prometheus"]).path("promtool")


def test_every_gate_is_promql(promtool: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"gate:number:{number}", "expr": gate.query}
        for fleet in (SAMPLE, on_clusters(SAMPLE))
        for number, gate in enumerate(gates_of(fleet, fleet.sites, fleet.pools))
    ]
    file = tmp_path / "gates.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "gates", "rules": rules}]}))
    told = subprocess.run(
        [promtool, "check", "rules", "--lint=none", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize(
    ("name", "series", "value"),
    [
        ("replicas ready: chat", {DECLARED: "10x60", UP: "7x60"}, 3),
        ("replicas ready: chat", {DECLARED: "10x60"}, 10),
        ("replicas ready: chat", {}, None),
        ("restarts: chat", {RESTARTS: "0x55 2x5"}, 2),
        ("restarts: chat", {RESTARTS: "5x60"}, 0),
        # The other GPU has had its fault for hours.
        ("new fatal XIDs", {XID: "0x55 79x5", OTHER: "79x60"}, 1),
        ("new fatal XIDs", {XID: "0x55 31x5", OTHER: "79x60"}, 0),
        ("new fatal XIDs", {}, None),
        ("budget burn: support-chat errors", {BAD: "0.4x60", REQUESTS: "0+60x60"}, 0.4),
        # A request a minute says nothing.
        ("budget burn: support-chat errors", {BAD: "0.4x60", REQUESTS: "0+1x60"}, None),
        ("budget burn: support-chat errors", {}, None),
    ],
)
def test_a_gate_has_the_value_that_its_name_says(
    promtool: Path, tmp_path: Path, name: str, series: dict[str, str], value: float | None
) -> None:
    (gate,) = [each for each in gates_of(SAMPLE, ["fra1"], ["chat"]) if each.name == name]
    samples = [] if value is None else [{"labels": "{}", "value": value}]
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            # Labels do not matter: the worst of all series counts.
            {"expr": f"round(max({gate.query}), 0.1)", "eval_time": "58m", "exp_samples": samples}
        ],
    }
    file = tmp_path / "gate.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [test]}))
    told = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
