"""What a drill for real takes from production on real clusters is given back as it was.

Two embedded sites: interactive replicas stand at `east`, batch holds every GPU of `west`.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpufleet.components.pod_template import metadata, pod_spec
from gpufleet.core import vocabulary as names
from gpufleet.core.autoscaling import full_replica, scaled_object
from gpufleet.core.drills.production import PAUSED, TAKEN_BY, mark_of, production_fleet
from gpufleet.core.drills.stage import NAMESPACE
from gpufleet.core.observed import is_ready
from gpufleet.core.patching.nodes import CORDONED_BY
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.drills import keeper
from gpufleet.flows.drills.for_real_plan import plan_for_real
from gpufleet.flows.drills.production import MANAGER, Production
from gpufleet.flows.drills.production_stage import ProductionStage
from gpufleet.flows.drills.returning import Returning
from gpufleet.flows.ground import Ground
from gpufleet.local.engine.settings import ENGINES_FILE, write_engines
from gpufleet.local.engine_specs import engine_specs
from gpufleet.local.gpu_board import write_gpus
from gpufleet.spec import Fleet
from gpufleet.spec.drills import DrillPlan, DrillReport, DrillState, Reason
from gpufleet.spec.errors import BadInput, Retryable
from gpufleet.spec.serving import Placement, Pool
from gpufleet.spec.simulation import FaultKind

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
EAST, WEST = "east", "west"
FLOW = "drill-for-real-1"
ANSWERS, MAIL = "answers", "mail"


def declared(base: Fleet) -> Fleet:
    """Interactive replicas at `east` alone, batch on every GPU of `west`."""
    answers = base.pools[ANSWERS].model_copy(
        update={
            "placements": {"east-h100": Placement(replicas=2, max_replicas=3, gpus_per_node=4)},
            "prewarm": [],
        }
    )
    mail = Pool.model_validate(
        {
            "class": "batch",
            "model": answers.model,
            "placements": {"west-h100": {"replicas": 4, "gpus_per_node": 4}},
        }
    )
    models = {
        name: model.model_copy(update={"load_time_s": 1.0}) for name, model in base.models.items()
    }
    pools = {ANSWERS: answers, MAIL: mail}
    return base.model_copy(update={"pools": pools, "models": models})


@pytest.fixture(scope="module")
def fleet(embedded: "Embedded") -> Fleet:
    return declared(embedded.platform.fleet)


@pytest.fixture(scope="module")
def clusters(embedded: "Embedded") -> Iterator[dict[str, Cluster]]:
    """Both sites, with what every pod of a pool needs."""
    made = {site: embedded.cluster(site) for site in (EAST, WEST)}
    for cluster in made.values():
        for name in (names.INTERACTIVE_NAMESPACE, names.BATCH_NAMESPACE):
            about = {"metadata": {"name": name}}
            cluster.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", **about})
        for name, value in (("gpufleet-interactive", 100_000), ("gpufleet-batch", 10_000)):
            cluster.create(
                "/apis/scheduling.k8s.io/v1/priorityclasses",
                {
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": name},
                    "value": value,
                },
            )
        cluster.create(
            "/apis/node.k8s.io/v1/runtimeclasses",
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": names.RUNTIME_CLASS},
                "handler": "nvidia",
            },
        )
    for path, thing in queue().items():
        made[WEST].create(path, thing)
    yield made
    for path, thing in reversed(queue().items()):
        made[WEST].delete(f"{path}/{thing['metadata']['name']}")
    for cluster in made.values():
        cluster.close()


def queue() -> dict[str, dict[str, Any]]:
    """Quota for all of batch, by the path of its collection: Kueue admits its pods."""
    most = [
        {"name": name, "nominalQuota": "10000Gi"}
        for name in ("cpu", "memory", "ephemeral-storage", names.GPU_RESOURCE)
    ]
    group = {
        "coveredResources": [each["name"] for each in most],
        "flavors": [{"name": "any", "resources": most}],
    }
    kinds = {
        ("ResourceFlavor", "any", ""): {},
        ("ClusterQueue", names.CLUSTER_QUEUE, ""): {
            "namespaceSelector": {},
            "resourceGroups": [group],
        },
        ("LocalQueue", MAIL, names.BATCH_NAMESPACE): {"clusterQueue": names.CLUSTER_QUEUE},
    }
    return {
        collection_path("kueue.x-k8s.io/v1beta1", kind, namespace or None): {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": kind,
            "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
            "spec": spec,
        }
        for (kind, name, namespace), spec in kinds.items()
    }


@pytest.fixture
def ground(embedded: "Embedded", fleet: Fleet, tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), PROJECT_ROOT / "fleets/article/production.yaml")
    yield replace(opened, fleet=fleet, state=embedded.state)
    opened.close()


def workload_path(pool: PoolAtSite) -> str:
    return f"/apis/apps/v1/namespaces/{pool.namespace}/deployments/{pool.name}"


def scaler_path(pool: PoolAtSite) -> str:
    return f"/apis/keda.sh/v1alpha1/namespaces/{pool.namespace}/scaledobjects/{pool.name}"


@pytest.fixture
def production(
    ground: Ground, embedded: "Embedded", clusters: dict[str, Cluster], until: "Until"
) -> Iterator[dict[str, Cluster]]:
    """Both pools serve, each as its stack makes it."""
    for site, cluster in clusters.items():
        folder = ground.state.site(site)
        write_engines(folder, engine_specs(ground.fleet, site))
        write_gpus(folder, ground.fleet, site)
        for pool in pools_at(ground.fleet, site):
            account = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": pool.name},
            }
            cluster.create(f"/api/v1/namespaces/{pool.namespace}/serviceaccounts", account)
            cluster.apply(workload_path(pool), workload(pool))
            if pool.autoscaled:
                url = f"http://127.0.0.1:{embedded.state.port(site, 'prometheus')}"
                cluster.apply(scaler_path(pool), scaler(ground.fleet, pool, url))
    until(lambda: all_ready(ground.fleet, clusters), 120)
    yield clusters
    for site, cluster in clusters.items():
        cordoned(cluster, unschedulable=False)
        cluster.delete(f"/api/v1/namespaces/{NAMESPACE}")
        for pool in pools_at(ground.fleet, site):
            cluster.delete(scaler_path(pool))
            cluster.delete(f"{workload_path(pool)}?propagationPolicy=Background")
    until(lambda: not [pod for each in clusters.values() for pod in pods(each)])


def workload(pool: PoolAtSite) -> dict[str, Any]:
    queued = {names.QUEUE: pool.name} if names.is_batch(pool.class_) else {}
    labels = {**pool.labels, **queued}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": pool.name, "namespace": pool.namespace, "labels": labels},
        "spec": {
            "replicas": pool.replicas,
            "selector": {"matchLabels": {names.POOL: pool.name}},
            "template": {
                "metadata": metadata(pool),
                "spec": pod_spec(pool, "example/restore:1", cache=False),
            },
        },
    }


def scaler(fleet: Fleet, pool: PoolAtSite, url: str) -> dict[str, Any]:
    about = {"name": pool.name, "namespace": pool.namespace}
    spec = scaled_object(pool, full_replica(fleet, pool), url)
    kind = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
    return {**kind, "metadata": about, "spec": spec}


def pods(cluster: Cluster) -> list[dict[str, Any]]:
    return cluster.items("/api/v1/pods", labels=names.POOL)


def all_ready(fleet: Fleet, clusters: dict[str, Cluster]) -> bool:
    return all(
        ready(cluster, pool) == pool.replicas
        for site, cluster in clusters.items()
        for pool in pools_at(fleet, site)
    )


def ready(cluster: Cluster, pool: PoolAtSite) -> int:
    found = cluster.get(workload_path(pool)) or {}
    return int(found.get("status", {}).get("readyReplicas", 0))


def at(fleet: Fleet, site: str, name: str) -> PoolAtSite:
    (found,) = (pool for pool in pools_at(fleet, site) if pool.name == name)
    return found


def begun(ground: Ground, plan: DrillPlan) -> ProductionStage:
    """A drill that has begun, and has taken nothing yet."""
    ground.drills.begin(
        DrillReport(
            flow=FLOW,
            scenario=plan.scenario,
            target=plan.target,
            actor="mara",
            begun_at=ground.clock(),
            outlook=plan.outlook,
            for_real=plan.for_real,
        )
    )
    return ProductionStage(ground, FLOW, plan.scenario)


def lose_the_site(ground: Ground, production: dict[str, Cluster], until: "Until") -> DrillPlan:
    """Everything that a drill of the loss of `east` takes, and what comes up."""
    plan = plan_for_real(ground, "site-lost", EAST)
    stage = begun(ground, plan)
    assert stage.fail(EAST, FaultKind.CRASH) == {ANSWERS}
    stage.keep_away()
    assert stage.let_batch_yield() == 2
    coming = production_fleet(ground.fleet, plan.placed)
    stage.set_up(coming, WEST, started=True)
    until(lambda: serving(production[WEST], NAMESPACE) == 2)
    return plan


def cordoned(cluster: Cluster, *, unschedulable: bool) -> None:
    for node in cluster.items("/api/v1/nodes"):
        path = f"/api/v1/nodes/{node['metadata']['name']}"
        cluster.merge(path, {"spec": {"unschedulable": unschedulable}})


def serving(cluster: Cluster, namespace: str) -> int:
    found = cluster.items(f"/api/v1/namespaces/{namespace}/pods", labels=f"{names.POOL}={ANSWERS}")
    return sum(is_ready(pod) for pod in found)


def is_as_before(ground: Ground, production: dict[str, Cluster]) -> None:
    """Nothing of a drill is left on what is production's."""
    for site, cluster in production.items():
        assert cluster.get(f"/api/v1/namespaces/{NAMESPACE}") is None
        rows = json.loads((ground.state.site(site) / ENGINES_FILE).read_text())
        assert {row["pool"] for row in rows} == {p.name for p in pools_at(ground.fleet, site)}
        for node in cluster.items("/api/v1/nodes"):
            assert not node["spec"].get("unschedulable")
            assert CORDONED_BY not in (node["metadata"].get("annotations") or {})
        for pool in pools_at(ground.fleet, site):
            paths = [workload_path(pool), *([scaler_path(pool)] if pool.autoscaled else [])]
            for path in paths:
                about = (cluster.get(path) or {})["metadata"]
                assert not {TAKEN_BY, PAUSED} & (about.get("annotations") or {}).keys()
                owners = {each["manager"] for each in about["managedFields"]}
                assert MANAGER not in owners
            assert (cluster.get(workload_path(pool)) or {})["spec"]["replicas"] == pool.replicas


