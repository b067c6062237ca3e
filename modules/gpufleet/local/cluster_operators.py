"""What the operators outside the cluster need inside it: definitions, roles, webhooks, an API.

Controllers on loopback are reached through Services of type ExternalName. Everything is applied:
doing it again changes nothing.
"""

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from gpufleet.core import vocabulary as names
from gpufleet.edges.kube import Cluster, Object
from gpufleet.local import roles
from gpufleet.local.site_files import KEDA_METRICS, KEDA_WEBHOOKS, KUEUE, LWS, Service

_DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
_OPERATORS: Final = ("lws", "kueue", "keda")
_KUEUE_GROUP: Final = "kueue.x-k8s.io"
_KUEUE_WORKLOADS: Final = frozenset(
    {
        ("", "pods"),
        ("apps", "deployments"),
        ("batch", "jobs"),
        ("leaderworkerset.x-k8s.io", "leaderworkersets"),
    }
)
"""What our batch work is made of; each is an integration in the manager's configuration."""
_BATCH_ONLY: Final = {"matchLabels": {names.NAMESPACE: names.BATCH_NAMESPACE}}
_PATCHES: Final = {
    "MutatingWebhookConfiguration": "mutating-patch.yaml",
    "ValidatingWebhookConfiguration": "validating-patch.yaml",
}
"""Of each kind of configuration: what the operator's own kustomization puts in its place."""
_ESTABLISHED_WITHIN_S: Final = 30
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Definitions are long: the loader in C takes a tenth of the time."""


@dataclass(frozen=True)
class ClusterOperators:
    """The operators of one embedded site, as its cluster has to know them.

    Args:
        cluster: the site's cluster, as its administrator.
        manifests: the folder of pinned manifests.
        ports: of the site's processes.
        authority: certificate that the processes' own are signed with.
    """

    cluster: Cluster
    manifests: Path
    ports: Mapping[str, int]
    authority: Path

    def install(self) -> None:
        """Apply everything that an operator asks for when it starts."""
        defined = self._definitions()
        for service in (LWS, KUEUE, KEDA_WEBHOOKS, KEDA_METRICS):
            self._service(service)
        self._roles()
        self._webhooks("lws", LWS, self.ports["lws-webhook"])
        self._webhooks("kueue", KUEUE, self.ports["kueue-webhook"], for_batch_only)
        self._webhooks("keda", KEDA_WEBHOOKS, self.ports["keda-webhooks"])
        self._external_metrics()
        self._wait_established(defined)

    def _definitions(self) -> set[str]:
        """Their names; controllers need them before the platform stack can install them."""
        defined = set()
        for operator in _OPERATORS:
            for definition in _documents(self.manifests / "charts" / operator / "templates"):
                # So that the stack's Helm release takes them over.
                definition["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
                definition["metadata"]["annotations"] = {
                    **definition["metadata"].get("annotations", {}),
                    "meta.helm.sh/release-name": names.definitions_release(operator),
                    "meta.helm.sh/release-namespace": names.DEFINITIONS_NAMESPACE,
                }
                self.cluster.create(_DEFINITIONS, definition)
                defined.add(definition["metadata"]["name"])
        return defined

    def _wait_established(self, waiting: set[str]) -> None:
        """The API server serves a new kind a moment after it took the definition."""
        events = self.cluster.watch(_DEFINITIONS, labels="", since="0", for_s=_ESTABLISHED_WITHIN_S)
        for event in events:
            conditions = event["object"].get("status", {}).get("conditions") or []
            if any(
                condition["type"] == "Established" and condition["status"] == "True"
                for condition in conditions
            ):
                waiting.discard(event["object"]["metadata"]["name"])
            if not waiting:
                return

    def _service(self, service: Service) -> None:
        self.cluster.create(
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": service.namespace}},
        )
        self.cluster.apply(
            f"/api/v1/namespaces/{service.namespace}/services/{service.name}",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": service.name, "namespace": service.namespace},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
        )

    def _roles(self) -> None:
        roles.grant(self.cluster, "gpufleet:lws", self._upstream_rules("lws-rbac"))
        kueue = without_what_is_switched_off(self._upstream_rules("kueue-rbac"))
        roles.grant(self.cluster, "gpufleet:kueue", kueue)
        roles.grant(self.cluster, "gpufleet:keda", roles.KEDA)
        roles.grant(self.cluster, "gpufleet:keda-adapter", roles.KEDA_ADAPTER)
        roles.grant(self.cluster, "gpufleet:keda-webhooks", roles.KEDA_WEBHOOKS)
        roles.grant(
            self.cluster,
            "gpufleet:keda-secrets",
            roles.KEDA_SECRETS,
            roles.user("gpufleet:keda"),
            namespace=KEDA_WEBHOOKS.namespace,
        )
        roles.grant(
            self.cluster,
            "gpufleet:external-metrics",
            roles.EXTERNAL_METRICS,
            roles.account("kube-system", "horizontal-pod-autoscaler"),
        )
        # They ask the API server who scrapes them, and for whom it speaks.
        roles.bind(
            self.cluster,
            "system:auth-delegator",
            *(roles.user(f"gpufleet:{name}") for name in ("lws", "kueue", "keda-adapter")),
            name="gpufleet:auth-delegator",
        )
        roles.bind(
            self.cluster,
            "extension-apiserver-authentication-reader",
            roles.user("gpufleet:keda-adapter"),
            name="gpufleet:keda-adapter",
            namespace="kube-system",
            kind="Role",
        )

    def _upstream_rules(self, folder: str) -> list[Object]:
        """The rules of an operator's own `manager-role`."""
        return [
            rule
            for role in _documents(self.manifests / folder)
            if role["kind"] == "ClusterRole" and role["metadata"]["name"] == "manager-role"
            for rule in role["rules"]
        ]

    def _webhooks(
        self,
        operator: str,
        service: Service,
        port: int,
        adapt: Callable[[list[Object]], list[Object]] = list,
    ) -> None:
        """The operator's webhook configurations, under its own name and with our certificates."""
        folder = self.manifests / f"{operator}-webhook"
        for configuration in _documents(folder):
            kind = configuration.get("kind") if isinstance(configuration, dict) else None
            if kind not in _PATCHES:
                continue
            if (patch := folder / _PATCHES[kind]).is_file():
                _patch(configuration, patch)
            webhooks = adapt(configuration["webhooks"])
            for webhook in webhooks:
                webhook["clientConfig"]["service"] |= {
                    "name": service.name,
                    "namespace": service.namespace,
                    "port": port,
                }
                webhook["clientConfig"]["caBundle"] = self._authority
            name = f"{operator}-{configuration['metadata']['name'].removeprefix(f'{operator}-')}"
            configuration["metadata"] = {"name": name}
            configuration["webhooks"] = webhooks
            self.cluster.apply(f"{_ADMISSION}/{kind.lower()}s/{name}", configuration)

    def _external_metrics(self) -> None:
        group, version = "external.metrics.k8s.io", "v1beta1"
        name = f"{version}.{group}"
        self.cluster.apply(
            f"/apis/apiregistration.k8s.io/v1/apiservices/{name}",
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": name},
                "spec": {
                    "group": group,
                    "version": version,
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "caBundle": self._authority,
                    "service": {
                        "name": KEDA_METRICS.name,
                        "namespace": KEDA_METRICS.namespace,
                        "port": self.ports["keda-adapter"],
                    },
                },
            },
        )

    @property
    def _authority(self) -> str:
        return base64.b64encode(self.authority.read_bytes()).decode()


