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
            "gpufleet_is_ours": _is_ours,
            "gpufleet_may_uncordon": _may_uncordon,
            "gpufleet_quarantine_annotations": _quarantine_annotations,
            "gpufleet_to_drain": _to_drain,
            "gpufleet_why_unreachable": _why_unreachable,
        }


def _cordon_refusal(found: list[Object], name: str, mark: str, fence: int) -> str:
    """Why a node may not be cordoned by us; empty where it may."""
    return nodes.cordon_refusal(str(name), found, str(mark), int(fence))


def _is_ours(found: list[Object], mark: str) -> bool:
    """Whether a node is cordoned under our mark."""
    return nodes.is_ours(found, str(mark))


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
