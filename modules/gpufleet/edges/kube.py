"""The Kubernetes API as plain data, through the official client's transport and credentials."""

import json
from base64 import b64encode
from collections.abc import Iterator
from copy import copy, deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from gpufleet.spec.errors import Failed, FleetError, Retryable

Object = dict[str, Any]
FIELD_MANAGER: Final = "gpufleet"
_RETRIES: Final = urllib3.Retry(
    total=6,
    backoff_factor=0.2,
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)
_TIMEOUT_S: Final = 30
TOKEN_FOR: Final = timedelta(minutes=10)
"""The shortest life that Kubernetes gives a token."""
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_FIRST_ERROR: Final = 400
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_UNAVAILABLE: Final = (429, 500, 502, 503, 504)


class Cluster:
    """One cluster. Paths are API paths such as `/api/v1/nodes`; objects are plain data.

    Every call is retried a few times on a lost connection and on an overloaded server; safe, since
    all writes carry a name. Raises `Retryable` when that does not help, and `Failed` when the
    server refuses. Usable from several threads.
    """

    def __init__(self, kubeconfig: Path | None, context: str, connections: int = 8) -> None:
        self.name = context
        settings = client.Configuration()
        settings.retries = _RETRIES
        settings.connection_pool_maxsize = connections
        try:
            config.load_kube_config(
                str(kubeconfig) if kubeconfig else None, context, client_configuration=settings
            )
        except (ConfigException, OSError) as error:
            raise Failed(
                f"cannot read the context: {error}",
                where=f"cluster {context}",
                mend="run ./fleet up, or check KUBECONFIG",
            ) from None
        if urlsplit(settings.host).hostname in _LOOPBACK:
            # The client would send even these through the caller's HTTPS_PROXY.
            settings.proxy = None
        self._client = client.ApiClient(settings)

    def as_service_account(self, namespace: str, account: str) -> "Cluster":
        """The same cluster, entered with a token of a service account that ends in ten minutes.

        Raises:
            Failed: there is no such account, or whoever asks may not act as it.
        """
        settings = deepcopy(self._client.configuration)
        settings.cert_file = settings.key_file = None
        settings.username = settings.password = None
        settings.refresh_api_key_hook = None
        settings.api_key_prefix = {}
        settings.api_key = {"authorization": f"Bearer {self._token(namespace, account, TOKEN_FOR)}"}
        made = copy(self)
        made._client = client.ApiClient(settings)  # noqa: SLF001 - an object of this class
        return made

    def kubeconfig_as(self, namespace: str, account: str, ends_after: timedelta) -> Object:
        """A kubeconfig with one context, of this name, and a token of a service account.

        Raises:
            Failed: as `as_service_account`.
        """
        settings = self._client.configuration
        authority = settings.ssl_ca_cert
        trusted = (
            {"certificate-authority-data": b64encode(Path(authority).read_bytes()).decode()}
            if authority
            else {}
        )
        name = self.name
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": settings.host, **trusted}}],
            "users": [
                {"name": name, "user": {"token": self._token(namespace, account, ends_after)}}
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }

    def _token(self, namespace: str, account: str, ends_after: timedelta) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": int(ends_after.total_seconds())},
        }
        return str(self._call("POST", path, body=body)["status"]["token"])

    def get(self, path: str) -> Object | None:
        """One object, or None where there is none."""
        try:
            return self._call("GET", path)
        except _NotFoundError:
            return None

    def collection(self, path: str, *, labels: str = "") -> Object:
        """A collection with its `metadata.resourceVersion`, from which a watch can go on."""
        return self._call("GET", path, query=_selectors(labels))

    def items(self, path: str, *, labels: str = "") -> list[Object]:
        """Every object of a collection; an unknown kind has none."""
        try:
            return list(self.collection(path, labels=labels)["items"])
        except _NotFoundError:
            return []

    def create(self, path: str, body: Object) -> bool:
        """Create an object in a collection; False if it is there already."""
        try:
            self._call("POST", path, body=body)
        except _ConflictError:
            return False
        return True

    def post(self, path: str, body: Object, *, timeout_s: float) -> Object:
        """Send something that makes no object, such as a request to a pod, and its answer.

        Not tried again: what it does is not known here.
        """
        return self._call("POST", path, body=body, timeout_s=timeout_s, retries=False)

    def token(self, namespace: str, account: str, valid_s: int) -> str:
        """A token for a service account, valid that long."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": valid_s},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self._call("POST", path, body=asked)["status"]["token"])

    def apply(self, path: str, body: Object, manager: str = FIELD_MANAGER) -> Object:
        """Server-side apply, forced.

        What the same field manager applied before and leaves out now is taken away.
        """
        query = [("fieldManager", manager), ("force", "true")]
        return self._call(
            "PATCH", path, body=body, query=query, kind="application/apply-patch+yaml"
        )

    def merge(self, path: str, body: Object) -> Object:
        """Strategic merge patch."""
        return self._call("PATCH", path, body=body, kind="application/strategic-merge-patch+json")

    def set_fields(self, path: str, body: Object, manager: str) -> Object:
        """JSON merge patch, which every kind of object takes; the fields are then the manager's.

        Raises:
            Retryable: it names a `resourceVersion`, and was changed since.
        """
        query = [("fieldManager", manager)]
        return self._call(
            "PATCH", path, body=body, query=query, kind="application/merge-patch+json"
        )

    def merge_existing(self, path: str, body: Object) -> bool:
        """Strategic merge patch of an object that may not be there; False if it is not."""
        try:
            self.merge(path, body)
        except _NotFoundError:
            return False
        return True

    def delete(self, path: str, *, at_once: bool = False) -> None:
        """Delete an object, if it is there; at once also a pod whose node does not say goodbye."""
        query = [("gracePeriodSeconds", "0")] if at_once else None
        try:
            self._call("DELETE", path, query=query)
        except _NotFoundError:
            return

    def watch(self, path: str, *, labels: str, since: str, for_s: int) -> Iterator[Object]:
        """Events of a collection (`{"type": ..., "object": ...}`) for at most `for_s` seconds."""
        query = [
            *_selectors(labels),
            ("watch", "true"),
            ("resourceVersion", since),
            ("timeoutSeconds", str(for_s)),
        ]
        response = self._request("GET", path, query=query, timeout_s=for_s + _TIMEOUT_S)
        try:
            rest = b""
            while part := response.read1(2**16):
                *lines, rest = (rest + part).split(b"\n")
                yield from (json.loads(line) for line in lines if line)
        except urllib3.exceptions.HTTPError as error:
            raise self._lost(error) from None
        finally:
            response.release_conn()

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def _call(  # noqa: PLR0913 - as `_request`
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: list[tuple[str, str]] | None = None,
        kind: str = "application/json",
        timeout_s: float = _TIMEOUT_S,
        retries: bool = True,
    ) -> Object:
        response = self._request(
            method, path, body=body, query=query, kind=kind, timeout_s=timeout_s, retries=retries
        )
        try:
            answer: Object = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, json.JSONDecodeError) as error:
            raise self._lost(error) from None
        return answer

    def _request(  # noqa: PLR0913 - an HTTP request has that many parts
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: list[tuple[str, str]] | None = None,
        kind: str = "application/json",
        timeout_s: float = _TIMEOUT_S,
        retries: bool = True,
    ) -> Any:  # noqa: ANN401 - the client's untyped response
        headers = {"Accept": "application/json", "Content-Type": kind}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._client.configuration.host}{path}"
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                f"{url}?{urlencode(query)}" if query else url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(total=timeout_s),
                preload_content=False,
                retries=_RETRIES if retries else False,
            )
            if response.status >= _FIRST_ERROR:
                raise self._refused(method, path, response.status, response.data)
        except urllib3.exceptions.HTTPError as error:
            raise self._lost(error) from None
        return response

    def _refused(self, method: str, path: str, status: int, data: bytes) -> FleetError:
        if status == _NOT_FOUND:
            return _NotFoundError(path)
        message = _message(data)
        if status == _CONFLICT and method == "POST":
            return _ConflictError(path)
        if status == _CONFLICT and method == "PATCH":
            return Retryable(
                f"was changed meanwhile: {message[:200]}", where=f"cluster {self.name}"
            )
        if status in _UNAVAILABLE:
            return self._lost(message)
        return Failed(
            f"{method} {path} was refused ({status}): {message}", where=f"cluster {self.name}"
        )

    def _lost(self, error: Exception | str) -> Retryable:
        return Retryable(
            f"the API server does not answer: {str(error)[:200]}",
            where=f"cluster {self.name}",
            mend="./fleet up heals the embedded platform; for another cluster check the network",
        )


class _NotFoundError(Failed):
    """404."""


class _ConflictError(Failed):
    """409."""


def _selectors(labels: str) -> list[tuple[str, str]]:
    return [("labelSelector", labels)] if labels else []


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (TypeError, ValueError, KeyError):
        return data[:200].decode(errors="replace")
