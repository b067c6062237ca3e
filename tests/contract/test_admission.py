"""What the API server itself refuses: images, artifacts, privileges, mixed classes, and a freeze.

The policies are applied as the platform stack declares them, and asked by plain API calls.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.conftest import Embedded

from gpufleet.components import node_cache
from gpufleet.components.pod_template import metadata, pod_spec
from gpufleet.core import admission, freeze_admission, freeze_state
from gpufleet.core import vocabulary as names
from gpufleet.core.freeze import Purpose
from gpufleet.core.freeze_state import ALL, KNOWN_FOR, OPEN, FreezeState, key_of
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.engines import Binaries
from gpufleet.edges.exemption_table import TOKEN_VARIABLE
from gpufleet.edges.kube import Cluster, Object
from gpufleet.edges.kube_paths import collection_path, object_path
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import overrides
from gpufleet.flows.approvals import Signer, give
from gpufleet.flows.environment import Environment
from gpufleet.flows.exemptions import exempted
from gpufleet.flows.freeze_sync import sync, write_state
from gpufleet.flows.ground import Ground
from gpufleet.flows.overrides import Wish
from gpufleet.local.platform import Platform
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import Failed
from gpufleet.spec.serving import Pool, ServingClass
from gpufleet.spec.windows import ChangeKind

if TYPE_CHECKING:
    from tests.conftest import Until

pytestmark = pytest.mark.timeout(240)

DIGEST = "sha256:" + "a" * 64
INTERACTIVE, BATCH = names.INTERACTIVE_NAMESPACE, names.BATCH_NAMESPACE


def two_classes() -> Fleet:
    """The article's fleet with a batch pool on a node group of its own."""
    base = load_fleet(PROJECT_ROOT / "fleets" / "article" / "production.yaml")
    nightly = Pool.model_validate(
        {
            "class": "batch",
            "model": "llama-3.1-8b",
            "placements": {"nightly": {"replicas": 1, "gpus_per_node": 1}},
        }
    )
    return base.model_copy(
        update={
            "node_groups": {**base.node_groups, "nightly": base.node_groups["h100"]},
            "pools": {**base.pools, "nightly": nightly},
            "governance": base.governance.model_copy(
                update={"image_sources": ["registry.example/batch/"]}
            ),
        }
    )


FLEET = two_classes()
POOLS = {pool.name: pool for pool in pools_at(FLEET, "main")}


@pytest.fixture(scope="module")
def platform(binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """One site with the policies that the platform stack makes."""
    state = EnvironmentDir(tmp_path_factory.mktemp("admission") / "two-classes")
    made = Embedded(Platform(FLEET, state, binaries))
    try:
        made.up()
        yield made
    finally:
        made.down(purge=True)


@pytest.fixture(scope="module")
def cluster(platform: Embedded, until: "Until") -> Iterator[Cluster]:
    """The site's API as its administrator, once the policies hold."""
    connected = platform.cluster("main")
    for name in names.GOVERNED_NAMESPACES:
        connected.create(
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        )
    for thing in (
        admission.parameters(FLEET),
        freeze_state.first_state(),
        *freeze_admission.service_accounts(),
        *admission.policies(),
        *freeze_admission.policies(),
    ):
        connected.apply(object_path(thing), thing)
    for account in POOLS:
        for namespace in (INTERACTIVE, BATCH):
            connected.create(
                f"/api/v1/namespaces/{namespace}/serviceaccounts",
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}},
            )
    for class_ in ServingClass:
        connected.create(
            "/apis/scheduling.k8s.io/v1/priorityclasses",
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": names.priority_class_of(class_)},
                "value": 1,
            },
        )
    connected.create(
        "/apis/node.k8s.io/v1/runtimeclasses",
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": names.RUNTIME_CLASS},
            "handler": "nvidia",
        },
    )
    for namespace in (INTERACTIVE, BATCH):
        ours = {names.MANAGED: "true"}
        for made in (node_cache.volume(namespace, ours), node_cache.claim(namespace, ours)):
            connected.apply(object_path(made), made)
    tell(connected, frozen=False)
    until(lambda: "digest" in refusal(connected, pod(image="docker.io/vllm/vllm-openai:latest")))
    until(lambda: "only the worker" in refusal(connected, freeze_state.first_state()))
    for thing in freeze_admission.clock_policies():
        connected.apply(object_path(thing), thing)
    yield connected
    connected.close()


@pytest.fixture(autouse=True)
def open_again(request: pytest.FixtureRequest, until: "Until") -> Iterator[None]:
    """Every test begins and ends without a freeze."""
    cluster: Cluster = request.getfixturevalue("cluster")
    tell(cluster, frozen=False)
    until(lambda: not refusal(cluster, service("probe")))
    yield
    tell(cluster, frozen=False)


FROZEN = "frozen: freeze `Audit week`; the next opening is Monday"


