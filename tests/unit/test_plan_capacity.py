"""The plan of an environment: what it promises it holds, and what it cannot hold it says."""

import math
import re
import shutil
from pathlib import Path

import pytest

from gpufleet.core.capacity.outlook import capacity_change, p95_share
from gpufleet.core.capacity.what_if import Change, changed
from gpufleet.core.plan_difference import pool_differences
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.outlook import outlook
from gpufleet.flows.plans import apply_plan, explain, plan_capacity, what_if
from gpufleet.spec import load_fleet
from gpufleet.spec.errors import EXIT_BAD_INPUT, EXIT_POLICY, BadInput, FleetError, PolicyRefused
from gpufleet.spec.load import load_declared, outdated
from gpufleet.spec.plan_file import plan_path
from gpufleet.spec.plans import ArithmeticStep, Headroom, Plan, PoolPlan, Totals

HERE = Workspace(PROJECT_ROOT)
ARTICLE = PROJECT_ROOT / "fleets/article/production.yaml"
SAMPLE = PROJECT_ROOT / "fleets/sample/production.yaml"
BUDGET = "budget: {monthly: MONTHLY, capital_yearly: 1, hosted_monthly: 1, owner: ada}\nfreeze_cal"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The article's fleet file in a folder of its own."""
    shutil.copytree(ARTICLE.parent, tmp_path / "article", ignore=shutil.ignore_patterns("*.plan.*"))
    return tmp_path / "article" / ARTICLE.name


@pytest.fixture(scope="module")
def sample() -> Plan:
    return plan_capacity(HERE, SAMPLE)


def edit(file: Path, before: str, after: str) -> Path:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    return file


def only(plan: Plan) -> PoolPlan:
    (pool,) = plan.pools
    return pool


def test_the_article_needs_seven_gpus_and_two_or_three_more_in_bursts(file: Path) -> None:
    pool = only(plan_capacity(HERE, file))
    assert (pool.gpus_steady, pool.smooth_gpus) == (7, 7)
    assert pool.gpus_burst in {2, 3}
    assert pool.evidence == "measured-rate"
    assert (pool.replicas_min, pool.replicas_max) == (7, 7 + pool.gpus_burst)
    told = next(step.text for step in pool.explain if step.number == "replicas_max")
    assert "smooth arrivals would need 7" in told


def test_smooth_traffic_needs_no_burst(file: Path) -> None:
    edit(file, "rate_rps: 50}", "rate_rps: 50, index_of_dispersion: 1}")
    assert only(plan_capacity(HERE, file)).gpus_burst == 0


def test_the_same_fleet_file_gives_the_same_plan(sample: Plan) -> None:
    again = plan_capacity(HERE, SAMPLE)
    assert again.model_copy(update={"seconds": sample.seconds}) == sample


def test_every_promise_of_the_sample_is_predicted_to_hold(sample: Plan) -> None:
    for pool in sample.pools:
        assert pool.by_use_case
        for seen in pool.by_use_case:
            assert seen.p95_s <= seen.p95_limit_s
            assert seen.ttft_p95_s <= seen.ttft_p95_limit_s
            assert seen.error_rate <= seen.error_rate_limit


def test_the_plan_stays_within_inventory_residency_and_budget(sample: Plan) -> None:
    fleet = load_declared(SAMPLE)[0]
    claimed = [group for pool in sample.pools for group in pool.placements]
    assert len(claimed) == len(set(claimed))
    for pool in sample.pools:
        for group_name in pool.placements:
            region = fleet.sites[fleet.node_groups[group_name].site].region
            for use_case in pool.use_cases:
                assert region in fleet.use_cases[use_case].residency
    totals = sample.totals
    assert totals.budget_left_monthly is not None
    assert totals.budget_left_monthly >= 0
    running = sum(pool.cost_monthly for pool in sample.pools)
    assert totals.cost_monthly == running + totals.cost_idle_monthly


def test_the_loss_of_a_site_leaves_what_was_promised(sample: Plan) -> None:
    chat = next(pool for pool in sample.pools if pool.pool == "chat")
    assert chat.site_loss == "kept"
    at_peak = (chat.gpus_steady + chat.gpus_burst) // chat.tp
    by_site = [placement.max_replicas for placement in chat.placements.values()]
    assert sum(by_site) - max(by_site) >= at_peak
    assert chat.headroom.site_loss == (chat.replicas_max - at_peak) * chat.tp


