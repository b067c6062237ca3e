"""What operators are told and allowed on the embedded platform."""

from pathlib import Path
from typing import Any

import pytest

from gpufleet.local import ports, roles
from gpufleet.local.cluster_operators import for_batch_only, without_what_is_switched_off
from gpufleet.local.operators import kueue_settings
from gpufleet.local.site_files import SiteFiles

BATCH_ONLY = {"matchLabels": {"kubernetes.io/metadata.name": "gpufleet-batch"}}


def webhook(name: str, group: str, *resources: str) -> dict[str, Any]:
    return {"name": name, "rules": [{"apiGroups": [group], "resources": list(resources)}]}


def test_kueue_is_asked_about_batch_work_and_its_own_kinds_only() -> None:
    queue = webhook("queue", "kueue.x-k8s.io", "clusterqueues")
    workload = webhook("workload", "kueue.x-k8s.io", "workloads", "workloads/status")
    pod = webhook("pod", "", "pods")
    found = for_batch_only(
        [
            queue,
            workload,
            pod,
            webhook("set", "apps", "statefulsets"),
            webhook("ray", "ray.io", "rayjobs"),
        ]
    )
    assert found == [queue, workload, {**pod, "namespaceSelector": BATCH_ONLY}]


def test_kueue_reads_no_secrets_and_changes_no_webhooks() -> None:
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    found = without_what_is_switched_off(
        [
            pods,
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "update"]},
            {
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["mutatingwebhookconfigurations"],
                "verbs": ["update"],
            },
            {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get"]},
        ]
    )
    assert found == [pods]


@pytest.mark.parametrize(
    "rules", [roles.KEDA, roles.KEDA_ADAPTER, roles.KEDA_WEBHOOKS, roles.PROMETHEUS, roles.AGENT]
)
def test_nobody_reads_every_secret_or_everything(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        assert "secrets" not in rule.get("resources", [])
        assert "*" not in rule.get("apiGroups", [])
        assert "*" not in rule["verbs"]


def test_only_the_batch_namespace_is_managed_and_whole(tmp_path: Path) -> None:
    chosen = dict(zip(ports.NAMES, range(20_000, 20_100), strict=False))
    settings = kueue_settings(SiteFiles("east", tmp_path, chosen, {}, tmp_path))
    assert settings["managedJobsNamespaceSelector"] == BATCH_ONLY
    assert settings["manageJobsWithoutQueueName"] is True
    assert settings["internalCertManagement"] == {"enable": False}
    for part in ("metrics", "health"):
        (address,) = (value for value in settings[part].values() if isinstance(value, str))
        assert address.startswith("127.0.0.1:")