def tell(
    cluster: Cluster, *, frozen: bool = False, known_for: timedelta = KNOWN_FOR, **answers: str
) -> None:
    """Write the state of freezes as the worker does; `stacks_answers="..."` is one of a pool."""
    now = datetime.now(UTC)
    told = FROZEN if frozen else OPEN
    given = {key.replace("_", "."): answer for key, answer in answers.items()}
    state = {**dict.fromkeys(("stacks", "release"), told), **given}
    shut = next((answer for answer in state.values() if answer != OPEN), OPEN)
    writer = cluster.as_service_account(names.SYSTEM_NAMESPACE, names.FREEZE_SYNC)
    write_state(writer, FreezeState({**state, ALL: shut}, now + known_for), now, now)
    writer.close()


def refusal(cluster: Cluster, thing: Object) -> str:
    """Why the API server does not take an object (nothing is kept of it); empty if it does."""
    about = thing["metadata"]
    path = collection_path(thing["apiVersion"], thing["kind"], about.get("namespace"))
    return asked(cluster, "POST", f"{path}?dryRun=All", thing)


def asked(cluster: Cluster, method: str, path: str, body: Object | None = None) -> str:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    try:
        cluster._call(method, path, body=body, kind=kind)
    except Failed as error:
        return error.what
    return ""


def pod(
    of: str = "answers",
    *,
    namespace: str | None = None,
    image: str = "",
    spec: Object | None = None,
    labels: Object | None = None,
) -> Object:
    """A pod as a pool's own, but for what is given; None takes a label away."""
    pool: PoolAtSite = POOLS[of]
    made: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "one",
            "namespace": namespace or pool.namespace,
            **deepcopy(metadata(pool)),
        },
        "spec": {**deepcopy(pod_spec(pool, FLEET.images.gpufleet)), **(spec or {})},
    }
    if names.is_batch(pool.class_):
        made["metadata"]["labels"][names.QUEUE] = pool.name
    for label, value in (labels or {}).items():
        made["metadata"]["labels"].pop(label, None)
        if value is not None:
            made["metadata"]["labels"][label] = value
    if image:
        made["spec"]["containers"][0]["image"] = image
    return made


