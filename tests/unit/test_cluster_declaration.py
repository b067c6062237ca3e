"""A declared cluster: what is refused, and where the error points."""

import shutil
from pathlib import Path

import pytest
from tests.bare_metal import load_documented

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.clusters import ProvisionedCluster
from gpufleet.spec.errors import BadInput


def test_the_documented_example_is_a_valid_fleet(tmp_path: Path) -> None:
    fleet = load_documented(tmp_path)
    cluster = fleet.sites["main"].cluster
    assert isinstance(cluster, ProvisionedCluster)
    assert cluster.control_plane.nodes == 3
    assert fleet.awaits_cluster("main")
    named = load_documented(
        tmp_path, ("namespace: metal3", "namespace: metal3\n      context: main")
    )
    assert not named.awaits_cluster("main")


@pytest.mark.parametrize(
    ("old", "new", "field", "what"),
    [
        ("10.20.0.10:6443", "10.20.0.10", "control_plane.endpoint", "a host and a port"),
        ("10.20.0.10:6443", "https://a:1", "control_plane.endpoint", "a host and a port"),
        ("10.20.0.10:6443", "10.20.0.10:66000", "control_plane.endpoint", "has the port 66000"),
        ("10.20.0.10:6443", "192.168.1.1:6443", "control_plane.endpoint", "inside `pod_network`"),
        ("endpoint:", "nodes: 2\n        endpoint:", "control_plane.nodes", "no better majority"),
        (
            "role: control-plane",
            "role: -x",
            "control_plane.host_selector.example.com/role",
            "value",
        ),
        ("192.168.0.0/18", "192.168.0.1/18", "pod_network", "has host bits set"),
        ("192.168.0.0/18", "pods", "pod_network", "has to be a network such as 10.0.0.0/16"),
        ("192.168.0.0/18", "192.168.0.0/23", "pod_network", "has room for 2 nodes, and the site"),
        ("192.168.0.0/18", "192.168.0.0/25", "pod_network", "has room for 0 nodes"),
        ("192.168.0.0/18", "fd00::/56", "service_network", "another IP version"),
        ("10.96.0.0/16", "192.168.8.0/24", "service_network", "overlaps `pod_network`"),
        ("1.36.3.qcow2", "1.36.3.qcow2?x=1", "image.url", "an http or https address of a file"),
        ("sha256:9f86", "sha256:", "image.digest", "has to be a digest"),
        ("digest: sha256:9f86", "tag: latest9f86", "image.tag", "unknown field"),
        ("not_ready_s: 10min", "not_ready_s: 10s", "health.not_ready_s", "at least 60"),
        ("max_unhealthy: 1", "max_unhealthy: 0", "health.max_unhealthy", "at least 1, not 0"),
        ("1.36.3\n", "v1.36\n", "kubernetes_version", "a Kubernetes version"),
        ("1.36.3\n", "1.33.4\n", "kubernetes_version", "which node group `h100` asks for"),
    ],
)
def test_a_wrong_field_of_a_cluster_is_refused_where_it_stands(
    tmp_path: Path, old: str, new: str, field: str, what: str
) -> None:
    with pytest.raises(BadInput) as raised:
        load_documented(tmp_path, (old, new))
    assert raised.value.where.endswith(f": sites.main.cluster.{field}")
    assert what in raised.value.what


def test_one_host_is_never_chosen_by_two(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        load_documented(tmp_path, ("example.com/role: control-plane", "example.com/model: h100-8x"))
    assert raised.value.where.endswith(": node_groups.h100.host_selector")
    assert raised.value.what == "chooses hosts of the control plane too"


def test_hosts_are_chosen_only_where_a_cluster_is_provisioned(tmp_path: Path) -> None:
    text = (PROJECT_ROOT / "fleets/article/production.yaml").read_text()
    file = tmp_path / "production.yaml"
    file.write_text(text.replace("nodes: 2", "nodes: 2\n    host_selector: {a: b}"))
    with pytest.raises(BadInput, match="chooses nothing: site main has `provider: embedded`"):
        load_fleet(file)


def test_names_that_grow_too_long_on_the_management_cluster_are_refused(tmp_path: Path) -> None:
    longer = (
        ("fleet: article", f"fleet: {'a' * 40}"),
        ("environment: prod", "environment: long-prod"),
    )
    with pytest.raises(BadInput, match="of more than 63 characters"):
        load_documented(tmp_path, *longer)


def test_batch_work_claims_no_gpus_that_kueue_would_not_count(tmp_path: Path) -> None:
    shutil.copytree(PROJECT_ROOT / "fleets" / "sample", tmp_path / "sample")
    file = tmp_path / "sample" / "production.yaml"
    old = "  fra1-documents:\n"
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, f"{old}    gpu_access: dra\n"))
    with pytest.raises(BadInput, match="Kueue counts no claims for the batch pool") as raised:
        load_fleet(file)
    assert raised.value.where.endswith(": node_groups.fra1-documents.gpu_access")
