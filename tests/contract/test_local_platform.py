"""The embedded platform keeps its promises, asked through its real APIs."""

import http.client
import ipaddress
import json
import ssl
import stat
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from gpufleet.core.inventory import expand_site
from gpufleet.edges.kube import Cluster
from gpufleet.local.nodes import apply_nodes
from gpufleet.spec.errors import Failed

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

SITES = ("east", "west")
GPUS_PER_NODE = 8
NAMESPACE = "contract"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
STATEFUL_SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets"
SETS = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{NAMESPACE}/leaderworkersets"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(embedded: "Embedded", site: str) -> Iterator[Cluster]:
    connected = embedded.cluster(site)
    connected.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
    )
    yield connected
    connected.close()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest, until: "Until") -> Iterator[None]:
    """No test leaves pods behind: they hold GPUs."""
    yield
    if "cluster" not in request.fixturenames:
        return
    cluster = request.getfixturevalue("cluster")
    # The garbage collector learns of a new kind within half a minute: what it would remove, now.
    for path in (SETS, STATEFUL_SETS, PODS):
        for found in cluster.items(path):
            cluster.delete(f"{path}/{found['metadata']['name']}")
    until(lambda: not cluster.items(PODS))


def pod_spec(gpus: int) -> dict[str, Any]:
    amount = {"nvidia.com/gpu": str(gpus)}
    return {
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "initContainers": [{"name": "weights", "image": "example/restore:1"}],
        "containers": [
            {
                "name": "engine",
                "image": "example/engine:1",
                "resources": {"limits": amount, "requests": amount},
            }
        ],
    }


def pod(name: str, *, gpus: int, pool: str | None = "answers") -> dict[str, Any]:
    labels = {"gpufleet.dev/pool": pool} if pool else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": pod_spec(gpus),
    }


def leader_worker_set(name: str, *, replicas: int, size: int, gpus: int) -> dict[str, Any]:
    template = {"metadata": {"labels": {"gpufleet.dev/pool": "large"}}, "spec": pod_spec(gpus)}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "leaderWorkerTemplate": {"size": size, "workerTemplate": template},
        },
    }


def condition(of: dict[str, Any], kind: str) -> str:
    found = of.get("status", {}).get("conditions") or []
    return next((each["status"] for each in found if each["type"] == kind), "")


def ready(cluster: Cluster, name: str) -> dict[str, Any] | None:
    found = cluster.get(f"{PODS}/{name}")
    return found if found and condition(found, "Ready") == "True" else None


def test_every_declared_node_is_ready_and_offers_its_gpus(
    embedded: "Embedded", cluster: Cluster, site: str, until: "Until"
) -> None:
    declared = {node.name: node for node in expand_site(embedded.platform.fleet, site)}
    until(
        lambda: all(condition(node, "Ready") == "True" for node in cluster.items("/api/v1/nodes"))
    )
    found = {node["metadata"]["name"]: node for node in cluster.items("/api/v1/nodes")}
    assert found.keys() == declared.keys()
    for name, node in found.items():
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == str(GPUS_PER_NODE)
        assert declared[name].labels.items() <= node["metadata"]["labels"].items()
        assert {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"} in (
            node["spec"]["taints"]
        )


def test_nodes_that_differ_from_the_fleet_are_mended_and_undeclared_ones_removed(
    embedded: "Embedded", cluster: Cluster, site: str
) -> None:
    declared = expand_site(embedded.platform.fleet, site)
    first, second = declared
    cluster.merge(
        f"/api/v1/nodes/{first.name}", {"metadata": {"labels": {"gpufleet.dev/rack": "elsewhere"}}}
    )
    uid = cluster.get(f"/api/v1/nodes/{first.name}")["metadata"]["uid"]  # type: ignore[index]
    assert apply_nodes(cluster, [first]) == 2
    (left,) = cluster.items("/api/v1/nodes")
    assert left["metadata"]["labels"]["gpufleet.dev/rack"] == first.rack
    assert left["metadata"]["uid"] == uid
    assert apply_nodes(cluster, declared) == 1
    assert apply_nodes(cluster, declared) == 0
    assert cluster.get(f"/api/v1/nodes/{second.name}") is not None