def workload(kind: str, template: Object) -> Object:
    """A workload of each kind around a pod."""
    inner: Object = {
        "metadata": {key: template["metadata"][key] for key in ("labels", "annotations")},
        "spec": template["spec"],
    }
    selector = {"matchLabels": {names.POOL: template["metadata"]["labels"][names.POOL]}}
    about: Object = {"name": "one", "namespace": template["metadata"]["namespace"], "labels": {}}
    if names.QUEUE in template["metadata"]["labels"]:
        about["labels"][names.QUEUE] = template["metadata"]["labels"][names.QUEUE]
    if kind in {"Job", "CronJob"}:
        inner["spec"] = {**inner["spec"], "restartPolicy": "Never"}
    spec: Object = {"selector": selector, "template": inner}
    api = "apps/v1"
    if kind == "Job":
        api, spec = "batch/v1", {"template": inner}
    if kind == "CronJob":
        api = "batch/v1"
        spec = {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": inner}}}
    if kind == "LeaderWorkerSet":
        api = "leaderworkerset.x-k8s.io/v1"
        good = pod()
        spec = {
            "replicas": 1,
            "leaderWorkerTemplate": {
                "size": 2,
                "leaderTemplate": inner,
                "workerTemplate": {
                    "metadata": {
                        "labels": good["metadata"]["labels"],
                        "annotations": good["metadata"]["annotations"],
                    },
                    "spec": good["spec"],
                },
            },
        }
    if kind == "StatefulSet":
        spec["serviceName"] = "one"
    return {"apiVersion": api, "kind": kind, "metadata": about, "spec": spec}


def service(name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": INTERACTIVE, "labels": {names.MANAGED: "true"}},
        "spec": {"ports": [{"port": 80}]},
    }


KINDS = (
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "LeaderWorkerSet",
)


@pytest.mark.parametrize("of", ["answers", "nightly"])
def test_what_the_stacks_make_passes(cluster: Cluster, of: str) -> None:
    made = pod(of)
    made["spec"]["nodeSelector"] = {names.NODE_GROUP: POOLS[of].group_name}
    assert refusal(cluster, made) == ""
    assert refusal(cluster, workload("Deployment", made)) == ""


@pytest.mark.parametrize("kind", ["Pod", *KINDS])
def test_an_image_by_tag_is_refused(cluster: Cluster, kind: str) -> None:
    made = pod(image="docker.io/vllm/vllm-openai:v0.11.0")
    thing = made if kind == "Pod" else workload(kind, made)
    told = refusal(cluster, thing)
    assert "gpufleet: images by digest only" in told
    assert "vllm-openai:v0.11.0" in told


@pytest.mark.parametrize("kind", ["Pod", *KINDS])
def test_an_image_from_elsewhere_is_refused(cluster: Cluster, kind: str) -> None:
    made = pod(image=f"docker.io/someone/vllm-openai@{DIGEST}")
    thing = made if kind == "Pod" else workload(kind, made)
    assert "gpufleet: not from a declared source" in refusal(cluster, thing)


@pytest.mark.parametrize(
    ("image", "passes"),
    [
        (f"docker.io/vllm/vllm-openai@{DIGEST}", True),
        (f"registry.example/batch/tool@{DIGEST}", True),
        (f"registry.example/batch@{DIGEST}", False),
        (f"docker.io/vllm/vllm-openai-evil@{DIGEST}", False),
        (f"docker.io/vllm/vllm-openai:tag@{DIGEST}", False),
        (f"vllm/vllm-openai@{DIGEST}", False),
        ("", False),
    ],
)
def test_a_source_is_matched_whole(cluster: Cluster, image: str, *, passes: bool) -> None:
    made = pod()
    made["spec"]["containers"][0]["image"] = image
    assert (refusal(cluster, made) == "") is passes


@pytest.mark.parametrize("where", ["initContainers", "image volume"])
def test_every_place_of_an_image_is_looked_at(cluster: Cluster, where: str) -> None:
    made = pod()
    if where == "initContainers":
        made["spec"]["initContainers"][0]["image"] = "ghcr.io/gpufleet/gpufleet:latest"
    else:
        made["spec"]["volumes"].append({"name": "v", "image": {"reference": "evil/thing:1"}})
    assert "images by digest only" in refusal(cluster, made)


def test_ephemeral_containers_are_no_way_round(cluster: Cluster, until: "Until") -> None:
    path = f"/api/v1/namespaces/{INTERACTIVE}/pods"
    assert cluster.create(path, pod())
    try:
        debug = {"name": "debug", "image": "busybox:latest", "securityContext": restricted()}
        body = {"spec": {"ephemeralContainers": [debug]}}
        told = asked(cluster, "PATCH", f"{path}/one/ephemeralcontainers", body)
        assert "images by digest only" in told
        debug["image"] = f"docker.io/vllm/vllm-openai@{DIGEST}"
        debug["securityContext"] = {"privileged": True}
        told = asked(cluster, "PATCH", f"{path}/one/ephemeralcontainers", body)
        assert "no privilege" in told
    finally:
        cluster.delete(f"{path}/one")
        until(lambda: cluster.get(f"{path}/one") is None)


def restricted() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_a_changed_image_of_a_running_pod_is_refused(cluster: Cluster, until: "Until") -> None:
    path = f"/api/v1/namespaces/{INTERACTIVE}/pods"
    assert cluster.create(path, pod())
    try:
        body = {"spec": {"containers": [{**pod()["spec"]["containers"][0], "image": "busybox:1"}]}}
        assert "images by digest only" in asked(cluster, "PATCH", f"{path}/one?dryRun=All", body)
        labels = {"metadata": {"labels": {names.CLASS: "batch"}}}
        assert "only interactive work" in asked(cluster, "PATCH", f"{path}/one?dryRun=All", labels)
        finalizer = {"metadata": {"finalizers": ["example.com/hold"]}}
        assert asked(cluster, "PATCH", f"{path}/one?dryRun=All", finalizer) == ""
    finally:
        cluster.delete(f"{path}/one")
        until(lambda: cluster.get(f"{path}/one") is None)


def test_a_status_write_changes_no_image(cluster: Cluster, until: "Until") -> None:
    path = f"/api/v1/namespaces/{INTERACTIVE}/pods"
    assert cluster.create(path, pod())
    try:
        body = {"spec": {"containers": [{"name": "engine", "image": "busybox:1"}]}, "status": {}}
        asked(cluster, "PATCH", f"{path}/one/status", body)
        found = cluster.get(f"{path}/one")
        assert found is not None
        assert found["spec"]["containers"][0]["image"] == pod()["spec"]["containers"][0]["image"]
    finally:
        cluster.delete(f"{path}/one")
        until(lambda: cluster.get(f"{path}/one") is None)


@pytest.mark.parametrize(
    ("annotation", "argument", "told"),
    [
        (DIGEST, "", "serves a revision that the fleet file declares"),
        (None, "", "serves a revision that the fleet file declares"),
        ("", "--source=s3://elsewhere/llama", "declared source of their revision"),
        ("", "--digest=" + DIGEST, "declared source of their revision"),
    ],
)
def test_a_pool_serves_only_declared_artifacts(
    cluster: Cluster, annotation: str | None, argument: str, told: str
) -> None:
    made = pod()
    if annotation is None:
        del made["metadata"]["annotations"][names.REVISION_DIGEST]
    elif annotation:
        made["metadata"]["annotations"][names.REVISION_DIGEST] = annotation
    restore = made["spec"]["initContainers"][0]
    if argument:
        flag, _ = argument.split("=", 1)
        restore["args"] = [
            argument if given.startswith(f"{flag}=") else given for given in restore["args"]
        ]
    assert told in refusal(cluster, made)


@pytest.mark.parametrize(
    "labels", [{names.TEAM: None}, {names.USE_CASE: None}, {names.TEAM: "nobody"}]
)
@pytest.mark.parametrize("kind", ["Pod", "Deployment", "Job"])
def test_gpus_need_a_declared_team_and_use_case(
    cluster: Cluster, labels: Object, kind: str
) -> None:
    made = pod(labels=labels)
    thing = made if kind == "Pod" else workload(kind, made)
    assert "names a declared team and use case" in refusal(cluster, thing)


def test_gpus_by_limits_or_claims_count_too(cluster: Cluster) -> None:
    made = pod(labels={names.TEAM: None})
    engine = made["spec"]["containers"][0]
    del engine["resources"]["limits"][names.GPU_RESOURCE]
    del engine["resources"]["requests"][names.GPU_RESOURCE]
    assert refusal(cluster, made) == ""
    engine["resources"]["limits"]["nvidia.com/mig-1g.10gb"] = "1"
    assert "names a declared team" in refusal(cluster, made)
    del engine["resources"]["limits"]["nvidia.com/mig-1g.10gb"]
    made["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "gpu"}]
    assert "names a declared team" in refusal(cluster, made)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (pod("nightly", namespace=INTERACTIVE), "only interactive work runs in"),
        (pod(namespace=BATCH, labels={names.QUEUE: "nightly"}), "only batch work runs in"),
        (pod(spec={"nodeSelector": {names.NODE_GROUP: "nightly"}}), "node groups of its own class"),
        (pod("nightly", spec={"nodeSelector": {names.NODE_GROUP: "h100"}}), "node groups of its"),
        (pod(spec={"nodeSelector": {}}), "node groups of its own class"),
        (pod(spec={"nodeName": "nightly-001"}), "the scheduler alone chooses"),
        (pod(labels={names.QUEUE: "nightly"}), "does not wait in a queue"),
        (pod("nightly", labels={names.QUEUE: None}), "waits in a queue of Kueue"),
        (pod(labels={names.CLASS: None}), "only interactive work runs in"),
    ],
)
def test_batch_and_interactive_work_never_meet(cluster: Cluster, made: Object, told: str) -> None:
    assert told in refusal(cluster, made)


