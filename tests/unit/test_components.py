"""What the components declare. The resources are recorded, not made: no GPU cluster and no chart
repository can be reached from here; on the embedded platform the end-to-end tests make them."""

import os

import pulumi
import pytest
from tests.recorded import Recorder, declare
from tests.watched_fleets import on_clusters

from gpufleet.components.admission import Admission
from gpufleet.components.definitions import Definitions
from gpufleet.components.gateway_deployment import deploy_gateway
from gpufleet.components.gateway_pod import GatewayPlan
from gpufleet.components.gateway_pod import pod_spec as gateway_pod
from gpufleet.components.gateway_route import GatewayRoute
from gpufleet.components.monitoring import Monitoring
from gpufleet.components.node_labels import NodeLabels
from gpufleet.components.operators import CHARTS, Operators
from gpufleet.components.pod_template import pod_spec
from gpufleet.components.serving_pool import PoolContext, ServingPool
from gpufleet.components.site import DeclaredSite
from gpufleet.components.site_platform import SitePlatform
from gpufleet.components.snapshot_jobs import cron_job
from gpufleet.components.worker_deployment import deploy_worker
from gpufleet.components.worker_pod import WorkerPlan
from gpufleet.components.worker_pod import pod_spec as worker_pod
from gpufleet.core import cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.core.admission import parameters
from gpufleet.core.gateway.drain import drain_s
from gpufleet.core.gateway.routes import routes_of, routes_text
from gpufleet.core.inventory import expand_site
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import PoolAtSite, pools_at
from gpufleet.core.snapshots.schedule import lines
from gpufleet.core.vocabulary import CACHE_NAMESPACE
from gpufleet.edges.kube_paths import plural
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.gateway import Routes
from gpufleet.spec.hardware import ExistingCluster
from gpufleet.spec.snapshot_schedule import ScheduledRevision, SnapshotSchedule

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
POOLS = [pool for site in FLEET.sites for pool in pools_at(FLEET, site)]


