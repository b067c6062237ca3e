"""A calendar at an address: asked for rarely, kept, and frozen once its copy is too old."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpufleet.core.freeze import decide
from gpufleet.edges import calendar_copies
from gpufleet.edges.calendar_copies import CalendarCopy
from gpufleet.edges.calendar_trust import MAX_BYTES, UntrustedError
from gpufleet.edges.calendars import read_calendars
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.governance import FreezeCalendar

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
STALE_AFTER_S = 3600.0
ICS = (
    b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:1@test\r\n"
    b"DTSTAMP:20200101T000000Z\r\nSUMMARY:Audit\r\nDTSTART:20260610T000000Z\r\n"
    b"DTEND:20260611T000000Z\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
)

Answer = Callable[[BaseHTTPRequestHandler], None]


def plain(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@dataclass
class Publisher:
    """A server whose next answers a test decides."""

    answer: Answer = field(default_factory=lambda: plain(ICS))
    asked: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/secret-4711/company.ics"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append({name.lower(): value for name, value in self.headers.items()})
            made.answer(self)

        def log_message(self, *_: object) -> None:
            """Nothing: a test reads `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def copy(publisher: Publisher, folder: Path) -> CalendarCopy:
    return CalendarCopy(publisher.url, folder / "kept" / "company.json", STALE_AFTER_S)


def reason(calendar: CalendarCopy, now: datetime) -> str:
    with pytest.raises(UntrustedError) as raised:
        calendar.read(now)
    return str(raised.value)


def test_it_is_asked_for_every_few_minutes_and_says_what_it_has(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.answer = plain(ICS, ETag='"1"', Last_Modified="Mon, 01 Jun 2026 00:00:00 GMT")
    calendar = copy(publisher, tmp_path)
    for seconds in range(0, 290, 10):
        assert calendar.read(NOW + timedelta(seconds=seconds)) == ICS
    assert len(publisher.asked) == 1
    publisher.answer = plain(b"", 304)
    assert calendar.read(NOW + 6 * MINUTE) == ICS
    assert publisher.asked[1]["if-none-match"] == '"1"'
    assert publisher.asked[1]["if-modified-since"] == "Mon, 01 Jun 2026 00:00:00 GMT"
    # That it has not changed is as good as an answer: it is not stale an hour after the first.
    publisher.answer = plain(b"", 500)
    assert calendar.read(NOW + 65 * MINUTE) == ICS


def test_a_copy_holds_while_nobody_answers_until_it_is_stale(
    publisher: Publisher, tmp_path: Path
) -> None:
    calendar = copy(publisher, tmp_path)
    calendar.read(NOW)
    publisher.answer = plain(b"", 503)
    assert calendar.read(NOW + 59 * MINUTE) == ICS
    said = reason(calendar, NOW + 61 * MINUTE)
    assert "is stale: last reached 2026-06-01 00:00 UTC (answers 503)" in said
    publisher.answer = plain(ICS)
    assert calendar.read(NOW + 62 * MINUTE) == ICS


def test_a_new_answer_is_believed_at_once(publisher: Publisher, tmp_path: Path) -> None:
    calendar = copy(publisher, tmp_path)
    calendar.read(NOW)
    changed = ICS.replace(b"Audit", b"Other")
    publisher.answer = plain(changed)
    assert calendar.read(NOW + 6 * MINUTE) == changed


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    part = b"BEGIN:VCALENDAR\r\n" * 4096
    for _ in range(2 * MAX_BYTES // len(part)):
        handler.wfile.write(part)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (plain(b"", 404), "answers 404"),
        (plain(b"", 302, Location="http://127.0.0.1:1/"), "answers 302 elsewhere: declare that"),
        (plain(b"<html>please log in</html>"), "answers something that is no calendar"),
        (plain(ICS, Content_Encoding="gzip"), "answers compressed"),
        (plain(b"", 304), "answers 304"),
        (endless, "is larger than 4 MiB"),
    ],
)
def test_what_is_no_whole_calendar_is_none(
    publisher: Publisher, tmp_path: Path, answer: Answer, said: str
) -> None:
    publisher.answer = answer
    calendar = copy(publisher, tmp_path)
    assert said in reason(calendar, NOW)
    asked = len(publisher.asked)
    # Whoever waits for an opening does not ask again every second.
    reason(calendar, NOW + timedelta(seconds=10))
    assert len(publisher.asked) == asked


def test_a_server_that_drips_its_answer_is_not_waited_for(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.05):
            try:
                handler.wfile.write(b"B")
            except OSError:
                return

    publisher.answer = drip
    monkeypatch.setattr(calendar_copies, "_WITHIN_S", 0.5)
    begun = time.monotonic()
    assert "no whole answer in 0.5 s" in reason(copy(publisher, tmp_path), NOW)
    ended.set()
    assert time.monotonic() - begun < 60


def test_an_address_that_nobody_serves_is_frozen_and_never_raises(tmp_path: Path) -> None:
    calendar = CalendarCopy("http://127.0.0.1:1/company.ics", tmp_path / "c.json", STALE_AFTER_S)
    assert "cannot be reached (" in reason(calendar, NOW)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"url": 1}', "\x00", '{"url": "x"}'])
def test_a_copy_that_was_cut_is_none(publisher: Publisher, tmp_path: Path, content: str) -> None:
    calendar = copy(publisher, tmp_path)
    calendar.read(NOW)
    calendar.file.write_text(content)
    assert calendar.read(NOW + MINUTE) == ICS
    assert len(publisher.asked) == 2


def test_a_copy_of_another_address_is_none(publisher: Publisher, tmp_path: Path) -> None:
    calendar = copy(publisher, tmp_path)
    calendar.read(NOW)
    other = CalendarCopy(f"{publisher.url}?other", calendar.file, STALE_AFTER_S)
    publisher.answer = plain(b"", 404)
    assert "answers 404" in reason(other, NOW + MINUTE)


def test_a_copy_from_the_future_is_not_trusted(publisher: Publisher, tmp_path: Path) -> None:
    calendar = copy(publisher, tmp_path)
    calendar.read(NOW + timedelta(days=30))
    publisher.answer = plain(b"", 503)
    assert "was copied in the future" in reason(calendar, NOW)


def test_a_folder_that_cannot_be_written_costs_only_the_copy(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("a file where the folder would be")
    assert copy(publisher, tmp_path).read(NOW) == ICS


@pytest.fixture
def fleet(publisher: Publisher) -> Fleet:
    """The article's fleet with a calendar at an address."""
    article = load_fleet(PROJECT_ROOT / "fleets" / "article" / "production.yaml")
    declared = FreezeCalendar(url=publisher.url, stale_after_s=STALE_AFTER_S)
    return article.model_copy(
        update={"fleet": "addresses", "freeze_calendars": {"company": declared}}
    )


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (b"", "has no event with a DTSTAMP"),
        (
            b"BEGIN:VFREEBUSY\r\nFREEBUSY:20260610T000000Z/PT24H\r\nEND:VFREEBUSY\r\n",
            "says busy times alone",
        ),
    ],
)
def test_an_answer_without_events_is_not_taken_for_no_freeze(
    publisher: Publisher, fleet: Fleet, tmp_path: Path, inside: bytes, said: str
) -> None:
    begin = b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\n"
    publisher.answer = plain(begin + inside + b"END:VCALENDAR\r\n")
    file = tmp_path / "production.yaml"
    [empty] = read_calendars(fleet, file, "main", NOW)
    assert said in empty.problem
    assert not decide([empty], NOW).admitted


def test_it_freezes_like_a_file_and_its_secret_address_is_told_to_nobody(
    publisher: Publisher, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workspace, "here", lambda: Workspace(tmp_path))
    file = tmp_path / "production.yaml"
    inside = datetime(2026, 6, 10, 12, tzinfo=UTC)
    found = read_calendars(fleet, file, "main", NOW, at=inside)
    assert decide(found, inside).reason == "freeze `Audit`"
    kept = tmp_path / ".fleet" / "addresses" / "production" / "calendars" / "company.json"
    assert kept.stat().st_mode & 0o077 == 0
    publisher.answer = plain(b"", 500)
    [stale] = read_calendars(fleet, file, "main", NOW + timedelta(days=1))
    assert f"http://127.0.0.1:{publisher.port}/... is stale" in stale.problem
    assert "secret" not in stale.problem
    assert not decide([stale], NOW).admitted