def test_a_pod_that_kueue_holds_back_needs_no_node_group_yet(cluster: Cluster) -> None:
    made = pod(
        "nightly",
        spec={"nodeSelector": {}, "schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]},
    )
    assert refusal(cluster, made) == ""


@pytest.mark.parametrize("field", ["hostNetwork", "hostPID", "hostIPC"])
def test_no_pod_shares_its_node(cluster: Cluster, field: str) -> None:
    assert "shares the network" in refusal(cluster, workload("Deployment", pod(spec={field: True})))


def test_no_host_path_and_no_privilege(cluster: Cluster) -> None:
    made = pod()
    made["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    assert "no host path" in refusal(cluster, made)
    for context in (
        {"privileged": True},
        {"allowPrivilegeEscalation": True},
        {"capabilities": {"add": ["SYS_ADMIN"]}},
    ):
        made = pod()
        made["spec"]["containers"][0]["securityContext"] = context
        assert "no privilege" in refusal(cluster, made)


def test_a_node_s_cache_is_only_read(cluster: Cluster) -> None:
    made = pod()
    assert refusal(cluster, made) == ""
    (cache,) = [each for each in made["spec"]["volumes"] if "persistentVolumeClaim" in each]
    del cache["persistentVolumeClaim"]["readOnly"]
    assert "is only read" in refusal(cluster, made)


def volume(**spec: object) -> Object:
    made = node_cache.volume(INTERACTIVE, {names.MANAGED: "true"})
    return {**made, "metadata": {**made["metadata"], "name": "one"}, "spec": made["spec"] | spec}


@pytest.mark.parametrize(
    "spec",
    [
        {"hostPath": {"path": "/"}},
        {"accessModes": ["ReadWriteOnce"]},
        {"claimRef": {"namespace": "default", "name": names.NODE_CACHE}},
        {"claimRef": {"namespace": INTERACTIVE, "name": "other"}},
        {"claimRef": None},
    ],
)
def test_no_other_folder_of_a_node_is_a_volume_of_ours(cluster: Cluster, spec: Object) -> None:
    assert refusal(cluster, volume()) == ""
    assert "of a node only" in refusal(cluster, volume(**spec))
    strange = volume(**spec)
    # What somebody else's storage driver makes is not looked at.
    del strange["metadata"]["labels"]
    assert refusal(cluster, strange) == ""


def test_without_its_parameters_everything_is_refused(cluster: Cluster, until: "Until") -> None:
    path = object_path(admission.parameters(FLEET))
    cluster.delete(path)
    try:
        until(lambda: refusal(cluster, pod()))
    finally:
        cluster.apply(path, admission.parameters(FLEET))
        until(lambda: not refusal(cluster, pod()))


@pytest.fixture
def frozen(cluster: Cluster, until: "Until") -> Iterator[Cluster]:
    """The cluster in a freeze, with a Deployment that stood before it."""
    made = workload("Deployment", pod())
    made["metadata"]["labels"][names.MANAGED] = "true"
    made["spec"]["replicas"] = 1
    cluster.create(f"/apis/apps/v1/namespaces/{INTERACTIVE}/deployments", made)
    until(lambda: ready_pods(cluster))
    tell(cluster, frozen=True)
    until(lambda: "Audit week" in refusal(cluster, service("probe")))
    yield cluster
    tell(cluster, frozen=False)
    until(lambda: not refusal(cluster, service("probe")))
    cluster.delete(f"{DEPLOYMENTS}/one")
    until(lambda: not cluster.items(PODS))


DEPLOYMENTS = f"/apis/apps/v1/namespaces/{INTERACTIVE}/deployments"
PODS = f"/api/v1/namespaces/{INTERACTIVE}/pods"


def ready_pods(cluster: Cluster) -> list[Object]:
    return [
        each
        for each in cluster.items(PODS)
        if not each["metadata"].get("deletionTimestamp")
        and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in each["status"].get("conditions", [])
        )
    ]


def test_a_freeze_refuses_every_change_with_its_window(frozen: Cluster) -> None:
    one = f"{DEPLOYMENTS}/one"
    answers = {
        "create": refusal(frozen, service("new")),
        "update": asked(frozen, "PATCH", one, {"metadata": {"labels": {"a": "b"}}}),
        "scale": asked(frozen, "PATCH", f"{one}/scale", {"spec": {"replicas": 0}}),
        "delete": asked(frozen, "DELETE", one),
        "finalizer": asked(frozen, "PATCH", one, {"metadata": {"finalizers": ["a.b/c"]}}),
        "collection": asked(frozen, "DELETE", DEPLOYMENTS),
        "namespace": asked(frozen, "DELETE", f"/api/v1/namespaces/{INTERACTIVE}"),
        "unlabel": asked(
            frozen,
            "PATCH",
            f"/api/v1/namespaces/{INTERACTIVE}",
            {"metadata": {"labels": {names.NAMESPACE: "other"}}},
        ),
    }
    for what, told in answers.items():
        assert "gpufleet: frozen: freeze `Audit week`" in told, f"{what}: {told}"
        assert "the next opening is Monday" in told


@pytest.fixture
def two_pools(cluster: Cluster, until: "Until") -> Iterator[Cluster]:
    """The cluster with a Deployment of the pool `answers`, and one of no pool's."""
    made = workload("Deployment", pod())
    made["spec"]["replicas"] = 1
    cluster.create(DEPLOYMENTS, made)
    kept = of_pool("answers")
    kept["metadata"]["name"] = "kept"
    cluster.create(SERVICES, kept)
    until(lambda: ready_pods(cluster))
    yield cluster
    tell(cluster)
    until(lambda: not refusal(cluster, of_pool("answers")))
    cluster.delete(f"{SERVICES}/kept")
    cluster.delete(f"{DEPLOYMENTS}/one")
    until(lambda: not cluster.items(PODS))


def of_pool(pool: str) -> Object:
    made = service(f"of-{pool}")
    made["metadata"]["labels"][names.POOL] = pool
    return made


SERVICES = f"/api/v1/namespaces/{INTERACTIVE}/services"
ONE = f"/apis/apps/v1/namespaces/{INTERACTIVE}/deployments/one"
NEW_IMAGE = {
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        **pod()["spec"]["containers"][0],
                        "image": f"docker.io/vllm/vllm-openai@{DIGEST}",
                    }
                ]
            }
        }
    }
}
"""Of a pool's workload: a release."""


