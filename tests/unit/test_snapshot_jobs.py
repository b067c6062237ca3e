"""The CronJobs that take snapshots: what their pods may do, and when a run is tried again."""

from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import small_fleet
from tests.watched_fleets import on_clusters

from gpufleet.components.snapshot_jobs import cron_job
from gpufleet.components.worker_pod import WorkerPlan
from gpufleet.core import vocabulary as names
from gpufleet.core.cluster_worker import key_files, namespace_rules
from gpufleet.core.snapshots.schedule import lines
from gpufleet.spec.errors import EXIT_FAILED, EXIT_RETRYABLE, EXIT_TARGET_MISSED
from gpufleet.spec.governance import SnapshotKeys
from gpufleet.spec.snapshot_schedule import ScheduledRevision, SnapshotSchedule

PLAN = WorkerPlan("f-e", "f", "e.yaml", "east", "image", {}, {}, (443,))
SCHEDULE = SnapshotSchedule(revisions={"chat": ScheduledRevision(source="/m", claim="models")})
FLEET = on_clusters(small_fleet("east")).model_copy(update={"snapshot_schedule": SCHEDULE})


@pytest.fixture(params=lines(FLEET), ids=lambda line: line.revision)
def job(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a CronJob makes of each line."""
    made: dict[str, Any] = cron_job(request.param, PLAN)["spec"]
    return made


def test_its_pod_has_no_right_in_the_cluster_and_no_secret_of_the_stacks(
    job: dict[str, Any],
) -> None:
    pod = job["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == names.SNAPSHOTS
    assert pod["automountServiceAccountToken"] is False
    assert not {"access", "secrets"} & {each["name"] for each in pod["volumes"]}
    (container,) = pod["containers"]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}
    told = {each["name"] for each in container["env"]}
    assert told == {"GPUFLEET_DATABASE_URL", "HOME"}


def test_its_pod_has_the_keys_that_snapshots_are_encrypted_and_signed_with() -> None:
    keys = SnapshotKeys(encryption_key="k1", signing_key_file="signing.pem")
    fleet = FLEET.model_copy(update={"snapshot_keys": keys})
    plan = replace(PLAN, keys=key_files(fleet))
    pod = cron_job(lines(fleet)[1], plan)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {each["name"]: each.get("value") for each in container["env"]}
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "artifact-files"]
    assert told["GPUFLEET_SNAPSHOT_KEY_FILE"] == f"{mount['mountPath']}/snapshot-key"
    assert told["GPUFLEET_SIGNING_KEY_FILE"] == f"{mount['mountPath']}/signing-key"
    (files,) = [each["secret"] for each in pod["volumes"] if each["name"] == "artifact-files"]
    assert [each["path"] for each in files["items"]] == ["snapshot-key", "signing-key"]


def test_a_run_that_told_of_a_missing_part_is_not_tried_again(job: dict[str, Any]) -> None:
    spec = job["jobTemplate"]["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["containerName"] == "snapshot"
    final = rule["onExitCodes"]["values"]
    assert EXIT_TARGET_MISSED in final
    assert not {EXIT_FAILED, EXIT_RETRYABLE} & set(final)


def test_a_run_that_hangs_holds_up_no_later_one_for_ever(job: dict[str, Any]) -> None:
    assert job["concurrencyPolicy"] == "Forbid"
    assert 3600 <= job["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 4 * 86_400


def test_the_worker_makes_cron_jobs_in_its_own_namespace_only() -> None:
    spaces = (names.SYSTEM_NAMESPACE, names.BATCH_NAMESPACE, names.CACHE_NAMESPACE)
    may = [
        space
        for space in spaces
        if any("cronjobs" in rule["resources"] for rule in namespace_rules(space))
    ]
    assert may == [names.SYSTEM_NAMESPACE]
