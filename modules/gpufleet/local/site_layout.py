"""The processes of one embedded site, declared in one place: command, readiness, dependencies."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from gpufleet.core import vocabulary as names
from gpufleet.local.files import write_private
from gpufleet.local.site_files import SiteFiles

LOOPBACK: Final = "127.0.0.1"
SERVICE_RANGE: Final = "10.96.0.0/14"
"""A /24 runs out of addresses; the first one is the API server's own."""


_OWN_CODE: Final = tuple(sorted(Path(__file__).parent.glob("*.py")))


@dataclass(frozen=True)
class Process:
    """One process under the supervisor.

    `ready` is a URL that answers 200 once it serves; None for a step that runs once and ends.
    `reads` are the files that it reads at its start only: a change in one starts it anew.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    ready: str | None = None
    reads: tuple[Path, ...] = ()


def processes(site: SiteFiles) -> tuple[Process, ...]:
    """Every process of a site, in the order of their start."""
    return (
        _etcd(site),
        _api_server(site),
        _bootstrap(site),
        _controller_manager(site),
        _scheduler(site),
        _kwok(site),
        _lws(site),
        _agent(site),
        _object_store(site),
    )


def _etcd(site: SiteFiles) -> Process:
    client, peer = (f"https://{LOOPBACK}:{site.ports[port]}" for port in ("etcd", "etcd-peer"))
    metrics = f"http://{LOOPBACK}:{site.ports['etcd-metrics']}"
    certificate, key = site.certificate("etcd")
    ca = site.authority
    return Process(
        "etcd",
        (
            site.binary("etcd"),
            f"--name={site.name}",
            f"--data-dir={site.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={site.name}={peer}",
            f"--listen-metrics-urls={metrics}",
            f"--cert-file={certificate}",
            f"--key-file={key}",
            f"--trusted-ca-file={ca}",
            "--client-cert-auth",
            f"--peer-cert-file={certificate}",
            f"--peer-key-file={key}",
            f"--peer-trusted-ca-file={ca}",
            "--peer-client-cert-auth",
            "--auto-compaction-retention=1h",
            "--log-level=warn",
        ),
        ready=f"{metrics}/readyz",
    )


def _api_server(site: SiteFiles) -> Process:
    certificate, key = site.certificate("apiserver")
    etcd_certificate, etcd_key = site.certificate("apiserver-etcd")
    signing, authentication = site.service_account_key(), _anonymous_health_only(site)
    return Process(
        "apiserver",
        (
            site.binary("kube-apiserver"),
            f"--bind-address={LOOPBACK}",
            f"--secure-port={site.ports['apiserver']}",
            f"--etcd-servers=https://{LOOPBACK}:{site.ports['etcd']}",
            f"--etcd-cafile={site.authority}",
            f"--etcd-certfile={etcd_certificate}",
            f"--etcd-keyfile={etcd_key}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={site.authority}",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--authentication-config={authentication}",
            "--allow-privileged=true",
            # Endpoints may not hold a loopback address, and nothing here looks for this one.
            "--endpoint-reconciler-type=none",
            "--profiling=false",
        ),
        after=("etcd",),
        ready=f"https://{LOOPBACK}:{site.ports['apiserver']}/readyz",
        reads=(authentication,),
    )


def _anonymous_health_only(site: SiteFiles) -> Path:
    """Anonymous requests for the health endpoints, which the supervisor asks, and nothing else."""
    file = site.folder / "authentication.yaml"
    health = [{"path": path} for path in ("/livez", "/readyz", "/healthz")]
    write_private(
        file,
        yaml.safe_dump(
            {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": "AuthenticationConfiguration",
                "anonymous": {"enabled": True, "conditions": health},
            }
        ),
    )
    return file


def _bootstrap(site: SiteFiles) -> Process:
    module = (sys.executable, "-m", "gpufleet.local.bootstrap")
    return Process(
        "bootstrap",
        (*module, str(site.folder)),
        after=("apiserver",),
        reads=(site.folder / "site.json", *_OWN_CODE),
    )


def _controller_manager(site: SiteFiles) -> Process:
    config = site.kubeconfig("controller-manager")
    certificate, key = site.certificate("controller-manager-server")
    port = site.ports["controller-manager"]
    return Process(
        "controller-manager",
        (
            site.binary("kube-controller-manager"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--root-ca-file={site.authority}",
            f"--service-account-private-key-file={site.service_account_key()}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            # The default makes a folder outside the project.
            f"--flex-volume-plugin-dir={site.folder / 'flex-volumes'}",
            "--profiling=false",
        ),
        after=("apiserver",),
        ready=f"https://{LOOPBACK}:{port}/healthz",
        reads=(config,),
    )


def _scheduler(site: SiteFiles) -> Process:
    config = site.kubeconfig("scheduler")
    certificate, key = site.certificate("scheduler-server")
    port = site.ports["scheduler"]
    settings = site.folder / "scheduler.yaml"
    write_private(
        settings,
        yaml.safe_dump(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": str(config), "qps": 300, "burst": 600},
                "leaderElection": {"leaderElect": False},
            }
        ),
    )
    return Process(
        "scheduler",
        (
            site.binary("kube-scheduler"),
            f"--config={settings}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
        ),
        after=("apiserver",),
        ready=f"https://{LOOPBACK}:{port}/healthz",
        reads=(config, settings),
    )


def _kwok(site: SiteFiles) -> Process:
    server = f"{LOOPBACK}:{site.ports['kwok']}"
    config, stages = site.kubeconfig("kwok"), _stages(site)
    return Process(
        "kwok",
        (
            site.binary("kwok"),
            f"--kubeconfig={config}",
            f"--config={stages}",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--node-lease-duration-seconds=40",
            f"--node-ip={LOOPBACK}",
            f"--server-address={server}",
            "--v=WARN",
        ),
        after=("bootstrap",),
        ready=f"http://{server}/healthz",
        reads=(config, stages),
    )


def _stages(site: SiteFiles) -> Path:
    """kwok's own stages; the pods of our pools are made ready by the node agent instead."""
    stages: list[dict[str, Any]] = []
    for folder in ("kwok-node", "kwok-heartbeat", "kwok-pod"):
        for file in sorted((site.manifests / folder).glob("*.yaml")):
            stages += [
                stage
                for stage in yaml.safe_load_all(file.read_text(encoding="utf-8"))
                if stage and stage["kind"] == "Stage"
            ]
    for stage in stages:
        if stage["metadata"]["name"] == "pod-ready":
            stage["spec"]["selector"]["matchExpressions"].append(
                {"key": f'.metadata.labels["{names.POOL}"]', "operator": "DoesNotExist"}
            )
    file = site.folder / "kwok.yaml"
    write_private(file, yaml.safe_dump_all(stages))
    return file