def test_gpus_are_those_whose_cost_stands_beside_them(sample: Plan) -> None:
    for pool in sample.pools:
        placed = pool.placements.values()
        assert pool.gpus == sum(
            each.max_replicas * each.nodes_per_replica * each.gpus_per_node for each in placed
        )
    assert sample.gpus == sum(pool.gpus for pool in sample.pools)
    difference = pool_differences(sample, sample, [], [])
    assert difference.gpus_before == difference.gpus_after == sample.gpus
    assert sum(pool.gpus_after for pool in difference.pools) == sample.gpus


def test_batch_pools_always_run_what_their_peak_needs(sample: Plan) -> None:
    for pool in sample.pools:
        if pool.class_.value == "batch":
            assert pool.replicas_min == pool.replicas_max
            assert pool.gpus_burst == 0


def test_declared_peaks_are_pre_warmed_where_a_pool_scales(sample: Plan) -> None:
    chat = next(pool for pool in sample.pools if pool.pool == "chat")
    assert {peak.name for peak in chat.prewarm} == {"monday morning", "quarter end"}
    for peak in chat.prewarm:
        assert peak.lead_s >= 3 * 150
        for group, replicas in peak.replicas.items():
            placement = chat.placements[group]
            assert placement.replicas <= replicas <= placement.max_replicas
        # What is kept for the loss of a site is not started for a peak.
        assert sum(peak.replicas.values()) * chat.tp <= chat.gpus_steady + chat.gpus_burst


def test_a_single_peak_starts_what_the_plan_says_it_needs(sample: Plan) -> None:
    legal = next(pool for pool in sample.pools if pool.pool == "legal")
    (peak,) = legal.prewarm
    assert sum(peak.replicas.values()) * legal.tp == legal.gpus_steady + legal.gpus_burst


NIGHT = """use_cases:
  night:
    team: support
    class: interactive
    model: llama-3.1-8b
    traffic: {rate_rps: RATE, hourly: HOURLY}
    tokens: {prompt_mean: 500, prompt_p95: 1200, output_mean: 100, output_p95: 200, output_max: 512}
    slo: {p95_s: P95, ttft_p95_s: TTFT, error_rate: 0.001, availability: 0.995}
    rto_s: 30min
    rpo_s: 1h
    data_class: internal
    residency: [eu]
"""


def with_night(
    file: Path, *, p95: str = "2s", ttft: str = "500ms", rate: float = 20, by_day: float = 0
) -> Path:
    """A second use case of the article's pool, busy while the first one sleeps."""
    day = [0] * 8 + [1] * 12 + [0] * 4
    edit(file, "rate_rps: 50}", f"rate_rps: 50, hourly: {day}}}")
    edit(file, "use_cases: [answers]", "use_cases: [answers, night]")
    night = NIGHT.replace("HOURLY", str([1] * 5 + [by_day] * 19)).replace("RATE", str(rate))
    return edit(file, "use_cases:\n", night.replace("P95", p95).replace("TTFT", ttft))


@pytest.mark.parametrize("by_day", [0, 0.02])
def test_a_use_case_that_sleeps_in_the_pools_busiest_hour_is_predicted(
    file: Path, by_day: float
) -> None:
    pool = only(plan_capacity(HERE, with_night(file, rate=45, by_day=by_day)))
    assert [seen.use_case for seen in pool.by_use_case] == ["answers", "night"]
    for seen in pool.by_use_case:
        assert 0 < seen.p95_s <= seen.p95_limit_s
        assert seen.ttft_p95_s <= seen.ttft_p95_limit_s
    limits = {name: limit.concurrency_limit for name, limit in pool.limits.items()}
    # Each has the pool to itself in its busiest hour.
    assert limits["night"] == limits["answers"]


