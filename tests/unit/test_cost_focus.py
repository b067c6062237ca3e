"""FOCUS 1.2 rows obey the column rules of the public validator, and add up to the report.

`RULES` holds what the validator's model for 1.2 asks of the columns written here, in our words:
`rules/model-1.2.json` of finopsfoundation/focus_validator 2.0.1 at commit 240cea2, after the FOCUS
1.2 specification (CC-BY-4.0).
"""

import csv
import io
import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from gpufleet.core.cost.actual import actual
from gpufleet.core.cost.focus import COLUMNS
from gpufleet.core.cost.forecast import forecast
from gpufleet.core.cost.hardware import gpu_hour
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.reports.focus import focus_csv, write_focus_csv
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.cost_reports import CostReport
from gpufleet.spec.errors import Failed
from gpufleet.spec.usage import NOBODY, Usage

DECIMAL: Final = r"-?\d+(\.\d+)?"
MOMENT: Final = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z"
STRING: Final = r"\S(.*\S)?"
CURRENCY: Final = r"[A-Z]{3}"
UNIT: Final = r"[A-Z][A-Za-z]*(-(Years|Months|Days|Hours|Minutes|Seconds))?"


class Rule(NamedTuple):
    """What a column has to hold."""

    form: str
    nullable: bool = False
    allowed: tuple[str, ...] = ()


MANDATORY: Final = {
    "BilledCost": Rule(DECIMAL),
    "BillingAccountId": Rule(STRING),
    "BillingAccountName": Rule(STRING, nullable=True),
    "BillingCurrency": Rule(CURRENCY),
    "BillingPeriodEnd": Rule(MOMENT),
    "BillingPeriodStart": Rule(MOMENT),
    "ChargeCategory": Rule(STRING, allowed=("Usage", "Purchase", "Tax", "Credit", "Adjustment")),
    "ChargeClass": Rule(STRING, nullable=True, allowed=("Correction",)),
    "ChargeDescription": Rule(STRING, nullable=True),
    "ChargePeriodEnd": Rule(MOMENT),
    "ChargePeriodStart": Rule(MOMENT),
    "ContractedCost": Rule(DECIMAL),
    "EffectiveCost": Rule(DECIMAL),
    "InvoiceIssuerName": Rule(STRING),
    "ListCost": Rule(DECIMAL),
    "PricingQuantity": Rule(DECIMAL),
    "PricingUnit": Rule(UNIT),
    "ProviderName": Rule(STRING),
    "PublisherName": Rule(STRING),
    "ServiceCategory": Rule(STRING, allowed=("AI and Machine Learning",)),
    "ServiceName": Rule(STRING),
}
CONDITIONAL: Final = {
    "ChargeFrequency": Rule(STRING, allowed=("One-Time", "Recurring", "Usage-Based")),
    "CommitmentDiscountStatus": Rule(STRING, nullable=True, allowed=("Used", "Unused")),
    "ConsumedQuantity": Rule(DECIMAL),
    "ConsumedUnit": Rule(UNIT),
    "InvoiceId": Rule(STRING, nullable=True),
    "PricingCategory": Rule(STRING, allowed=("Standard", "Committed", "Dynamic", "Other")),
    "RegionId": Rule(STRING, nullable=True),
    "RegionName": Rule(STRING, nullable=True),
    "ResourceId": Rule(STRING, nullable=True),
    "ResourceName": Rule(STRING, nullable=True),
    "ResourceType": Rule(STRING, nullable=True),
    "ServiceSubcategory": Rule(STRING, allowed=("Generative AI",)),
    "SkuId": Rule(STRING),
    "SkuMeter": Rule(STRING),
    "SubAccountId": Rule(STRING, nullable=True),
    "SubAccountName": Rule(STRING, nullable=True),
    "Tags": Rule(STRING, nullable=True),
}
RULES: Final = MANDATORY | CONDITIONAL
NULL_TOGETHER: Final = (
    ("ConsumedQuantity", "ConsumedUnit"),
    ("PricingQuantity", "PricingUnit"),
    ("RegionId", "RegionName"),
    ("ResourceId", "ResourceType"),
    ("ResourceId", "ResourceName"),
    ("SkuId", "SkuMeter"),
    ("SubAccountId", "SubAccountName"),
)


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / Path("fleets/sample/production.yaml"))


@pytest.fixture(scope="module", params=["forecast", "actual"])
def report(sample: Fleet, request: pytest.FixtureRequest) -> CostReport:
    """A quarter ahead; and hours over a month's end that were observed in part."""
    if request.param == "forecast":
        return forecast(sample, date(2026, 12, 1), 3)
    begin = datetime(2026, 11, 30, 22, tzinfo=UTC)
    rows = [
        Usage(
            begin=begin + hour * timedelta(hours=1),
            pool="chat",
            use_case=use_case,
            requests=1009,
            prompt_tokens=1_000_003,
            output_tokens=200_003,
            gpu_hours=17.5,
        )
        for hour in (0, 2, 3)
        for use_case in ("support-chat", "agent-assist")
    ]
    return actual(sample, rows, begin, begin + timedelta(hours=4))


