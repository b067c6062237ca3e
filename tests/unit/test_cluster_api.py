"""A provisioned cluster's objects refer to each other, and let a node go no faster than it may."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bare_metal import load_documented

from gpufleet.core.cluster_api import LASTING, TEMPLATES, cluster_objects, drain_timeout_s
from gpufleet.core.serving import pools_at
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.clusters import ProvisionedCluster

Thing = dict[str, Any]
Load = Callable[..., dict[str, Thing]]


def objects_of(fleet: Fleet) -> tuple[Thing, ...]:
    cluster = fleet.sites["main"].cluster
    assert isinstance(cluster, ProvisionedCluster)
    return cluster_objects(fleet, "main", cluster)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The documented fleet's objects by kind and name without its digest, after some changes."""

    def made(*changes: tuple[str, str]) -> dict[str, Thing]:
        found = {}
        for thing in objects_of(load_documented(tmp_path, *changes)):
            name = thing["metadata"]["name"]
            if thing["kind"] in TEMPLATES:
                name = name.rpartition("-")[0]
            found[f"{thing['kind']} {name}"] = thing
        return found

    return made


CLUSTER = "article-production-main"
GROUP = f"{CLUSTER}-h100"


def test_every_reference_names_an_object_that_is_made(load: Load) -> None:
    made = {
        (thing["apiVersion"].partition("/")[0], thing["kind"], thing["metadata"]["name"])
        for thing in load().values()
    }

    def references(node: Any) -> list[tuple[str, str, str]]:  # noqa: ANN401 - plain data
        if isinstance(node, dict):
            if node.keys() == {"apiGroup", "kind", "name"}:
                return [(node["apiGroup"], node["kind"], node["name"])]
            return [found for value in node.values() for found in references(value)]
        return []

    found = references({"all": load()} | load())
    assert {kind for _, kind, _ in found} == (LASTING | TEMPLATES) - {"Cluster"}
    assert set(found) <= made


def test_each_node_group_is_one_deployment_that_takes_its_hosts_and_is_watched(load: Load) -> None:
    made = load()
    deployment = made[f"MachineDeployment {GROUP}"]["spec"]
    assert deployment["replicas"] == 2
    assert deployment["rollout"]["strategy"]["rollingUpdate"] == {
        "maxSurge": 0,
        "maxUnavailable": 1,
    }
    labels = deployment["template"]["metadata"]["labels"]
    for kind in ("MachineDeployment", "MachineHealthCheck"):
        assert made[f"{kind} {GROUP}"]["spec"]["selector"]["matchLabels"] == labels
    hosts = made[f"Metal3MachineTemplate {GROUP}"]["spec"]["template"]["spec"]
    assert hosts["hostSelector"] == {"matchLabels": {"example.com/model": "h100-8x"}}
    assert (
        hosts["image"]["checksum"]
        == "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    )
    assert hosts["image"]["checksumType"] == "sha256"


def test_a_group_without_a_selector_takes_the_hosts_that_carry_its_name(load: Load) -> None:
    made = load(("example.com/model: h100-8x", "gpufleet.dev/node-group: h100"))
    assert "Metal3MachineTemplate article-production-main-h100" in made
    selected = made[f"Metal3MachineTemplate {GROUP}"]["spec"]["template"]["spec"]["hostSelector"]
    assert selected == {"matchLabels": {"gpufleet.dev/node-group": "h100"}}
    assert made == load(("    host_selector:\n      example.com/model: h100-8x\n", ""))


def test_a_kubelet_gives_itself_only_what_node_restriction_lets_it(load: Load) -> None:
    join = load()[f"KubeadmConfigTemplate {GROUP}"]["spec"]["template"]["spec"]
    registration = join["joinConfiguration"]["nodeRegistration"]
    (labels,) = registration["kubeletExtraArgs"]
    given = dict(label.split("=", 1) for label in labels["value"].split(","))
    restricted = {
        key for key in given if key.partition("/")[0].endswith(("kubernetes.io", "k8s.io"))
    }
    assert restricted == {"topology.kubernetes.io/region", "topology.kubernetes.io/zone"}
    assert given["gpufleet.dev/node-group"] == "h100"
    assert given["nvidia.com/gpu.deploy.device-plugin"] == "false"
    assert len(labels["value"]) <= 1024
    assert registration["taints"] == [
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    ]


def test_a_changed_image_makes_new_templates_and_moves_the_machines(load: Load) -> None:
    before, after = load(), load(("digest: sha256:9f86", "digest: sha256:0000"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        f"Metal3MachineTemplate {CLUSTER}-control-plane",
        f"Metal3MachineTemplate {GROUP}",
        f"KubeadmControlPlane {CLUSTER}",
        f"MachineDeployment {GROUP}",
    }
    for name in changed:
        same_name = before[name]["metadata"]["name"] == after[name]["metadata"]["name"]
        assert same_name is (before[name]["kind"] not in TEMPLATES)


def test_more_nodes_change_the_number_of_machines_and_nothing_else(load: Load) -> None:
    before, after = load(), load(("nodes: 2", "nodes: 3"))
    changed = [name for name in before if before[name] != after[name]]
    assert changed == [f"MachineDeployment {GROUP}"]
    after[changed[0]]["spec"]["replicas"] = 2
    assert before == after


@pytest.mark.parametrize(("nodes", "surge"), [(1, 1), (3, 0), (5, 0)])
def test_a_control_plane_needs_a_host_to_spare_only_without_a_quorum(
    load: Load, nodes: int, surge: int
) -> None:
    made = load(("control_plane:\n", f"control_plane:\n        nodes: {nodes}\n"))
    spec = made[f"KubeadmControlPlane {CLUSTER}"]["spec"]
    assert spec["replicas"] == nodes
    assert spec["rollout"]["strategy"]["rollingUpdate"] == {"maxSurge": surge}


def test_a_drain_may_take_as_long_as_the_pods_of_a_node_need_one_after_the_other() -> None:
    fleet = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
    for site in fleet.sites:
        for pool in pools_at(fleet, site):
            group = fleet.node_groups[pool.group_name]
            timeout_s = drain_timeout_s(group, (pool,))
            assert timeout_s >= pool.grace_s + pool.startup.budget_s
            on_node = group.gpus_per_node // pool.gpus_per_node
            assert timeout_s <= max(600, on_node * (pool.grace_s + pool.startup.budget_s))
    assert drain_timeout_s(next(iter(fleet.node_groups.values())), ()) == 600


def test_an_image_of_the_control_plane_is_its_own(load: Load) -> None:
    own = "image: {url: 'http://images/cp.raw', digest: 'sha256:%s', disk_format: raw}" % ("1" * 64)
    made = load(("control_plane:\n", f"control_plane:\n        {own}\n"))
    image = made[f"Metal3MachineTemplate {CLUSTER}-control-plane"]["spec"]["template"]["spec"][
        "image"
    ]
    assert image == {
        "url": "http://images/cp.raw",
        "checksum": "1" * 64,
        "checksumType": "sha256",
        "diskFormat": "raw",
    }
    other = made[f"Metal3MachineTemplate {GROUP}"]["spec"]["template"]["spec"]["image"]
    assert other["diskFormat"] == "qcow2"