def test_a_promise_to_a_use_case_that_sleeps_in_the_busiest_hour_is_kept(file: Path) -> None:
    easy = only(plan_capacity(HERE, file))
    strict = only(plan_capacity(HERE, with_night(file, rate=45, p95="280ms", ttft="100ms")))
    assert strict.replicas_max > easy.replicas_max
    assert "and at another hour answers 0 + night 45 = 45" in told(strict.explain, "replicas_max")
    night = strict.by_use_case[1]
    assert night.p95_s <= night.p95_limit_s


def test_a_target_that_is_unreachable_at_night_is_refused(file: Path) -> None:
    with pytest.raises(BadInput, match="reaches its targets"):
        plan_capacity(HERE, with_night(file, p95="50ms", ttft="10ms"))


@pytest.mark.parametrize(
    ("before", "after", "code", "what"),
    [
        ("ttft_p95_s: 500ms", "ttft_p95_s: 1ms", EXIT_BAD_INPUT, "reaches its targets"),
        ("rate_rps: 50", "rate_rps: 0", EXIT_BAD_INPUT, "has to be above 0"),
        ("rate_rps: 50", "rate_rps: .nan", EXIT_BAD_INPUT, "finite"),
        (
            "rate_rps: 50}",
            f"rate_rps: 50, weekly: {[0] * 7}}}",
            EXIT_BAD_INPUT,
            "has no traffic in any hour",
        ),
        ("rate_rps: 50", "rate_rps: 500", EXIT_POLICY, "16 fit"),
        ("rate_rps: 50", "rate_rps: 50000", EXIT_POLICY, "needs more than 4096 replicas"),
        ("freeze_cal", BUDGET.replace("MONTHLY", "1000"), EXIT_POLICY, "the budget is 1,000"),
        (
            "rate_rps: 50}",
            "rate_rps: 50, trace: calendars/company.ics}",
            EXIT_BAD_INPUT,
            "no column",
        ),
        ("rate_rps: 50}", "rate_rps: 50, trace: lost.csv}", EXIT_BAD_INPUT, "no such file"),
    ],
)
def test_what_cannot_be_planned_is_one_error_with_its_exit_code(
    file: Path, before: str, after: str, code: int, what: str
) -> None:
    edit(file, before, after)
    with pytest.raises(FleetError, match=what) as refused:
        plan_capacity(HERE, file)
    assert refused.value.exit_code == code
    assert refused.value.where


def test_an_unreachable_target_tells_what_is_reachable_and_where_it_stands(file: Path) -> None:
    edit(file, "p95_s: 2s, ttft_p95_s: 500ms", "p95_s: 20ms, ttft_p95_s: 10ms")
    with pytest.raises(BadInput) as refused:
        plan_capacity(HERE, file)
    assert "a request that has a replica alone takes" in refused.value.mend
    assert "use_cases.answers.slo" in refused.value.where


def test_a_trace_of_a_few_requests_is_no_evidence(file: Path) -> None:
    rows = [f"{number / 50:.2f},500,100" for number in range(500)]
    header = "arrival_s,prompt_tokens,output_tokens"
    edit(file, "rate_rps: 50}", "rate_rps: 50, trace: short.csv}")
    short = file.with_name("short.csv")
    short.write_text("\n".join([header, *rows[:499]]) + "\n")
    with pytest.raises(BadInput, match="a trace of 499 requests tells too little") as refused:
        plan_capacity(HERE, file)
    assert "use_cases.answers.traffic.trace" in refused.value.where
    short.write_text("\n".join([header, *rows]) + "\n")
    assert only(plan_capacity(HERE, file)).replicas_max >= 7


def test_an_inventory_that_is_too_small_is_told_with_what_fits(file: Path) -> None:
    edit(file, "rate_rps: 50", "rate_rps: 200")
    with pytest.raises(PolicyRefused) as refused:
        plan_capacity(HERE, file)
    assert "% of the peak of `answers`" in refused.value.mend
    assert re.search(r"more h100-sxm GPUs: \d+ nodes for [0-9,]+ USD", refused.value.mend)
    assert "pools.answers.placements" in refused.value.where


def test_a_budget_that_is_too_small_is_told_with_what_fits(file: Path) -> None:
    edit(file, "freeze_cal", BUDGET.replace("MONTHLY", "16000"))
    with pytest.raises(PolicyRefused) as refused:
        plan_capacity(HERE, file)
    assert "what fits: the 9 GPUs that pools run" in refused.value.mend
    assert "budget.monthly" in refused.value.where


