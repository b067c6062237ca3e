"""The plan file: written, read back, laid over the fleet, and blamed by its own lines."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plans import plan_of

from gpufleet.core.autoscaling import full_replica, scaled_object
from gpufleet.core.gateway.routes import routes_text
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import pools_at
from gpufleet.edges.declared_files import read_declared, write_declared
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.load import load_declared, load_plan, load_positions, outdated
from gpufleet.spec.plan_file import plan_file_of, plan_path, rendered
from gpufleet.spec.plans import PlannedPlacement
from gpufleet.spec.problem import position
from gpufleet.spec.serving import Prewarm, UseCaseLimits
from gpufleet.spec.source import Document

ARTICLE = PROJECT_ROOT / "fleets/article/production.yaml"
DECLARED = load_declared(ARTICLE)[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The article's fleet file in a folder of its own."""
    shutil.copytree(ARTICLE.parent, tmp_path / "article", ignore=shutil.ignore_patterns("*.plan.*"))
    return tmp_path / "article" / ARTICLE.name


def placed(replicas: int, most: int, gpus: int = 1) -> dict[str, PlannedPlacement]:
    return {
        "h100": PlannedPlacement(
            replicas=replicas, max_replicas=most, nodes_per_replica=1, gpus_per_node=gpus
        )
    }


def write(file: Path, **changes: object) -> None:
    plan = plan_of(load_declared(file)[0], answers=changes)
    plan_path(file).write_text(rendered(plan, file.name))


def test_a_plan_beside_the_fleet_file_is_what_everybody_loads(file: Path) -> None:
    before = load_fleet(file)
    write(file, placements=placed(5, 12), concurrency_limit=24, queue_limit=7)
    after = load_fleet(file)
    assert load_declared(file)[0] == before
    changed = {name for name in Fleet.model_fields if getattr(before, name) != getattr(after, name)}
    assert changed == {"pools"}
    (pool,) = pools_at(after, "main")
    assert (pool.replicas, pool.max_replicas, pool.queue_limit) == (5, 12, 7)
    assert "--max-num-seqs=24" in pool.arguments
    spec = scaled_object(pool, full_replica(after, pool), "http://prometheus")
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (5, 12)
    assert SitePlan.of(after, "main").interactive_gpus == 12 + pool.surge.max_surge


def test_a_plan_that_says_what_is_declared_changes_no_derived_number(file: Path) -> None:
    before = pools_at(load_fleet(file), "main")[0]
    write(file)
    after = pools_at(load_fleet(file), "main")[0]
    differing = {name for name in vars(before) if getattr(before, name) != getattr(after, name)}
    assert differing == {"queue_limit"}
    assert not load_fleet(file).pools["answers"].limits


def test_a_declared_peak_starts_replicas_before_it_begins(file: Path) -> None:
    peak = Prewarm(
        name="monday",
        recurrence="FREQ=WEEKLY;BYDAY=MO;BYHOUR=8",
        time_zone="Europe/Berlin",
        lead_s=600,
        duration_s=7200,
        replicas={"h100": 9},
    )
    write(file, prewarm=[peak])
    fleet = load_fleet(file)
    (pool,) = pools_at(fleet, "main")
    trigger = scaled_object(pool, full_replica(fleet, pool), "http://prometheus")["triggers"][-1]
    assert trigger["type"] == "cron"
    assert trigger["metadata"] == {
        "timezone": "Europe/Berlin",
        "start": "50 7 * * 1",
        "end": "0 10 * * 1",
        "desiredReplicas": "9",
    }


def test_the_gateway_is_told_the_limits_of_each_use_case(file: Path) -> None:
    limits = UseCaseLimits(concurrency_limit=160, queue_time_limit_s=1.5)
    write(file, limits={"answers": limits}, queue_limit=3)
    routes = json.loads(routes_text(load_fleet(file)))
    answers = routes["use_cases"]["answers"]
    assert answers["pool"] == "answers"
    assert (answers["concurrency_limit"], answers["queue_time_limit_s"]) == (160, 1.5)
    assert routes["pools"]["answers"]["queue_limit"] == 3


def test_an_error_in_what_a_plan_sets_points_at_the_line_of_the_plan(file: Path) -> None:
    write(file, placements=placed(5, 17))
    with pytest.raises(BadInput, match="is 17, and 16 fit") as refused:
        load_fleet(file)
    line = next(
        number
        for number, text in enumerate(plan_path(file).read_text().splitlines(), 1)
        if "h100:" in text
    )
    assert f"production.plan.yaml:{line}:" in refused.value.where


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("  answers:", "  answer:", "the fleet file has no pool `answer`"),
        ("fleet: article", "fleet: other", "is `other`, and the fleet file beside it says"),
        ("queue_limit: 16", "queue_limit: -1", "has to be at least 0"),
        ("queue_limit: 16", "queue_limits: 16", "unknown field"),
        ("h100:", "h200:", "there is no node group `h200`"),
    ],
)
def test_a_plan_file_that_cannot_be_right_is_refused_where_it_is_wrong(
    file: Path, before: str, after: str, what: str
) -> None:
    write(file)
    text = plan_path(file).read_text()
    assert before in text
    plan_path(file).write_text(text.replace(before, after))
    with pytest.raises(BadInput, match=what) as refused:
        load_fleet(file)
    assert "production.plan.yaml:" in refused.value.where
    assert load_declared(file)[0].fleet == "article"


