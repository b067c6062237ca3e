"""The audit log of a process on a real file system."""

import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.audit import CLOSING, OPENING, findings, records, times_recorded
from tests.conftest import Until

from gpufleet.edges.audit_chain import RECORD_BYTES
from gpufleet.edges.audit_files import INTENT, OPEN, SEALED, SLOT_BYTES, Slots, backlog, segments
from gpufleet.edges.audit_limits import AuditLimits, AuditUnavailable
from gpufleet.edges.audit_log import AuditLog

SMALL = AuditLimits(segment_bytes=4 * RECORD_BYTES)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    made = AuditLog(tmp_path, "gateway")
    yield made
    made.close()


def serve(log: AuditLog, *ids: str) -> None:
    for each in ids:
        log.begin(each, OPENING)
        log.end(each, CLOSING)


def kill(log: AuditLog) -> None:
    """Leave everything as the end of the process would."""
    log._ended.set()
    log._thread.join()
    log._slots.close()


def test_each_request_leaves_one_record_with_all_that_was_said(
    log: AuditLog, tmp_path: Path
) -> None:
    log.begin("r1", OPENING)
    made = log.end("r1", CLOSING)
    assert made.request_id == "r1"
    assert made.writer == f"{log.writer}.internal"
    said = {**OPENING, **CLOSING}
    assert {name: getattr(made, name) for name in said if name != "data_class"} == {
        name: value for name, value in said.items() if name != "data_class"
    }
    assert records(tmp_path) == [made]


def test_records_of_many_threads_are_one_whole_chain(log: AuditLog, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=serve, args=(log, *[f"{name}-{n}" for n in range(200)]))
        for name in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert findings(tmp_path) == []
    assert set(times_recorded(tmp_path).values()) == {1}
    assert len(times_recorded(tmp_path)) == 800


def test_each_data_class_has_a_chain_of_its_own(log: AuditLog, tmp_path: Path) -> None:
    for data_class in ("public", "restricted", None):
        log.begin(f"r-{data_class}", {**OPENING, "data_class": data_class})
        log.end(f"r-{data_class}", CLOSING)
    chains = {record.writer.rpartition(".")[2] for record in records(tmp_path)}
    assert chains == {"public", "restricted", "unclassified"}
    assert {record.sequence for record in records(tmp_path)} == {1}


def test_content_is_kept_apart_so_that_it_can_go_earlier(log: AuditLog, tmp_path: Path) -> None:
    log.begin("r1", OPENING)
    made = log.end("r1", {**CLOSING, "prompt": "who?", "answer": "x" * 50_000})
    assert (made.prompt, made.answer) == (None, None)
    kept = {record.writer.rpartition(".")[2]: record for record in records(tmp_path)}
    assert kept["internal"] == made
    content = kept["internal-content-answers"]
    assert (content.prompt, content.answer) == ("who?", "x" * 50_000)


def test_segments_follow_each_other_and_the_chain_goes_through_them(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, "gateway", SMALL)
    serve(log, *[f"r{number}" for number in range(60)])
    log.close()
    assert len(segments(tmp_path, SEALED)) > 3
    assert segments(tmp_path, OPEN) == []
    assert findings(tmp_path) == []
    assert len(times_recorded(tmp_path)) == 60


def test_an_old_segment_is_sealed_with_requests_still_in_flight(
    tmp_path: Path, until: Until
) -> None:
    log = AuditLog(tmp_path, "gateway", AuditLimits(seal_after_s=0.05, sync_every_s=0.01))
    log.begin("slow", OPENING)
    serve(log, "quick")
    until(lambda: segments(tmp_path, SEALED))
    log.end("slow", CLOSING)
    log.close()
    assert findings(tmp_path) == []
    assert times_recorded(tmp_path) == {"quick": 1, "slow": 1}