def test_use_cases_of_one_pool_that_share_no_region_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE.parent, tmp_path / "sample", ignore=shutil.ignore_patterns("*.plan.*"))
    file = tmp_path / "sample" / SAMPLE.name
    text = file.read_text().replace(
        "residency: [de, ie]\n    success_rate: 0.92", "residency: [de]"
    )
    at = text.index("agent-assist:")
    file.write_text(text[:at] + text[at:].replace("residency: [de, ie]", "residency: [ie]", 1))
    with pytest.raises(BadInput, match="no node group stands where the data of all") as refused:
        plan_capacity(HERE, file)
    assert "pools.chat.use_cases" in refused.value.where


def test_applying_writes_once_and_the_fleet_is_as_planned(file: Path) -> None:
    shown = apply_plan(HERE, file, apply=False)
    assert shown.changes
    assert not plan_path(file).exists()
    written = apply_plan(HERE, file, apply=True)
    assert written.written
    assert written.changes == shown.changes
    text, inode = plan_path(file).read_text(), plan_path(file).stat().st_ino
    again = apply_plan(HERE, file, apply=True)
    assert (again.written, again.changes) == (False, [])
    assert (plan_path(file).read_text(), plan_path(file).stat().st_ino) == (text, inode)
    assert outdated(file) == ""
    plan = only(plan_capacity(HERE, file))
    placement = load_fleet(file).pools["answers"].placements["h100"]
    assert (placement.replicas, placement.ceiling) == (plan.replicas_min, plan.replicas_max)
    assert [entry.name for entry in file.parent.iterdir() if entry.name.startswith(".")] == []


def test_a_plan_file_that_no_longer_fits_is_mended_by_applying(file: Path) -> None:
    apply_plan(HERE, file, apply=True)
    edit(plan_path(file), "max_replicas: ", "max_replicas: 9")
    with pytest.raises(BadInput, match="16 fit"):
        load_fleet(file)
    mended = apply_plan(HERE, file, apply=True)
    assert mended.written
    assert "does not hold" in mended.warnings[0]
    assert load_fleet(file).slug == "article-production"


def test_a_changed_fleet_file_is_told_until_it_is_planned_again(file: Path) -> None:
    apply_plan(HERE, file, apply=True)
    edit(file, "rate_rps: 50", "rate_rps: 40")
    assert "was made for an earlier fleet file" in plan_capacity(HERE, file).warnings[0]
    apply_plan(HERE, file, apply=True)
    assert not any("earlier" in told for told in plan_capacity(HERE, file).warnings)


def test_one_pool_may_be_asked_for_by_its_name(sample: Plan) -> None:
    asked = plan_capacity(HERE, SAMPLE, pool="legal")
    assert [pool.pool for pool in asked.pools] == ["legal"]
    assert asked.totals == sample.totals
    with pytest.raises(BadInput, match="there is no pool `legla`") as refused:
        plan_capacity(HERE, SAMPLE, pool="legla")
    assert "did you mean `legal`" in refused.value.mend


def test_more_traffic_never_takes_fewer_gpus(file: Path) -> None:
    found = what_if(HERE, file, traffic="1.5")
    assert found.assumed == ["traffic x 1.5"]
    assert found.gpus_after > found.gpus_before
    assert found.cost_monthly_after > found.cost_monthly_before


def test_a_lost_site_takes_its_pools_and_the_rest_is_planned_without_it() -> None:
    found = what_if(HERE, SAMPLE, lost_site="fra1")
    assert found.unserved == ["legal"]
    assert {pool.pool for pool in found.pools} == set(load_fleet(SAMPLE).pools) - {"legal"}


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({}, "nothing is assumed"),
        ({"traffic": "0"}, "a factor above 0"),
        ({"traffic": "-1"}, "a factor above 0"),
        ({"traffic": "nan"}, "a factor above 0"),
        ({"traffic": "twice"}, "a factor above 0"),
        ({"model_size": "1e9"}, "a factor above 0"),
        ({"lost_site": "main"}, "the only site"),
        ({"lost_site": "mian"}, "there is no site `mian`"),
        ({"traffic": "2", "use_case": "answer"}, "there is no use case `answer`"),
    ],
)
def test_an_assumption_that_cannot_be_is_bad_input(asked: dict[str, str], what: str) -> None:
    with pytest.raises(BadInput, match=what):
        what_if(HERE, ARTICLE, **asked)


