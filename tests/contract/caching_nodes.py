"""A real control plane whose nodes take what is restored to them; there is no kubelet."""

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.conftest import Until, small_fleet
from tests.hosts.nodes import nodes

from gpufleet.core import admission
from gpufleet.core import vocabulary as names
from gpufleet.edges.engines import resolve
from gpufleet.edges.kube import Cluster
from gpufleet.edges.kube_paths import collection_path, object_path

SITE = "solo"
GROUP = f"{SITE}-h100"
HOSTS = ("solo-h100-001", "solo-h100-002")
PODS = collection_path("v1", "Pod", names.CACHE_NAMESPACE)
JOBS = collection_path("batch/v1", "Job", names.CACHE_NAMESPACE)


@contextmanager
def caching_nodes(folder: Path, until: Until) -> Iterator[tuple[Cluster, Path]]:
    """An API server, the Job controller and the scheduler, with two nodes that take pods.

    With the namespaces and policies that the site's stack makes.
    """
    paths = resolve(lambda _: None, ["controlplane"]).paths
    with (
        nodes(folder / "server", HOSTS, until, SITE) as (cluster, kubeconfig),
        ExitStack() as stack,
    ):
        for host in HOSTS:
            labels = {names.NODE_GROUP: GROUP, names.HOSTNAME: host}
            cluster.merge(f"/api/v1/nodes/{host}", {"metadata": {"labels": labels}})
            allocatable = {"cpu": "8", "memory": "64Gi", "pods": "110"}
            cluster.merge(f"/api/v1/nodes/{host}/status", {"status": {"allocatable": allocatable}})
        # The Job controller gives up on a server that is not ready.
        until(lambda: _is_ready(kubeconfig), 180)
        for name, options in (
            ("kube-controller-manager", ["--controllers=job-controller"]),
            ("kube-scheduler", []),
        ):
            command = [str(paths[name]), f"--kubeconfig={kubeconfig}", "--secure-port=0"]
            elected = ["--leader-elect=false", *options]
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen([*command, *elected], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        _declare(cluster)
        yield cluster, kubeconfig


def _is_ready(kubeconfig: Path) -> bool:
    """Whether the API server has begun everything that it begins with."""
    told = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
    trusted = ssl.create_default_context(cafile=told["certificate-authority"])
    try:
        answer = httpx.get(f"{told['server']}/readyz", verify=trusted, timeout=10)
    except httpx.HTTPError:
        return False
    return answer.status_code == HTTPStatus.OK


def _declare(cluster: Cluster) -> None:
    for name in (names.SYSTEM_NAMESPACE, names.CACHE_NAMESPACE):
        about: dict[str, Any] = {"name": name}
        if name == names.CACHE_NAMESPACE:
            about["labels"] = dict(names.CACHE_SECURITY)
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": about}
        cluster.create("/api/v1/namespaces", body)
    for thing in (admission.parameters(small_fleet(SITE)), *admission.policies()):
        cluster.apply(object_path(thing), thing)
