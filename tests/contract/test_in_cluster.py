"""The worker as a pod of a cluster sees it: its service account's files, the real API server.

What no test here shows is the pod itself: there is no kubelet.
"""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml
from tests.conftest import Embedded

from gpufleet.core import cluster_worker
from gpufleet.core import vocabulary as names
from gpufleet.core.approvals import digest_of
from gpufleet.edges.engines import Binaries
from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.change import _demand_as_many_approvals, _fleet_file
from gpufleet.flows.durable import client
from gpufleet.flows.ground import Ground
from gpufleet.flows.request_change import request_change
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.changes import ChangePlan
from gpufleet.spec.errors import Failed, PolicyRefused

if TYPE_CHECKING:
    from gpufleet.flows.durable import Run

ROLES = "/apis/rbac.authorization.k8s.io/v1"


def _grant(admin: Cluster, namespace: str) -> None:
    """What `WorkerDeployment` declares of accounts and roles."""
    group = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": names.WORKER, "namespace": names.SYSTEM_NAMESPACE}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": names.WORKER}}
    for made in (namespace, names.SYSTEM_NAMESPACE):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made}}
        admin.create("/api/v1/namespaces", body)
    admin.create(f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/serviceaccounts", account)
    for kind, place, rules in (
        ("ClusterRole", "", cluster_worker.cluster_rules()),
        ("Role", f"/namespaces/{namespace}", cluster_worker.namespace_rules(namespace)),
    ):
        about = {"apiVersion": f"{group}/v1", "metadata": {"name": names.WORKER}}
        path = f"{ROLES}{place}/{kind.lower()}"
        admin.create(f"{path}s", {**about, "kind": kind, "rules": rules})
        role = {"apiGroup": group, "kind": kind, "name": names.WORKER}
        binding = {**about, "kind": f"{kind}Binding", "roleRef": role, "subjects": [subject]}
        admin.create(f"{path}bindings", binding)


def _account(admin: Cluster, folder: Path) -> Path:
    """The files that a kubelet lays into a pod: a bound token and the authority."""
    path = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/serviceaccounts/{names.WORKER}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    told = admin._call("POST", path, body=request)
    folder.mkdir()
    (folder / "token").write_text(told["status"]["token"])
    return folder


def _plan(fleet: Fleet) -> ChangePlan:
    return ChangePlan(
        fleet=fleet.fleet,
        environment=fleet.environment,
        fleet_digest=digest_of(fleet),
        pools=[],
        stacks=[],
        openings=[],
        expected_s=1,
        rollback_s=1,
        approvals_needed=0,
    )


def test_a_change_takes_its_files_along_to_a_worker_that_sees_no_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(PROJECT_ROOT / "fleets" / "article", clone)
    file = clone / "production.yaml"
    declared = yaml.safe_load(file.read_text())
    declared["sites"]["main"]["cluster"] = {"provider": "existing", "context": "main"}
    file.write_text(yaml.safe_dump(declared))
    ground = Ground.open(Workspace(tmp_path / "state"), file)
    plan = _plan(ground.fleet)
    flow = request_change(ground, plan, None)
    [status] = client(ground).list_workflows(workflow_ids=[flow])
    assert status.input is not None
    order = status.input["args"][0]
    shutil.rmtree(clone)
    run = cast("Run", SimpleNamespace(id=flow, ground=ground))
    assert digest_of(load_fleet(_fleet_file(run, order))) == plan.fleet_digest
    ground.close()


def test_a_change_that_lowers_its_own_approvals_is_refused(tmp_path: Path) -> None:
    file = PROJECT_ROOT / "fleets" / "sample" / "production.yaml"
    ground = Ground.open(Workspace(tmp_path), file)
    plan = _plan(ground.fleet)
    with pytest.raises(PolicyRefused, match="0 approvals, the environment for 2"):
        _demand_as_many_approvals(ground, plan)
    ground.close()


@pytest.fixture
def pod(embedded: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster as the worker's pod reaches it."""
    admin = embedded.cluster("east")
    _grant(admin, names.INTERACTIVE_NAMESPACE)
    folder = _account(admin, tmp_path / "serviceaccount")
    known = yaml.safe_load(embedded.state.kubeconfig.read_text())
    entry = next(each for each in known["clusters"] if each["name"] == "east")["cluster"]
    authority = embedded.state.site("east") / "pki" / "ca.crt"
    (folder / "ca.crt").write_bytes(authority.read_bytes())
    made = cluster_worker.kubeconfig("ctx-east", server=entry["server"], account=str(folder))
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(made))
    monkeypatch.setenv("KUBECONFIG", f"{file}:{tmp_path / 'not-there'}")
    return Cluster(file, "ctx-east")


def test_the_worker_s_account_does_its_work_and_nothing_beyond(pod: Cluster) -> None:
    inside = f"/api/v1/namespaces/{names.INTERACTIVE_NAMESPACE}"
    assert pod.items("/api/v1/nodes")
    config: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}
    path = f"{inside}/configmaps/from-a-pod"
    pod.apply(path, {**config, "metadata": {"name": "from-a-pod"}})
    assert pod.get(path) is not None
    pod.delete(path)
    for refused in (
        "/api/v1/secrets",
        f"{inside}/secrets",
        "/api/v1/namespaces/kube-system/configmaps",
    ):
        with pytest.raises(Failed, match="forbidden"):
            pod.collection(refused)


def test_what_is_written_in_go_takes_the_same_kubeconfig(pod: Cluster, binaries: Binaries) -> None:
    """Pulumi's provider reads KUBECONFIG by the library that kubectl reads it by."""
    kubectl = [str(binaries.path("kubectl")), f"--context={pod.name}"]

    def ask(*arguments: str) -> str:
        command = [*kubectl, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    assert "node/" in ask("get", "nodes", "--output=name")
    inside = f"--namespace={names.INTERACTIVE_NAMESPACE}"
    assert ask("auth", "can-i", "create", "deployments.apps", inside).strip() == "yes"
    assert ask("auth", "can-i", "create", "deployments.apps", "--namespace=default").strip() == "no"


def test_the_worker_s_account_cannot_widen_its_own_rights(pod: Cluster) -> None:
    path = f"{ROLES}/clusterroles/{names.WORKER}"
    before = json.dumps(pod.get(path))
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    body = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": names.WORKER},
        "rules": [everything],
    }
    with pytest.raises(Failed, match="forbidden"):
        pod.apply(path, body)
    assert json.dumps(pod.get(path)) == before
