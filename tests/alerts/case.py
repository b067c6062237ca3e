"""What an alert is tried with.

Series are written as promtool reads them: `0+60x90` is a counter that grows by 60 at each of 90
minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ENGINE: Final = 'gpufleet_dev_pool="answers",gpufleet_dev_model="llama-3.1-8b"'
POD: Final = f'{ENGINE},namespace="gpufleet-interactive",pod="answers-0"'
OF_POD: Final = 'namespace="gpufleet-interactive",pod="answers-0"'
POD_LABELS: Final = {
    f'kube_pod_labels{{{OF_POD},label_gpufleet_dev_pool="answers",'
    'label_gpufleet_dev_model="llama-3.1-8b"}': "1x600"
}


@dataclass(frozen=True)
class Case:
    """What Prometheus sees, and the labels of the alert that comes of it; None for no alert."""

    series: Mapping[str, str]
    labels: Mapping[str, str] | None
    at_min: int = 60
    step_min: float = 1


@dataclass(frozen=True)
class Cases:
    """At least one of each, or an alert proves nothing."""

    fires: tuple[Case, ...]
    quiet: tuple[Case, ...]


def one(
    fires: Mapping[str, str],
    quiet: Mapping[str, str],
    labels: Mapping[str, str],
    at_min: int = 60,
) -> Cases:
    """An alert with one case of each."""
    return Cases((Case(fires, labels, at_min),), (Case(quiet, None, at_min),))


def counter(*parts: tuple[float, int]) -> str:
    """A counter that grows by so much at each of so many steps, and then at another rate."""
    text, reached = "0", 0.0
    for rate, steps in parts:
        text += f" {reached + rate:g}+{rate:g}x{steps - 1}"
        reached += rate * steps
    return text


def requests(outcome: str, per_min: float, *, route: str = "primary") -> dict[str, str]:
    """An hour of requests of a use case with one outcome."""
    return {requests_series(outcome, route): counter((per_min, 60))}


def requests_series(outcome: str, route: str = "primary") -> str:
    labels = f'use_case="answers",team="support",route="{route}",outcome="{outcome}"'
    return f"gpufleet_gateway_requests_total{{{labels}}}"