def _lws(site: SiteFiles) -> Process:
    health = f"{LOOPBACK}:{site.ports['lws-health']}"
    config, settings = site.kubeconfig("lws"), site.folder / "lws.yaml"
    write_private(
        settings,
        yaml.safe_dump(
            {
                "apiVersion": "config.lws.x-k8s.io/v1alpha1",
                "kind": "Configuration",
                "leaderElection": {"leaderElect": False},
                "internalCertManagement": {"enable": False},
                "webhook": {
                    "host": LOOPBACK,
                    "port": site.ports["lws-webhook"],
                    "certDir": str(site.webhook_certificates()),
                },
                "metrics": {"bindAddress": "0"},
                "health": {"healthProbeBindAddress": health},
            }
        ),
    )
    return Process(
        "lws",
        (
            site.binary("lws-manager"),
            f"--config={settings}",
            f"--kubeconfig={config}",
            "--zap-log-level=error",
        ),
        after=("bootstrap",),
        ready=f"http://{health}/readyz",
        reads=(config, settings),
    )


def _agent(site: SiteFiles) -> Process:
    return Process(
        "agent",
        (sys.executable, "-m", "gpufleet.local.agent", str(site.folder)),
        after=("bootstrap",),
        reads=(site.folder / "site.json", *_OWN_CODE),
        ready=f"http://{LOOPBACK}:{site.ports['agent']}/readyz",
    )


def _object_store(site: SiteFiles) -> Process:
    certificate, key = site.certificate("s3")
    data, versions = site.folder / "s3" / "data", site.folder / "s3" / "versions"
    for folder in (data, versions):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    credentials = site.s3_credentials()
    environment = site.folder / "s3.env"
    write_private(
        environment,
        f"ROOT_ACCESS_KEY_ID={credentials['access_key']}\n"
        f"ROOT_SECRET_ACCESS_KEY={credentials['secret_key']}\n",
    )
    return Process(
        "s3",
        (
            # Every user of the machine may read a command line: the credentials come by a file.
            *("/bin/sh", "-c", 'set -a; . "$0"; exec "$@"', str(environment)),
            site.binary("versitygw"),
            f"--port={LOOPBACK}:{site.ports['s3']}",
            f"--cert={certificate}",
            f"--key={key}",
            f"--region={site.name}",
            "--health=/health",
            "--quiet",
            "posix",
            f"--versioning-dir={versions}",
            str(data),
        ),
        ready=f"https://{LOOPBACK}:{site.ports['s3']}/health",
        reads=(environment,),
    )
