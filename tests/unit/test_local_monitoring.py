"""What the Prometheus of a site is told to scrape, and as whom."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpufleet.core.autoscaling import full_replica, scaled_object
from gpufleet.core.serving import pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.local import ports
from gpufleet.local.monitoring import prometheus, prometheus_config
from gpufleet.local.site_files import SiteFiles
from gpufleet.spec import load_fleet


@pytest.fixture
def site(tmp_path: Path) -> SiteFiles:
    chosen = dict(zip(ports.NAMES, range(20_000, 20_100), strict=False))
    engines = {"prometheus": Path("/engines/prometheus")}
    return SiteFiles(
        "east", tmp_path / "east", chosen, engines, tmp_path, fleet="small", worker_port=19_999
    )


def jobs(site: SiteFiles) -> dict[str, dict[str, Any]]:
    return {job["job_name"]: job for job in prometheus_config(site)["scrape_configs"]}


def test_control_plane_controllers_and_worker_are_scraped_at_their_loopback_ports(
    site: SiteFiles,
) -> None:
    targets = {
        name: job["static_configs"][0]["targets"]
        for name, job in jobs(site).items()
        if "static_configs" in job
    }
    assert targets["worker"] == ["127.0.0.1:19999"]
    assert targets["etcd"] == [f"127.0.0.1:{site.ports['etcd-metrics']}"]
    assert {"apiserver", "controller-manager", "scheduler", "kwok", "lws"} <= targets.keys()
    assert {"kueue", "keda", "keda-adapter", "keda-webhooks", "agent"} <= targets.keys()
    # The node agent stands for the exporter of GPUs, too.
    assert targets.pop("dcgm") == targets["agent"]
    assert len({target for (target,) in targets.values()}) == len(targets)
    assert all(target.startswith("127.0.0.1:") for (target,) in targets.values())


def test_without_a_worker_nothing_waits_for_one(site: SiteFiles, tmp_path: Path) -> None:
    alone = SiteFiles("east", tmp_path / "east", site.ports, site.binaries, tmp_path)
    assert not {"worker", "gateway"} & jobs(alone).keys()


def test_the_gateway_is_scraped_where_a_site_was_told_of_it(site: SiteFiles) -> None:
    assert "gateway" not in jobs(site)
    (target,) = jobs(replace(site, gateway_port=19_998))["gateway"]["static_configs"]
    assert target["targets"] == ["127.0.0.1:19998"]


def test_every_encrypted_target_is_verified_and_asked_as_prometheus(site: SiteFiles) -> None:
    encrypted = {name: job for name, job in jobs(site).items() if job.get("scheme") == "https"}
    assert encrypted.keys() == {"apiserver", "controller-manager", "scheduler", "lws", "kueue"}
    for job in encrypted.values():
        tls = job["tls_config"]
        assert tls["ca_file"] == str(site.authority)
        assert "insecure_skip_verify" not in tls
        assert ("cert_file" in tls) != ("authorization" in job)


def test_series_of_a_site_carry_its_fleet_and_name(site: SiteFiles) -> None:
    labels = {"fleet": "small", "site": "east"}
    assert prometheus_config(site)["global"]["external_labels"] == labels
    for job in jobs(site).values():
        if "static_configs" in job:
            assert job["static_configs"][0]["labels"] == labels


def test_replicas_get_the_labels_that_autoscalers_ask_for(site: SiteFiles) -> None:
    rules = jobs(site)["replicas"]["relabel_configs"]
    (mapped,) = (rule["regex"] for rule in rules if rule.get("action") == "labelmap")
    assert mapped == "__meta_kubernetes_pod_label_(gpufleet_dev_.+)"
    fixed = {rule["target_label"]: rule["replacement"] for rule in rules if "replacement" in rule}
    assert fixed["gpufleet_dev_site"] == "east"
    fleet = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
    (pool,) = pools_at(fleet, "main")
    for trigger in scaled_object(pool, full_replica(fleet, pool), "http://p")["triggers"]:
        query = trigger["metadata"]["query"]
        assert 'gpufleet_dev_pool="answers",gpufleet_dev_site="main"}' in query


def test_it_listens_on_loopback_and_keeps_little(site: SiteFiles) -> None:
    process = prometheus(site)
    command = " ".join(process.command)
    assert f"--web.listen-address=127.0.0.1:{site.ports['prometheus']}" in command
    assert "--storage.tsdb.retention.size=512MB" in command
    assert (site.folder / "prometheus" / "rules").is_dir()