def context() -> PoolContext:
    """What a platform stack gives to pools."""
    return PoolContext(FLEET, pulumi.Output.from_input("http://prometheus"))


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.site}-{pool.name}")
def test_every_pod_passes_pod_security_restricted(pool: PoolAtSite) -> None:
    spec = pod_spec(pool, FLEET.images.gpufleet)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds == {"emptyDir", "persistentVolumeClaim"}
    for container in [*spec["initContainers"], *spec["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "@sha256:" in container["image"]


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: f"{pool.site}-{pool.name}")
def test_weights_are_restored_by_digest_and_read_only_for_the_engine(pool: PoolAtSite) -> None:
    spec = pod_spec(pool, FLEET.images.gpufleet)
    (restore,), (engine,) = spec["initContainers"], spec["containers"]
    assert f"--digest={pool.model.digest}" in restore["args"]
    mounts = {mount["name"]: mount for mount in engine["volumeMounts"]}
    assert mounts["weights"]["readOnly"] is True
    volumes = {each["name"]: each["emptyDir"] for each in spec["volumes"] if "emptyDir" in each}
    assert volumes["shm"]["medium"] == "Memory"
    assert mounts["shm"]["mountPath"] == "/dev/shm"  # noqa: S108 - what is checked
    assert int(volumes["weights"]["sizeLimit"]) > pool.model.size_bytes


def test_only_the_leader_of_a_group_serves_requests() -> None:
    pool = next(pool for pool in POOLS if pool.spans_nodes)
    leader = pod_spec(pool, FLEET.images.gpufleet)["containers"][0]
    worker = pod_spec(pool, FLEET.images.gpufleet, leader=False)["containers"][0]
    assert {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} <= set(leader)
    assert not {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"} & set(worker)
    assert "--headless" in worker["args"]


def test_replica_counts_are_left_to_the_autoscaler_where_one_owns_them(recorder: Recorder) -> None:
    pools = pools_at(FLEET, "fra1")
    left_alone: dict[str, list[str] | None] = {}

    def note(args: pulumi.ResourceTransformationArgs) -> None:
        if args.type_.endswith((":Deployment", ":LeaderWorkerSet")):
            left_alone[args.name] = args.opts.ignore_changes

    opts = pulumi.ResourceOptions(transformations=[note])
    declare(lambda: [ServingPool(pool, context(), opts) for pool in pools])
    assert left_alone == {
        pool.name: ["spec.replicas"] if pool.autoscaled else None for pool in pools
    }
    made = recorder.of("Deployment") + recorder.of("LeaderWorkerSet")
    assert {each.name: each.inputs["spec"]["replicas"] for each in made} == {
        pool.name: pool.replicas for pool in pools
    }
    scaled = {made.inputs["metadata"]["name"] for made in recorder.of("ScaledObject")}
    assert scaled == {pool.name for pool in pools if pool.autoscaled}


def test_losing_prometheus_never_scales_in(recorder: Recorder) -> None:
    declare(lambda: [ServingPool(pool, context()) for pool in pools_at(FLEET, "dub1")])
    scaled = recorder.of("ScaledObject")
    assert scaled
    for made in scaled:
        assert made.inputs["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"


def test_a_site_has_no_gpu_quota_where_kueue_owns_it(recorder: Recorder) -> None:
    declare(lambda: SitePlatform(SitePlan.of(FLEET, "dub1")))
    quotas = [made.inputs["metadata"]["namespace"] for made in recorder.of("ResourceQuota")]
    assert quotas == ["gpufleet-interactive"]
    denied = {
        made.inputs["metadata"]["namespace"]
        for made in recorder.of("NetworkPolicy")
        if made.inputs["metadata"]["name"] == "default-deny"
    }
    namespaces = {made.inputs["metadata"]["name"] for made in recorder.of("Namespace")}
    assert denied == namespaces
    for made in recorder.of("Namespace"):
        labels = made.inputs["metadata"]["labels"]
        is_cache = made.inputs["metadata"]["name"] == CACHE_NAMESPACE
        assert labels["pod-security.kubernetes.io/enforce"] == (
            "privileged" if is_cache else "restricted"
        )


def test_on_a_real_cluster_ansible_owns_drivers_and_charts_are_pinned(recorder: Recorder) -> None:
    declare(lambda: Operators("operators"))
    releases = {made.name: made.inputs for made in recorder.of("Release")}
    assert set(releases) == {chart.name.rsplit("/", 1)[-1] for chart in CHARTS}
    assert all(release["version"] for release in releases.values())
    values = releases["gpu-operator"]["values"]
    assert values["driver"] == {"enabled": False}
    assert values["toolkit"] == {"enabled": False}


def test_on_a_real_cluster_only_our_labels_and_taint_are_patched(recorder: Recorder) -> None:
    nodes = expand_site(FLEET, "fra1")
    declare(lambda: NodeLabels("nodes", nodes))
    patched = recorder.of("NodePatch")
    assert len(patched) == len(nodes)
    for made in patched:
        assert all(key.startswith("gpufleet.dev/") for key in made.inputs["metadata"]["labels"])


def test_definitions_are_one_release_for_each_operator(recorder: Recorder) -> None:
    declare(lambda: Definitions("definitions"))
    charts = {made.inputs["chart"].rsplit("/", 1)[-1] for made in recorder.of("Release")}
    assert charts == {"kueue", "keda", "gateway-api", "prometheus-operator", "lws"}


REAL = FLEET.model_copy(
    update={
        "sites": {
            name: site.model_copy(
                update={"cluster": ExistingCluster(provider="existing", context=f"ctx-{name}")}
            )
            for name, site in FLEET.sites.items()
        }
    }
)
GATEWAY_IMAGE = "ghcr.io/gpufleet/gateway@sha256:" + "ab" * 32
SERVED = REAL.model_copy(
    update={"images": REAL.images.model_copy(update={"gateway": GATEWAY_IMAGE})}
)
AT_FRA1 = DeclaredSite(REAL, PROJECT_ROOT / "fleets/sample/production.yaml", "fra1")


def test_no_provider_keeps_the_kubeconfig_that_it_was_run_with(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "of-an-exemption-that-ends")
    declare(AT_FRA1.provider)
    (made,) = recorder.of("kubernetes")
    assert made.inputs["context"] == "ctx-fra1"
    assert "kubeconfig" not in made.inputs
    assert os.environ["KUBECONFIG"] == "of-an-exemption-that-ends"


def test_the_gateway_runs_where_its_image_is_declared_and_never_at_an_embedded_site(
    recorder: Recorder,
) -> None:
    embedded = SERVED.model_copy(update={"sites": FLEET.sites})

    def program() -> None:
        for fleet in (REAL, embedded, SERVED):
            deploy_gateway(DeclaredSite(fleet, AT_FRA1.path, "dub1"), pulumi.ResourceOptions())

    declare(program)
    (deployment,) = recorder.of("Deployment")
    assert deployment.inputs["metadata"]["namespace"] == "gpufleet-gateway"
    assert deployment.inputs["spec"]["replicas"] == SERVED.gateway.replicas
    (config,) = [made for made in recorder.of("ConfigMap") if made.name.endswith("-access")]
    assert "current-context: ctx-dub1" in config.inputs["data"]["kubeconfig"]
    (budget,) = recorder.of("PodDisruptionBudget")
    selector = budget.inputs["spec"]["selector"]["matchLabels"]
    labels = deployment.inputs["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()


def test_the_gateway_s_service_finds_its_pods_and_its_metrics_are_on_no_public_port(
    recorder: Recorder,
) -> None:
    def program() -> None:
        deploy_gateway(DeclaredSite(SERVED, AT_FRA1.path, "fra1"), pulumi.ResourceOptions())
        GatewayRoute("gateway", SERVED.slug, routes_text(SERVED))

    declare(program)
    services = {
        made.inputs["metadata"]["name"]: made.inputs["spec"] for made in recorder.of("Service")
    }
    (deployment,) = recorder.of("Deployment")
    labels = deployment.inputs["spec"]["template"]["metadata"]["labels"]
    public = services["gpufleet"]
    assert public["selector"].items() <= labels.items()
    assert [port["targetPort"] for port in public["ports"]] == ["http"]
    (policy,) = recorder.of("NetworkPolicy")
    anywhere, scraped = policy.inputs["spec"]["ingress"]
    assert [port["port"] for port in anywhere["ports"]] == [names.GATEWAY_PORT]
    assert [port["port"] for port in scraped["ports"]] == [names.GATEWAY_METRICS_PORT]
    (routes,) = [made for made in recorder.of("ConfigMap") if made.name.endswith("-routes")]
    assert Routes.model_validate_json(routes.inputs["data"]["routes.json"]).use_cases


def test_the_gateway_s_pod_is_restricted_reads_pods_and_routes_only_and_keeps_no_secret(
    recorder: Recorder,
) -> None:
    site = DeclaredSite(SERVED, AT_FRA1.path, "fra1")
    declare(lambda: deploy_gateway(site, pulumi.ResourceOptions()))
    spec = gateway_pod(GatewayPlan.of(site, GATEWAY_IMAGE))
    assert spec["terminationGracePeriodSeconds"] > drain_s(routes_of(SERVED))
    memory = {v["name"] for v in spec["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"}
    for container in spec["containers"]:
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts["/run/gpufleet/gateway/metrics"] in memory
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (control,), (proxy,) = spec["initContainers"], spec["containers"]
    assert (proxy["image"], control["image"]) == (GATEWAY_IMAGE, SERVED.images.gpufleet)
    for container in (proxy, control):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert all(probe in container for probe in ("readinessProbe", "livenessProbe"))
    assert not recorder.of("Secret")
    rules = [
        (resource, verb)
        for made in recorder.of("Role")
        for rule in made.inputs["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert set(rules) == {
        *(("pods", verb) for verb in ("get", "list", "watch")),
        ("configmaps", "get"),
    }


def test_the_control_process_ends_after_the_proxy_and_has_time_to_ship_its_last_records() -> None:
    site = DeclaredSite(SERVED, AT_FRA1.path, "fra1")
    spec = gateway_pod(GatewayPlan.of(site, GATEWAY_IMAGE))
    ((control,), (proxy,)) = spec["initContainers"], spec["containers"]
    # Kubernetes ends such a sidecar last.
    assert (control["name"], control["restartPolicy"]) == ("control", "Always")
    drain_s = proxy["lifecycle"]["preStop"]["sleep"]["seconds"] + 30 + 5
    assert spec["terminationGracePeriodSeconds"] >= drain_s + 15


def test_the_gateway_s_image_is_one_that_admission_lets_run() -> None:
    allowed = parameters(SERVED)["data"]["images"].split("\n")
    assert "ghcr.io/gpufleet/gateway@" in allowed


def test_the_worker_runs_at_exactly_one_site_and_nowhere_beside_an_embedded_one(
    recorder: Recorder,
) -> None:
    def program() -> None:
        for fleet in (REAL, FLEET):
            for site in fleet.sites:
                deploy_worker(DeclaredSite(fleet, AT_FRA1.path, site), pulumi.ResourceOptions())

    declare(program)
    (deployment,) = recorder.of("Deployment")
    assert deployment.inputs["metadata"]["namespace"] == "gpufleet-system"
    assert deployment.inputs["spec"]["replicas"] == 2
    (config,) = [made for made in recorder.of("ConfigMap") if made.name.endswith("-access")]
    assert "current-context: ctx-fra1" in config.inputs["data"]["kubeconfig"]


def test_the_worker_s_pod_is_restricted_and_its_secrets_are_in_no_state(recorder: Recorder) -> None:
    declare(lambda: deploy_worker(AT_FRA1, pulumi.ResourceOptions()))
    spec = worker_pod(WorkerPlan.of(AT_FRA1))
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "@sha256:" in container["image"]
    url = next(each for each in container["env"] if each["name"] == "GPUFLEET_DATABASE_URL")
    assert set(url) == {"name", "valueFrom"}
    assert not recorder.of("Secret")
    assert all(probe in container for probe in ("readinessProbe", "livenessProbe"))


SCHEDULED = SnapshotSchedule(
    revisions={"chat-v7": ScheduledRevision(source="/v7", claim="models", site="ams1")}
)


def test_what_is_scheduled_is_taken_by_cron_jobs_of_the_worker_s_site(recorder: Recorder) -> None:
    fleet = REAL.model_copy(update={"snapshot_schedule": SCHEDULED})

    def program() -> None:
        for site in fleet.sites:
            deploy_worker(DeclaredSite(fleet, AT_FRA1.path, site), pulumi.ResourceOptions())

    declare(program)
    made = {each.inputs["metadata"]["name"]: each.inputs for each in recorder.of("CronJob")}
    assert set(made) == {
        names.cron_job_of(line.revision, protects=not line.source) for line in lines(fleet)
    }
    take = made[names.cron_job_of("chat-v7", protects=False)]["spec"]
    assert take["concurrencyPolicy"] == "Forbid"
    pod = take["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [
        "snapshot.take",
        "--revision=chat-v7",
        "--source=/source/v7",
        "--site=ams1",
        "--apply",
        "--fleet=/opt/gpufleet/fleets/sample/production.yaml",
    ]
    claims = {each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["volumes"]}
    assert {"models", "gpufleet-worker"} <= claims
    assert next(each for each in pod["volumes"] if each["name"] == "source")[
        "persistentVolumeClaim"
    ]["readOnly"]
    protect = made["gpufleet-protect"]["spec"]
    assert protect["schedule"] == "*/2 * * * *"
    assert (
        protect["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"][0]
        == "dr.protect"
    )


def test_a_scheduled_pod_is_restricted_as_the_worker_s_and_ends(recorder: Recorder) -> None:
    fleet = REAL.model_copy(update={"snapshot_schedule": SCHEDULED})
    plan = WorkerPlan.of(DeclaredSite(fleet, AT_FRA1.path, "fra1"))
    assert not recorder.made
    for line in lines(fleet):
        spec = cron_job(line, plan)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        worker = worker_pod(plan)
        assert spec["securityContext"] == worker["securityContext"]
        assert container["securityContext"] == worker["containers"][0]["securityContext"]
        assert spec["restartPolicy"] == "Never"
        assert not {"readinessProbe", "livenessProbe", "ports"} & set(container)
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in spec["volumes"]
        }


def test_the_worker_finds_the_declared_files_where_they_were() -> None:
    plan = WorkerPlan.of(AT_FRA1)
    laid = {plan.paths[key]: text for key, text in plan.data.items()}
    folder = AT_FRA1.path.parent
    expected = {"production.yaml", "shared/company.yaml", "shared/models.yaml"}
    assert expected | {"calendars/company.ics", "calendars/dublin.ics"} == set(laid)
    assert all(text == (folder / path).read_bytes().decode() for path, text in laid.items())


def test_the_worker_may_write_every_kind_that_the_stacks_make_and_no_secret(
    recorder: Recorder,
) -> None:
    def program() -> None:
        for site in REAL.sites:
            Admission(f"admission-{site}", REAL)
            SitePlatform(SitePlan.of(REAL, site))
            deploy_worker(DeclaredSite(REAL, AT_FRA1.path, site), pulumi.ResourceOptions())
            for pool in pools_at(REAL, site):
                ServingPool(pool, context())
            GatewayRoute(f"gateway-{site}", REAL.slug, routes_text(REAL))
            deploy_gateway(DeclaredSite(SERVED, AT_FRA1.path, site), pulumi.ResourceOptions())
            Monitoring(f"monitoring-{site}", REAL, site)

    declare(program)
    written = {
        (group, resource)
        for kinds in (
            cluster_worker.CLUSTER_KINDS,
            cluster_worker.NAMESPACED_KINDS,
            cluster_worker.SYSTEM_KINDS,
        )
        for group, resources in kinds.items()
        for resource in resources
    }
    made = set()
    for each in recorder.made:
        if not each.typ.startswith("kubernetes:"):
            continue
        _, module, kind = each.typ.split(":")
        group = module.rsplit("/", 1)[0]
        made.add(("" if group == "core" else group, plural(kind)))
    assert made - written == {
        ("rbac.authorization.k8s.io", kind)
        for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
    }
    rules = [
        *cluster_worker.cluster_rules(),
        *(
            rule
            for namespace in names.GOVERNED_NAMESPACES
            for rule in cluster_worker.namespace_rules(namespace)
        ),
    ]
    assert not any({"secrets", "*"} & set(rule["resources"]) for rule in rules)
    assert not any({"escalate", "bind", "*"} & set(rule["verbs"]) for rule in rules)


def test_rules_monitors_and_dashboards_are_objects_of_the_monitoring_namespace(
    recorder: Recorder,
) -> None:
    declare(lambda: Monitoring("monitoring", on_clusters(REAL), "fra1"))
    monitors = {made.inputs["metadata"]["name"] for made in recorder.of("PodMonitor")}
    assert monitors == {"gpufleet-pools"}
    rules = {made.inputs["metadata"]["name"] for made in recorder.of("PrometheusRule")}
    assert {f"gpufleet-use-case-{name}" for name in REAL.use_cases} < rules
    boards = recorder.of("ConfigMap")
    assert len(boards) == 5
    for made in (*recorder.of("PodMonitor"), *recorder.of("PrometheusRule"), *boards):
        about = made.inputs["metadata"]
        assert about["namespace"] == names.MONITORING_NAMESPACE
        assert about["labels"][names.MANAGED] == "true"


def test_on_a_real_cluster_prometheus_picks_up_what_is_ours(recorder: Recorder) -> None:
    declare(lambda: Operators("operators"))
    releases = {made.name: made.inputs["values"] for made in recorder.of("Release")}
    spec = releases["kube-prometheus-stack"]["prometheus"]["prometheusSpec"]
    assert [spec[f"{kind}SelectorNilUsesHelmValues"] for kind in ("rule", "podMonitor")] == [
        False,
        False,
    ]
    dashboards = releases["kube-prometheus-stack"]["grafana"]["sidecar"]["dashboards"]
    assert dashboards["searchNamespace"] == "ALL"
    exporter = releases["gpu-operator"]["dcgmExporter"]["serviceMonitor"]
    assert exporter["honorLabels"] is True
