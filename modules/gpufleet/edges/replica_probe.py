"""One token from a replica itself: the proof that it is warm."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httpx

from gpufleet.edges.kube import Cluster
from gpufleet.spec.errors import FleetError
from gpufleet.spec.prewarming import ReplicaProof

_AT_ONCE: Final = 16
_CONNECT_S: Final = 2.0
_SHOWN: Final = 200


@dataclass(frozen=True)
class Replica:
    """A replica's pod, and the model that it is asked for."""

    pod: str
    namespace: str
    address: str
    """Of the pod; empty while it has none."""
    port: int
    model: str


def ask_each(
    replicas: Sequence[Replica], deadline_s: float, cluster: Cluster | None = None
) -> list[ReplicaProof]:
    """Ask every replica for one token, many at a time.

    A pod that cannot be reached from here is asked through its API server, where one is given.

    Args:
        replicas: in any order; the proofs have the same.
        deadline_s: longest time of one answer.
        cluster: whose API server may pass a request on.
    """
    if not replicas:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(replicas))) as pool:
        return list(pool.map(lambda each: _ask(each, deadline_s, cluster), replicas))


def _ask(replica: Replica, deadline_s: float, cluster: Cluster | None) -> ReplicaProof:
    begun = time.monotonic()
    why_not = _directly(replica, deadline_s)
    if why_not is None and cluster is not None:
        why_not = _by_api_server(replica, deadline_s, cluster)
    elif why_not is None:
        why_not = "its address cannot be reached from here"
    return ReplicaProof(
        pod=replica.pod,
        warm=not why_not,
        seconds=None if why_not else round(time.monotonic() - begun, 3),
        why_not=why_not,
    )


def _directly(replica: Replica, deadline_s: float) -> str | None:
    """Why it gave no token, empty where it did; none where it cannot be reached from here."""
    if not replica.address:
        return None
    host = f"[{replica.address}]" if ":" in replica.address else replica.address
    times = httpx.Timeout(deadline_s, connect=min(_CONNECT_S, deadline_s))
    try:
        # A pod's address is never reached through the caller's proxy.
        with httpx.Client(timeout=times, trust_env=False) as client:
            answer = client.post(
                f"http://{host}:{replica.port}/v1/completions", json=_body(replica)
            )
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return None
    except httpx.TimeoutException:
        return f"no token within {deadline_s:g} s"
    except httpx.HTTPError as error:
        return f"it broke off: {str(error)[:_SHOWN] or type(error).__name__}"
    return _judged_answer(answer)


def _judged_answer(answer: httpx.Response) -> str:
    if answer.status_code != HTTPStatus.OK:
        return f"it answers {answer.status_code}"
    try:
        return _judged(answer.json())
    except ValueError:
        return "its answer is not JSON"


def _by_api_server(replica: Replica, deadline_s: float, cluster: Cluster) -> str:
    path = (
        f"/api/v1/namespaces/{replica.namespace}/pods/{replica.pod}:{replica.port}"
        "/proxy/v1/completions"
    )
    try:
        return _judged(cluster.post(path, _body(replica), timeout_s=deadline_s))
    except FleetError as error:
        return f"neither its address nor its API server's proxy: {error.what[:_SHOWN]}"


def _body(replica: Replica) -> dict[str, Any]:
    return {"model": replica.model, "prompt": "1", "max_tokens": 1, "temperature": 0}


def _judged(answer: object) -> str:
    """Empty for an answer of one token or more."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return "" if isinstance(tokens, int) and tokens >= 1 else "its answer has no token"