def revision() -> Object:
    """A change to another revision, whose weights are restored by its digest."""
    before = pod()["metadata"]["annotations"][names.REVISION_DIGEST]
    restore = pod()["spec"]["initContainers"]
    for container in restore:
        container["args"] = [given.replace(before, DIGEST) for given in container["args"]]
    annotations = {names.REVISION_DIGEST: DIGEST}
    spec = {"initContainers": restore}
    return {"spec": {"template": {"metadata": {"annotations": annotations}, "spec": spec}}}


def test_a_freeze_of_one_pool_refuses_what_belongs_to_it_and_nothing_else(
    two_pools: Cluster, until: "Until"
) -> None:
    tell(two_pools, stacks_answers=FROZEN, release_answers=FROZEN)
    until(lambda: "Audit week" in refusal(two_pools, of_pool("answers")))
    relabel = {"metadata": {"labels": {names.POOL: "nightly"}}}
    unlabel = {"metadata": {"labels": {names.POOL: None}}}
    for told in (
        refusal(two_pools, workload("Deployment", pod())),
        asked(two_pools, "PATCH", ONE, {"metadata": {"annotations": {"a": "b"}}}),
        asked(two_pools, "PATCH", ONE, relabel),
        asked(two_pools, "PATCH", f"{SERVICES}/kept", unlabel),
        asked(two_pools, "PATCH", ONE, NEW_IMAGE),
        asked(two_pools, "PATCH", f"{ONE}/scale", {"spec": {"replicas": 0}}),
        asked(two_pools, "DELETE", ONE),
        asked(two_pools, "DELETE", DEPLOYMENTS),
        # Every pool stands on its namespace.
        asked(two_pools, "DELETE", f"/api/v1/namespaces/{INTERACTIVE}"),
    ):
        assert "gpufleet: frozen: freeze `Audit week`" in told
    assert refusal(two_pools, of_pool("nightly")) == ""
    assert refusal(two_pools, service("of-none")) == ""
    assert refusal(two_pools, workload("Deployment", pod("nightly"))) == ""


