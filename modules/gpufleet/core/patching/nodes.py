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
QUARANTINED_BY: Final = f"{names.GROUP}/quarantined-by"
"""Annotation with the mark of whoever put it there first."""
_MARK: Final = "patch/"
_MARKS: Final = (_MARK, "drill/")
"""How the marks of those begin who cordon a node for a while."""
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


def placed_by(pods: Iterable[Object], labels: Iterable[str]) -> list[str]:
    """Names of pods that want one of these labels of their node.

    Others of the same operator, such as its node feature discovery, stay while one label is away.
    """
    wanted = set(labels)
    return [
        str(pod["metadata"]["name"])
        for pod in pods
        if wanted & set(pod.get("spec", {}).get("nodeSelector") or {})
    ]


def cordon_refusal(  # noqa: PLR0913 - whose node it is, and who asks with what right
    name: str,
    found: Sequence[Object],
    mark: str,
    fence: int,
    *,
    left: bool = True,
    back: bool = False,
) -> str:
    """Why a node may not be cordoned by us; empty where it may, or is already.

    Args:
        name: of the node.
        found: the node as the API server gives it, or nothing.
        mark: ours.
        fence: token of our lease; 0 in check mode, where nobody holds one.
        left: whether the patch whose mark the node carries is known, and has left it cordoned; a
            mark of any other one is stale, and the cordon a person's.
        back: whether the host is to go back to what it had, which is how one that a patch has
            quarantined gets whole again.
    """
    if not found:
        return f"node {name} is not in its cluster: ./fleet status shows what is missing"
    annotations = _annotations(found[0])
    owner = annotations.get(CORDONED_BY, "")
    if is_quarantined(found[0]) and not (back and owner.startswith(_MARK)):
        reason = annotations.get(QUARANTINE_REASON, "no reason is given")
        return f"node {name} is quarantined: {reason}"
    if not found[0].get("spec", {}).get("unschedulable") or owner == mark:
        return ""
    token = _token(annotations)
    if owner.startswith(_MARK) and left and fence > token:
        # Its owner has lost the lease of the site, or it would be held against us.
        return ""
    if not owner:
        by = "somebody else (it has no mark of gpufleet)"
    elif not owner.startswith(_MARK):
        by = owner
    elif not left:
        by = f"somebody else ({owner}, whose mark it carries, has given it back or is not known)"
    else:
        by = f"{owner} with token {token}"
    return f"node {name} is cordoned by {by}; it is left as it is"


def cordoned_by_others(node: Object) -> str:
    """Why a patch has no business with a node that it has not begun; empty where it has."""
    if not node.get("spec", {}).get("unschedulable"):
        return ""
    owner = _annotations(node).get(CORDONED_BY, "")
    if owner.startswith(_MARK):
        return ""
    return f"its node is cordoned by {owner or 'somebody'}, who has not uncordoned it"


def owner_to_know(found: Sequence[Object], mark: str) -> str:
    """The flow whose cordon a node carries, where it is another patch's; empty where it is not."""
    if not found or not found[0].get("spec", {}).get("unschedulable"):
        return ""
    owner = _annotations(found[0]).get(CORDONED_BY, "")
    return owner.removeprefix(_MARK) if owner.startswith(_MARK) and owner != mark else ""


def is_stale(node: Object) -> bool:
    """Whether a node takes work and carries a mark of ours: somebody has uncordoned it by hand.

    Left there, the next person's cordon would read as that patch's or drill's.
    """
    return not node.get("spec", {}).get("unschedulable") and _annotations(node).get(
        CORDONED_BY, ""
    ).startswith(_MARKS)


def standing(found: Sequence[Object], mark: str) -> dict[str, bool]:
    """How a node stands when a run has ended with its host.

    Args:
        found: the node, or nothing.
        mark: ours.

    Returns:
        quarantined: it carries the taint.
        uncordoned: it takes work.
        held: it is cordoned under our mark; or nobody could see it.
    """
    if not found:
        return {"quarantined": False, "uncordoned": False, "held": True}
    cordoned = bool(found[0].get("spec", {}).get("unschedulable"))
    quarantined = is_quarantined(found[0])
    return {
        "quarantined": quarantined,
        "uncordoned": not cordoned and not quarantined,
        "held": is_ours(found, mark),
    }


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


def is_own_quarantine(found: Sequence[Object], mark: str) -> bool:
    """Whether the flow of this mark has put a node into quarantine, and nobody else."""
    return bool(
        found and is_quarantined(found[0]) and _annotations(found[0]).get(QUARANTINED_BY) == mark
    )


def may_uncordon(found: Sequence[Object], mark: str) -> bool:
    """Whether a node may be put back by us: it is ours, and not in quarantine."""
    return is_ours(found, mark) and not is_quarantined(found[0])


def may_drain(found: Sequence[Object], mark: str) -> bool:
    """Whether a node may be emptied by us: it is ours, or in quarantine, whoever cordoned it."""
    return is_ours(found, mark) or bool(found and is_quarantined(found[0]))


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
        known = _annotations(found[0]).get(QUARANTINED_BY) if found else None
        return {QUARANTINE_REASON: reason, QUARANTINED_BY: known or mark}
    owner = _annotations(found[0]).get(CORDONED_BY, "") if found else ""
    taken_over = {CORDONED_BY: mark} if owner.startswith(_MARK) else {}
    return {QUARANTINE_REASON: None, QUARANTINED_BY: None, **taken_over}


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
