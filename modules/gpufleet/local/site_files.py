"""The files of one embedded site: certificates, kubeconfigs, credentials, ports."""

import base64
import datetime
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gpufleet.core.vocabulary import CONTROLLERS_GROUP
from gpufleet.local.files import read_json, write_json, write_private
from gpufleet.local.pki import Authority

ADMIN: Final = "admin"
FRONT_PROXY: Final = "front-proxy"
SCRAPES_AS: Final = "prometheus.token"
"""Holds the token of Prometheus, for operators that know no client certificates."""
_LOCAL: Final = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Service:
    """A Service of type ExternalName, by which the API server reaches a process on loopback."""

    name: str
    namespace: str

    @property
    def host(self) -> str:
        """The name that the API server expects in the process's certificate."""
        return f"{self.name}.{self.namespace}.svc"


LWS: Final = Service("lws-webhook-service", "lws-system")
KUEUE: Final = Service("kueue-webhook-service", "kueue-system")
KEDA_WEBHOOKS: Final = Service("keda-admission-webhooks", "keda")
KEDA_METRICS: Final = Service("keda-metrics-apiserver", KEDA_WEBHOOKS.namespace)

_CLIENTS: Final[Mapping[str, tuple[str, str]]] = {
    # The system's own names carry the roles that Kubernetes ships; ours are bound in bootstrap.
    ADMIN: ("gpufleet:admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kwok": ("gpufleet:kwok", CONTROLLERS_GROUP),
    "lws": ("gpufleet:lws", CONTROLLERS_GROUP),
    "kueue": ("gpufleet:kueue", CONTROLLERS_GROUP),
    "keda": ("gpufleet:keda", CONTROLLERS_GROUP),
    "keda-adapter": ("gpufleet:keda-adapter", ""),
    "keda-webhooks": ("gpufleet:keda-webhooks", ""),
    "prometheus": ("gpufleet:prometheus", ""),
    "agent": ("gpufleet:node-agent", CONTROLLERS_GROUP),
    "apiserver-etcd": ("kube-apiserver-etcd-client", ""),
}
_SERVERS: Final[Mapping[str, tuple[str, ...]]] = {
    "etcd": _LOCAL,
    "apiserver": (
        *_LOCAL,
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "10.96.0.1",
    ),
    "controller-manager-server": _LOCAL,
    "scheduler-server": _LOCAL,
    "s3": _LOCAL,
    "lws-webhook": (LWS.host, *_LOCAL),
    "kueue-webhook": (KUEUE.host, *_LOCAL),
    "keda-metrics-service": _LOCAL,
    "keda-metrics-apiserver": (KEDA_METRICS.host, *_LOCAL),
    "keda-admission-webhooks": (KEDA_WEBHOOKS.host, *_LOCAL),
}


@dataclass(frozen=True)
class SiteFiles:
    """Makes each file when it is first wanted, and keeps it."""

    name: str
    folder: Path
    ports: Mapping[str, int]
    binaries: Mapping[str, Path]
    manifests: Path
    fleet: str = ""
    """The fleet's slug, which metrics are labelled with."""
    worker_port: int | None = None
    """Where the environment's worker tells its metrics; None where it does not run."""
    gateway_port: int | None = None
    """Where the gateway's control process tells its metrics; None where it does not run."""

    @cached_property
    def _now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    @cached_property
    def _pki(self) -> Authority:
        return Authority(self.folder / "pki", self.name, self._now)

    @property
    def authority(self) -> Path:
        """Certificate of the site's authority."""
        return self._pki.certificate

    def binary(self, name: str) -> str:
        """Path of an engine."""
        return str(self.binaries[name])

    def address(self, port: str) -> str:
        """Host and port of a process, by the name of its port."""
        return f"127.0.0.1:{self.ports[port]}"

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a declared client or server."""
        if name in _SERVERS:
            return self._pki.issue(name, common_name=name, hosts=_SERVERS[name])
        user, group = _CLIENTS[name]
        return self._pki.issue(name, common_name=user, organization=group)

    def served_from(self, server: str, folder: Path | None = None) -> Path:
        """The folder with a server's `tls.crt`, `tls.key` and `ca.crt`, as operators read it.

        Args:
            server: a declared server.
            folder: where it has to be; chosen here where the server can be told.
        """
        folder = folder or self.folder / "pki" / server
        certificate, key = self.certificate(server)
        for name, file in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", self.authority)):
            write_private(folder / name, file.read_bytes())
        return folder

    def front_proxy(self) -> tuple[Path, Path, Path]:
        """What the API server shows to aggregated APIs: authority, certificate, key.

        An authority of its own: who holds a certificate of it may speak for any user.
        """
        authority = Authority(self.folder / "pki" / FRONT_PROXY, FRONT_PROXY, self._now)
        return (authority.certificate, *authority.issue("client", common_name=FRONT_PROXY))

    def service_account_key(self) -> Path:
        """The key that signs service account tokens."""
        file = self.folder / "pki" / "service-accounts.key"
        if not file.is_file():
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_private(file, pem)
        return file

    def kubeconfig(self, client: str) -> Path:
        """A kubeconfig for one client of this site."""
        file = self.folder / f"{client}.kubeconfig"
        write_private(file, yaml.safe_dump(merged({self.name: self.entry(client)})))
        return file

    def entry(self, client: str) -> dict[str, Any]:
        """Cluster and user of one client, to be merged into a kubeconfig."""
        certificate, key = self.certificate(client)
        return {
            "cluster": {
                "server": f"https://127.0.0.1:{self.ports['apiserver']}",
                "certificate-authority-data": _encoded(self.authority),
            },
            "user": {
                "client-certificate-data": _encoded(certificate),
                "client-key-data": _encoded(key),
            },
        }

    def s3_credentials(self) -> dict[str, str]:
        """Endpoint, keys and authority of the site's object store, kept in `s3.json`."""
        file = self.folder / "s3.json"
        kept = read_json(file) or {}
        credentials = {
            "endpoint": f"https://127.0.0.1:{self.ports['s3']}",
            "region": self.name,
            "ca": str(self.authority),
            "access_key": kept.get("access_key") or secrets.token_hex(10),
            "secret_key": kept.get("secret_key") or secrets.token_urlsafe(30),
        }
        write_json(file, credentials)
        return credentials


def merged(entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A kubeconfig with a context for each name; the first is the current one."""
    names = list(entries)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": entries[name]["cluster"]} for name in names],
        "users": [{"name": name, "user": entries[name]["user"]} for name in names],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in names],
        "current-context": names[0],
    }


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
