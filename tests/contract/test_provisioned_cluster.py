"""Every object of a provisioned cluster is accepted by a real API server with the definitions of
Cluster API, unknown fields refused."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.bare_metal import load_documented

from gpufleet.core.cluster_api import INFRASTRUCTURE, cluster_objects
from gpufleet.edges.kube import Cluster
from gpufleet.spec.clusters import ProvisionedCluster

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

    from gpufleet.edges.engines import Binaries

SITE = "east"
NAMESPACE = "metal3"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CHARTS = ("cluster-api", "cluster-api-bootstrap", "cluster-api-control-plane")
METAL3 = "METAL3_DEFINITIONS"
"""A folder with the definitions of Metal3's provider, for whoever has them."""

Thing = dict[str, Any]

pytestmark = pytest.mark.timeout(180)


def definitions(folder: Path) -> list[Thing]:
    return [
        document
        for file in sorted(folder.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if document
    ]


@pytest.fixture(scope="module")
def management(embedded: "Embedded", binaries: "Binaries", until: "Until") -> Iterator[Cluster]:
    """A site that knows Cluster API's kinds while these tests run."""
    connected = embedded.cluster(SITE)
    found = [
        each
        for chart in CHARTS
        for each in definitions(binaries.files / "charts" / chart / "templates")
    ]
    if folder := os.environ.get(METAL3):
        found += definitions(Path(folder))
    for definition in found:
        assert connected.create(DEFINITIONS, definition)
    about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    connected.create("/api/v1/namespaces", about)
    until(lambda: all(established(connected, each["metadata"]["name"]) for each in found))
    yield connected
    for definition in found:
        connected.delete(f"{DEFINITIONS}/{definition['metadata']['name']}")
    connected.close()


def established(cluster: Cluster, name: str) -> bool:
    found = cluster.get(f"{DEFINITIONS}/{name}") or {}
    return any(
        condition["type"] == "Established" and condition["status"] == "True"
        for condition in found.get("status", {}).get("conditions") or []
    )


@pytest.fixture
def objects(tmp_path: Path) -> list[Thing]:
    """The objects of the documented cluster, whose definitions are at hand."""
    fleet = load_documented(tmp_path)
    cluster = fleet.sites["main"].cluster
    assert isinstance(cluster, ProvisionedCluster)
    made = cluster_objects(fleet, "main", cluster)
    ours = [each for each in made if not each["apiVersion"].startswith(INFRASTRUCTURE)]
    return list(made) if os.environ.get(METAL3) else ours


def apply(
    embedded: "Embedded", binaries: "Binaries", thing: Thing
) -> subprocess.CompletedProcess[str]:
    """What the server would do with an object, with every unknown field an error."""
    how = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-")
    where = (f"--kubeconfig={embedded.state.kubeconfig}", f"--context={SITE}")
    return subprocess.run(
        [binaries.path("kubectl"), *where, *how],
        input=json.dumps(thing),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("management")
def test_every_object_is_accepted(
    embedded: "Embedded", binaries: "Binaries", objects: list[Thing]
) -> None:
    kinds = {thing["kind"] for thing in objects}
    assert kinds >= {
        "Cluster",
        "KubeadmConfigTemplate",
        "KubeadmControlPlane",
        "MachineDeployment",
        "MachineHealthCheck",
    }
    for thing in objects:
        done = apply(embedded, binaries, thing)
        assert done.returncode == 0, f"{thing['kind']}: {done.stderr}"
        assert "serverside-applied (server dry run)" in done.stdout


@pytest.mark.usefixtures("management")
def test_a_field_that_no_definition_knows_is_refused(
    embedded: "Embedded", binaries: "Binaries", objects: list[Thing]
) -> None:
    for thing in objects:
        thing["spec"]["failureDomian"] = "r1"
        done = apply(embedded, binaries, thing)
        assert done.returncode != 0, thing["kind"]
        assert "failureDomian" in done.stderr
