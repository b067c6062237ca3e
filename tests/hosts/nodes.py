"""The lab's hosts as Nodes of a real API server, with nothing else around it."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from tests.conftest import Until

from gpufleet.edges.engines import resolve
from gpufleet.edges.kube import Cluster
from gpufleet.spec.errors import FleetError

SITE = "main"
_TOKEN = "not-a-secret"
_REPLICAS = 5


@contextlib.contextmanager
def nodes(
    folder: Path, names: Sequence[str], until: Until, site: str = SITE
) -> Iterator[tuple[Cluster, Path]]:
    """A cluster with these nodes, and its kubeconfig; ended with the context."""
    folder.mkdir(parents=True)
    binaries = resolve(lambda _progress: None, ["controlplane"]).paths
    store, peer, port = (_free_port() for _ in range(3))
    key = generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(key)
    (folder / "tokens").write_text(f'{_TOKEN},tester,1,"system:masters"\n', encoding="ascii")
    etcd = [
        str(binaries["etcd"]),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{store}",
        f"--advertise-client-urls=http://127.0.0.1:{store}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]
    server = [
        str(binaries["kube-apiserver"]),
        f"--etcd-servers=http://127.0.0.1:{store}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--service-account-key-file={folder / 'key.pem'}",
        f"--service-account-signing-key-file={folder / 'key.pem'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/14",
        "--authorization-mode=RBAC",
        f"--token-auth-file={folder / 'tokens'}",
        # Nothing here would ever take away the taint that a new node is given until it is ready.
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
    ]
    kubeconfig = folder / "kubeconfig"
    # The server makes its own, signed by itself.
    certificate = folder / "certificates" / "apiserver.crt"
    kubeconfig.write_text(_kubeconfig(port, certificate, site), encoding="utf-8")
    with contextlib.ExitStack() as stack:
        for command in (etcd, server):
            stack.enter_context(_running(command, folder / f"{Path(command[0]).name}.log"))
        until(certificate.is_file, 180)
        cluster = Cluster(kubeconfig, site)
        until(lambda: _answers(cluster), 180)
        for name in names:
            cluster.create(
                "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            )
            kubelet(cluster, name)
        yield cluster, kubeconfig


def kubelet(cluster: Cluster, host: str, *, ready: bool = True, gpus: int = 8) -> None:
    """What a host's kubelet tells of its node."""
    condition = {"type": "Ready", "status": str(ready), "message": "container runtime is down"}
    status = {"conditions": [condition], "allocatable": {"nvidia.com/gpu": str(gpus)}}
    cluster.merge(f"/api/v1/nodes/{host}/status", {"status": status})


def populate(cluster: Cluster, hosts: Sequence[str], holder: str) -> None:
    """Nodes that take pods, and a pool whose replicas serve on one of them."""
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    for host in hosts:
        status = {**ready, "allocatable": {"nvidia.com/gpu": "8"}}
        cluster.merge(f"/api/v1/nodes/{host}/status", {"status": status})
    space = "gpufleet-interactive"
    cluster.create("/api/v1/namespaces", {"metadata": {"name": space}})
    for number in range(_REPLICAS):
        pod = {
            "metadata": {"name": f"chat-{number}", "labels": {"gpufleet.dev/pool": "chat"}},
            "spec": {"nodeName": holder, "containers": [{"name": "engine", "image": "engine"}]},
        }
        cluster.create(f"/api/v1/namespaces/{space}/pods", pod)
        cluster.merge(f"/api/v1/namespaces/{space}/pods/chat-{number}/status", {"status": ready})


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.get("/api/v1/namespaces/default") is not None
    except FleetError:
        return False


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    guarded = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(os.environ)
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _kubeconfig(port: int, certificate: Path, site: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": site,
                    "cluster": {
                        "server": f"https://127.0.0.1:{port}",
                        "certificate-authority": str(certificate),
                    },
                }
            ],
            "users": [{"name": site, "user": {"token": _TOKEN}}],
            "contexts": [{"name": site, "context": {"cluster": site, "user": site}}],
            "current-context": site,
        }
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
