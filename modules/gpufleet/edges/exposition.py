"""Reads what a process tells Prometheus."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from gpufleet.spec.errors import Retryable

_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Sample:
    """One value with its name and labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def scraped(url: str) -> list[Sample]:
    """Every sample that a process tells now.

    Raises:
        Retryable: it does not answer, or not in Prometheus' format.
    """
    try:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
            text = client.get(url).raise_for_status().text
        families = list(text_string_to_metric_families(text))
    except (httpx.HTTPError, ValueError) as error:
        raise Retryable(
            f"its metrics cannot be read: {str(error)[:200] or type(error).__name__}",
            where=url,
            mend="./fleet status shows its processes",
        ) from None
    return [
        Sample(sample.name, sample.labels, sample.value)
        for family in families
        for sample in family.samples
    ]