def test_a_freeze_of_releases_lets_every_other_change_through(
    two_pools: Cluster, until: "Until"
) -> None:
    tell(two_pools, release=FROZEN)
    until(lambda: "Audit week" in asked(two_pools, "PATCH", f"{ONE}?dryRun=All", NEW_IMAGE))
    declared = admission.parameters(FLEET)
    more = {**declared["data"], "digests": f"{declared['data']['digests']}\n{DIGEST}"}
    two_pools.apply(object_path(declared), {**declared, "data": more})
    try:
        until(lambda: "Audit week" in asked(two_pools, "PATCH", f"{ONE}?dryRun=All", revision()))
    finally:
        two_pools.apply(object_path(declared), declared)
    assert asked(two_pools, "PATCH", f"{ONE}/scale?dryRun=All", {"spec": {"replicas": 2}}) == ""
    assert refusal(two_pools, of_pool("answers")) == ""


def test_where_releases_alone_are_open_a_release_takes_no_other_size_with_it(
    two_pools: Cluster, until: "Until"
) -> None:
    tell(two_pools, frozen=True, release=OPEN)
    until(lambda: not asked(two_pools, "PATCH", f"{ONE}?dryRun=All", NEW_IMAGE))
    assert "Audit week" in asked(two_pools, "PATCH", f"{ONE}?dryRun=All", {"spec": {"replicas": 2}})
    both = {"spec": {**NEW_IMAGE["spec"], "replicas": 2}}
    assert "Audit week" in asked(two_pools, "PATCH", f"{ONE}?dryRun=All", both)


def test_an_override_opens_its_pool_in_a_freeze_of_everything(
    two_pools: Cluster, until: "Until"
) -> None:
    tell(two_pools, frozen=True, stacks_answers=OPEN)
    until(lambda: "Audit week" in refusal(two_pools, of_pool("nightly")))
    assert refusal(two_pools, of_pool("answers")) == ""
    assert asked(two_pools, "PATCH", f"{ONE}/scale?dryRun=All", {"spec": {"replicas": 2}}) == ""
    assert "Audit week" in asked(two_pools, "PATCH", f"{ONE}?dryRun=All", NEW_IMAGE)
    assert "Audit week" in refusal(two_pools, service("of-none"))


def test_a_leader_worker_set_is_scaled_as_the_pool_of_its_name(
    two_pools: Cluster, until: "Until"
) -> None:
    sets = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{INTERACTIVE}/leaderworkersets"
    made = workload("LeaderWorkerSet", pod())
    made["metadata"] = {**made["metadata"], "name": "answers"}
    made["spec"]["replicas"] = 0
    assert two_pools.create(sets, made)
    try:
        tell(two_pools, stacks_answers=FROZEN)
        until(lambda: "Audit week" in refusal(two_pools, of_pool("answers")))
        scale = {"spec": {"replicas": 1}}
        assert "Audit week" in asked(two_pools, "PATCH", f"{sets}/answers/scale", scale)
    finally:
        tell(two_pools)
        until(lambda: not refusal(two_pools, of_pool("answers")))
        two_pools.delete(f"{sets}/answers")


