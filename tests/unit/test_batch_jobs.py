"""Where batches run: never in interactive pools, within the residency, where GPUs are idle."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.recorded import Recorder, declare

from gpufleet.components.batch_pod import BatchWork, batch_job
from gpufleet.components.pod_template import pod_spec
from gpufleet.components.site_platform import SitePlatform
from gpufleet.core import batch_jobs
from gpufleet.core import vocabulary as names
from gpufleet.core.quotas import SitePlan
from gpufleet.core.serving import PoolAtSite
from gpufleet.edges.clock import system_clock
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet
from gpufleet.spec.batches import BatchOrder, BatchState, IdleGpus, Priority
from gpufleet.spec.errors import BadInput, PolicyRefused

FLEET = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
DOCUMENTS = "document-extraction"


def queue(nominal: dict[str, int], reserved: dict[str, int]) -> dict[str, Any]:
    def flavors(gpus: dict[str, int], amount: str) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "resources": [
                    {"name": "cpu", amount: "1"},
                    {"name": names.GPU_RESOURCE, amount: str(count)},
                ],
            }
            for name, count in gpus.items()
        ]

    return {
        "spec": {"resourceGroups": [{"flavors": flavors(nominal, "nominalQuota")}]},
        "status": {"flavorsReservation": flavors(reserved, "total")},
    }


def test_a_use_case_runs_where_its_batch_pool_is_within_its_residency() -> None:
    homes = batch_jobs.homes(FLEET, DOCUMENTS)
    assert {site: pool.group_name for site, pool in homes.items()} == {
        "fra1": "fra1-documents",
        "dub1": "dub1-documents",
    }
    german = FLEET.use_cases[DOCUMENTS].model_copy(update={"residency": ["de"]})
    fleet = FLEET.model_copy(update={"use_cases": {**FLEET.use_cases, DOCUMENTS: german}})
    assert list(batch_jobs.homes(fleet, DOCUMENTS)) == ["fra1"]


@pytest.mark.parametrize("name", ["support-chat", "contract-search"])
def test_an_interactive_use_case_is_refused(name: str) -> None:
    with pytest.raises(PolicyRefused, match="never run in interactive pools"):
        batch_jobs.homes(FLEET, name)


def test_an_unknown_use_case_is_bad_input_that_names_those_there_are() -> None:
    with pytest.raises(BadInput, match="no such use case") as error:
        batch_jobs.homes(FLEET, "nobody")
    assert DOCUMENTS in error.value.mend


def test_a_pool_whose_replicas_span_nodes_is_refused() -> None:
    pool = FLEET.pools["documents"]
    wide = {
        name: placement.model_copy(update={"nodes_per_replica": 2})
        for name, placement in pool.placements.items()
    }
    wider = {**FLEET.pools, "documents": pool.model_copy(update={"placements": wide})}
    with pytest.raises(PolicyRefused, match="spans nodes"):
        batch_jobs.homes(FLEET.model_copy(update={"pools": wider}), DOCUMENTS)


def test_idle_is_what_nobody_has_reserved_of_the_flavors_own_quota() -> None:
    found = queue({"a": 40, "b": 8}, {"a": 16})
    assert [batch_jobs.idle_gpus(found, flavor) for flavor in ("a", "b", "c")] == [24, 8, 0]
    assert batch_jobs.idle_gpus(queue({"a": 4}, {"a": 9}), "a") == 0
    assert batch_jobs.idle_gpus({**found, "status": {}}, "a") == 40
    assert batch_jobs.idle_gpus(None, "a") == 0


def test_the_site_with_the_most_idle_gpus_comes_first_and_one_that_is_lost_last() -> None:
    def idle(site: str, gpus: int, *, reached: bool = True) -> IdleGpus:
        return IdleGpus(site=site, node_group=site, gpus=gpus, reached=reached)

    sites = [idle("a", 3), idle("lost", 99, reached=False), idle("b", 8), idle("c", 8)]
    assert [each.site for each in batch_jobs.ranked(sites)] == ["b", "c", "a", "lost"]


def test_a_file_of_several_use_cases_is_kept_only_where_all_are_at_home() -> None:
    german = FLEET.use_cases[DOCUMENTS].model_copy(update={"residency": ["de"]})
    fleet = FLEET.model_copy(update={"use_cases": {**FLEET.use_cases, DOCUMENTS: german}})
    assert batch_jobs.storing_sites(fleet, [DOCUMENTS, "mail-classification"]) == ["fra1"]
    assert batch_jobs.storing_sites(fleet, ["mail-classification"]) == ["fra1", "dub1"]


def test_files_are_kept_as_the_strictest_retention_allows() -> None:
    assert batch_jobs.kept_s(FLEET, []) == batch_jobs.KEPT_S
    retention = {
        kind: each.model_copy(update={"content_s": 3600.0 if kind == "confidential" else 1e9})
        for kind, each in FLEET.retention.items()
    }
    fleet = FLEET.model_copy(update={"retention": retention})
    assert batch_jobs.kept_s(fleet, [DOCUMENTS, "mail-classification"]) == 3600
    assert batch_jobs.kept_s(fleet, ["mail-classification"]) == batch_jobs.LONGEST_KEPT_S


def test_a_window_that_outlasts_the_retention_of_its_prompts_is_refused() -> None:
    retention = {
        kind: each.model_copy(update={"content_s": 7200.0})
        for kind, each in FLEET.retention.items()
    }
    fleet = FLEET.model_copy(update={"retention": retention})
    batch_jobs.demand_window(fleet, DOCUMENTS, 7200)
    batch_jobs.demand_window(FLEET, DOCUMENTS, batch_jobs.KEPT_S)
    with pytest.raises(BadInput, match=r"window of 24 h is longer than the 2 h .*confidential"):
        batch_jobs.demand_window(fleet, DOCUMENTS, 86_400)


@given(st.frozensets(st.integers(0, 60)))
def test_a_jobs_compressed_indexes_are_read_as_kubernetes_writes_them(
    wanted: frozenset[int],
) -> None:
    parts: list[list[int]] = []
    for index in sorted(wanted):
        if parts and parts[-1][-1] == index - 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    text = ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    assert batch_jobs.indexes(text) == wanted


def test_a_batch_that_has_ended_by_itself_was_not_cut_short() -> None:
    def view(**status: Any) -> batch_jobs.JobView:  # noqa: ANN401 - JSON
        return batch_jobs.JobView.of({"spec": {}, "status": status}, 4)

    running = view(active=2, completedIndexes="0-1")
    assert (running.ended, set(running.done)) == (False, {0, 1})
    assert running.told == "2 pods at work; 2 of 4 shards answered"
    waiting = batch_jobs.JobView.of({"spec": {"suspend": True}}, 4)
    assert waiting.told == "waits for idle GPUs; 0 of 4 shards answered"
    for kind in ("Complete", "Failed"):
        ended = view(conditions=[{"type": kind, "status": "True"}])
        outcome = batch_jobs.outcome_of(ended, cancelled=True, expired=True)
        assert outcome is BatchState.COMPLETED
    outcomes = [
        batch_jobs.outcome_of(view_, cancelled=cancelled, expired=expired)
        for view_ in (running, None)
        for cancelled, expired in ((False, False), (True, True), (False, True))
    ]
    assert outcomes == 2 * [None, BatchState.CANCELLED, BatchState.EXPIRED]


def job(shards: int = 3, site: str = "fra1") -> tuple[dict[str, Any], PoolAtSite]:
    pool = batch_jobs.homes(FLEET, DOCUMENTS)[site]
    now = system_clock()
    order = BatchOrder(
        id="batch-1",
        use_case=DOCUMENTS,
        team="finance",
        owner="mara",
        pool=pool.name,
        priority=Priority.HIGH,
        endpoint="",
        input_file="file-1",
        input_site=site,
        input_key="files/file-1.jsonl",
        requests=3,
        created_at=now,
        expires_at=now,
    )
    work = BatchWork(FLEET.slug, FLEET.images.gpufleet, "b", "https://s3", site, shards)
    return batch_job(order, pool, work), pool


def test_a_job_waits_in_its_pools_queue_and_never_looks_like_a_replica() -> None:
    made, pool = job()
    labels = made["metadata"]["labels"]
    assert made["spec"]["suspend"] is True
    assert made["metadata"]["namespace"] == names.BATCH_NAMESPACE
    assert labels[names.QUEUE] == pool.name
    assert labels[names.QUEUE_PRIORITY] == "gpufleet-batch-high"
    for about in (made["metadata"], made["spec"]["template"]["metadata"]):
        assert names.POOL not in about["labels"]
        assert about["labels"][names.BATCH_JOB] == "batch-1"
        assert about["labels"][names.CLASS] == "batch"


@pytest.mark.parametrize(("shards", "pods"), [(1, 1), (3, 3), (500, 10)])
def test_a_job_takes_what_is_free_of_the_pods_that_its_node_group_holds(
    shards: int, pods: int
) -> None:
    made, pool = job(shards)
    assert pool.room == 10
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (shards, pods)
    # Kueue refuses the annotation where it says nothing.
    fewest = made["metadata"]["annotations"].get(names.FEWEST_PODS)
    assert fewest == (None if pods == 1 else "1")


def test_a_batchs_pod_runs_the_engine_of_its_pool_under_the_same_restrictions() -> None:
    made, pool = job()
    pod = made["spec"]["template"]["spec"]
    replica = pod_spec(pool, FLEET.images.gpufleet)
    restore, engine = pod["initContainers"]
    [client] = pod["containers"]
    assert restore == replica["initContainers"][0]
    assert engine["restartPolicy"] == "Always"
    of_pool = replica["containers"][0]
    for field in ("image", "command", "args", "resources", "startupProbe", "volumeMounts"):
        assert engine[field] == of_pool[field]
    assert "lifecycle" not in engine
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {names.NODE_GROUP: "fra1-documents"}
    assert pod["securityContext"] == replica["securityContext"]
    for container in (restore, engine, client):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "@sha256:" in container["image"]
    annotations = made["spec"]["template"]["metadata"]["annotations"]
    assert annotations[names.REVISION_DIGEST] == pool.model.digest


def test_a_pools_replica_takes_its_quota_back_from_batches(recorder: Recorder) -> None:
    declare(lambda: SitePlatform(SitePlan.of(FLEET, "fra1")))
    [queue_] = recorder.of("ClusterQueue")
    assert queue_.inputs["spec"]["preemption"] == {"withinClusterQueue": "LowerPriority"}
    values = {
        made.inputs["metadata"]["name"]: made.inputs["value"]
        for made in recorder.of("WorkloadPriorityClass")
    }
    assert set(values) == {names.queue_priority_of(priority) for priority in Priority}
    replicas = {
        made.inputs["metadata"]["name"]: made.inputs["value"]
        for made in recorder.of("PriorityClass")
    }
    assert max(values.values()) < replicas["gpufleet-batch"]
    assert values["gpufleet-batch-high"] > values["gpufleet-batch-low"]


def test_a_batchs_pods_reach_the_object_store_and_are_reached_by_nobody(recorder: Recorder) -> None:
    declare(lambda: SitePlatform(SitePlan.of(FLEET, "fra1")))
    [policy] = [
        made.inputs
        for made in recorder.of("NetworkPolicy")
        if made.inputs["metadata"]["name"] == "batch-jobs"
    ]
    assert policy["metadata"]["namespace"] == names.BATCH_NAMESPACE
    assert policy["spec"]["podSelector"]["matchExpressions"][0]["key"] == names.BATCH_JOB
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]
    assert policy["spec"]["egress"] == [{"ports": [{"port": 443, "protocol": "TCP"}]}]


def test_a_site_without_batch_pools_has_no_batch_queues(recorder: Recorder) -> None:
    article = load_fleet(PROJECT_ROOT / "fleets/article/production.yaml")
    declare(lambda: SitePlatform(SitePlan.of(article, "main")))
    assert not recorder.of("WorkloadPriorityClass")
    assert not recorder.of("ClusterQueue")