@pytest.fixture(scope="module")
def rows(sample: Fleet, report: CostReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(focus_csv(sample, report))))


def test_every_mandatory_column_is_there_and_ours_come_last() -> None:
    assert set(MANDATORY) <= set(COLUMNS)
    ours = [name for name in COLUMNS if name not in RULES]
    assert all(name.startswith("x_") for name in ours)
    assert list(COLUMNS[-len(ours) :]) == ours


@pytest.mark.parametrize("column", RULES)
def test_a_column_holds_what_the_validator_asks(rows: list[dict[str, str]], column: str) -> None:
    rule = RULES[column]
    assert rows
    for row in rows:
        value = row[column]
        assert value or rule.nullable
        assert not value or re.fullmatch(rule.form, value)
        assert not value or not rule.allowed or value in rule.allowed


@pytest.mark.parametrize(("one", "other"), NULL_TOGETHER)
def test_columns_are_null_together(rows: list[dict[str, str]], one: str, other: str) -> None:
    assert all(bool(row[one]) == bool(row[other]) for row in rows)


def test_charges_lie_in_their_billing_period_of_one_month(rows: list[dict[str, str]]) -> None:
    for row in rows:
        bounds = [row[name] for name in ("BillingPeriodStart", "ChargePeriodStart")]
        bounds += [row[name] for name in ("ChargePeriodEnd", "BillingPeriodEnd")]
        assert bounds == sorted(bounds)
        assert row["BillingPeriodStart"].endswith("-01T00:00:00Z")
    assert len({row["BillingPeriodStart"] for row in rows}) > 1


def test_tags_are_json_of_text(rows: list[dict[str, str]]) -> None:
    for row in rows:
        tags = json.loads(row["Tags"])
        assert all(isinstance(value, str) for value in tags.values())


def test_without_unit_prices_every_cost_is_the_billed_one(rows: list[dict[str, str]]) -> None:
    for row in rows:
        costs = {row[name] for name in ("BilledCost", "ListCost", "ContractedCost")}
        assert costs == {row["EffectiveCost"]}


def test_the_rows_add_up_to_the_report_by_period_and_team(
    rows: list[dict[str, str]], report: CostReport
) -> None:
    for period in report.periods:
        start = period.begin.strftime("%Y-%m-%dT%H:%M:%SZ")
        mine = [row for row in rows if row["ChargePeriodStart"] == start]
        assert sum(Decimal(row["BilledCost"]) for row in mine) == period.total
        served = sum(row.served for row in period.use_cases)
        kinds = [row for row in mine if row["x_CostKind"] == "served"]
        assert sum(Decimal(row["BilledCost"]) for row in kinds) == served
        asked = sum(int(row["ConsumedQuantity"]) for row in kinds)
        assert asked == sum(row.requests for row in period.use_cases)
        teams = {row["SubAccountId"] for row in kinds}
        assert teams == {team.team for team in period.teams} - {NOBODY}


def test_hours_follow_gpus_and_amounts_what_they_cost_in_that_month(sample: Fleet) -> None:
    groups = dict(sample.node_groups)
    old = groups["fra1-chat"].model_copy(update={"purchased": date(2015, 1, 1)})
    fleet = sample.model_copy(update={"node_groups": {**groups, "fra1-chat": old}})
    found = forecast(fleet, date(2026, 11, 1), 1)
    hours: dict[str, Decimal] = {}
    asked: dict[str, int] = {}
    costs: dict[str, Decimal] = {}
    for row in csv.DictReader(io.StringIO(focus_csv(fleet, found))):
        if row["ResourceId"].endswith("-chat/chat"):
            name = row["ResourceId"].split("/")[-2]
            hours[name] = hours.get(name, Decimal(0)) + Decimal(row["PricingQuantity"])
            costs[name] = costs.get(name, Decimal(0)) + Decimal(row["BilledCost"])
            if row["x_CostKind"] == "served":
                asked[name] = asked.get(name, 0) + int(row["ConsumedQuantity"])
    # 56 and 48 GPUs for 720 hours, the first of them written off
    assert float(hours["fra1-chat"]) == pytest.approx(40_320, abs=0.05)
    assert float(hours["dub1-chat"]) == pytest.approx(34_560, abs=0.05)
    assert asked["fra1-chat"] / asked["dub1-chat"] == pytest.approx(56 / 48)
    per_hour = {name: float(costs[name] / hours[name]) for name in hours}
    rates = {
        name: float(gpu_hour(fleet, name, day=date(2026, 11, 1)).total(0)) for name in per_hour
    }
    assert per_hour["fra1-chat"] / per_hour["dub1-chat"] == pytest.approx(
        rates["fra1-chat"] / rates["dub1-chat"], rel=0.001
    )


def test_every_row_tells_a_forecast_from_what_was_served(
    rows: list[dict[str, str]], report: CostReport
) -> None:
    assert {json.loads(row["Tags"])["kind"] for row in rows} == {report.kind}


def test_a_file_that_cannot_be_written_is_told(sample: Fleet, report: CostReport) -> None:
    with pytest.raises(Failed, match="cannot be written"):
        write_focus_csv(sample, report, Path("/nowhere/at/all.csv"))
