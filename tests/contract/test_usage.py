"""Usage from a real Prometheus, and its rows in real databases."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from tests.conftest import Until

from gpufleet.core import vocabulary as names
from gpufleet.core.cost.usage import Collected, rows_of
from gpufleet.edges.database import Database
from gpufleet.edges.engines import resolve
from gpufleet.edges.prometheus import Prometheus
from gpufleet.edges.usage_table import UsageTable
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.costs import observe
from gpufleet.local.ports import choose
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.usage import Usage

BEGIN = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
END = BEGIN + 4 * HOUR
STEP_S = 15
REPLICAS = 2


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/article/production.yaml"))


def samples(fleet: Fleet) -> str:
    """Two replicas of 2 requests/s each: one restarts after 90 minutes, the third hour is lost."""
    lines = []
    for metric, kind, rate in (
        ("vllm:num_requests_running", "gauge", 0),
        ("vllm:request_success_total", "counter", 2),
        ("vllm:prompt_tokens_total", "counter", 1000),
        ("vllm:generation_tokens_total", "counter", 200),
    ):
        lines.append(f"# TYPE {metric.removesuffix('_total')} {kind}")
        for replica in range(REPLICAS):
            labels = (
                f'pod="answers-{replica}",gpufleet_dev_fleet="{fleet.slug}",'
                f'gpufleet_dev_site="main",gpufleet_dev_pool="answers",'
                f'{names.metric_label(names.USE_CASE)}="answers"'
            )
            if "success" in metric:
                labels += ',finished_reason="stop"'
            for second in range(-STEP_S, int((END - BEGIN).total_seconds()) + 1, STEP_S):
                if 7200 < second <= 10_800:
                    continue
                begun = 5400 if replica and second >= 5400 else -STEP_S
                value = rate * (second - begun) if kind == "counter" else 3
                lines.append(f"{metric}{{{labels}}} {value} {BEGIN.timestamp() + second:.0f}")
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def server(
    article: Fleet, tmp_path_factory: pytest.TempPathFactory, until: Until
) -> Iterator[Prometheus]:
    """A Prometheus alone, with hours that were written before it began."""
    folder = tmp_path_factory.mktemp("prometheus")
    binaries = resolve(lambda _progress: None, ["prometheus"])
    (folder / "samples").write_text(samples(article))
    (folder / "prometheus.yaml").write_text("{}")
    subprocess.run(
        [
            binaries.path("promtool"),
            *("tsdb", "create-blocks-from", "openmetrics", folder / "samples", folder / "data"),
        ],
        check=True,
        capture_output=True,
    )
    port = choose(folder / "ports.json", set(), ("prometheus",))["prometheus"]
    process = subprocess.Popen(
        [
            binaries.path("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/-/ready").is_success
        except httpx.HTTPError:
            return False

    try:
        until(is_ready)
        with Prometheus(url) as opened:
            yield opened
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def collected(article: Fleet, server: Prometheus) -> Collected:
    return rows_of(article, observe(article, [server], BEGIN, END), BEGIN, END)


def test_an_hour_s_requests_tokens_and_gpu_hours_are_counted(collected: Collected) -> None:
    first = collected.rows[0]
    assert (first.begin, first.pool, first.use_case) == (BEGIN, "answers", "answers")
    assert first.requests == pytest.approx(REPLICAS * 2 * 3600, rel=0.005)
    assert first.prompt_tokens == pytest.approx(500 * first.requests, rel=0.001)
    assert first.output_tokens == pytest.approx(100 * first.requests, rel=0.001)
    assert first.gpu_hours == REPLICAS
    assert first.mean_watts is None


def test_a_restarted_engine_loses_no_request_and_gives_none_twice(collected: Collected) -> None:
    second = collected.rows[1]
    assert second.begin == BEGIN + HOUR
    assert second.requests == pytest.approx(REPLICAS * 2 * 3600, rel=0.01)


def test_an_hour_that_was_not_seen_is_a_gap_and_no_row(collected: Collected) -> None:
    assert [row.begin for row in collected.rows] == [BEGIN, BEGIN + HOUR, BEGIN + 3 * HOUR]
    assert collected.gaps == [
        "pool answers: nothing whole is known about an hour, from 2026-03-02 10:00 UTC"
    ]


def test_a_lost_prometheus_may_come_back_and_a_wrong_query_may_not(server: Prometheus) -> None:
    with pytest.raises(Failed, match="refuses the query"):
        server.at_times("sum(", BEGIN, END, HOUR)
    with Prometheus("http://127.0.0.1:9") as lost, pytest.raises(Retryable, match="not answer"):
        lost.at_times("up", BEGIN, END, HOUR)


def test_keeping_the_same_rows_again_changes_nothing(
    collected: Collected, database: Database
) -> None:
    table = UsageTable(database)
    assert table.keep(collected.rows) == 3
    assert table.keep(collected.rows) == 0
    assert table.between(BEGIN, END) == collected.rows
    better = collected.rows[0].model_copy(update={"successful": 7})
    assert table.keep([better]) == 1
    assert table.between(BEGIN, BEGIN + HOUR) == [better]


def test_numbers_of_any_size_come_back_as_they_were(database: Database) -> None:
    large = Usage(
        begin=BEGIN,
        hours=24,
        pool="answers",
        use_case="answers",
        requests=10**15,
        successful=0,
        prompt_tokens=10**15,
        output_tokens=10**15,
        gpu_hours=1 / 3,
        mean_watts=512.125,
    )
    UsageTable(database).keep([large])
    assert UsageTable(database).between(BEGIN, END) == [large]