@pytest.fixture
def frozen_pool(
    platform: Embedded, keys: dict[str, Path], tmp_path: Path
) -> Iterator[tuple[Ground, dict[str, Path]]]:
    """The site's environment, whose calendar freezes the pool `answers` now."""
    home = tmp_path / "article"
    shutil.copytree(PROJECT_ROOT / "fleets" / "article", home)
    now = datetime.now(UTC)
    day = timedelta(days=1)
    (home / "calendars" / "company.ics").write_text(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:1@test\r\n"
        f"DTSTAMP:{now:%Y%m%dT%H%M%SZ}\r\nSUMMARY:Audit week\r\n"
        f"X-GPUFLEET-SCOPE:pools=answers\r\nDTSTART:{now - day:%Y%m%dT%H%M%SZ}\r\n"
        f"DTEND:{now + day:%Y%m%dT%H%M%SZ}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    file = home / "production.yaml"
    declared = yaml.safe_load(file.read_text())
    person = declared["identities"]["ada"]
    for name in ("mara", "jonas"):
        public = keys[name].with_suffix(".pub").read_text().strip()
        declared["identities"][name] = {**person, "ssh_keys": [public]}
    file.write_text(json.dumps(declared, default=str))
    database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    database.migrate()
    workspace = Workspace(PROJECT_ROOT)
    yield (
        Ground(workspace, file, load_fleet(file), platform.state, database, system_clock),
        keys,
    )
    database.close()


def test_the_worker_tells_a_scoped_freeze_and_the_override_of_it(
    two_pools: Cluster, frozen_pool: tuple[Ground, dict[str, Path]], until: "Until"
) -> None:
    ground, keys = frozen_pool
    [row] = sync(ground)
    assert row.message == "open, but not for release.answers, stacks.answers"
    until(lambda: "Audit week" in refusal(two_pools, of_pool("answers")))
    assert refusal(two_pools, of_pool("nightly")) == ""
    wish = Wish(
        sites=["main"],
        changes=["stacks"],
        why="mends it",
        pools=["answers"],
        node_groups=[],
        hours="1",
    )
    override = overrides.planned(ground, wish, "jonas")
    overrides.ask(ground, Signer("jonas", keys["jonas"]), override)
    sync(ground)
    assert "Audit week" in refusal(two_pools, of_pool("answers"))
    give(ground, Signer("mara", keys["mara"]), override.id)
    sync(ground)
    until(lambda: not refusal(two_pools, of_pool("answers")))
    assert "Audit week" in asked(two_pools, "PATCH", f"{ONE}?dryRun=All", NEW_IMAGE)
    overrides.revoke(ground, override.id, "jonas")
    sync(ground)
    until(lambda: "Audit week" in refusal(two_pools, of_pool("answers")))


def test_an_override_of_one_flow_hands_that_flow_a_token_and_opens_nothing_else(
    two_pools: Cluster,
    frozen_pool: tuple[Ground, dict[str, Path]],
    platform: Embedded,
    until: "Until",
) -> None:
    ground, keys = frozen_pool
    wish = Wish(
        sites=["main"],
        changes=["stacks"],
        why="mends it",
        pools=[],
        node_groups=[],
        flow="change-1",
        hours="0.5",
    )
    override = overrides.planned(ground, wish, "jonas")
    overrides.ask(ground, Signer("jonas", keys["jonas"]), override)
    give(ground, Signer("mara", keys["mara"]), override.id)
    sync(ground)
    until(lambda: "Audit week" in refusal(two_pools, of_pool("answers")))
    environment = Environment(
        ground.fleet,
        ground.fleet_file,
        ground.workspace,
        ground.state,
        platform.platform.binaries,
        None,
    )
    with exempted(ground, environment, "main", Purpose.CHANGE, "change-2") as variables:
        assert variables == {}
    with exempted(ground, environment, "main", Purpose.CHANGE, "change-1") as variables:
        file = Path(variables["KUBECONFIG"].split(":")[0])
        assert refusal(Cluster(file, "main"), of_pool("answers")) == ""
        found = ground.exemptions.find(variables[TOKEN_VARIABLE], "main")
        assert found is not None
        assert found.expires_at == override.ends_at
        assert found.purpose == f"override {override.id}"
    assert not file.exists()
    told = [record.event for record in ground.journal.records()]
    assert told[-3:] == ["override.granted", "override.used", "freeze.exempted"]


def test_a_state_without_an_answer_means_frozen(cluster: Cluster, until: "Until") -> None:
    writer = cluster.as_service_account(names.SYSTEM_NAMESPACE, names.FREEZE_SYNC)
    state = object_path(freeze_state.first_state())
    assert asked(writer, "PATCH", state, {"data": {key_of(ChangeKind.STACKS): None}}) == ""
    told = until(lambda: refusal(cluster, service("new")))
    assert "the state of freezes cannot be read" in told


def test_a_node_is_taken_out_of_service_and_back_in_a_freeze(frozen: Cluster) -> None:
    node = frozen.items("/api/v1/nodes")[0]["metadata"]["name"]
    taint = {"key": "gpufleet.dev/quarantined", "effect": "NoSchedule"}
    path = f"/api/v1/nodes/{node}?dryRun=All"
    for spec in ({"unschedulable": True, "taints": [taint]}, {"unschedulable": None}):
        assert asked(frozen, "PATCH", path, {"spec": spec}) == ""
    [pod] = ready_pods(frozen)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod["metadata"]["name"], "namespace": INTERACTIVE},
        "deleteOptions": {"dryRun": ["All"]},
    }
    assert asked(frozen, "POST", f"{PODS}/{pod['metadata']['name']}/eviction", eviction) == ""


