"""The report as a person opens it: in a browser, on a phone, on paper, without a network."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.chromium import chromium

from gpufleet.edges.workspace import PROJECT_ROOT, cache_dir

FLEETS = ("sample", "article")
PHONE_WIDTH = 390


@dataclass
class Report:
    """A page, and the plan that it shows."""

    file: Path
    plan: dict[str, Any]


@pytest.fixture(scope="module", params=FLEETS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the tasks make of a fleet."""
    fleet = f"--fleet=fleets/{request.param}/production.yaml"
    file = tmp_path_factory.mktemp("report") / "report.html"
    subprocess.run(
        ["./fleet", "plan.report", fleet, f"--output={file}"], cwd=PROJECT_ROOT, check=True
    )
    told = subprocess.run(
        ["./fleet", "plan.capacity", fleet, "--json"],
        cwd=PROJECT_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return Report(file, json.loads(told.stdout))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with chromium(cache_dir() / "chromium") as found:
        yield found


@pytest.fixture
def page(browser: Browser, report: Report) -> Iterator[Page]:
    """The report on a phone; every request that it makes is refused, and found in `asked`."""
    with browser.new_page(viewport={"width": PHONE_WIDTH, "height": 844}) as opened:
        opened.goto(report.file.as_uri())
        yield opened


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_the_page_shows_the_numbers_of_the_plan(page: Page, report: Report) -> None:
    totals = report.plan["totals"]
    for shown in ("gpus_steady", "gpus_burst", "gpus_headroom", "gpus_owned"):
        assert number(page.inner_text(f"#{shown.replace('_', '-')}")) == totals[shown]
    cost = number(page.inner_text("#cost-monthly"))
    assert cost == pytest.approx(float(totals["cost_monthly"]), abs=0.5)
    rows = page.locator("#pools tr").all()[1:]
    assert [row.locator("td").first.inner_text() for row in rows] == [
        pool["pool"] for pool in report.plan["pools"]
    ]
    for row, pool in zip(rows, report.plan["pools"], strict=True):
        cells = [cell.inner_text() for cell in row.locator("td").all()]
        assert number(cells[3]) == pool["gpus_steady"]
        assert number(cells[4]) == pool["gpus_burst"]
        assert cells[5] == f"{pool['replicas_min']} to {pool['replicas_max']}"


def test_every_pool_has_its_plot_and_its_arithmetic(page: Page, report: Report) -> None:
    for pool in report.plan["pools"]:
        section = page.locator(f"#pool-{pool['pool']}")
        assert f"{pool['pool']}: latency at the peak" in (
            section.locator("figure svg").first.text_content() or ""
        )
        assert section.locator("ol.steps li").count() == len(pool["explain"])


def test_nothing_runs_over_a_phone_s_edge(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE_WIDTH


def test_the_page_asks_no_network(browser: Browser, report: Report) -> None:
    asked: list[str] = []
    with browser.new_page() as opened:
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(report.file.as_uri())
    assert asked == [report.file.as_uri()]


def test_it_prints_on_paper(page: Page) -> None:
    assert page.pdf(format="A4").startswith(b"%PDF")
