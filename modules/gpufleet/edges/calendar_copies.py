"""Calendars at addresses: asked for now and then, with a copy that holds while nobody answers.

A copy is as old as the last answer that gave it or said that it has not changed; one that is older
than its calendar may be is not trusted. Addresses may be secret (many calendar programs give such
ones), so messages name the host alone.
"""

import asyncio
import base64
import binascii
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import httpx

from gpufleet.edges.calendar_trust import CLOCK_SKEW, MAX_BYTES, UntrustedError

_ASK_EVERY: Final = timedelta(minutes=5)
_ASK_AGAIN: Final = timedelta(seconds=30)
"""After a failure."""
_WITHIN_S: Final = 10.0
_SILENCE_S: Final = 5.0
_BEGINNING: Final = b"BEGIN:VCALENDAR"
_SHOWN: Final = 120


class _NoAnswerError(Exception):
    """Why an address gave no calendar."""


@dataclass(frozen=True)
class _Kept:
    """A copy, as its file has it; times in ISO 8601."""

    url: str
    fetched_at: str
    """When it was known to be current last."""
    tried_at: str
    failure: str = ""
    """Of the last try; empty where it succeeded."""
    etag: str = ""
    last_modified: str = ""
    content: str = ""
    """In base64."""

    @classmethod
    def read(cls, file: Path, url: str) -> Self | None:
        """What a file has of an address; None where that is nothing."""
        try:
            kept = cls(**json.loads(file.read_text(encoding="utf-8")))
            for moment in (kept.fetched_at, kept.tried_at):
                datetime.fromisoformat(moment)
            base64.b64decode(kept.content, validate=True)
        except (OSError, ValueError, TypeError, binascii.Error):
            return None
        return kept if kept.url == url else None

    def write(self, file: Path) -> None:
        """Put it in place whole; where that cannot be, the next look asks the address again."""
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as made:
                try:
                    json.dump(asdict(self), made)
                    made.flush()
                    Path(made.name).replace(file)
                except BaseException:
                    Path(made.name).unlink(missing_ok=True)
                    raise
        except OSError:
            return


@dataclass(frozen=True)
class CalendarCopy:
    """A calendar at an address, and the file that keeps its copy."""

    url: str
    file: Path
    stale_after_s: float

    @property
    def shown(self) -> str:
        """The address as messages name it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/..."

    def read(self, now: datetime) -> bytes:
        """The calendar, from its address or from a copy that is not too old.

        Raises:
            UntrustedError: neither is to be had.
        """
        kept = _Kept.read(self.file, self.url)
        if kept is None or _is_due(kept, now):
            kept = self._asked(kept, now)
            kept.write(self.file)
        if not kept.content:
            raise UntrustedError(f"cannot be reached ({kept.failure})")
        fetched_at = datetime.fromisoformat(kept.fetched_at)
        why = f" ({kept.failure})" if kept.failure else ""
        if fetched_at > now + CLOCK_SKEW:
            raise UntrustedError(f"was copied in the future ({fetched_at:%Y-%m-%d %H:%M}){why}")
        if (now - fetched_at).total_seconds() > self.stale_after_s:
            raise UntrustedError(f"is stale: last reached {fetched_at:%Y-%m-%d %H:%M %Z}{why}")
        return base64.b64decode(kept.content)

    def _asked(self, kept: _Kept | None, now: datetime) -> _Kept:
        """What is known after asking; a failure leaves the copy as it was."""
        moment = now.isoformat()
        known = kept if kept and kept.content else None
        try:
            answer = _get(self.url, _validators(known))
        except _NoAnswerError as error:
            before = known or _Kept(self.url, moment, moment)
            return replace(before, tried_at=moment, failure=str(error))
        if answer is None and known:
            return replace(known, fetched_at=moment, tried_at=moment, failure="")
        content, headers = answer or (b"", httpx.Headers())
        return _Kept(
            self.url,
            moment,
            moment,
            etag=headers.get("etag", ""),
            last_modified=headers.get("last-modified", ""),
            content=base64.b64encode(content).decode("ascii"),
        )


def _is_due(kept: _Kept, now: datetime) -> bool:
    """Whether the address is asked again; also where the clock went back."""
    since = now - datetime.fromisoformat(kept.tried_at)
    return not timedelta() <= since < (_ASK_AGAIN if kept.failure else _ASK_EVERY)


def _validators(kept: _Kept | None) -> dict[str, str]:
    if kept is None:
        return {}
    found = {"If-None-Match": kept.etag, "If-Modified-Since": kept.last_modified}
    return {name: value for name, value in found.items() if value}


def _get(url: str, validators: dict[str, str]) -> tuple[bytes, httpx.Headers] | None:
    """The answer of an address; None where it is what it was.

    In a thread of its own: a stack's program asks from within its event loop.

    Raises:
        _NoAnswerError: there is none in time, or it is no calendar.
    """
    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, _ask(url, validators)).result()
    except TimeoutError:
        raise _NoAnswerError(f"no whole answer in {_WITHIN_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        why = " ".join(str(error).split())[:_SHOWN] or type(error).__name__
        raise _NoAnswerError(why) from None


async def _ask(url: str, validators: dict[str, str]) -> tuple[bytes, httpx.Headers] | None:
    # Compressed answers could be any size when unpacked.
    headers = {"Accept": "text/calendar", "Accept-Encoding": "identity", **validators}
    # A proxy has no way to this machine's own addresses.
    through_proxy = url.startswith("https:")
    async with (
        asyncio.timeout(_WITHIN_S),
        httpx.AsyncClient(timeout=_SILENCE_S, trust_env=through_proxy) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.status_code == HTTPStatus.NOT_MODIFIED and validators:
            return None
        if response.status_code != HTTPStatus.OK:
            where = " elsewhere: declare that address" if response.is_redirect else ""
            raise _NoAnswerError(f"answers {response.status_code}{where}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _NoAnswerError("answers compressed, without being asked to")
        content = bytearray()
        async for part in response.aiter_raw():
            content += part
            if len(content) > MAX_BYTES:
                raise _NoAnswerError(f"is larger than {MAX_BYTES // 2**20} MiB")
    if not bytes(content).lstrip(b"\xef\xbb\xbf \r\n").upper().startswith(_BEGINNING):
        raise _NoAnswerError("answers something that is no calendar")
    return bytes(content), response.headers