def test_so_many_requests_in_flight_that_a_segment_would_not_hold_them(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, "gateway", SMALL)
    ids = [f"r{number}" for number in range(600)]
    for each in ids:
        log.begin(each, OPENING)
    for each in reversed(ids):
        log.end(each, CLOSING)
    log.close()
    assert findings(tmp_path) == []
    assert times_recorded(tmp_path) == dict.fromkeys(ids, 1)


def test_a_request_that_its_process_never_ended_is_closed_once(tmp_path: Path) -> None:
    dead = AuditLog(tmp_path, "gateway")
    serve(dead, "done")
    dead.begin("open", OPENING)
    kill(dead)
    alive = AuditLog(tmp_path, "gateway")
    [closed] = alive.recover()
    assert (closed.request_id, closed.error, closed.status) == ("open", "interrupted", 0)
    assert (closed.key_id, closed.use_case) == (OPENING["key_id"], OPENING["use_case"])
    assert alive.recover() == []
    assert findings(tmp_path) == []
    assert times_recorded(tmp_path) == {"done": 1, "open": 1}
    alive.close()


def test_a_writer_that_lives_is_left_alone(log: AuditLog, tmp_path: Path) -> None:
    log.begin("open", OPENING)
    other = AuditLog(tmp_path, "gateway")
    assert other.recover() == []
    assert log.recover() == []
    other.close()
    log.end("open", CLOSING)
    assert times_recorded(tmp_path) == {"open": 1}


def test_a_dead_writers_chain_goes_on_where_its_segments_were_shipped(tmp_path: Path) -> None:
    dead = AuditLog(tmp_path, "gateway", SMALL)
    dead.begin("open", OPENING)
    serve(dead, "a", "b")
    dead.seal()
    [(_, shipped)] = segments(tmp_path, SEALED)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(shipped, elsewhere)
    kill(dead)
    alive = AuditLog(tmp_path, "gateway")
    [closed] = alive.recover()
    assert closed.sequence == 3
    alive.close()
    for _, file in segments(tmp_path, SEALED):
        shutil.move(file, elsewhere)
    assert findings(elsewhere) == []


