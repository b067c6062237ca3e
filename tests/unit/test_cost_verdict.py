"""Local, hosted or hybrid: by hand on the article's numbers, and as properties."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpufleet.core.cost.cases import traffic_of
from gpufleet.core.cost.hardware import HOURS_PER_MONTH, gpu_hour
from gpufleet.core.cost.serving import kept_gpus
from gpufleet.core.cost.verdict import decide
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import PolicyRefused
from gpufleet.spec.plans import (
    Headroom,
    PlannedPlacement,
    PoolPlan,
    Predicted,
    UseCasePrediction,
)
from gpufleet.spec.prices import PriceTable, built_in_prices
from gpufleet.spec.serving import HostedAlternative, Peak, Traffic
from gpufleet.spec.verdicts import Choice, DecisionReport, Verdict

TODAY = date(2026, 11, 20)


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/article/production.yaml"))


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


def planned(fleet: Fleet, name: str, **more: object) -> PoolPlan:
    """A plan of what is declared, with its real cost; any field may be given otherwise."""
    pool = fleet.pools[name]
    gpus = kept_gpus(pool)
    steady = sum(each.replicas * each.gpus_per_replica for each in pool.placements.values())
    first = next(iter(pool.placements.values()))
    cost = sum(
        (
            gpu_hour(fleet, group).total(0.6) * count * HOURS_PER_MONTH
            for group, count in gpus.items()
        ),
        Decimal(0),
    )
    fields = {
        "pool": name,
        "class": pool.class_,
        "use_cases": pool.use_cases,
        "model": pool.model,
        "gpu_type": "any",
        "tp": first.gpus_per_node,
        "pp": first.nodes_per_replica,
        "evidence": "roofline",
        "evidence_source": "a test",
        "gpus_steady": steady,
        "gpus_burst": sum(gpus.values()) - steady,
        "replicas_min": 1,
        "replicas_max": 1,
        "concurrency_limit": 1,
        "queue_limit": 1,
        "queue_time_target_s": 1,
        "placements": {
            group: PlannedPlacement(
                replicas=each.replicas,
                max_replicas=each.ceiling,
                nodes_per_replica=each.nodes_per_replica,
                gpus_per_node=each.gpus_per_node,
            )
            for group, each in pool.placements.items()
        },
        "prewarm": [],
        "limits": {},
        "predicted": Predicted(p95_s=1, ttft_p95_s=0.1, error_rate=0, utilization=0.6),
        "by_use_case": [],
        "headroom": Headroom(failures=1, maintenance=0, surge=0),
        "site_loss": "kept",
        "smooth_gpus": steady,
        "cost_monthly": cost.quantize(Decimal("0.01")),
        "cost_per_1k": None,
        "cost_per_1k_usd": None,
        "latency_by_gpus": [],
        "explain": [],
    }
    return PoolPlan.model_validate(fields | more)


def decided(fleet: Fleet, **more: object) -> DecisionReport:
    plans = [planned(fleet, name, **more) for name in fleet.pools]
    return decide(fleet, plans, built_in_prices(), TODAY)


def verdict(report: DecisionReport, use_case: str) -> Verdict:
    return next(each for each in report.verdicts if each.use_case == use_case)


def cost(found: Verdict, choice: Choice) -> Decimal:
    return next(each.monthly for each in found.choices if each.choice is choice)


def changed(fleet: Fleet, name: str, **more: object) -> Fleet:
    """The fleet with one use case otherwise."""
    use_case = fleet.use_cases[name].model_copy(update=more)
    return fleet.model_copy(update={"use_cases": {**fleet.use_cases, name: use_case}})


def test_the_article_s_verdict_is_what_a_person_computes(article: Fleet) -> None:
    found = verdict(decided(article), "answers")
    # 50 requests/s: 131.4 million a month
    assert found.requests_monthly == 131_400_000
    # the same weights at 0.03 and 0.05 a million: (500 x 0.03 + 100 x 0.05) / 1e6 each
    assert found.hosted_model.endswith("Meta-Llama-3.1-8B-Instruct")
    assert cost(found, Choice.HOSTED) == Decimal("2628.00")
    # ten GPUs at 1.319660 an hour for 730 hours, and 15 %
    assert cost(found, Choice.LOCAL) == Decimal("11078.55")
    assert found.verdict is Choice.HOSTED
    assert found.break_even_requests_monthly is None
    assert found.break_even == "hosted is cheaper at any traffic"
    # seven steady GPUs cost 7,754.98; hosted what exceeds them (3.6 %) is 93.83 of 2,628.00
    assert found.robust
    assert found.flips == ["hybrid above 306% of the planned utilization"]


def test_dearer_hosted_tokens_turn_the_verdict_and_give_a_break_even(article: Fleet) -> None:
    table = built_in_prices()
    mini = HostedAlternative(provider="openai", model="gpt-4o-mini", monthly_cap=Decimal(10**6))
    fleet = changed(article, "answers", hosted=mini)
    found = verdict(decide(fleet, [planned(fleet, "answers")], table, TODAY), "answers")
    # (500 x 0.15 + 100 x 0.6) / 1e6 = 0.000135 each
    assert cost(found, Choice.HOSTED) == Decimal("17739.00")
    assert found.verdict is Choice.HYBRID
    # a replica and a spare, of ten GPUs: 2,215.7096 / 0.000135
    assert found.break_even_requests_monthly == 16_412_663
    assert "below 16,412,663 requests a month" in found.break_even
    below = [p for p in found.curve if p.requests_monthly < 16_412_663]
    above = [p for p in found.curve if p.requests_monthly > 16_412_663]
    assert below
    assert above
    assert all(point.hosted < point.local for point in below)
    assert all(point.hosted > point.local for point in above)


def test_restricted_data_stays_whatever_it_costs(sample: Fleet) -> None:
    found = verdict(decided(sample, cost_monthly=Decimal(10**9)), "contract-search")
    assert found.verdict is Choice.LOCAL
    assert found.robust
    assert "never leaves" in found.reasons.compliance
    assert all(each.impossible for each in found.choices if each.choice is not Choice.LOCAL)


def test_confidential_data_leaves_only_where_that_is_declared(sample: Fleet) -> None:
    assert verdict(decided(sample), "support-chat").verdict is Choice.LOCAL
    cheap = HostedAlternative(
        provider="deepinfra",
        model="deepinfra/meta-llama/Llama-3.3-70B-Instruct",
        monthly_cap=Decimal(10_000),
    )
    fleet = changed(sample, "support-chat", hosted=cheap)
    assert verdict(decided(fleet), "support-chat").verdict is Choice.HOSTED


def test_low_traffic_is_cheaper_hosted_and_high_traffic_local(article: Fleet) -> None:
    mini = HostedAlternative(provider="openai", model="gpt-4o-mini", monthly_cap=Decimal(10**6))
    fleet = changed(article, "answers", hosted=mini)
    even = verdict(decided(fleet), "answers").break_even_requests_monthly
    assert even is not None
    per_gpu = planned(fleet, "answers").cost_monthly / 10
    for factor, wanted in ((0.9, Choice.HOSTED), (1.1, Choice.LOCAL)):
        rate = even * factor / (730 * 3600)
        small = changed(fleet, "answers", traffic=Traffic(rate_rps=rate))
        # two GPUs serve it, and none is there for bursts
        plan = planned(
            small, "answers", gpus_steady=2, gpus_burst=0, cost_monthly=per_gpu * 2, placements={}
        )
        report = decide(small, [plan], built_in_prices(), TODAY)
        assert verdict(report, "answers").verdict is wanted


def test_a_plan_that_misses_its_targets_is_no_choice(article: Fleet) -> None:
    slow = UseCasePrediction(
        use_case="answers",
        p95_s=3,
        p95_limit_s=2,
        ttft_p95_s=0.1,
        ttft_p95_limit_s=0.5,
        error_rate=0,
        error_rate_limit=0.001,
    )
    found = verdict(decided(article, by_use_case=[slow]), "answers")
    local = next(each for each in found.choices if each.choice is Choice.LOCAL)
    assert local.impossible == "the plan does not hold its targets"
    assert "p95 3 of 2 s" in found.reasons.latency
    assert "measure it before you rely on it" in found.reasons.latency


def test_a_hosted_context_that_is_too_short_is_no_choice(sample: Fleet) -> None:
    short = HostedAlternative(
        provider="bedrock",
        model="bedrock/us-east-1/meta.llama3-70b-instruct-v1:0",
        monthly_cap=Decimal(10**6),
    )
    found = verdict(decided(changed(sample, "code-assist", hosted=short)), "code-assist")
    # 7,315 tokens of prompt and an answer of 512 fit into 8,192
    assert "context" not in found.reasons.cost
    found = verdict(
        decided(changed(sample, "research-analysis", hosted=short)), "research-analysis"
    )
    assert "its context of 8,192 tokens is below the 20,192 needed" in found.reasons.cost
    assert found.verdict is Choice.LOCAL


def test_hosted_spending_of_all_stays_within_its_budget(sample: Fleet) -> None:
    report = decided(sample)
    assert sample.budget is not None
    assert 0 < report.hosted_monthly <= sample.budget.hosted_monthly
    none = sample.budget.model_copy(update={"hosted_monthly": Decimal(0)})
    poor = decided(sample.model_copy(update={"budget": none}))
    assert poor.hosted_monthly == 0
    assert {each.verdict for each in poor.verdicts} == {Choice.LOCAL}


def test_what_saves_least_for_its_hosted_spending_stays_local_first(sample: Fleet) -> None:
    free = decided(sample)
    assert sample.budget is not None
    almost = free.hosted_monthly - Decimal("0.01")
    tight = sample.budget.model_copy(update={"hosted_monthly": almost})
    report = decided(sample.model_copy(update={"budget": tight}))
    assert report.hosted_monthly <= almost
    (turned,) = [
        after
        for before, after in zip(free.verdicts, report.verdicts, strict=True)
        if before.verdict is not after.verdict
    ]
    assert turned.verdict is Choice.LOCAL
    assert "`budget.hosted_monthly`" in turned.reasons.cost
    assert "is used up" in turned.reasons.cost

    def saved_by(found: Verdict) -> Decimal:
        chosen = next(each for each in found.choices if each.choice is found.verdict)
        return (cost(found, Choice.LOCAL) - chosen.monthly) / chosen.hosted_monthly

    hosted = [each for each in free.verdicts if each.verdict is not Choice.LOCAL]
    assert turned.use_case == min(hosted, key=saved_by).use_case


def test_a_cap_holds_in_the_dearest_month_and_not_on_average(article: Fleet) -> None:
    yearly = Peak(
        name="december",
        recurrence="FREQ=YEARLY;BYMONTH=12;BYMONTHDAY=1",
        duration_s=30 * 86_400,
        multiplier=3,
    )
    nano = HostedAlternative(provider="openai", model="gpt-5-nano", monthly_cap=Decimal(12_000))
    flat = changed(article, "answers", hosted=nano)
    assert "over" not in verdict(decided(flat), "answers").reasons.cost
    traffic = flat.use_cases["answers"].traffic.model_copy(update={"peaks": [yearly]})
    found = verdict(decided(changed(flat, "answers", traffic=traffic)), "answers")
    whole = next(each for each in found.choices if each.choice is Choice.HOSTED)
    # 50 requests/s at 0.000065 each, for 30 days of December three times as many
    assert whole.hosted_monthly < nano.monthly_cap
    assert "25,552.80 at the API in the dearest month is over" in whole.impossible


def test_the_budget_of_all_holds_in_the_dearest_month_and_not_on_average(sample: Fleet) -> None:
    free = decided(sample)
    assert sample.budget is not None
    average = sample.budget.model_copy(update={"hosted_monthly": free.hosted_monthly})
    report = decided(sample.model_copy(update={"budget": average}))
    assert report.hosted_monthly < free.hosted_monthly
    used_up = [each for each in report.verdicts if "is used up" in each.reasons.cost]
    assert {each.verdict for each in used_up} == {Choice.LOCAL}


def test_more_traffic_than_the_cap_holds_turns_a_hybrid_into_local(sample: Fleet) -> None:
    declared = sample.use_cases["agent-assist"].hosted
    assert declared is not None
    fits = declared.model_copy(update={"monthly_cap": Decimal(5_000)})
    found = verdict(decided(changed(sample, "agent-assist", hosted=fits)), "agent-assist")
    assert found.verdict is Choice.HYBRID
    more = next(each for each in found.scenarios if (each.traffic, each.utilization) == (1.3, 1))
    assert more.verdict is Choice.LOCAL
    assert Choice.HYBRID not in more.monthly
    assert not found.robust
    assert any("of the planned traffic" in turn for turn in found.flips)


def test_less_traffic_saves_no_gpu_and_more_needs_more(article: Fleet) -> None:
    found = verdict(decided(article), "answers")
    local = {
        each.traffic: each.monthly[Choice.LOCAL]
        for each in found.scenarios
        if each.utilization == 1
    }
    assert local[0.7] == local[1] == Decimal("11078.55")
    assert local[1.3] == Decimal("14402.11")


def test_every_use_case_has_a_verdict_with_its_three_reasons(sample: Fleet) -> None:
    report = decided(sample)
    assert {each.use_case for each in report.verdicts} == set(sample.use_cases)
    for each in report.verdicts:
        assert all(each.reasons.model_dump().values())
        assert len(each.scenarios) == 9
        chosen = next(c for c in each.choices if c.choice is each.verdict)
        assert not chosen.impossible
        possible = [c.monthly for c in each.choices if not c.impossible]
        assert chosen.monthly == min(possible)
    assert report.monthly_decided <= report.monthly_local


def test_levers_are_worth_what_their_assumptions_say(article: Fleet) -> None:
    found = verdict(decided(article), "answers")
    # hosted without a cached price: only whole answers, 5 % of 2,628.00
    assert [(each.lever, each.monthly_worth) for each in found.levers] == [
        ("cache whole answers", Decimal("131.40"))
    ]
    nano = HostedAlternative(provider="openai", model="gpt-5-nano", monthly_cap=Decimal(10**6))
    fleet = changed(article, "answers", hosted=nano)
    report = decided(fleet, gpus_burst=0)
    worth = {each.lever: each.monthly_worth for each in verdict(report, "answers").levers}
    # 30 % of 65,700 million prompt tokens, at 0.05 less 0.005 a million
    assert worth["cache the beginnings of prompts"] == Decimal("886.95")


def test_a_smaller_model_and_quiet_hours_are_levers_of_the_local_side(sample: Fleet) -> None:
    report = decided(sample)
    chat = {each.lever for each in verdict(report, "support-chat").levers}
    assert "answer low-risk requests with llama-3.1-8b" in chat
    assert "let the fallback llama-3.1-8b answer in bursts" in chat
    fallback = next(
        each.monthly_worth
        for each in verdict(report, "support-chat").levers
        if each.lever.startswith("let the fallback")
    )
    # 40 of the chat pool's 104 GPUs are for bursts, less what the small pool takes for the rest
    burst = cost(verdict(report, "support-chat"), Choice.LOCAL) * 40 / 104
    assert Decimal("0.9") * burst < fallback < burst
    documents = verdict(report, "document-extraction")
    quiet = next(each for each in documents.levers if each.lever.startswith("batch"))
    # flat, and three times as much at quarter end
    share = traffic_of(sample.use_cases["document-extraction"], TODAY).mean_over_peak
    assert share == pytest.approx((365 + 2 * 12) / 365 / 3, rel=0.01)
    local = cost(documents, Choice.LOCAL)
    assert float(quiet.monthly_worth / local) == pytest.approx(1 - share, rel=0.001)


def test_stale_prices_decide_nothing(article: Fleet) -> None:
    with pytest.raises(PolicyRefused, match="days old"):
        decide(article, [planned(article, "answers")], built_in_prices(), date(2027, 12, 1))


@given(factor=st.decimals(Decimal("0.01"), Decimal(100), places=2))
@settings(max_examples=20, deadline=None)
def test_dearer_tokens_never_turn_local_into_hosted(article: Fleet, factor: Decimal) -> None:
    def with_prices(scale: Decimal) -> Verdict:
        prices = [
            each.model_copy(
                update={
                    "input_per_1m_tokens": each.input_per_1m_tokens * scale,
                    "output_per_1m_tokens": each.output_per_1m_tokens * scale,
                }
            )
            for each in built_in_prices().prices
        ]
        table = PriceTable(source="p.csv", priced=TODAY, prices=prices)
        report = decide(article, [planned(article, "answers")], table, TODAY)
        return verdict(report, "answers")

    cheap, dear = with_prices(factor), with_prices(factor * 2)
    rank = [Choice.HOSTED, Choice.HYBRID, Choice.LOCAL]
    assert rank.index(dear.verdict) >= rank.index(cheap.verdict)
    assert cost(dear, Choice.HOSTED) >= cost(cheap, Choice.HOSTED)


def test_the_turn_of_a_verdict_is_where_both_cost_the_same(article: Fleet) -> None:
    nano = HostedAlternative(provider="openai", model="gpt-5-nano", monthly_cap=Decimal(10**6))
    fleet = changed(article, "answers", hosted=nano)
    found = verdict(
        decide(fleet, [planned(fleet, "answers", gpus_burst=0)], built_in_prices(), TODAY),
        "answers",
    )
    # hosted (500 x 0.05 + 100 x 0.4) / 1e6 x 131.4 million = 8,541.00, local 11,078.55
    assert found.verdict is Choice.HOSTED
    assert found.flips == ["local above 130% of the planned utilization"]
    assert not found.robust
