"""A cluster that is provisioned, up to what its management cluster is told.

The management cluster is an embedded site with the definitions of Cluster API. Metal3's two kinds
have none that could be pinned, so they take any field here; no controller makes a machine.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.bare_metal import documented
from tests.e2e.cloned import Clone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

MANAGEMENT = "fleets/article/production.yaml"
PROVISIONED = "fleets/article/bare-metal.yaml"
CLUSTER = "article-bare-metal-main"
KINDS = "cluster,kubeadmcontrolplane,metal3cluster,machinedeployment,machinehealthcheck"
TEMPLATES = "metal3machinetemplate,kubeadmconfigtemplate"


def definition(kind: str) -> dict[str, Any]:
    """A definition of ours of a kind of Metal3, that takes any field."""
    group, plural = "infrastructure.cluster.x-k8s.io", f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta2", "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [{**version, "schema": {"openAPIV3Schema": anything}}],
        },
    }


@pytest.fixture(scope="module")
def management(clone: Clone) -> Clone:
    """The management cluster, up."""
    clone.fleet("up", "--fleet", MANAGEMENT)
    clone.use(MANAGEMENT)
    ours = clone.root / ".fleet" / "metal3.json"
    kinds = [definition(kind) for kind in ("Metal3Cluster", "Metal3MachineTemplate")]
    ours.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": kinds}))
    charts = ("cluster-api", "cluster-api-bootstrap", "cluster-api-control-plane")
    places = [clone.root / ".fleet" / "charts" / chart / "templates" for chart in charts]
    files = [f"--filename={place}" for place in [*places, ours]]
    applied = clone.run("kubectl", "--context=main", "apply", "--server-side", *files)
    assert applied.returncode == 0, applied.stderr
    waited = clone.run(
        "kubectl", "--context=main", "wait", "--for=condition=Established", "--timeout=60s", *files
    )
    assert waited.returncode == 0, waited.stderr
    made = clone.run("kubectl", "--context=main", "create", "namespace", "metal3")
    assert made.returncode == 0, made.stderr
    clone.variables = {"KUBECONFIG": clone.variables["KUBECONFIG"], "PATH": clone.variables["PATH"]}
    return clone


@pytest.fixture(scope="module")
def provisioned(management: Clone) -> Clone:
    """The documented fleet, written to that management cluster."""
    write(management.root / PROVISIONED)
    management.report = management.json("up", "--fleet", PROVISIONED)
    return management


@pytest.fixture
def fleet_file(provisioned: Clone) -> Iterator[Path]:
    file = provisioned.root / PROVISIONED
    before = file.read_text()
    yield file
    file.write_text(before)


def write(file: Path) -> None:
    text = yaml.safe_dump({**documented(), "environment": "bare-metal"}, sort_keys=False)
    for old, new in (("management_context: management", "management_context: main"),):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)


def names(clone: Clone, kinds: str) -> list[str]:
    found = clone.kubectl("main", "get", kinds, "-n", "metal3")["items"]
    return sorted(f"{thing['kind']} {thing['metadata']['name']}" for thing in found)


def changes(report: dict[str, Any]) -> dict[str, int]:
    (stack,) = report["stacks"]
    return {kind: stack[kind] for kind in ("created", "updated", "replaced", "deleted")}


def test_up_writes_the_cluster_and_tells_what_a_person_does_next(provisioned: Clone) -> None:
    assert names(provisioned, KINDS) == [
        f"Cluster {CLUSTER}",
        f"KubeadmControlPlane {CLUSTER}",
        f"MachineDeployment {CLUSTER}-h100",
        f"MachineHealthCheck {CLUSTER}-control-plane",
        f"MachineHealthCheck {CLUSTER}-h100",
        f"Metal3Cluster {CLUSTER}",
    ]
    assert len(names(provisioned, TEMPLATES)) == 3
    assert [stack["stack"] for stack in provisioned.report["stacks"]] == ["platform main"]
    assert provisioned.report["pools"] == []
    steps = "\n".join(provisioned.report["next_steps"])
    assert f"get secret {CLUSTER}-kubeconfig" in steps


def test_a_second_up_changes_nothing_and_status_says_what_is_awaited(provisioned: Clone) -> None:
    again = provisioned.json("up", "--fleet", PROVISIONED)
    assert set(changes(again).values()) == {0}
    (row,) = provisioned.json("status", "--fleet", PROVISIONED, code=5)["drift"]
    assert (row["what"], row["actual"]) == ("cluster", "being provisioned")


def test_what_was_deleted_behind_its_back_is_drift_and_made_again(provisioned: Clone) -> None:
    check = f"machinehealthcheck/{CLUSTER}-h100"
    gone = provisioned.run("kubectl", "--context=main", "delete", "-n", "metal3", check)
    assert gone.returncode == 0, gone.stderr
    drift = provisioned.json("status", "--fleet", PROVISIONED, code=5)["drift"]
    path = f"/apis/cluster.x-k8s.io/v1beta2/namespaces/metal3/machinehealthchecks/{CLUSTER}-h100"
    assert [row["what"] for row in drift] == ["cluster", path]
    provisioned.fleet("up", "--fleet", PROVISIONED)
    assert f"MachineHealthCheck {CLUSTER}-h100" in names(provisioned, KINDS)


def test_a_new_image_leaves_the_templates_that_machines_still_refer_to(
    provisioned: Clone, fleet_file: Path
) -> None:
    before = names(provisioned, TEMPLATES)
    text = fleet_file.read_text()
    assert text.count("digest: sha256:9f86") == 1
    fleet_file.write_text(text.replace("digest: sha256:9f86", "digest: sha256:0000"))
    provisioned.fleet("up", "--fleet", PROVISIONED)
    after = names(provisioned, TEMPLATES)
    assert set(before) < set(after)
    deployment = provisioned.kubectl(
        "main", "get", f"machinedeployment/{CLUSTER}-h100", "-n", "metal3"
    )
    referred = deployment["spec"]["template"]["spec"]["infrastructureRef"]["name"]
    assert f"Metal3MachineTemplate {referred}" in set(after) - set(before)


def test_taking_a_site_out_does_not_wipe_its_hosts(provisioned: Clone) -> None:
    own = provisioned.json("env", "--fleet", PROVISIONED)
    plain = Clone(provisioned.root, {**own, **provisioned.variables})
    destroyed = plain.pulumi("platform", "destroy", "--yes", "--stack", CLUSTER)
    assert destroyed.returncode != 0
    assert "protected" in destroyed.stdout + destroyed.stderr
    assert f"Cluster {CLUSTER}" in names(provisioned, KINDS)
