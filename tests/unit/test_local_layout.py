"""The declared processes of a site, as one whole."""

from pathlib import Path

import pytest
import yaml

from gpufleet.local import ports
from gpufleet.local.process import Process
from gpufleet.local.site_files import SiteFiles
from gpufleet.local.site_layout import processes

ENGINES = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kwok",
    "lws-manager",
    "kueue-manager",
    "keda-operator",
    "keda-adapter",
    "keda-webhooks",
    "prometheus",
    "versitygw",
)
POD_READY = {
    "kind": "Stage",
    "metadata": {"name": "pod-ready"},
    "spec": {"selector": {"matchExpressions": []}},
}


HEARTBEAT = {
    "kind": "Stage",
    "metadata": {"name": "node-heartbeat-with-lease"},
    "spec": {"selector": {"matchExpressions": []}},
}


@pytest.fixture
def site(tmp_path: Path) -> SiteFiles:
    manifests = tmp_path / "manifests"
    for folder, stage in (("kwok-pod", POD_READY), ("kwok-heartbeat", HEARTBEAT)):
        (manifests / folder).mkdir(parents=True)
        (manifests / folder / "stage.yaml").write_text(yaml.safe_dump(stage))
    chosen = dict(zip(ports.NAMES, range(20_000, 20_100), strict=False))
    engines = {name: Path("/engines", name) for name in ENGINES}
    return SiteFiles(
        "east", tmp_path / "east", chosen, engines, manifests, fleet="small", worker_port=19_999
    )


def declared(site: SiteFiles) -> dict[str, Process]:
    return {process.name: process for process in processes(site)}


def test_every_process_waits_for_declared_ones_only_and_says_when_it_serves(
    site: SiteFiles,
) -> None:
    seen: set[str] = set()
    for name, process in declared(site).items():
        assert set(process.after) <= seen
        assert process.ready or name == "bootstrap"
        seen.add(name)


def test_everything_is_asked_and_bound_on_loopback(site: SiteFiles) -> None:
    commands = "\n".join(" ".join(each.command) for each in declared(site).values())
    for process in declared(site).values():
        if process.ready:
            assert "://127.0.0.1:" in process.ready
    assert "0.0.0.0" not in commands  # noqa: S104 - the very thing that must not be there
    assert "--bind-address=127.0.0.1" in commands


def test_no_secret_is_on_a_command_line(site: SiteFiles) -> None:
    store = declared(site)["s3"]
    credentials = site.s3_credentials()
    assert credentials["secret_key"] not in " ".join(store.command)
    assert credentials["secret_key"] in store.reads[0].read_text()


def test_declaring_again_changes_nothing(site: SiteFiles) -> None:
    before = declared(site)
    files = {file: file.read_bytes() for file in site.folder.rglob("*") if file.is_file()}
    assert declared(site) == before
    assert {file: file.read_bytes() for file in files} == files


def test_kwok_leaves_the_pods_of_pools_and_batches_to_the_node_agent(site: SiteFiles) -> None:
    assert without(site, "pod-ready") == ["gpufleet.dev/pool", "gpufleet.dev/batch-job"]


def test_kwok_says_nothing_of_a_drills_node_but_by_its_lease(site: SiteFiles) -> None:
    assert without(site, "node-heartbeat-with-lease") == ["gpufleet.dev/drill"]


def without(site: SiteFiles, stage: str) -> list[str]:
    """Labels of what one of kwok's stages leaves alone."""
    declared(site)
    stages = yaml.safe_load_all((site.folder / "kwok.yaml").read_text())
    (found,) = (each["spec"] for each in stages if each["metadata"]["name"] == stage)
    rules = found["selector"]["matchExpressions"]
    assert {rule["operator"] for rule in rules} == {"DoesNotExist"}
    return [rule["key"].removeprefix('.metadata.labels["').removesuffix('"]') for rule in rules]