def test_a_quarantine_outlasts_the_mending_of_its_node(
    embedded: "Embedded", cluster: Cluster, site: str
) -> None:
    declared = expand_site(embedded.platform.fleet, site)
    path = f"/api/v1/nodes/{declared[0].name}"
    gpus = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    quarantine = {"key": "gpufleet.dev/quarantined", "value": "true", "effect": "NoSchedule"}
    marked = {"unschedulable": True, "taints": [gpus, quarantine]}
    labels = {"gpufleet.dev/rack": "elsewhere"}
    cluster.merge(path, {"metadata": {"labels": labels}, "spec": marked})
    try:
        assert apply_nodes(cluster, declared) == 1
        spec = (cluster.get(path) or {})["spec"]
        assert spec["unschedulable"]
        assert quarantine in spec["taints"]
        assert spec["taints"].count(gpus) == 1
    finally:
        cluster.merge(path, {"spec": {"unschedulable": None, "taints": [gpus]}})


def test_pool_pods_are_ready_at_a_loopback_address(cluster: Cluster, until: "Until") -> None:
    cluster.create(PODS, pod("replica", gpus=2))
    status = until(lambda: ready(cluster, "replica"))["status"]
    assert status["phase"] == "Running"
    assert status["containerStatuses"][0]["ready"]
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert ipaddress.ip_address(status["podIP"]).is_loopback


def test_no_two_pool_pods_of_all_sites_share_an_address(
    embedded: "Embedded", until: "Until"
) -> None:
    clusters = [embedded.cluster(site) for site in SITES]
    namespaces = ("default", "kube-public")
    for cluster, namespace in product(clusters, namespaces):
        cluster.create(f"/api/v1/namespaces/{namespace}/pods", pod("replica", gpus=2))

    def addresses() -> list[str]:
        found = [each for cluster in clusters for each in cluster.items("/api/v1/pods")]
        return [each["status"]["podIP"] for each in found if condition(each, "Ready") == "True"]

    assert len(set(until(lambda: addresses() if len(addresses()) == 4 else None))) == 4
    for cluster, namespace in product(clusters, namespaces):
        cluster.delete(f"/api/v1/namespaces/{namespace}/pods/replica")


def test_the_scheduler_counts_gpus_and_leaves_what_does_not_fit(
    cluster: Cluster, until: "Until"
) -> None:
    names = ("first", "second", "third")
    for name in names:
        cluster.create(PODS, pod(name, gpus=GPUS_PER_NODE))

    def by_readiness() -> tuple[list[str], list[str]]:
        served = [name for name in names if ready(cluster, name)]
        return served, [name for name in names if name not in served]

    # Two nodes: two fit, whichever the scheduler takes up first.
    until(lambda: len(by_readiness()[0]) == 2)
    [served, _], [left] = by_readiness()
    until(lambda: condition(cluster.get(f"{PODS}/{left}") or {}, "PodScheduled") == "False")
    cluster.delete(f"{PODS}/{served}")
    until(lambda: ready(cluster, left))


def test_other_pods_go_through_kwok(cluster: Cluster, until: "Until") -> None:
    cluster.create(PODS, pod("plain", gpus=1, pool=None))
    status = until(lambda: ready(cluster, "plain"))["status"]
    assert not ipaddress.ip_address(status["podIP"]).is_loopback


def test_a_deleted_pool_pod_is_gone_and_gives_its_address_back(
    embedded: "Embedded", cluster: Cluster, site: str, until: "Until"
) -> None:
    cluster.create(PODS, pod("short", gpus=1))
    uid = until(lambda: ready(cluster, "short"))["metadata"]["uid"]
    book = embedded.state.site(site) / "addresses.json"
    assert uid in json.loads(book.read_text())
    cluster.delete(f"{PODS}/short")
    until(lambda: uid not in json.loads(book.read_text()))
    assert cluster.get(f"{PODS}/short") is None


def test_a_pod_whose_node_was_lost_is_ready_again_when_the_node_is_back(
    cluster: Cluster, until: "Until"
) -> None:
    cluster.create(PODS, pod("kept", gpus=1))
    before = until(lambda: ready(cluster, "kept"))
    # As the node controller writes it for every pod of a node without a heartbeat.
    lost = {"type": "Ready", "status": "False"}
    cluster.merge(f"{PODS}/kept/status", {"status": {"conditions": [lost]}})
    after = until(lambda: ready(cluster, "kept"))
    for key in ("podIP", "startTime", "containerStatuses"):
        assert after["status"][key] == before["status"][key]


def test_a_leader_worker_set_of_two_by_two_nodes_worth_of_pods_becomes_ready(
    cluster: Cluster, until: "Until"
) -> None:
    cluster.create(SETS, leader_worker_set("large", replicas=2, size=2, gpus=4))
    made = until(
        lambda: next(
            (
                each
                for each in cluster.items(SETS)
                if each.get("status", {}).get("readyReplicas") == 2
            ),
            None,
        )
    )
    # Only the operator's own webhook fills this in.
    assert made["spec"]["rolloutStrategy"]["type"] == "RollingUpdate"
    assert len(cluster.items(PODS)) == 4


