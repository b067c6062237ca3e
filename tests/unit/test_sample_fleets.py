"""What the shipped fleets are said to be, they are; and a person could own them."""

import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpufleet.core.freeze import decide
from gpufleet.core.inventory import expand
from gpufleet.core.serving import pools_at
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.serving import DataClass, ServingClass

FILES = sorted((PROJECT_ROOT / "fleets").glob("*/*.yaml"))
PRODUCTION = PROJECT_ROOT / "fleets" / "sample" / "production.yaml"
STAGING = PROJECT_ROOT / "fleets" / "sample" / "staging.yaml"
ARTICLE = PROJECT_ROOT / "fleets" / "article" / "production.yaml"

# Shapes from the models' public configuration files: layers, KV heads, head dimension; for latent
# attention layers, rank and rotary dimension.
ATTENTION = {
    "meta-llama/Llama-3.3-70B-Instruct": 2 * 80 * 8 * 128,
    "Qwen/Qwen2.5-Coder-32B-Instruct": 2 * 64 * 8 * 128,
    "deepseek-ai/DeepSeek-R1": 61 * (512 + 64),
    "mistralai/Mistral-Small-24B-Instruct-2501": 2 * 40 * 8 * 128,
    "meta-llama/Llama-3.1-8B-Instruct": 2 * 32 * 8 * 128,
}


@pytest.fixture(scope="module")
def production() -> Fleet:
    return load_fleet(PRODUCTION)


def test_production_has_the_size_that_the_readme_tells(production: Fleet) -> None:
    nodes = expand(production)
    assert len(production.sites) == 2
    assert len(nodes) == 64
    assert sum(node.gpus for node in nodes) == 512
    assert len({node.gpu_type for node in nodes}) == 3
    assert len(production.teams) == 6
    assert len(production.use_cases) == 8
    assert len(production.pools) == 7


def test_production_shows_every_kind_of_pool(production: Fleet) -> None:
    pools = [pool for site in production.sites for pool in pools_at(production, site)]
    assert {pool.class_ for pool in pools} == set(ServingClass)
    assert any(pool.spans_nodes for pool in pools)
    assert any(pool.autoscaled for pool in pools)
    fallbacks = {use_case.fallback for use_case in production.use_cases.values()} - {None}
    assert fallbacks <= {pool.model_name for pool in pools}
    assert fallbacks
    assert {pool.surge.max_surge > 0 for pool in pools} == {True, False}


def test_every_site_keeps_its_spare_nodes_free(production: Fleet) -> None:
    claimed = {group for pool in production.pools.values() for group in pool.placements}
    free = Counter(node.site for node in expand(production) if node.group not in claimed)
    for name, site in production.sites.items():
        assert free[name] >= site.spare_nodes


def test_restricted_data_has_one_country_and_no_way_out(production: Fleet) -> None:
    restricted = {
        name: use_case
        for name, use_case in production.use_cases.items()
        if use_case.data_class is DataClass.RESTRICTED
    }
    assert restricted
    for name, use_case in restricted.items():
        assert use_case.hosted is None
        pools = [pool for pool in production.pools.values() if name in pool.use_cases]
        sites = {production.node_groups[group].site for pool in pools for group in pool.placements}
        assert {production.sites[site].region for site in sites} <= set(use_case.residency)


def test_no_rack_draws_more_than_its_limit(production: Fleet) -> None:
    drawn: Counter[str] = Counter()
    for node in expand(production):
        group, gpu = production.node_groups[node.group], production.gpus[node.gpu_type]
        drawn[node.rack] += round(node.gpus * gpu.power_w + group.idle_power_w)
    for name, rack in production.racks.items():
        assert 0 < drawn[name] <= rack.power_limit_w


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_kv_cache_of_every_revision_follows_from_its_shape(file: Path) -> None:
    for revision in load_fleet(file).models.values():
        width = 1 if revision.engine.arguments.get("kv-cache-dtype") == "fp8" else 2
        assert revision.kv_bytes_per_token == ATTENTION[revision.model] * width


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_ssh_key_is_one_that_ssh_reads(file: Path) -> None:
    keys = [key for who in load_fleet(file).identities.values() for key in who.ssh_keys]
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"],
        input="\n".join(keys) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(told.stdout.splitlines()) == len(keys)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_freezes_are_ahead_and_ordinary_days_are_open(file: Path) -> None:
    fleet = load_fleet(file)
    for site in fleet.sites:
        # Ordinary days from the first of the sample's calendar on, for two years.
        open_days = [
            day
            for day in (
                datetime(2026, 11, 2, 12, tzinfo=UTC) + timedelta(w * 28) for w in range(24)
            )
            if decide(read_calendars(fleet, file, site, day), day).admitted
        ]
        assert len(open_days) > 18
        new_year = datetime(2027, 1, 1, 12, tzinfo=UTC)
        assert not decide(read_calendars(fleet, file, site, new_year), new_year).admitted


def test_the_article_says_what_the_readme_does() -> None:
    fleet = load_fleet(ARTICLE)
    use_case, pool = fleet.use_cases["answers"], fleet.pools["answers"]
    assert (use_case.traffic.rate_rps, use_case.slo.p95_s) == (50, 2)
    placement = pool.placements["h100"]
    assert (placement.replicas, placement.ceiling, placement.gpus_per_replica) == (7, 10, 1)


def test_staging_serves_the_same_revisions_with_the_same_people(production: Fleet) -> None:
    staging = load_fleet(STAGING)
    assert staging.models == production.models
    assert staging.identities == production.identities
    assert sum(node.gpus for node in expand(staging)) < 64