def interrupted_in(folder: Path, base: Path, name: str, content: bytes) -> Path:
    """A copy of a folder in which one file has other content."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bytes, int]:
    """A folder before a record's slot is freed, its segment after that record, and where it begins.

    One request is recorded, one is being recorded, one is in flight.
    """
    live = tmp_path_factory.mktemp("live")
    log = AuditLog(live, "gateway")
    serve(log, "done")
    log.begin("ending", OPENING)
    log.begin("open", OPENING)
    base = tmp_path_factory.mktemp("base") / "folder"
    shutil.copytree(live, base)
    [(_, file)] = segments(live, OPEN)
    before = file.read_bytes().find(b"\0")
    log.end("ending", CLOSING)
    after = file.read_bytes()
    log.close()
    return base, file.name, after, before


@given(share=st.floats(0, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_kill_at_any_byte_of_a_record_loses_and_doubles_nothing(
    torn: tuple[Path, str, bytes, int], tmp_path: Path, share: float
) -> None:
    base, name, after, before = torn
    end = after.find(b"\0")
    at = before + round((end - before) * share)
    content = after[:at] + b"\0" * (len(after) - at)
    folder = interrupted_in(tmp_path / "killed", base, name, content)
    log = AuditLog(folder, "gateway")
    log.recover()
    log.close()
    assert findings(folder) == []
    assert times_recorded(folder) == {"done": 1, "ending": 1, "open": 1}
    errors = {record.request_id: record.error for record in records(folder)}
    assert errors["open"] == "interrupted"
    assert errors["ending"] == ("" if at == end else "interrupted")


@given(at=st.integers(0, 4 * SLOT_BYTES))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_file_of_intents_that_is_cut_anywhere_leaves_whole_chains(
    torn: tuple[Path, str, bytes, int], tmp_path: Path, at: int
) -> None:
    base, *_ = torn
    [intents] = base.glob("*.intents")
    content = intents.read_bytes()
    cut = content[:at] + b"\0" * (len(content) - at)
    folder = interrupted_in(tmp_path / "cut", base, intents.name, cut)
    log = AuditLog(folder, "gateway")
    log.recover()
    log.close()
    assert findings(folder) == []
    assert set(times_recorded(folder).values()) == {1}


@given(at=st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_a_slot_that_is_not_as_it_was_written_counts_for_nothing(tmp_path: Path, at: int) -> None:
    file = tmp_path / "writer.intents"
    file.unlink(missing_ok=True)
    slots = Slots.create(file)
    slots.put(INTENT, {"request_id": "r1", "padding": "x" * 40})
    content = bytearray(file.read_bytes())
    assert [value["request_id"] for _, _, value in slots.all()] == ["r1"]
    content[at] ^= 1
    file.write_bytes(content)
    assert list(slots.all()) == []
    slots.close()


def test_a_gap_is_recorded_when_it_is_over(log: AuditLog, tmp_path: Path) -> None:
    for _ in range(3):
        log.missed(OPENING)
    log.missed({**OPENING, "use_case": "other"})
    serve(log, "r1")
    gaps = [record for record in records(tmp_path) if record.route == "gap"]
    assert {(gap.use_case, gap.reason.split()[0]) for gap in gaps} == {
        ("answers", "3"),
        ("other", "1"),
    }
    assert {gap.error for gap in gaps} == {"audit_gap"}
    assert findings(tmp_path) == []


def test_requests_of_strangers_have_one_record_together(
    log: AuditLog, tmp_path: Path, until: Until
) -> None:
    for _ in range(50):
        log.refused({})
    log.begin("own", {})
    log.end("own", {"status": 401})
    until(lambda: len(records(tmp_path)) > 1)
    own, together = records(tmp_path)
    assert own.request_id == "own"
    assert (together.status, together.route, together.error) == (401, "none", "unrecognized")
    assert together.reason.startswith("50 more requests from ")
    assert together.writer.endswith(".unclassified")
    assert findings(tmp_path) == []


def test_strangers_are_told_of_though_their_process_dies(tmp_path: Path) -> None:
    dead = AuditLog(tmp_path, "gateway")
    dead.refused({})
    dead.refused({})
    kill(dead)
    alive = AuditLog(tmp_path, "gateway")
    [together] = alive.recover()
    alive.close()
    assert (together.status, together.reason.split()[0]) == (401, "2")


def test_requests_that_are_refused_for_want_of_a_record_are_counted_apart(
    log: AuditLog, tmp_path: Path
) -> None:
    log.missed(OPENING)
    for _ in range(2):
        log.missed(OPENING, served=False)
    serve(log, "r1")
    gaps = {record.reason for record in records(tmp_path) if record.route == "gap"}
    assert {(gap.split()[0], gap.rpartition("were ")[2]) for gap in gaps} == {
        ("1", "not recorded"),
        ("2", "refused, as they could not be recorded"),
    }
    assert findings(tmp_path) == []


def test_a_gap_outlives_its_process(tmp_path: Path) -> None:
    dead = AuditLog(tmp_path, "gateway")
    dead.missed(OPENING)
    dead.missed(OPENING)
    kill(dead)
    alive = AuditLog(tmp_path, "gateway")
    [gap] = alive.recover()
    alive.close()
    assert (gap.route, gap.use_case, gap.reason.split()[0]) == ("gap", "answers", "2")


def test_what_waits_for_the_store_is_bounded_and_goes_on_when_it_is_shipped(
    tmp_path: Path, until: Until
) -> None:
    limits = AuditLimits(segment_bytes=4 * RECORD_BYTES, folder_bytes=6 * 4 * RECORD_BYTES)
    log = AuditLog(tmp_path, "gateway", limits)
    refused = AuditUnavailable("")
    served = 0
    while not refused.what:
        try:
            serve(log, f"r{served}")
        except AuditUnavailable as error:
            refused = error
        else:
            served += 1
    assert "wait for the object store" in refused.what
    assert backlog(tmp_path).size_bytes <= limits.folder_bytes + limits.segment_bytes
    assert len(times_recorded(tmp_path)) == served
    for _, file in segments(tmp_path, SEALED):
        file.unlink()

    def goes_on() -> bool:
        try:
            serve(log, "later")
        except AuditUnavailable:
            return False
        return True

    until(goes_on)
    log.close()


def test_a_process_begins_without_a_disk_and_records_when_it_has_one(
    tmp_path: Path, until: Until
) -> None:
    (tmp_path / "parent").write_text("")
    folder = tmp_path / "parent" / "audit"
    log = AuditLog(folder, "gateway")
    with pytest.raises(AuditUnavailable, match="cannot be written"):
        log.begin("r1", OPENING)
    log.missed(OPENING)
    (tmp_path / "parent").unlink()
    until(folder.is_dir)
    until(lambda: records(folder))
    serve(log, "r2")
    log.close()
    assert [record.route for record in records(folder)] == ["gap", "primary"]


def test_those_without_a_key_cannot_stop_what_has_to_be_recorded(tmp_path: Path) -> None:
    limits = AuditLimits(segment_bytes=4 * RECORD_BYTES, folder_bytes=12 * 4 * RECORD_BYTES)
    log = AuditLog(tmp_path, "gateway", limits)
    refused = False
    for number in range(1000):
        try:
            log.begin(f"anonymous-{number}", {})
            log.end(f"anonymous-{number}", {"status": 401})
        except AuditUnavailable:
            refused = True
            break
    assert refused
    serve(log, "r1", "r2")
    log.close()


@pytest.mark.parametrize("text", ["\ud800", "\x00" * 3000, "\u4e00" * 3000, '"\\' * 3000])
def test_no_text_of_a_client_makes_a_record_that_cannot_be_read(
    log: AuditLog, tmp_path: Path, text: str
) -> None:
    log.begin("r1", {**OPENING, "key_id": text, "team": text})
    made = log.end("r1", {**CLOSING, "reason": text, "error": text})
    assert records(tmp_path) == [made]
    assert len(made.model_dump_json()) < RECORD_BYTES


def test_a_request_with_unspeakable_text_that_never_ends_is_closed_too(tmp_path: Path) -> None:
    dead = AuditLog(tmp_path, "gateway")
    dead.begin("r1", {**OPENING, "key_id": "\ud800" * 3000})
    kill(dead)
    alive = AuditLog(tmp_path, "gateway")
    assert [record.request_id for record in alive.recover()] == ["r1"]
    alive.close()


def test_a_field_that_no_record_has_is_told_when_the_request_begins(log: AuditLog) -> None:
    with pytest.raises(TypeError, match="colour"):
        log.begin("r1", {**OPENING, "colour": "red"})


def test_the_age_of_what_is_not_shipped_counts_from_its_first_record(
    log: AuditLog, tmp_path: Path
) -> None:
    assert backlog(tmp_path).oldest_at_s is None
    log.begin("r1", OPENING)
    assert backlog(tmp_path).oldest_at_s is None
    log.end("r1", CLOSING)
    assert backlog(tmp_path).oldest_at_s is not None


def test_only_the_owner_can_read_the_records(log: AuditLog, tmp_path: Path) -> None:
    serve(log, "r1")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("gateway*")} == {0o600}


def test_no_request_waits_while_the_folder_is_looked_through(tmp_path: Path) -> None:
    listed: list[str] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"os.scandir", "os.listdir"} and str(arguments[0]) == str(tmp_path):
            listed.append(threading.current_thread().name)

    log = AuditLog(tmp_path, "gateway", SMALL)
    serve(log, "first")
    sys.addaudithook(note)
    serve(log, *[f"r{number}" for number in range(60)])
    here = list(listed)
    log.close()
    assert len(segments(tmp_path, SEALED)) > 3
    assert threading.current_thread().name not in here