def test_a_plan_for_an_earlier_fleet_file_still_holds_and_is_told(file: Path) -> None:
    write(file, placements=placed(5, 12))
    assert outdated(file) == ""
    file.write_text(file.read_text().replace("rate_rps: 50", "rate_rps: 60"))
    assert "was made for an earlier fleet file" in outdated(file)
    assert load_fleet(file).pools["answers"].placements["h100"].replicas == 5


def test_what_a_plan_sets_or_does_not_read_makes_it_no_older(file: Path) -> None:
    write(file)
    text = file.read_text().replace("replicas: 7", "replicas: 6")
    file.write_text(text.replace("roles: [sponsor, product-owner]", "roles: [sponsor]"))
    assert outdated(file) == ""


def test_what_a_plan_reads_of_its_pools_makes_it_older(file: Path) -> None:
    write(file)
    text = file.read_text()
    file.write_text(text.replace("concurrency_limit: 16", "concurrency_limit: 4"))
    assert "earlier fleet file" in outdated(file)


def test_a_pool_without_use_cases_stays_the_fleet_file_s(file: Path) -> None:
    declared = load_declared(file)[0]
    assert "answers" in plan_file_of(plan_of(declared)).pools
    assert plan_file_of(plan_of(declared, answers={"use_cases": []})).pools == {}


def test_a_name_of_digits_is_read_back_as_text(file: Path) -> None:
    file.write_text(file.read_text().replace("fleet: article", 'fleet: "123"'))
    write(file)
    assert load_fleet(file).fleet == "123"


def test_positions_lead_to_the_file_that_sets_the_number(file: Path) -> None:
    write(file)
    positions = load_positions(file).positions
    at = ("pools", "answers")
    assert "plan.yaml" in positions[(*at, "placements", "h100", "replicas")].file
    assert "plan.yaml" in positions[(*at, "concurrency_limit")].file
    assert positions[(*at, "model")].file == str(file)
    assert positions[("use_cases", "answers", "traffic", "rate_rps")].file == str(file)


def test_the_worker_is_sent_the_plan_too(file: Path, tmp_path: Path) -> None:
    write(file, placements=placed(4, 8))
    fleet = load_fleet(file)
    write_declared(read_declared(fleet, file), tmp_path / "sent")
    assert load_fleet(tmp_path / "sent" / file.name) == fleet


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every example writes to."""
    return tmp_path_factory.mktemp("written")


names = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?\Z")
seconds = st.floats(1e-3, 1e6).map(lambda value: float(f"{value:.6g}"))


@given(
    concurrency=st.integers(1, 10_000),
    queue=st.integers(0, 10_000),
    target=seconds,
    groups=st.dictionaries(names, st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1),
    zone=st.sampled_from(["UTC", "Europe/Berlin"]),
    title=st.text(
        st.characters(codec="utf-8", min_codepoint=32, exclude_characters="\x7f"),
        min_size=1,
        max_size=20,
    ).filter(lambda text: text.strip() == text),
    lead=seconds,
)
def test_what_is_written_is_what_is_read(
    written: Path,
    concurrency: int,
    queue: int,
    target: float,
    groups: dict[str, tuple[int, int]],
    zone: str,
    title: str,
    lead: float,
) -> None:
    fleet = DECLARED
    changes = {
        "concurrency_limit": concurrency,
        "queue_limit": queue,
        "queue_time_target_s": target,
        "placements": {
            name: PlannedPlacement(
                replicas=low, max_replicas=low + more, nodes_per_replica=1, gpus_per_node=2
            )
            for name, (low, more) in groups.items()
        },
        "prewarm": [
            Prewarm(
                name=title,
                recurrence="FREQ=DAILY",
                time_zone=zone,
                lead_s=lead,
                duration_s=60,
                replicas={name: low for name, (low, _) in groups.items()},
            )
        ],
        "limits": {
            "answers": UseCaseLimits(concurrency_limit=concurrency, queue_time_limit_s=target)
        },
    }
    plan = plan_of(fleet, answers=changes)
    file = written / "production.yaml"
    text = rendered(plan, file.name)
    plan_path(file).write_text(text, encoding="utf-8")
    assert load_plan(file) == plan_file_of(plan)
    assert rendered(plan, file.name) == text


def test_a_group_that_was_renamed_is_mended_by_planning_again(file: Path) -> None:
    write(file)
    file.write_text(file.read_text().replace("h100:", "h100b:"))
    with pytest.raises(BadInput, match=r"plan\.yaml") as refused:
        load_fleet(file)
    assert "./fleet plan.apply --apply" in refused.value.mend


@pytest.mark.parametrize("rule", ["FREQ=MONTHLY;BYMONTH=13;BYMONTHDAY=1", "FREQ=DAILY;BYHOUR=99"])
def test_a_prewarm_rule_that_is_none_is_refused(file: Path, rule: str) -> None:
    prewarm = Prewarm(name="peak", recurrence=rule, lead_s=60, duration_s=60, replicas={"h100": 1})
    write(file, prewarm=[prewarm])
    with pytest.raises(BadInput, match="recurrence"):
        load_fleet(file)


def test_a_field_without_any_position_stands_at_the_beginning() -> None:
    assert str(position(Document({}, {}), ("pools", "chat"))) == "the fleet file:1:1"
