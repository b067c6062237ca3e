"""gpufleet's own decisions as Jinja filters: no logic about nodes or GPUs stands in a template."""

from collections.abc import Callable, Mapping
from typing import Any

from gpufleet.core.patching import hosts, nodes

Object = Mapping[str, Any]


class FilterModule:
    """Each is a function of `gpufleet.core.patching`."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By the name that templates use."""
        return {
            "gpufleet_cordon_refusal": _cordon_refusal,
            "gpufleet_is_left": _is_left,
            "gpufleet_is_ours": _is_ours,
            "gpufleet_may_pass": _may_pass,
            "gpufleet_is_own_quarantine": _is_own_quarantine,
            "gpufleet_may_drain": _may_drain,
            "gpufleet_may_uncordon": _may_uncordon,
            "gpufleet_node_standing": _node_standing,
            "gpufleet_owner_to_know": _owner_to_know,
            "gpufleet_placed_by": nodes.placed_by,
            "gpufleet_quarantine_annotations": _quarantine_annotations,
            "gpufleet_to_drain": _to_drain,
            "gpufleet_why_unreachable": _why_unreachable,
        }


def _cordon_refusal(  # noqa: PLR0913, PLR0917 - as the function
    found: list[Object],
    name: str,
    mark: str,
    fence: int,
    left: bool = True,  # noqa: FBT001, FBT002 - a template names it
    back: bool = False,  # noqa: FBT001, FBT002 - a template names it
) -> str:
    """Why a node may not be cordoned by us; empty where it may."""
    return nodes.cordon_refusal(
        str(name), found, str(mark), int(fence), left=bool(left), back=bool(back)
    )


def _is_ours(found: list[Object], mark: str) -> bool:
    """Whether a node is cordoned under our mark."""
    return nodes.is_ours(found, str(mark))


def _is_left(found: list[Object], mark: str, fence: int) -> bool:
    """Whether a node was left cordoned by a patch whose place we may take."""
    return nodes.is_left(found, str(mark), int(fence))


def _may_pass(result: Object) -> bool:
    """Whether a task failed by what passes by itself, such as an API server that is away.

    A question to one that is away before its kinds are known does not fail: it finds nothing.
    """
    failed = result.get("failed") or result.get("api_found") is False
    return bool(failed) and nodes.may_pass(str(result.get("msg", "")))


def _is_own_quarantine(found: list[Object], mark: str) -> bool:
    """Whether the flow of this mark has put a node into quarantine."""
    return nodes.is_own_quarantine(found, str(mark))


def _node_standing(found: list[Object], mark: str) -> dict[str, bool]:
    """How a node stands when a run has ended with its host."""
    return nodes.standing(found, str(mark))


def _owner_to_know(found: list[Object], mark: str) -> str:
    """The flow whose cordon a node carries, where it is another patch's."""
    return nodes.owner_to_know(found, str(mark))


def _may_drain(found: list[Object], mark: str) -> bool:
    """Whether a node may be emptied by us."""
    return nodes.may_drain(found, str(mark))


def _may_uncordon(found: list[Object], mark: str) -> bool:
    """Whether a node may be put back by us."""
    return nodes.may_uncordon(found, str(mark))


def _quarantine_annotations(
    found: list[Object], state: str, mark: str, reason: str
) -> dict[str, str | None]:
    """The annotations of a node that goes into quarantine or leaves it."""
    return nodes.quarantine_annotations(
        found, present=str(state) == "present", mark=str(mark), reason=str(reason)
    )


def _to_drain(pods: list[Object]) -> list[str]:
    """Pods that a drain has to move."""
    return nodes.to_drain(pods)


def _why_unreachable(message: str, name: str, known_hosts: str) -> str:
    """What a person is told of a host that SSH did not reach."""
    return hosts.why_unreachable(str(name), str(message), str(known_hosts))