def test_another_model_size_changes_only_the_pool_of_the_use_case() -> None:
    fleet = load_declared(SAMPLE)[0]
    larger, unserved = changed(fleet, Change(model_size=2, use_case="ticket-triage"))
    assert unserved == []
    different = {name for name in fleet.pools if larger.pools[name] != fleet.pools[name]}
    assert different == {"small"}
    revision = larger.models[larger.pools["small"].model]
    assert revision.size_bytes == 2 * fleet.models["llama-3.1-8b"].size_bytes
    assert larger.use_cases["mail-classification"] == fleet.use_cases["mail-classification"]


def test_every_number_of_a_pool_leads_to_a_source(file: Path) -> None:
    apply_plan(HERE, file, apply=True)
    found = explain(HERE, file, "answers")
    assert found.planned
    numbers = {number.number: number for number in found.numbers}
    assert {
        "gpus_steady",
        "gpus_burst",
        "replicas_min",
        "replicas_max",
        "concurrency_limit",
        "queue_limit",
        "queue_time_target_s",
        "headroom.failures",
        "headroom.maintenance",
        "headroom.surge",
        "cost_per_1k",
        "main: startup probe",
        "main: grace_s",
        "main: interactive quota",
        "main: threshold of running requests",
    } <= set(numbers)
    assert all(number.value and number.text for number in found.numbers)
    lines = file.read_text().splitlines()
    sources = [number.source for number in found.numbers if f"{file}:" in number.source]
    assert len(sources) > 20
    for source in sources:
        place, field = source.split("; ")[0].rsplit(": ", 1)
        line = int(place.split(":")[1])
        assert field.removesuffix(" (default)").split(".")[-1] in lines[line - 1] or (
            "(default)" in source
        )
    assert "production.plan.yaml" in numbers["main: max_replicas"].source


def test_every_number_that_the_page_shows_is_explained(sample: Plan) -> None:
    shown = {
        "evidence",
        "tp",
        "gpus_steady",
        "gpus_burst",
        "smooth_gpus",
        "replicas_min",
        "replicas_max",
        "predicted",
        "predicted.utilization",
        "concurrency_limit",
        "queue_limit",
        "queue_time_target_s",
        "cost_monthly",
        "cost_per_1k",
        "cost_per_1k_usd",
        *(f"headroom.{each}" for each in Headroom.model_fields),
    }
    for pool in sample.pools:
        assert shown <= {step.number for step in pool.explain}, pool.pool
    totals = {step.number for step in sample.explain}
    own = {"cost_idle_monthly", "budget_monthly"}
    assert set(Totals.model_fields) - own == totals


def told(steps: list[ArithmeticStep], number: str) -> str:
    (text,) = (step.text for step in steps if step.number == number)
    return text


def test_a_measured_rate_keeps_the_concurrency_that_it_was_measured_with(file: Path) -> None:
    pool = only(plan_capacity(HERE, file))
    assert "as declared, since the rate was measured with it" in told(
        pool.explain, "concurrency_limit"
    )
    queue = told(pool.explain, "queue_limit")
    assert "would miss the target" in queue
    assert "doubled until no more are refused than may be lost" in queue


def factors(text: str) -> list[float]:
    """The numbers of a product, as it is written."""
    return [float(each.replace(",", "")) for each in re.findall(r"(?<![\w-])[0-9][0-9.,]*", text)]


