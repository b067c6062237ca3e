"""What `dcgmi diag --json` prints."""

from collections.abc import Iterator
from typing import Any


def results_of(told: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    """Name and status of each test, wherever the version of DCGM puts them."""
    if isinstance(told, list):
        for each in told:
            yield from results_of(each)
        return
    if not isinstance(told, dict):
        return
    if isinstance(told.get("name"), str) and isinstance(told.get("results"), list):
        summary = told.get("test_summary")
        for result in [*told["results"], *([summary] if isinstance(summary, dict) else [])]:
            if isinstance(result, dict) and isinstance(result.get("status"), str):
                yield told["name"], result["status"].lower()
        return
    for each in told.values():
        yield from results_of(each)
