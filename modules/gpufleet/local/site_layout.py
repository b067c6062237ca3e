"""The processes of one embedded site, declared in one place: command, readiness, dependencies."""

import sys
from pathlib import Path
from typing import Any, Final

import yaml

from gpufleet.core import vocabulary as names
from gpufleet.local import control_plane, operators
from gpufleet.local.files import write_private
from gpufleet.local.monitoring import prometheus
from gpufleet.local.process import LOOPBACK, Process
from gpufleet.local.site_files import SiteFiles

_OWN_CODE: Final = tuple(sorted(Path(__file__).parent.rglob("*.py")))


def processes(site: SiteFiles) -> tuple[Process, ...]:
    """Every process of a site, in the order of their start."""
    return (
        control_plane.etcd(site),
        control_plane.api_server(site),
        _bootstrap(site),
        control_plane.controller_manager(site),
        control_plane.scheduler(site),
        _kwok(site),
        *operators.processes(site),
        prometheus(site),
        _agent(site),
        _object_store(site),
    )


def _bootstrap(site: SiteFiles) -> Process:
    module = (sys.executable, "-m", "gpufleet.local.bootstrap")
    return Process(
        "bootstrap",
        (*module, str(site.folder)),
        after=("apiserver",),
        reads=(site.folder / "site.json", *_OWN_CODE),
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
            # Renewed four times in this time, and a node counts as lost after 50 s without: often
            # enough, and with a thousand nodes a third of what the API server has to do at 40 s.
            "--node-lease-duration-seconds=100",
            f"--node-ip={LOOPBACK}",
            f"--server-address={server}",
            "--v=WARN",
        ),
        after=("bootstrap",),
        ready=f"http://{server}/healthz",
        reads=(config, stages),
    )


def _stages(site: SiteFiles) -> Path:
    """kwok's own stages; what pods of our pools and batches do is the node agent's instead."""
    stages: list[dict[str, Any]] = []
    for folder in ("kwok-node", "kwok-heartbeat", "kwok-pod"):
        for file in sorted((site.manifests / folder).glob("*.yaml")):
            stages += [
                stage
                for stage in yaml.safe_load_all(file.read_text(encoding="utf-8"))
                if stage and stage["kind"] == "Stage"
            ]
    for stage in stages:
        if stage["metadata"]["name"].startswith("node-heartbeat"):
            # By its lease alone: what is due for its status would come though it is lost.
            stage["spec"]["selector"]["matchExpressions"].append(
                {"key": f'.metadata.labels["{names.DRILL}"]', "operator": "DoesNotExist"}
            )
        if stage["metadata"]["name"] in {"pod-ready", "pod-complete"}:
            stage["spec"]["selector"]["matchExpressions"] += [
                {"key": f'.metadata.labels["{label}"]', "operator": "DoesNotExist"}
                for label in (names.POOL, names.BATCH_JOB)
            ]
    file = site.folder / "kwok.yaml"
    write_private(file, yaml.safe_dump_all(stages))
    return file


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