def test_the_leader_worker_set_webhook_refuses_what_is_wrong(cluster: Cluster) -> None:
    stuck = leader_worker_set("stuck", replicas=1, size=2, gpus=4)
    stuck["spec"]["rolloutStrategy"] = {
        "type": "RollingUpdate",
        "rollingUpdateConfiguration": {"maxUnavailable": 0, "maxSurge": 0},
    }
    with pytest.raises(Failed, match="must not be 0 when `maxSurge` is 0"):
        cluster.create(SETS, stuck)


def test_the_object_store_keeps_versions_for_its_own_credentials_only(
    embedded: "Embedded", site: str
) -> None:
    kept = json.loads((embedded.state.site(site) / "s3.json").read_text())
    store = _store(kept, kept["secret_key"])
    store.create_bucket(Bucket="promises")
    store.put_bucket_versioning(Bucket="promises", VersioningConfiguration={"Status": "Enabled"})
    for body in (b"first", b"second"):
        store.put_object(Bucket="promises", Key="k", Body=body)
    assert store.get_object(Bucket="promises", Key="k")["Body"].read() == b"second"
    assert len(store.list_object_versions(Bucket="promises")["Versions"]) == 2
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        _store(kept, "wrong").list_buckets()


def _store(kept: dict[str, str], secret: str) -> Any:  # noqa: ANN401 - boto3 ships no types
    return boto3.client(
        "s3",
        endpoint_url=kept["endpoint"],
        region_name=kept["region"],
        aws_access_key_id=kept["access_key"],
        aws_secret_access_key=secret,
        verify=kept["ca"],
    )


def test_nobody_without_a_certificate_reads_anything(embedded: "Embedded", site: str) -> None:
    folder = embedded.state.site(site)
    ports = json.loads((folder / "ports.json").read_text())
    trust = ssl.create_default_context(cafile=str(folder / "pki" / "ca.crt"))
    assert _status(ports["apiserver"], "/api/v1/secrets", trust) == 401
    assert _status(ports["apiserver"], "/version", trust) == 401
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _status(ports["etcd"], "/v3/kv/range", trust)


def _status(port: int, path: str, trust: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_nothing_listens_beyond_loopback(embedded: "Embedded") -> None:
    listening = {
        (process.name(), connection.laddr.ip)
        for process in embedded.system_processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len({name for name, _ in listening}) >= 7
    # Each replica has an address of its own.
    assert all(ipaddress.ip_address(address).is_loopback for _, address in listening)


def test_secrets_are_readable_by_their_owner_only_and_on_no_command_line(
    embedded: "Embedded",
) -> None:
    root = embedded.state.root
    secrets = {
        json.loads((root / "sites" / site / "s3.json").read_text())[key]
        for site in SITES
        for key in ("secret_key", "access_key")
    }
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    for file in (path for path in root.rglob("*") if path.is_file()):
        if (
            file.suffix in {".key", ".kubeconfig", ".json", ".yaml", ".env", ".token"}
            or file.name == "kubeconfig"
        ):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    for process in embedded.system_processes():
        assert not any(secret in " ".join(process.cmdline()) for secret in secrets)
    assert not any(secret in (root / "processes.yaml").read_text() for secret in secrets)


def test_one_kubeconfig_names_every_site(embedded: "Embedded") -> None:
    for site in SITES:
        assert embedded.cluster(site).get("/version")
    assert stat.S_IMODE(embedded.state.kubeconfig.stat().st_mode) == 0o600


def test_a_second_up_finds_what_runs(embedded: "Embedded") -> None:
    before = embedded.processes()
    embedded.up()
    assert embedded.processes() == before
    assert all(state.ready for state in before.values())
    assert {site for site, _ in before} == set(SITES)


def test_agents_and_kwok_may_do_no_more_than_their_work(embedded: "Embedded", site: str) -> None:
    for client in ("agent", "kwok"):
        connected = Cluster(embedded.state.site(site) / f"{client}.kubeconfig", site)
        with pytest.raises(Failed, match="403"):
            connected.items("/api/v1/secrets")


def test_two_clones_run_side_by_side(embedded: "Embedded", another: "Embedded") -> None:
    before = embedded.processes()
    another.up()
    mine = json.loads((another.state.site("solo") / "site.json").read_text())
    for site in SITES:
        theirs = json.loads((embedded.state.site(site) / "site.json").read_text())
        assert not set(mine["ports"].values()) & set(theirs["ports"].values())
        assert mine["addresses"] != theirs["addresses"]
    another.down(purge=True)
    assert not another.state.root.exists()
    assert not another.system_processes()
    assert embedded.processes() == before