def test_a_plan_names_what_is_lost_and_what_yields_and_changes_nothing(
    ground: Ground, production: dict[str, Cluster]
) -> None:
    plan = plan_for_real(ground, "site-lost", EAST)
    assert plan.for_real is not None
    rows = {(each.pool, each.reason): each for each in plan.for_real.scaled}
    lost, yields = rows[ANSWERS, Reason.LOST], rows[MAIL, Reason.YIELDS]
    assert (lost.before, lost.left, lost.autoscaled) == (2, 0, True)
    assert (yields.before, yields.left, len(yields.pods)) == (4, 2, 2)
    assert {(each.pool, each.site, each.yields) for each in plan.placed} == {(ANSWERS, WEST, MAIL)}
    assert plan.unheld == {}
    is_as_before(ground, production)


def test_a_lost_site_stays_away_and_everything_is_given_back_in_order(
    ground: Ground, production: dict[str, Cluster], until: "Until"
) -> None:
    east, west = production[EAST], production[WEST]
    answers, mail = at(ground.fleet, EAST, ANSWERS), at(ground.fleet, WEST, MAIL)
    plan = lose_the_site(ground, production, until)
    # KEDA wants two, and does not get them.
    until(lambda: not pods(east))
    assert (east.get(workload_path(answers)) or {})["spec"]["replicas"] == 0
    assert (west.get(workload_path(mail)) or {})["spec"]["replicas"] == 2
    back = Returning.of(ground, ground.drills.report(FLOW))
    assert back is not None
    assert plan.for_real == back.real
    # Nothing can be ready again while no node takes it.
    cordoned(east, unschedulable=True)
    assert f"{ANSWERS} at {EAST}" in back.proceed()
    assert f"{ANSWERS} at {EAST}" in back.proceed()
    assert (east.get(workload_path(answers)) or {})["spec"]["replicas"] == 2
    # What came up serves for as long as what was lost does not, and batch waits for it.
    assert serving(west, NAMESPACE) == 2
    assert (west.get(workload_path(mail)) or {})["spec"]["replicas"] == 2
    cordoned(east, unschedulable=False)
    until(lambda: not back.proceed())
    assert ready(east, answers) == 2
    is_as_before(ground, production)
    until(lambda: ready(west, mail) == 4)
    assert back.proceed() == ""
    is_as_before(ground, production)