def _patch(configuration: Object, file: Path) -> None:
    """Replace the webhooks that the operator's own kustomization replaces."""
    for change in yaml.safe_load(file.read_text(encoding="utf-8")):
        index = int(change["path"].removeprefix("/webhooks/"))
        configuration["webhooks"][index] = change["value"]


def for_batch_only(webhooks: Iterable[Object]) -> list[Object]:
    """Kueue's webhooks for its own kinds, and those for workloads in the batch namespace.

    Interactive work never waits for Kueue, not even when it is down.
    """
    kept = []
    for webhook in webhooks:
        asked = {
            (group, resource.partition("/")[0])
            for rule in webhook["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        if asked <= _KUEUE_WORKLOADS:
            kept.append({**webhook, "namespaceSelector": _BATCH_ONLY})
        elif all(group == _KUEUE_GROUP for group, _ in asked):
            kept.append(webhook)
    return kept


def without_what_is_switched_off(rules: Iterable[Object]) -> list[Object]:
    """Kueue's rules without those of integrations that are off and of certificates of its own."""
    workloads = {group for group, _ in _KUEUE_WORKLOADS}
    needed = workloads | {_KUEUE_GROUP, "node.k8s.io", "scheduling.k8s.io"}
    return [
        rule
        for rule in rules
        if needed.issuperset(rule["apiGroups"]) and "secrets" not in rule["resources"]
    ]


def _documents(folder: Path) -> list[Any]:
    return [
        document
        for file in sorted(folder.glob("*.yaml"))
        if file.name != "kustomization.yaml"
        for document in yaml.load_all(file.read_text(encoding="utf-8"), Loader=_LOADER)
        if document
    ]