def test_plain_kubectl_is_refused_in_a_freeze(frozen: Cluster, platform: Embedded) -> None:
    kubectl = str(platform.platform.binaries.path("kubectl"))
    config = f"--kubeconfig={platform.state.kubeconfig}"
    for command in (
        ("delete", "deployment", "one"),
        ("scale", "deployment", "one", "--replicas=0"),
        ("set", "image", "deployment/one", f"engine=docker.io/vllm/vllm-openai@{DIGEST}"),
    ):
        done = subprocess.run(
            [kubectl, config, "-n", INTERACTIVE, *command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "gpufleet: frozen: freeze `Audit week`" in done.stderr
    assert frozen.get(f"{DEPLOYMENTS}/one") is not None


def test_a_freeze_holds_our_objects_without_a_namespace_and_no_others(frozen: Cluster) -> None:
    ours, theirs = cluster_role("ours", {names.MANAGED: "true"}), cluster_role("theirs", {})
    assert "Audit week" in refusal(frozen, ours)
    assert refusal(frozen, theirs) == ""
    assert "Audit week" in asked(
        frozen,
        "PATCH",
        f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{names.EXEMPT}",
        {"metadata": {"labels": {names.MANAGED: "true"}}},
    )


def cluster_role(name: str, labels: Object) -> Object:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels},
    }


def test_self_healing_goes_on_in_a_freeze(frozen: Cluster, until: "Until") -> None:
    [before] = ready_pods(frozen)
    frozen.delete(f"{PODS}/{before['metadata']['name']}")
    after = until(lambda: ready_pods(frozen))
    assert after[0]["metadata"]["uid"] != before["metadata"]["uid"]


def test_autoscaling_goes_on_in_a_freeze(frozen: Cluster, until: "Until") -> None:
    scaler = frozen.as_service_account("kube-system", "horizontal-pod-autoscaler")
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "one", "namespace": INTERACTIVE},
        "spec": {"replicas": 2},
    }
    assert asked(scaler, "PUT", f"{DEPLOYMENTS}/one/scale", scale) == ""
    until(lambda: len(ready_pods(frozen)) == 2)


def test_an_exempt_flow_goes_on_in_a_freeze_with_its_token(
    frozen: Cluster, platform: Embedded, tmp_path: Path
) -> None:
    exempt = frozen.as_service_account(names.SYSTEM_NAMESPACE, names.EXEMPT)
    body = {"metadata": {"annotations": {"why": "restore"}}}
    assert asked(exempt, "PATCH", f"{DEPLOYMENTS}/one", body) == ""
    assert refusal(exempt, service("new")) == ""
    assert asked(exempt, "GET", "/api/v1/secrets") != ""
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            frozen.kubeconfig_as(names.SYSTEM_NAMESPACE, names.EXEMPT, timedelta(hours=1))
        )
    )
    done = subprocess.run(
        [
            *(str(platform.platform.binaries.path("kubectl")), f"--kubeconfig={file}"),
            *("-n", INTERACTIVE, "annotate", "deployment", "one", "who=exempt"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_the_worker_tells_leaves_the_labels_of_the_stacks(cluster: Cluster) -> None:
    state = object_path(freeze_state.first_state())
    labelled = freeze_state.first_state()
    labelled["metadata"]["labels"] = {names.MANAGED: "true"}
    writer = cluster.as_service_account(names.SYSTEM_NAMESPACE, names.FREEZE_SYNC)
    writer.apply(state, labelled)
    tell(cluster, frozen=False)
    found = cluster.get(state)
    assert found is not None
    assert found["metadata"]["labels"] == {names.MANAGED: "true"}
    assert found["data"]["message"] == OPEN


def test_only_the_worker_may_say_that_no_freeze_holds(frozen: Cluster) -> None:
    state = object_path(freeze_state.first_state())
    thaw = {"data": {"frozen": "false"}}
    later = {"metadata": {"annotations": {names.FREEZE_KNOWN_UNTIL: "2999-01-01T00:00:00Z"}}}
    for told in (
        asked(frozen, "PATCH", state, thaw),
        asked(frozen, "DELETE", state),
        asked(frozen, "PATCH", f"/api/v1/namespaces/{INTERACTIVE}", later),
    ):
        assert "gpufleet: " in told
    assert "Audit week" in refusal(frozen, service("new"))


def test_a_state_that_nobody_keeps_means_frozen(cluster: Cluster, until: "Until") -> None:
    cluster.create(SERVICES, service("kept"))
    tell(cluster, frozen=False, known_for=timedelta(seconds=-30))
    told = until(lambda: refusal(cluster, service("new")))
    assert "nobody has told whether a freeze holds" in told
    assert "nobody has told" in asked(cluster, "DELETE", f"{SERVICES}/kept")
    tell(cluster, frozen=False)
    until(lambda: not refusal(cluster, service("new")))
    assert asked(cluster, "DELETE", f"{SERVICES}/kept") == ""