def test_what_a_cancelled_drill_has_taken_is_given_back_by_the_keeper(
    ground: Ground,
    production: dict[str, Cluster],
    until: "Until",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper, "open_flows", lambda _: [])
    lose_the_site(ground, production, until)
    assert keeper.hitting(ground) == {("site-lost", EAST)}

    def struck() -> bool:
        try:
            return keeper.strike_left(ground) == [FLOW]
        except Retryable:
            return False

    until(struck)
    is_as_before(ground, production)
    report = ground.drills.report(FLOW)
    assert (report.state, report.cleaned) == (DrillState.CANCELLED, True)
    assert report.given_back_at is not None
    assert keeper.hitting(ground) == set()


def test_a_drill_that_has_taken_nothing_gives_nothing_back(
    ground: Ground, production: dict[str, Cluster]
) -> None:
    begun(ground, plan_for_real(ground, "site-lost", EAST))
    back = Returning.of(ground, ground.drills.report(FLOW))
    assert back is not None
    assert back.proceed() == ""
    is_as_before(ground, production)


def test_a_lost_gpu_s_replica_is_made_again_on_another_node_which_alone_takes_work(
    ground: Ground, production: dict[str, Cluster], until: "Until"
) -> None:
    east, answers = production[EAST], at(ground.fleet, EAST, ANSWERS)
    plan = plan_for_real(ground, "gpu-lost", f"{ANSWERS}@{EAST}")
    real = plan.for_real
    assert real is not None
    assert real.cordoned is not None
    assert plan.unheld == {}
    lost = real.cordoned
    stage = begun(ground, plan)
    assert stage.fail(EAST, FaultKind.CRASH) == {ANSWERS}
    stage.keep_away()
    until(lambda: ready(east, answers) == 2 and stage.ready_pools(EAST) == {ANSWERS: 2})
    assert lost.pod not in {pod["metadata"]["name"] for pod in pods(east)}
    node = east.get(f"/api/v1/nodes/{lost.node}") or {}
    assert node["metadata"]["annotations"][CORDONED_BY] == mark_of(FLOW)
    back = Returning.of(ground, ground.drills.report(FLOW))
    assert back is not None
    assert back.proceed() == ""
    is_as_before(ground, production)


def test_a_node_that_somebody_else_has_cordoned_is_left_to_him(
    ground: Ground, production: dict[str, Cluster]
) -> None:
    east = production[EAST]
    lost = plan_for_real(ground, "gpu-lost", f"{ANSWERS}@{EAST}").for_real
    assert lost is not None
    assert lost.cordoned is not None
    path = f"/api/v1/nodes/{lost.cordoned.node}"
    east.merge(path, {"spec": {"unschedulable": True}})
    try:
        drilled = Production(ground, FLOW, EAST)
        assert not drilled.cordon(lost.cordoned)
        drilled.uncordon(lost.cordoned)
        assert (east.get(path) or {})["spec"]["unschedulable"]
        other = plan_for_real(ground, "gpu-lost", f"{ANSWERS}@{EAST}").for_real
        assert other is None or other.cordoned is None or other.cordoned.node != lost.cordoned.node
    except BadInput as error:
        assert "nobody has cordoned" in error.what  # noqa: PT017 - both replicas were on that node
    finally:
        east.merge(path, {"spec": {"unschedulable": False}})
