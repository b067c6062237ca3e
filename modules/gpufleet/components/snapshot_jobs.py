"""Snapshots that are taken by themselves on a cluster: CronJobs beside the worker."""

from collections.abc import Iterable
from typing import Any, Final

import pulumi
import pulumi_kubernetes as k8s

from gpufleet.components.site import DeclaredSite
from gpufleet.components.worker_pod import WorkerPlan, fleet_file_of
from gpufleet.components.worker_pod import pod_spec as worker_pod
from gpufleet.core import vocabulary as names
from gpufleet.core.snapshots.schedule import Line, cron_of, lines
from gpufleet.spec.errors import EXIT_BAD_INPUT, EXIT_POLICY, EXIT_TARGET_MISSED
from gpufleet.spec.snapshots import SnapshotKind

SELECTOR: Final = {"app.kubernetes.io/name": "gpufleet-snapshots"}
SOURCE: Final = "/source"
"""Where the volume of a revision's files is in its pod."""
_CONTAINER: Final = "snapshot"
_ONLY_FOR_SERVICES: Final = frozenset({"ports", "readinessProbe", "livenessProbe"})
_ONLY_FOR_REPLICAS: Final = frozenset({"topologySpreadConstraints"})
_ONLY_FOR_CLUSTERS: Final = frozenset({"access", "secrets"})
"""Volumes of the worker by which it reaches API servers and reads the stacks' secrets."""
_ONLY_WITH_THEM: Final = frozenset({"GPUFLEET_PASSPHRASE_FILE", "KUBECONFIG"})
_TRIES: Final = 2
"""Further tries of one run; what an interrupted take has stored is kept."""
_SAID_IN_VAIN: Final = (EXIT_BAD_INPUT, EXIT_POLICY, EXIT_TARGET_MISSED)
"""Exit codes after which the same is not tried again: a set with a part missing is taken."""
_RUNS: Final = 4
"""A run that takes as long as so many should begin is ended: what it stored is kept."""
_ENDED_AT_LEAST_S: Final = 3600
_KEPT_FOR_S: Final = 86_400


class SnapshotJobs(pulumi.ComponentResource):
    """A CronJob for the protected set, and one for each declared revision.

    Their pods have the worker's image, state, database and store, and an account that may do
    nothing: no token of the cluster, no kubeconfig, no passphrase.

    Args:
        declared: the site of the worker.
        opts: of the component.
        after: what has to stand before them.
    """

    def __init__(
        self,
        declared: DeclaredSite,
        opts: pulumi.ResourceOptions | None = None,
        after: Iterable[pulumi.Resource] = (),
    ) -> None:
        super().__init__("gpufleet:platform:SnapshotJobs", "snapshots", None, opts)
        plan = WorkerPlan.of(declared)
        labels = {names.MANAGED: "true", names.FLEET: plan.fleet, **SELECTOR}
        inside = pulumi.ResourceOptions(parent=self, depends_on=[*after])
        k8s.networking.v1.NetworkPolicy(
            "snapshots",
            metadata={"name": "snapshots", "namespace": names.SYSTEM_NAMESPACE, "labels": labels},
            spec=_network(plan),
            opts=inside,
        )
        k8s.core.v1.ServiceAccount(
            "snapshots",
            metadata={
                "name": names.SNAPSHOTS,
                "namespace": names.SYSTEM_NAMESPACE,
                "labels": labels,
            },
            automount_service_account_token=False,
            opts=inside,
        )
        for line in lines(declared.fleet):
            made = cron_job(line, plan)
            k8s.batch.v1.CronJob(
                made["metadata"]["name"],
                metadata=made["metadata"],
                spec=made["spec"],
                opts=inside,
            )
        self.register_outputs({})


def cron_job(line: Line, plan: WorkerPlan) -> dict[str, Any]:
    """The CronJob of one line, as plain Kubernetes data."""
    labels = {names.MANAGED: "true", names.FLEET: plan.fleet, **SELECTOR}
    every_s = int(line.every.total_seconds())
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {
            "name": names.cron_job_of(line.revision, protects=line.kind is SnapshotKind.STATE),
            "namespace": names.SYSTEM_NAMESPACE,
            "labels": labels,
        },
        "spec": {
            "schedule": cron_of(line.every, line.revision),
            "timeZone": "Etc/UTC",
            # The next one takes what this one did not come to.
            "concurrencyPolicy": "Forbid",
            # A controller that was away begins the last one that it missed.
            "startingDeadlineSeconds": max(every_s, 60),
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "metadata": {"labels": labels},
                "spec": {
                    "backoffLimit": _TRIES,
                    "podFailurePolicy": {
                        "rules": [
                            {
                                "action": "FailJob",
                                "onExitCodes": {
                                    "containerName": _CONTAINER,
                                    "operator": "In",
                                    "values": [*_SAID_IN_VAIN],
                                },
                            }
                        ]
                    },
                    "activeDeadlineSeconds": max(_RUNS * every_s, _ENDED_AT_LEAST_S),
                    "ttlSecondsAfterFinished": _KEPT_FOR_S,
                    "template": {"metadata": {"labels": labels}, "spec": pod_spec(line, plan)},
                },
            },
        },
    }


def pod_spec(line: Line, plan: WorkerPlan) -> dict[str, Any]:
    """The worker's pod without its rights in clusters, which ends when one line was taken."""
    spec = worker_pod(plan)
    (worker,) = spec["containers"]
    container = {key: value for key, value in worker.items() if key not in _ONLY_FOR_SERVICES}
    kept = {key: value for key, value in spec.items() if key not in _ONLY_FOR_REPLICAS}
    volumes, mounts = (
        [each for each in every if each["name"] not in _ONLY_FOR_CLUSTERS]
        for every in (spec["volumes"], worker["volumeMounts"])
    )
    if line.claim:
        claim = {"claimName": line.claim, "readOnly": True}
        volumes.append({"name": "source", "persistentVolumeClaim": claim})
        mounts.append({"name": "source", "mountPath": SOURCE, "readOnly": True})
    return {
        **kept,
        "serviceAccountName": names.SNAPSHOTS,
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "containers": [
            {
                **container,
                "name": _CONTAINER,
                "args": [*_arguments(line), "--apply", f"--fleet={fleet_file_of(plan)}"],
                "env": [each for each in worker["env"] if each["name"] not in _ONLY_WITH_THEM],
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _arguments(line: Line) -> list[str]:
    if line.kind is SnapshotKind.STATE:
        return ["dr.protect"]
    site = [f"--site={line.site}"] if line.site else []
    source = f"--source={SOURCE}{line.source}"
    return ["snapshot.take", f"--revision={line.revision}", source, *site]


def _network(plan: WorkerPlan) -> dict[str, Any]:
    """What the worker may reach, and nobody reaches them."""
    dns = {"namespaceSelector": {"matchLabels": {names.NAMESPACE: "kube-system"}}}
    return {
        "podSelector": {"matchLabels": SELECTOR},
        "policyTypes": ["Ingress", "Egress"],
        "egress": [
            {
                "to": [dns],
                "ports": [{"port": 53, "protocol": kind} for kind in ("UDP", "TCP")],
            },
            {"ports": [{"port": port, "protocol": "TCP"} for port in plan.ports]},
        ],
    }