def test_costs_and_headroom_show_arithmetic_that_comes_out(sample: Plan) -> None:
    for pool in sample.pools:
        sums = told(pool.explain, "cost_monthly").split(" = ")[0].split(" + ")
        assert len(sums) == len(pool.placements)
        products = [re.sub(r" of \S+ x", " x", each) for each in sums]
        total = sum(math.prod(factors(each)) for each in products)
        assert total == pytest.approx(float(pool.cost_monthly), rel=1e-4)
        per_1k = told(pool.explain, "cost_per_1k").split(" = ")[0]
        requests, gpu_s, _, hour_s, hourly, buffer = factors(per_1k)
        price = requests * gpu_s / hour_s * hourly * buffer
        assert price == pytest.approx(float(pool.cost_per_1k or 0), rel=2e-3, abs=1e-4)
    parts, total_text = told(sample.explain, "gpus_headroom").split(": ")[1].split(" = ")
    counts = [int(part.split()[0]) for part in parts.split(" + ")]
    assert sum(counts) == int(total_text) == sample.totals.gpus_headroom


def test_where_nothing_can_be_planned_the_present_numbers_are_explained(file: Path) -> None:
    edit(file, "rate_rps: 50", "rate_rps: 500")
    found = explain(HERE, file, "answers")
    assert not found.planned
    assert "no plan can be made" in found.warnings[0]
    assert found.numbers


def test_a_change_shows_what_it_does_to_gpus_cost_and_promises(file: Path) -> None:
    before = load_fleet(file)
    edit(file, "rate_rps: 50", "rate_rps: 120")
    edit(file, "max_replicas: 10", "max_replicas: 12")
    found = outlook(before, load_fleet(file), file)
    assert found is not None
    assert (found.gpus_before, found.gpus_after) == (10, 12)
    assert found.cost_monthly_after > found.cost_monthly_before
    (risk,) = found.risks
    assert risk.p95_share_before is not None
    assert risk.p95_share_after is not None
    assert risk.p95_share_before < 1 < risk.p95_share_after
    assert risk.unknown == ""


def test_a_change_that_touches_no_pool_has_no_risk(file: Path) -> None:
    fleet = load_fleet(file)
    edit(file, "name: Ada Lund", "name: Ada Berg")
    assert capacity_change(fleet, load_fleet(file), ({}, {})).risks == []


def test_a_risk_that_is_not_known_says_why_and_refuses_nothing(file: Path) -> None:
    edit(file, "p95_s: 2s, ttft_p95_s: 500ms", "p95_s: 20ms, ttft_p95_s: 10ms")
    found = outlook(None, load_fleet(file), file)
    assert found is not None
    (risk,) = found.risks
    assert risk.p95_share_after is None
    assert "a request that has a replica alone takes" in risk.unknown
    edit(file, "rate_rps: 50}", "rate_rps: 50, trace: lost.csv}")
    assert outlook(None, load_fleet(file), file) is None


def test_more_replicas_never_bring_a_promise_nearer_to_breaking(file: Path) -> None:
    shares = []
    for most in (9, 11, 16):
        fleet = load_fleet(file)
        pool = fleet.pools["answers"]
        placement = pool.placements["h100"].model_copy(update={"max_replicas": most})
        more = pool.model_copy(update={"placements": {"h100": placement}})
        shares.append(
            p95_share(fleet.model_copy(update={"pools": {"answers": more}}), "answers", {})
        )
    assert shares == sorted(shares, reverse=True)


def test_what_a_change_shows_is_the_same_after_it_was_sent_to_the_worker(file: Path) -> None:
    before = load_fleet(file)
    edit(file, "rate_rps: 50", "rate_rps: 80")
    found = outlook(before, load_fleet(file), file)
    assert found is not None
    assert type(found).model_validate(found.model_dump(mode="json")) == found


def test_traffic_that_grows_keeps_its_shape() -> None:
    fleet = load_declared(SAMPLE)[0]
    grown, _ = changed(fleet, Change(traffic=2, use_case="code-assist"))
    traffic = grown.use_cases["code-assist"].traffic
    assert (traffic.rate_rps, traffic.index_of_dispersion) == (28, 39)
    assert grown.use_cases["support-chat"] == fleet.use_cases["support-chat"]


def test_a_plan_names_node_groups_in_the_order_of_the_fleet_file(sample: Plan) -> None:
    fleet = load_declared(SAMPLE)[0]
    for pool in sample.pools:
        declared = list(fleet.pools[pool.pool].placements)
        assert list(pool.placements) == [name for name in declared if name in pool.placements]
