"""Prometheus' HTTP API: series of a query over time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

import httpx

from gpufleet.spec.errors import BadInput, Failed, Retryable

_TIMEOUT_S: Final = 30.0
_MOST_POINTS: Final = 10_000
"""Prometheus refuses more than 11,000 of a series at once."""


@dataclass(frozen=True)
class Series:
    """One series: its labels, and its values by time; what is not a number is left out."""

    labels: Mapping[str, str]
    values: Mapping[datetime, float]


class Prometheus:
    """A server; name and password come from the user's netrc file, if it has some for the host.

    Args:
        url: such as `http://127.0.0.1:9090`.

    Raises:
        BadInput: the URL is none, or holds a password.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.userinfo:
            raise BadInput(
                "the address holds a password, which the process list and the journal would show",
                where="the address of Prometheus",
                mend="put it into ~/.netrc: machine HOST login NAME password PASSWORD",
            )
        if address.scheme not in {"http", "https"}:
            raise BadInput("is not the address of a Prometheus", where=url)
        netrc = Path.home() / ".netrc"
        auth = httpx.NetRCAuth(str(netrc)) if netrc.is_file() else None
        self._client = httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, auth=auth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def now(self, query: str) -> list[Series]:
        """A query's series now; what is not a number is left out.

        Raises:
            Retryable: the server does not answer, or is overloaded.
            Failed: it refuses the query.
        """
        found = []
        for series in self._ask("/api/v1/query", {"query": query})["result"]:
            at, text = series["value"]
            if (value := float(text)) == value:
                found.append(Series(series["metric"], {datetime.fromtimestamp(at, UTC): value}))
        return found

    def at_times(self, query: str, begin: datetime, end: datetime, step: timedelta) -> list[Series]:
        """A query's series, evaluated at `begin` and each step after it, up to `end` itself.

        Raises:
            Retryable: the server does not answer, or is overloaded.
            Failed: it refuses the query.
        """
        found: dict[tuple[tuple[str, str], ...], dict[datetime, float]] = {}
        for first, last in _pieces(begin, end, step):
            form = {
                "query": query,
                "start": f"{first.timestamp():.3f}",
                "end": f"{last.timestamp():.3f}",
                "step": f"{step.total_seconds():g}",
            }
            for series in self._ask("/api/v1/query_range", form)["result"]:
                labels = tuple(sorted(series["metric"].items()))
                values = found.setdefault(labels, {})
                for at, text in series["values"]:
                    if (value := float(text)) == value:
                        values[datetime.fromtimestamp(at, UTC)] = value
        return [Series(dict(labels), values) for labels, values in found.items()]

    def _ask(self, path: str, form: Mapping[str, str]) -> Any:  # noqa: ANN401 - plain JSON
        try:
            answer = self._client.post(path, data=dict(form))
            body = answer.json()
            if answer.status_code == HTTPStatus.OK and body["status"] == "success":
                return body["data"]
            said = f"{body.get('errorType', '')}: {body.get('error', '')}"[:300]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Retryable(
                f"Prometheus does not answer: {str(error)[:300] or type(error).__name__}",
                where=self.url,
                mend="what it has kept is collected once it is back; nothing was written",
            ) from None
        if answer.status_code in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
            raise Failed(f"Prometheus refuses the query: {said}", where=self.url)
        raise Retryable(f"Prometheus cannot answer now: {said}", where=self.url)


def _pieces(begin: datetime, end: datetime, step: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """The times in pieces that a server answers at once."""
    while begin <= end:
        last = min(end, begin + (_MOST_POINTS - 1) * step)
        yield begin, last
        begin = last + step
