"""Hosted prices: where they come from, when they are too old, and in which currency they are."""

import csv
import statistics
from contextlib import suppress
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.cost.hosted import comparable, demand_fresh, exchange_rate, forbidden
from gpufleet.core.cost.serving import PROMPT_TOKEN_WORK
from gpufleet.edges.price_file import price_table
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.costs import Costs
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.prices import PriceTable, built_in_prices, read_prices

SOURCE = PROJECT_ROOT.parent / "shared/data/hosted_prices.csv"
HEAD = "provider,model,size,input_per_1m_tokens,output_per_1m_tokens,context_tokens"
LINE = "acme,a-1,small,1,2,8192"
TODAY = date(2026, 11, 20)


@pytest.fixture(scope="module")
def article() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/article/production.yaml"))


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


@pytest.mark.skipif(not SOURCE.is_file(), reason="the reference data is not beside this clone")
def test_the_shipped_prices_are_those_of_the_reference_data() -> None:
    shipped = {(each.provider, each.model): each for each in built_in_prices().prices}
    with SOURCE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(shipped) == 27
    for row in rows:
        price = shipped[row["provider"], row["model"]]
        assert price.input_per_1m_tokens == Decimal(row["input_usd_per_1m_tokens"])
        assert price.output_per_1m_tokens == Decimal(row["output_usd_per_1m_tokens"])
        cached = row["cached_input_usd_per_1m_tokens"]
        assert price.cached_input_per_1m_tokens == (Decimal(cached) if cached else None)
        assert price.context_tokens == int(row["context_tokens"])


def test_the_work_of_a_prompt_token_is_the_median_of_what_the_market_charges() -> None:
    ratios = [
        float(each.input_per_1m_tokens / each.output_per_1m_tokens)
        for each in built_in_prices().prices
    ]
    assert statistics.median(ratios) == PROMPT_TOKEN_WORK


def test_a_request_costs_what_its_tokens_cost() -> None:
    haiku = built_in_prices().of("anthropic", "claude-haiku-4-5")
    assert haiku is not None
    assert haiku.of_request(1155, 211) == Decimal("0.00221")


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        (f"{HEAD}\n{LINE}\n", "p.csv:1", "of which day"),
        (f"# priced: soon\n{HEAD}\n{LINE}\n", "p.csv:1: priced", "`soon` is not a day"),
        (f"# priced: 2026-11-01\n# currency: euro\n{HEAD}\n{LINE}\n", "currency", "`euro`"),
        (f"# priced: 2026-11-01\n{HEAD}\n", "p.csv", "no prices"),
        ("# priced: 2026-11-01\nprovider,model\n", "p.csv:2", "no column"),
        (f"# priced: 2026-11-01\n{HEAD}\n{LINE}\n{LINE}\n", "p.csv:4", "p.csv:3 already"),
        (f"# priced: 2026-11-01\n{HEAD}\nacme,a,small,nan,2,1\n", "p.csv:3: input", "nan"),
        (f"# priced: 2026-11-01\n{HEAD}\nacme,a,small,-1,2,1\n", "p.csv:3: input", "-1"),
        (f"# priced: 2026-11-01\n{HEAD}\nacme,a,tiny,1,2,1\n", "p.csv:3: size", "tiny"),
        (f"# priced: 2026-11-01\n{HEAD}\nacme,a,small,1,,1\n", "p.csv:3: output", "missing"),
        (f"# priced: 2026-11-01\n{HEAD}\n{LINE},9\n", "p.csv:3", "more values"),
        (f'# priced: 2026-11-01\n{HEAD}\nacme,"a\n', "p.csv", "is not CSV"),
    ],
)
def test_a_slip_in_a_price_file_is_told_with_its_line(text: str, where: str, says: str) -> None:
    with pytest.raises(BadInput) as told:
        read_prices(text, "p.csv")
    assert where in told.value.where
    assert says in told.value.what


@given(text=st.text(max_size=300))
def test_no_text_makes_a_price_file_fail_in_any_other_way(text: str) -> None:
    for whole in (text, f"# priced: 2026-11-01\n{HEAD}\n{text}"):
        with suppress(BadInput):
            assert read_prices(whole, "p.csv").prices


def test_a_company_s_own_prices_replace_the_shipped_ones(article: Fleet, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text(f"# priced: 2026-11-01\n{HEAD}\n{LINE}\n")
    fleet = article.model_copy(update={"costs": Costs(hosted_prices="prices.csv")})
    assert [each.name for each in price_table(fleet, tmp_path / "f.yaml").prices] == ["acme a-1"]
    missing = article.model_copy(update={"costs": Costs(hosted_prices="none.csv")})
    with pytest.raises(BadInput, match="cannot be read"):
        price_table(missing, tmp_path / "f.yaml")


def test_stale_prices_decide_nothing(article: Fleet) -> None:
    table = built_in_prices()
    demand_fresh(article, table, table.priced + timedelta(days=180))
    with pytest.raises(PolicyRefused, match="181 days old") as told:
        demand_fresh(article, table, table.priced + timedelta(days=181))
    assert "costs.hosted_prices" in told.value.mend
    with pytest.raises(BadInput, match="after today"):
        demand_fresh(article, table, table.priced - timedelta(days=1))


def test_another_currency_needs_a_fresh_rate(article: Fleet, sample: Fleet) -> None:
    assert exchange_rate(article, "USD", TODAY) == 1
    assert exchange_rate(sample, "USD", TODAY) == Decimal("0.86")
    with pytest.raises(PolicyRefused, match="exchange rate"):
        exchange_rate(sample, "USD", date(2027, 12, 1))
    with pytest.raises(BadInput) as told:
        exchange_rate(sample.model_copy(update={"exchange_rates": {}}), "USD", TODAY)
    assert told.value.where == "exchange_rates.USD"
    assert "EUR" in told.value.what


def test_the_comparison_is_declared_or_the_same_weights_or_the_same_size(sample: Fleet) -> None:
    table = built_in_prices()

    def name(use_case: str) -> str:
        declared = sample.use_cases[use_case]
        price = comparable(declared, sample.models[declared.model], table)
        assert price is not None
        return price.name

    assert name("agent-assist") == "anthropic claude-haiku-4-5"
    assert name("support-chat") == "deepinfra deepinfra/meta-llama/Llama-3.3-70B-Instruct"
    assert name("mail-classification").endswith("Meta-Llama-3.1-8B-Instruct")


def test_a_declared_model_without_a_price_is_told(sample: Fleet) -> None:
    empty = PriceTable(source="p.csv", priced=TODAY, prices=built_in_prices().prices[:1])
    use_case = sample.use_cases["research-analysis"]
    with pytest.raises(BadInput, match="no price of openai gpt-5"):
        comparable(use_case, sample.models[use_case.model], empty)


def test_restricted_data_never_leaves_and_confidential_only_where_declared(sample: Fleet) -> None:
    assert forbidden(sample.use_cases["contract-search"])
    assert forbidden(sample.use_cases["support-chat"])
    assert not forbidden(sample.use_cases["agent-assist"])
    hosted = sample.use_cases["agent-assist"].hosted
    declared = sample.use_cases["support-chat"].model_copy(update={"hosted": hosted})
    assert not forbidden(declared)
