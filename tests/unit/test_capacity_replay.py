"""A recorded trace through a declared pool: what it tells, and what it refuses."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows import replay as flow
from gpufleet.flows.plans import apply_plan
from gpufleet.flows.recorded import recorded_traces
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import EXIT_BAD_INPUT, BadInput
from gpufleet.spec.replays import ReplayReport

ARTICLE = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
SAMPLE = PROJECT_ROOT / "fleets" / "sample" / "production.yaml"


def replay(
    fleet_file: Path, trace: Path, use_case: str, gpus: int, queue_limit: int | None = None
) -> ReplayReport:
    here = Workspace(PROJECT_ROOT)
    return flow.replay(here, fleet_file, trace, use_case, gpus, queue_limit=queue_limit)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 requests/s of 100 tokens, Poisson, for two minutes."""
    random = np.random.default_rng(1)
    arrival_s = np.cumsum(random.exponential(1 / 50, 6000))
    output = random.geometric(0.01, 6000)
    lines = [f"{at:.6f},500,{tokens}" for at, tokens in zip(arrival_s, output, strict=True)]
    file = tmp_path_factory.mktemp("trace") / "trace.csv"
    file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines]) + "\n")
    return file


def test_the_measured_rate_of_the_article_holds_on_seven_and_not_on_six(trace: Path) -> None:
    enough, short = (replay(ARTICLE, trace, "answers", gpus) for gpus in (7, 6))
    assert enough.evidence == "measured-rate"
    assert enough.holds
    assert not short.holds
    assert enough.served == enough.requests == 6000
    assert short.served + short.shed + short.failed == 6000
    assert enough.rate_rps == pytest.approx(50, rel=0.05)
    assert enough.utilization == pytest.approx(50 / 56, rel=0.06)


def test_a_measured_rate_is_of_the_pools_mix_whichever_use_case_is_looked_at(
    trace: Path, tmp_path: Path
) -> None:
    text = ARTICLE.read_text()
    at, end = text.index("  answers:\n"), text.index("measurements:")
    longer = (
        text[at:end].replace("  answers:", "  reports:", 1).replace("rate_rps: 50", "rate_rps: 2")
    )
    longer = re.sub(
        r"output_mean: \d+, output_p95: \d+", "output_mean: 400, output_p95: 400", longer
    )
    assert "output_mean: 400" in longer
    text = text[:end] + longer.rstrip() + "\n" + text[end:]
    file = tmp_path / "production.yaml"
    file.write_text(text.replace("use_cases: [answers]", "use_cases: [answers, reports]"))
    answers, reports = (replay(file, trace, name, 8) for name in ("answers", "reports"))
    assert answers.evidence == "measured-rate"
    assert answers.e2e_s == reports.e2e_s


def test_a_queue_limit_sheds_what_would_have_waited_and_nothing_is_lost(trace: Path) -> None:
    short = replay(ARTICLE, trace, "answers", 6, queue_limit=2)
    assert short.shed > 0
    assert short.served + short.shed + short.failed == 6000
    whole = replay(ARTICLE, trace, "answers", 6)
    assert whole.shed == 0
    assert (short.e2e_s.p95 or 0) < (whole.e2e_s.p95 or 0)


def test_the_pool_is_the_planned_one(trace: Path, tmp_path: Path) -> None:
    assert replay(ARTICLE, trace, "answers", 7).planned == "a plan made now"
    file = tmp_path / "production.yaml"
    file.write_text(ARTICLE.read_text())
    assert apply_plan(Workspace(PROJECT_ROOT), file, apply=True).written
    plan = file.with_name("production.plan.yaml")
    text = plan.read_text()
    assert "concurrency_limit: 16" in text
    plan.write_text(text.replace("concurrency_limit: 16", "concurrency_limit: 12", 1))
    by_file = replay(file, trace, "answers", 7)
    assert (by_file.planned, by_file.concurrency_limit) == ("the plan file", 12)


def test_more_gpus_are_never_slower_and_percentiles_are_in_order(trace: Path) -> None:
    reports = [replay(ARTICLE, trace, "answers", gpus) for gpus in (6, 7, 8, 10)]
    for times in zip(*((each.e2e_s, each.ttft_s, each.wait_s) for each in reports), strict=True):
        for one in times:
            assert one.p50 is not None
            assert one.p95 is not None
            assert one.p99 is not None
            assert one.p50 <= one.p95 <= one.p99
        p95 = [one.p95 or 0.0 for one in times]
        assert all(more <= fewer + 1e-6 for fewer, more in itertools.pairwise(p95))


def test_gpus_that_make_no_whole_replica_are_refused_with_the_multiples(trace: Path) -> None:
    for gpus, near in ((6, "4 or 8"), (3, "such as 4"), (0, "such as 4")):
        with pytest.raises(BadInput) as caught:
            replay(SAMPLE, trace, "support-chat", gpus)
        assert "one takes 4" in caught.value.what
        assert near in caught.value.mend
        assert caught.value.exit_code == EXIT_BAD_INPUT


def test_a_use_case_that_is_not_there_is_refused_with_those_that_are(trace: Path) -> None:
    with pytest.raises(BadInput, match="no use case `sales`") as caught:
        replay(ARTICLE, trace, "sales", 7)
    assert "answers" in caught.value.mend


def test_a_trace_that_the_fleet_file_names_is_read_beside_it(tmp_path: Path, trace: Path) -> None:
    folder = tmp_path / "traces"
    folder.mkdir()
    (folder / "june.csv").write_bytes(trace.read_bytes())
    text = ARTICLE.read_text().replace(
        "traffic: {rate_rps: 50}", "traffic: {rate_rps: 50, trace: traces/june.csv}"
    )
    file = tmp_path / "production.yaml"
    file.write_text(text)
    traces = recorded_traces(load_fleet(file), file)
    assert list(traces) == ["answers"]
    assert len(traces["answers"]) == 6000
    (folder / "june.csv").unlink()
    with pytest.raises(BadInput, match="no such file"):
        recorded_traces(load_fleet(file), file)
