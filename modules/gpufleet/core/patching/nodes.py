"""Whose a cordoned node is, and what is left on it: nobody touches what somebody else cordoned."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gpufleet.core import vocabulary as names

Object = Mapping[str, Any]
CORDONED_BY: Final = f"{names.GROUP}/cordoned-by"
"""Annotation with the owner mark, `patch/FLOW`."""
CORDONED_WITH: Final = f"{names.GROUP}/cordoned-with"
"""Annotation with the token of the owner's lease: a higher one takes an owner's place."""
QUARANTINED: Final = f"{names.GROUP}/quarantined"
"""Taint and label."""
QUARANTINE_REASON: Final = f"{names.GROUP}/quarantine-reason"
"""Annotation with the sentence that a person reads first."""
PATIENCE: Final = {"gpufleet_kube_retries": 24, "gpufleet_kube_pause_s": 5}
"""Variables of the inventory: how often, and after how many seconds, an API server is asked again
that is away. Two minutes are longer than its restart."""
_MARK: Final = "patch/"
_MIRROR: Final = "kubernetes.io/config.mirror"
_ENDED: Final = frozenset({"Succeeded", "Failed"})
_PASSING: Final = (
    *("max retries exceeded", "connection refused", "connection reset", "connection aborted"),
    *("remote end closed connection", "timed out", "connection broken", "eof occurred"),
    *("internal server error", "bad gateway", "service unavailable", "gateway timeout"),
    *("too many requests", "gateway time-out"),
    # Nodes and pods are kinds of every cluster.
    *("failed to find api for resource", "failed to find exact match for v1.node"),
)
"""Words of the Kubernetes client's errors, in lower case."""


def cordon_refusal(name: str, found: Sequence[Object], mark: str, fence: int) -> str:
    """Why a node may not be cordoned by us; empty where it may, or is already.

    Args:
        name: of the node.
        found: the node as the API server gives it, or nothing.
        mark: ours.
        fence: token of our lease; 0 in check mode, where nobody holds one.
    """
    if not found:
        return f"node {name} is not in its cluster: ./fleet status shows what is missing"
    annotations = _annotations(found[0])
    if is_quarantined(found[0]):
        reason = annotations.get(QUARANTINE_REASON, "no reason is given")
        return f"node {name} is quarantined: {reason}"
    if not found[0].get("spec", {}).get("unschedulable") or annotations.get(CORDONED_BY) == mark:
        return ""
    owner = annotations.get(CORDONED_BY, "")
    if not owner.startswith(_MARK):
        by = f"by {owner}" if owner else "by somebody else (it has no mark of gpufleet)"
        return f"node {name} is cordoned {by}; it is left as it is"
    token = _token(annotations)
    if fence and fence > token:
        # Its owner has lost the lease of the site, or it would be held against us.
        return ""
    return f"node {name} is cordoned by {owner} with token {token}; it is left as it is"


def is_ours(found: Sequence[Object], mark: str) -> bool:
    """Whether a node is cordoned under our mark."""
    return bool(
        found
        and found[0].get("spec", {}).get("unschedulable")
        and _annotations(found[0]).get(CORDONED_BY) == mark
    )


def is_left(found: Sequence[Object], mark: str, fence: int) -> bool:
    """Whether a node was left cordoned by a patch, ours or one whose place we may take."""
    cordoned = bool(found and found[0].get("spec", {}).get("unschedulable"))
    return cordoned and not cordon_refusal("", found, mark, fence)


def may_pass(message: str) -> bool:
    """Whether a request to an API server failed by what passes by itself."""
    said = message.lower()
    return any(words in said for words in _PASSING)


def may_uncordon(found: Sequence[Object], mark: str) -> bool:
    """Whether a node may be put back by us: it is ours, and not in quarantine."""
    return is_ours(found, mark) and not is_quarantined(found[0])


def is_quarantined(node: Object) -> bool:
    """Whether a node carries the taint of quarantine."""
    taints = node.get("spec", {}).get("taints") or []
    return any(taint.get("key") == QUARANTINED for taint in taints)


def quarantine_annotations(
    found: Sequence[Object], *, present: bool, mark: str, reason: str
) -> dict[str, str | None]:
    """The annotations of a node that goes into quarantine or leaves it; none takes one away.

    Whoever takes a node out of quarantine takes a cordon of ours over, and nobody else's.
    """
    if present:
        return {QUARANTINE_REASON: reason}
    owner = _annotations(found[0]).get(CORDONED_BY, "") if found else ""
    taken_over = {CORDONED_BY: mark} if owner.startswith(_MARK) else {}
    return {QUARANTINE_REASON: None, **taken_over}


def to_drain(pods: Iterable[Object]) -> list[str]:
    """Pods that a drain has to move, as `namespace/name`.

    Not those of a DaemonSet, which come back at once, nor static pods, which the kubelet runs.
    """
    return sorted(
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in pods
        if pod.get("status", {}).get("phase") not in _ENDED
        and _MIRROR not in _annotations(pod)
        and not any(
            owner.get("kind") == "DaemonSet"
            for owner in pod["metadata"].get("ownerReferences") or []
        )
    )


def _annotations(item: Object) -> Mapping[str, str]:
    return item.get("metadata", {}).get("annotations") or {}


def _token(annotations: Mapping[str, str]) -> int:
    text = annotations.get(CORDONED_WITH, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
