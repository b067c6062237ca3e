"""What the processes of an embedded site need inside its cluster; runs once after the API server.

`python -m gpufleet.local.bootstrap SITE_FOLDER`. Everything is applied: running it again changes
nothing. Controllers outside the cluster are reached through a Service of type ExternalName.
"""

import base64
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from gpufleet.core.vocabulary import DEFINITIONS_NAMESPACE, definitions_release
from gpufleet.edges.kube import Cluster, Object
from gpufleet.local.files import read_json
from gpufleet.local.site_files import ADMIN, LWS_NAMESPACE, LWS_SERVICE
from gpufleet.spec.errors import FleetError

_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"

_KWOK_RULES: Final = [
    {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]},
    {
        "apiGroups": [""],
        "resources": ["nodes/status", "pods/status"],
        "verbs": ["patch", "update"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["delete", "patch", "update"]},
    {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["create", "get", "list", "patch", "update", "watch"],
    },
]
_AGENT_RULES: Final = [
    {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
]


def main(folder: Path) -> int:
    """Apply everything; 0 when done."""
    settings = read_json(folder / "site.json")
    cluster = Cluster(folder / f"{ADMIN}.kubeconfig", settings["name"])
    manifests = Path(settings["manifests"])
    _role(cluster, "gpufleet:kwok", _KWOK_RULES)
    _role(cluster, "gpufleet:node-agent", _AGENT_RULES)
    _leader_worker_set(cluster, manifests, settings["ports"]["lws-webhook"], folder)
    return 0


def _role(cluster: Cluster, name: str, rules: list[Object]) -> None:
    """A ClusterRole, bound to the user of the same name."""
    api = "rbac.authorization.k8s.io"
    about = {"apiVersion": f"{api}/v1", "metadata": {"name": name}}
    cluster.apply(f"{_RBAC}/clusterroles/{name}", {**about, "kind": "ClusterRole", "rules": rules})
    cluster.apply(
        f"{_RBAC}/clusterrolebindings/{name}",
        {
            **about,
            "kind": "ClusterRoleBinding",
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": api, "kind": "User", "name": name}],
        },
    )


def _leader_worker_set(cluster: Cluster, manifests: Path, port: int, folder: Path) -> None:
    """The operator's definition, role and webhooks, as its own manifests declare them."""
    for definition in _documents(manifests / "charts" / "lws" / "templates"):
        name = definition["metadata"]["name"]
        # The controller needs it before the platform stack can install it; then that takes it over.
        definition["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
        definition["metadata"]["annotations"] = {
            **definition["metadata"].get("annotations", {}),
            "meta.helm.sh/release-name": definitions_release("lws"),
            "meta.helm.sh/release-namespace": DEFINITIONS_NAMESPACE,
        }
        cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        _wait_established(cluster, name)
    rules = [
        rule
        for role in _documents(manifests / "lws-rbac")
        if role["kind"] == "ClusterRole" and role["metadata"]["name"] == "manager-role"
        for rule in role["rules"]
    ]
    _role(cluster, "gpufleet:lws", rules)
    cluster.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LWS_NAMESPACE}},
    )
    cluster.apply(
        f"/api/v1/namespaces/{LWS_NAMESPACE}/services/{LWS_SERVICE}",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": LWS_SERVICE, "namespace": LWS_NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
    )
    authority = base64.b64encode((folder / "pki" / "ca.crt").read_bytes()).decode()
    patches = {
        "MutatingWebhookConfiguration": "mutating-patch.yaml",
        "ValidatingWebhookConfiguration": "validating-patch.yaml",
    }
    for configuration in _documents(manifests / "lws-webhook"):
        kind = configuration.get("kind") if isinstance(configuration, dict) else None
        if kind in patches:
            _patch(configuration, manifests / "lws-webhook" / patches[kind])
            _reach(configuration, authority, port)
            name = f"lws-{configuration['metadata']['name']}"
            configuration["metadata"]["name"] = name
            cluster.apply(f"{_ADMISSION}/{kind.lower()}s/{name}", configuration)


def _patch(configuration: Object, file: Path) -> None:
    """Replace the webhooks that the operator's own kustomization replaces."""
    for change in yaml.safe_load(file.read_text(encoding="utf-8")):
        index = int(change["path"].removeprefix("/webhooks/"))
        configuration["webhooks"][index] = change["value"]


def _reach(configuration: Object, authority: str, port: int) -> None:
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"]["service"]
        service |= {"name": LWS_SERVICE, "namespace": LWS_NAMESPACE, "port": port}
        webhook["clientConfig"]["caBundle"] = authority


def _documents(folder: Path) -> list[Any]:
    return [
        document
        for file in sorted(folder.glob("*.yaml"))
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if document
    ]


def _wait_established(cluster: Cluster, name: str) -> None:
    """The API server serves a new kind a moment after it took the definition."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for event in cluster.watch(path, labels="", since="0", for_s=30):
        found = event["object"]
        conditions = found.get("status", {}).get("conditions") or []
        if found["metadata"]["name"] == name and any(
            condition["type"] == "Established" and condition["status"] == "True"
            for condition in conditions
        ):
            return


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except FleetError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
