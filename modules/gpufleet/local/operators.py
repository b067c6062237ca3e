"""The operators of one embedded site: LeaderWorkerSet, Kueue and KEDA, outside the cluster."""

from pathlib import Path
from typing import Any, Final

import yaml

from gpufleet.core import vocabulary as names
from gpufleet.local.files import write_private
from gpufleet.local.process import LOOPBACK, Process
from gpufleet.local.site_files import KEDA_WEBHOOKS, KUEUE, SiteFiles

_QUIET: Final = ("--zap-log-level=error", "--zap-stacktrace-level=panic")
_KUEUE_INTEGRATIONS: Final = (
    "batch/job",
    "pod",
    "deployment",
    "leaderworkerset.x-k8s.io/leaderworkerset",
)


def processes(site: SiteFiles) -> tuple[Process, ...]:
    """Every process of the operators."""
    return (_lws(site), _kueue(site), _keda(site), _keda_adapter(site), _keda_webhooks(site))


def _lws(site: SiteFiles) -> Process:
    config, settings = site.kubeconfig("lws"), site.folder / "lws.yaml"
    temporary = site.folder / "lws"
    # The one place where it looks for the certificate of its metrics.
    metrics = site.served_from("lws-webhook", temporary / "k8s-metrics-server" / "serving-certs")
    _write(
        settings,
        {
            "apiVersion": "config.lws.x-k8s.io/v1alpha1",
            "kind": "Configuration",
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {"enable": False},
            "webhook": {
                "host": LOOPBACK,
                "port": site.ports["lws-webhook"],
                "certDir": str(metrics),
            },
            "metrics": {"bindAddress": site.address("lws-metrics")},
            "health": {"healthProbeBindAddress": site.address("lws-health")},
        },
    )
    return Process(
        "lws",
        (
            site.binary("lws-manager"),
            f"--config={settings}",
            f"--kubeconfig={config}",
            *_QUIET,
        ),
        after=("bootstrap",),
        ready=f"http://{site.address('lws-health')}/readyz",
        reads=(config, settings),
        environment=(f"TMPDIR={temporary}",),
    )


def _kueue(site: SiteFiles) -> Process:
    config, settings = site.kubeconfig("kueue"), site.folder / "kueue.yaml"
    _write(settings, kueue_settings(site))
    return Process(
        "kueue",
        (
            site.binary("kueue-manager"),
            f"--config={settings}",
            f"--kubeconfig={config}",
            *_QUIET,
        ),
        after=("bootstrap",),
        ready=f"http://{site.address('kueue-health')}/readyz",
        reads=(config, settings),
    )


def kueue_settings(site: SiteFiles) -> dict[str, Any]:
    """The manager's configuration: whatever is in the batch namespace waits for quota.

    What has no queue there is held back for ever, so that nothing gets around the quota.
    """
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta1",
        "kind": "Configuration",
        "namespace": KUEUE.namespace,
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {
            "host": LOOPBACK,
            "port": site.ports["kueue-webhook"],
            "certDir": str(site.served_from("kueue-webhook")),
        },
        "metrics": {
            "bindAddress": site.address("kueue-metrics"),
            "enableClusterQueueResources": True,
        },
        "health": {"healthProbeBindAddress": site.address("kueue-health")},
        "clientConnection": {"qps": 100, "burst": 200},
        "manageJobsWithoutQueueName": True,
        "managedJobsNamespaceSelector": {"matchLabels": {names.NAMESPACE: names.BATCH_NAMESPACE}},
        "integrations": {"frameworks": list(_KUEUE_INTEGRATIONS)},
        # None is used, and each watches kinds or opens a port.
        "featureGates": {
            "MultiKueue": False,
            "TopologyAwareScheduling": False,
            "VisibilityOnDemand": False,
        },
    }


def _keda(site: SiteFiles) -> Process:
    config = site.kubeconfig("keda")
    return Process(
        "keda",
        (
            site.binary("keda-operator"),
            f"--kubeconfig={config}",
            f"--cert-dir={site.served_from('keda-metrics-service')}",
            f"--metrics-bind-address={site.address('keda-metrics')}",
            f"--health-probe-bind-address={site.address('keda-health')}",
            f"--metrics-service-bind-address={site.address('keda-metrics-service')}",
            f"--k8s-cluster-name={site.name}",
            *_QUIET,
        ),
        after=("bootstrap",),
        ready=f"http://{site.address('keda-health')}/readyz",
        reads=(config,),
        environment=_keda_environment(),
    )


def _keda_adapter(site: SiteFiles) -> Process:
    """The external metrics API, which the API server serves under its own address."""
    config = site.kubeconfig("keda-adapter")
    certificates = site.served_from("keda-metrics-apiserver")
    return Process(
        "keda-adapter",
        (
            site.binary("keda-adapter"),
            f"--kubeconfig={config}",
            f"--lister-kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={site.ports['keda-adapter']}",
            f"--port={site.ports['keda-adapter-metrics']}",
            f"--cert-dir={certificates}",
            f"--tls-cert-file={certificates / 'tls.crt'}",
            f"--tls-private-key-file={certificates / 'tls.key'}",
            f"--metrics-service-address={site.address('keda-metrics-service')}",
            *_QUIET,
        ),
        after=("bootstrap",),
        ready=f"https://{site.address('keda-adapter')}/readyz",
        reads=(config,),
        environment=_keda_environment(),
    )


def _keda_webhooks(site: SiteFiles) -> Process:
    config = site.kubeconfig("keda-webhooks")
    return Process(
        "keda-webhooks",
        (
            site.binary("keda-webhooks"),
            f"--kubeconfig={config}",
            f"--cert-dir={site.served_from('keda-admission-webhooks')}",
            f"--port={site.ports['keda-webhooks']}",
            f"--metrics-bind-address={site.address('keda-webhooks-metrics')}",
            f"--health-probe-bind-address={site.address('keda-webhooks-health')}",
            *_QUIET,
        ),
        after=("bootstrap",),
        ready=f"http://{site.address('keda-webhooks-health')}/readyz",
        reads=(config,),
        environment=_keda_environment(),
    )


def _keda_environment() -> tuple[str, ...]:
    """KEDA watches every namespace, and reads secrets of its own one only."""
    return (
        f"POD_NAMESPACE={KEDA_WEBHOOKS.namespace}",
        f"KEDA_CLUSTER_OBJECT_NAMESPACE={KEDA_WEBHOOKS.namespace}",
        "WATCH_NAMESPACE=",
        "KEDA_RESTRICT_SECRET_ACCESS=true",
    )


def _write(file: Path, settings: dict[str, Any]) -> None:
    write_private(file, yaml.safe_dump(settings))
