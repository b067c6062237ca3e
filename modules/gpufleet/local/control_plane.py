"""The Kubernetes control plane of one embedded site: flags, readiness, dependencies."""

from pathlib import Path
from typing import Final

import yaml

from gpufleet.local.files import write_private
from gpufleet.local.process import LOOPBACK, Process
from gpufleet.local.site_files import FRONT_PROXY, SiteFiles

SERVICE_RANGE: Final = "10.96.0.0/14"
"""A /24 runs out of addresses; the first one is the API server's own."""


def etcd(site: SiteFiles) -> Process:
    """The store of the site's cluster; only the API server has a certificate for it."""
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


def api_server(site: SiteFiles) -> Process:
    """The API server."""
    certificate, key = site.certificate("apiserver")
    etcd_certificate, etcd_key = site.certificate("apiserver-etcd")
    proxy_authority, proxy_certificate, proxy_key = site.front_proxy()
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
            f"--requestheader-client-ca-file={proxy_authority}",
            f"--requestheader-allowed-names={FRONT_PROXY}",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={proxy_certificate}",
            f"--proxy-client-key-file={proxy_key}",
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


def controller_manager(site: SiteFiles) -> Process:
    """The controllers of Kubernetes itself."""
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
            # The pods of pools are on loopback, which endpoints may not hold: without end, these
            # would try again.
            "--controllers=*,-endpoints-controller,-endpointslice-controller",
            # A new autoscaler waits for one period before it does anything.
            "--horizontal-pod-autoscaler-sync-period=5s",
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


def scheduler(site: SiteFiles) -> Process:
    """The scheduler of Kubernetes itself."""
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
