"""Audit records in real object stores and databases: shipped, verified, searched, deleted."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError
from tests.audit import CLOSING, OPENING
from tests.conftest import Until, small_fleet
from tests.object_stores import StoreServer

from gpufleet.core.gateway.audit import segment_of
from gpufleet.edges.audit_files import SEALED, segments
from gpufleet.edges.audit_log import AuditLog
from gpufleet.edges.audit_table import AuditTable
from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import Database
from gpufleet.edges.engines import Binaries
from gpufleet.edges.object_store import ObjectStore
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import access, audit_copies, audit_deletion, audit_shipping, audit_trail
from gpufleet.flows.ground import Ground
from gpufleet.spec.access import KeyRequest
from gpufleet.spec.audit import AuditQuery, AuditReport, ShippingReport
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.governance import Retention
from gpufleet.spec.serving import DataClass


@pytest.fixture
def servers(binaries: Binaries, tmp_path: Path) -> Iterator[dict[str, StoreServer]]:
    made = {
        site: StoreServer(binaries.paths["versitygw"], tmp_path / f"s3-{site}")
        for site in ("east", "west")
    }
    for server in made.values():
        server.start()
    yield made
    for server in made.values():
        server.stop()


@pytest.fixture
def ground(database: Database, servers: dict[str, StoreServer], tmp_path: Path) -> Ground:
    state = EnvironmentDir(tmp_path / "state").make()
    for site, server in servers.items():
        server.declare(state, site)
    fleet = small_fleet("east", "west")
    fleet = fleet.model_copy(
        update={"retention": {DataClass.INTERNAL: Retention(audit_s=3600, content_s=5)}}
    )
    file = tmp_path / "fleet.yaml"
    return Ground(Workspace(PROJECT_ROOT), file, fleet, state, database, system_clock)


@pytest.fixture
def folder(ground: Ground) -> Path:
    return audit_trail.folder_of(ground)


@pytest.fixture
def log(folder: Path) -> Iterator[AuditLog]:
    made = AuditLog(folder, "gateway")
    yield made
    made.close()


def now_text() -> str:
    return datetime.now(UTC).isoformat()


def serve(log: AuditLog, *ids: str, **facts: object) -> None:
    for each in ids:
        log.begin(each, {**OPENING, "at": now_text()})
        log.end(each, {**CLOSING, **facts})


def ship(ground: Ground, folder: Path, log: AuditLog | None = None) -> ShippingReport:
    if log is not None:
        log.seal()
    return audit_shipping.Shipper(ground, folder).ship(system_clock())


def verified(ground: Ground, folder: Path) -> AuditReport:
    return audit_trail.verified(ground, folder)


def faults(ground: Ground, folder: Path) -> set[str]:
    return {found.fault for found in verified(ground, folder).findings}


def ids(ground: Ground, folder: Path, **query: object) -> list[str]:
    asked = AuditQuery.model_validate(query)
    return sorted(each.request_id for each in audit_trail.search(ground, folder, asked))


def test_records_are_whole_while_they_are_here_and_when_they_are_shipped(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    serve(log, "a", "b")
    assert verified(ground, folder).is_good
    report = ship(ground, folder, log)
    assert (report.shipped, report.unshipped_s, segments(folder, SEALED)) == (1, 0.0, [])
    serve(log, "c")
    assert ship(ground, folder).unshipped_s > 0
    found = verified(ground, folder)
    assert (found.is_good, found.records, found.segments, found.local) == (True, 3, 1, 1)
    [row] = AuditTable(ground.database).all()
    assert row.sites == ["east", "west"]
    assert row.keep_until - row.ends == timedelta(hours=1)


def test_the_last_use_of_a_key_is_told_by_what_is_shipped(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    name, case = next(iter(ground.fleet.use_cases.items()))
    key = access.issue(ground, KeyRequest(team=case.team, use_cases=[name])).key
    serve(log, "a", key_id=key.id)
    before = system_clock()
    ship(ground, folder, log)
    used_at = access.found(ground, key.id).last_used_at
    assert used_at is not None
    assert key.created_at <= used_at <= before


def test_shipping_again_after_a_crash_changes_nothing(
    ground: Ground, folder: Path, log: AuditLog, servers: dict[str, StoreServer]
) -> None:
    serve(log, "a", "b")
    log.seal()
    [(_, file)] = segments(folder, SEALED)
    content = file.read_bytes()
    ship(ground, folder)
    file.write_bytes(content)
    assert verified(ground, folder).records == 2
    ship(ground, folder)
    found = verified(ground, folder)
    assert (found.is_good, found.records, found.segments) == (True, 2, 1)
    assert ids(ground, folder) == ["a", "b"]
    for server in servers.values():
        # A second version would be locked for as long as the first.
        [_] = ObjectStore(server.place).versions(audit_shipping.bucket_of(ground.fleet), "")


def test_a_locked_segment_cannot_be_deleted_and_what_is_put_over_it_does_not_count(
    ground: Ground, folder: Path, log: AuditLog, servers: dict[str, StoreServer]
) -> None:
    serve(log, "a", "b")
    ship(ground, folder, log)
    bucket = audit_shipping.bucket_of(ground.fleet)
    for server in servers.values():
        client = ObjectStore(server.place)._client
        [kept] = client.list_object_versions(Bucket=bucket)["Versions"]
        with pytest.raises(ClientError, match=r"AccessDenied|Locked|WORM"):
            client.delete_object(Bucket=bucket, Key=kept["Key"], VersionId=kept["VersionId"])
        client.put_object(Bucket=bucket, Key=kept["Key"], Body=b"{}\n")
        client.delete_object(Bucket=bucket, Key=kept["Key"])
    assert verified(ground, folder).is_good
    assert ids(ground, folder) == ["a", "b"]


def test_whoever_has_another_time_deletes_nothing_that_is_locked(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    serve(log, "a", "b")
    ship(ground, folder, log)
    with pytest.raises(Failed, match="refuses"):
        audit_deletion.delete(ground, system_clock() + timedelta(hours=2))
    assert ids(ground, folder) == ["a", "b"]
    assert verified(ground, folder).is_good
    # That it was to be deleted is stated; that it was is not, so that its loss would be found.
    events = [each.event for each in ground.journal.records() if each.event.startswith("audit.del")]
    assert events == ["audit.deleting"]


def test_tampering_with_what_is_not_shipped_yet_is_found(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    serve(log, "a", "b", "c")
    log.seal()
    [(_, file)] = segments(folder, SEALED)
    file.write_bytes(file.read_bytes().replace(b'"team":"search"', b'"team":"others"', 1))
    assert faults(ground, folder) == {"changed"}
    ship(ground, folder)
    assert faults(ground, folder) == {"changed"}


def test_a_file_that_is_no_segment_is_set_aside_and_told_of(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    serve(log, "a")
    log.seal()
    [(_, file)] = segments(folder, SEALED)
    file.write_bytes(b"nonsense\n" + file.read_bytes())
    serve(log, "b")
    log.seal()
    assert ship(ground, folder).shipped == 1
    assert "changed" in faults(ground, folder)
    assert list(folder.glob("*.broken"))


def test_a_row_that_was_changed_does_not_agree_with_the_locked_object(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    serve(log, "a", "b")
    ship(ground, folder, log)
    with ground.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE fleet_audit_segments SET digest='0', head='1'"))
    assert faults(ground, folder) == {"changed"}


def test_a_row_that_was_deleted_hides_nothing(ground: Ground, folder: Path, log: AuditLog) -> None:
    serve(log, "a", "b")
    ship(ground, folder, log)
    with ground.database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM fleet_audit_segments"))
    report = verified(ground, folder)
    assert (report.is_good, report.records) == (True, 2)


def test_a_store_that_lost_everything_is_found_and_the_other_sites_goes_on(
    ground: Ground, folder: Path, log: AuditLog, servers: dict[str, StoreServer], tmp_path: Path
) -> None:
    serve(log, "a", "b")
    ship(ground, folder, log)
    servers["east"].stop()
    servers["east"]._folder = tmp_path / "empty"
    servers["east"].start()
    assert verified(ground, folder).is_good
    servers["west"].stop()
    servers["west"]._folder = tmp_path / "empty-too"
    servers["west"].start()
    assert faults(ground, folder) == {"missing", "truncated"}


def test_without_any_store_records_stay_here_and_are_shipped_later(
    ground: Ground, folder: Path, log: AuditLog, servers: dict[str, StoreServer]
) -> None:
    serve(log, "a", "b")
    for server in servers.values():
        server.stop()
    with pytest.raises(Retryable, match="no object store"):
        ship(ground, folder, log)
    assert len(segments(folder, SEALED)) == 1
    servers["west"].start()
    assert ship(ground, folder).shipped == 1
    [row] = AuditTable(ground.database).all()
    assert row.sites == ["west"]
    assert verified(ground, folder).is_good


def test_a_store_that_was_down_gets_what_it_missed(
    ground: Ground, folder: Path, log: AuditLog, servers: dict[str, StoreServer]
) -> None:
    servers["east"].stop()
    serve(log, "a", "b")
    ship(ground, folder, log)
    assert audit_copies.copy_owed(ground, system_clock()) == {"east": 1}
    servers["east"].start()
    assert audit_copies.copy_owed(ground, system_clock()) == {}
    [row] = AuditTable(ground.database).all()
    assert row.sites == ["east", "west"]
    store = audit_shipping.audit_stores(ground)["east"]
    assert [name.key for name in store.names()] == [row.key]
    bucket = audit_shipping.bucket_of(ground.fleet)
    lock = ObjectStore(servers["east"].place)._client.get_object_retention(
        Bucket=bucket, Key=row.key
    )
    assert abs(lock["Retention"]["RetainUntilDate"] - row.keep_until) < timedelta(seconds=2)
    assert verified(ground, folder).is_good


def test_one_segment_that_cannot_be_copied_holds_up_no_other(
    ground: Ground, folder: Path, log: AuditLog, servers: dict[str, StoreServer]
) -> None:
    servers["east"].stop()
    serve(log, "a")
    ship(ground, folder, log)
    serve(log, "b")
    ship(ground, folder, log)
    servers["east"].start()
    with ground.database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE fleet_audit_segments SET digest='0' WHERE first=1"))
    assert audit_copies.copy_owed(ground, system_clock()) == {"east": 1}
    assert [row.sites for row in AuditTable(ground.database).all()] == [["west"], ["east", "west"]]


def test_a_copy_that_differs_from_the_others_is_found(
    ground: Ground, folder: Path, log: AuditLog, servers: dict[str, StoreServer]
) -> None:
    serve(log, "a")
    log.seal()
    [(_, file)] = segments(folder, SEALED)
    name = segment_of(file.read_bytes().splitlines())
    assert name is not None
    east, west = (ObjectStore(servers[site].place) for site in ("east", "west"))
    servers["west"].stop()
    ship(ground, folder)
    servers["west"].start()
    bucket = audit_shipping.bucket_of(ground.fleet)
    west.make_locked_bucket(bucket)
    west.put(bucket, name.key, b"{}\n")
    [found] = verified(ground, folder).findings
    assert found.fault == "changed"
    assert west.endpoint in found.detail
    assert east.endpoint not in found.detail


def test_the_journal_learns_every_chains_head_once_a_turn(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    shipper = audit_shipping.Shipper(ground, folder)
    begins = system_clock()
    other = AuditLog(folder, "other")
    serve(log, "a")
    log.seal()
    shipper.ship(begins)
    serve(other, "b")
    other.seal()
    shipper.ship(begins)
    serve(log, "c")
    log.seal()
    shipper.ship(begins)

    def heads() -> dict[str, int]:
        noted = [each.body for each in ground.journal.records() if each.event == "audit.heads"]
        return {
            chain: head[0]
            for body in noted
            for chain, head in audit_trail._HEADS.validate_python(body["heads"]).items()
        }

    assert heads() == {f"{log.writer}.internal": 1}
    # It ends before it has told: the next one knows what it shipped.
    audit_shipping.Shipper(ground, folder).ship(begins)
    assert heads() == {f"{log.writer}.internal": 2, f"{other.writer}.internal": 1}
    serve(other, "d")
    other.seal()
    shipper.ship(begins)
    assert heads()[f"{other.writer}.internal"] == 1
    shipper.ship(begins + timedelta(minutes=10))
    assert heads()[f"{other.writer}.internal"] == 2
    other.close()


def test_a_dead_process_is_closed_before_its_records_are_shipped(
    ground: Ground, folder: Path
) -> None:
    dead = AuditLog(folder, "gateway")
    serve(dead, "a")
    dead.begin("open", OPENING)
    dead._ended.set()
    dead._thread.join()
    dead._slots.close()
    report = ship(ground, folder)
    assert (report.interrupted, report.shipped, report.unshipped_s) == (1, 1, 0.0)
    assert ids(ground, folder) == ["a", "open"]
    assert verified(ground, folder).is_good


def test_a_question_finds_records_here_and_in_the_stores(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    serve(log, "a")
    serve(log, "b", status=429, route="none", error="overloaded")
    ship(ground, folder, log)
    between = system_clock()
    serve(log, "c")
    assert ids(ground, folder) == ["a", "b", "c"]
    assert ids(ground, folder, status=429) == ["b"]
    assert ids(ground, folder, team="search", route="primary") == ["a", "c"]
    assert ids(ground, folder, until=between) == ["a", "b"]
    assert ids(ground, folder, since=between) == ["c"]
    latest = audit_trail.latest(ground, folder, AuditQuery(), 2)
    assert [record.request_id for record in latest] == ["b", "c"]


def test_an_export_has_every_record_as_it_was_recorded(
    ground: Ground, folder: Path, log: AuditLog, tmp_path: Path
) -> None:
    serve(log, "a")
    ship(ground, folder, log)
    serve(log, "b")
    to = tmp_path / "audit.jsonl"
    assert audit_trail.export(ground, folder, AuditQuery(), str(to)) == 2
    written = [json.loads(line) for line in to.read_text().splitlines()]
    assert [line["request_id"] for line in written] == ["a", "b"]
    assert to.stat().st_mode & 0o777 == 0o600


def test_who_reads_prompts_and_answers_is_in_the_journal(
    ground: Ground, folder: Path, log: AuditLog, tmp_path: Path
) -> None:
    serve(log, "a", prompt="who?", answer="nobody")
    audit_trail.export(ground, folder, AuditQuery(team="search"), str(tmp_path / "records"))
    assert [each for each in ground.journal.records() if each.event == audit_trail.READ] == []
    asked = AuditQuery(team="search", content=True)
    audit_trail.export(ground, folder, asked, str(tmp_path / "content"))
    [found] = audit_trail.latest(ground, folder, asked, 10)
    assert found.prompt == "who?"
    noted = [each for each in ground.journal.records() if each.event == audit_trail.READ]
    assert [each.body["query"] for each in noted] == [{"team": "search", "content": True}] * 2
    assert all(each.actor for each in noted)


def test_content_goes_when_its_retention_ends_and_the_record_stays(
    ground: Ground,
    folder: Path,
    log: AuditLog,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = system_clock()
    serve(log, "a", prompt="who?", answer="nobody")
    serve(log, "b", prompt="where?", answer="nowhere")
    # A minute otherwise; on a busy machine the lock has to end after the last store has it.
    monkeypatch.setattr(audit_shipping, "_LOCKED_AT_LEAST", timedelta(seconds=12))
    ship(ground, folder, log)
    rows = {row.data_class: row for row in AuditTable(ground.database).all()}
    assert rows["internal-content-answers"].keep_until < started + timedelta(minutes=1)
    assert audit_deletion.plan_deletion(ground, started).segments == []
    until(
        lambda: system_clock() > rows["internal-content-answers"].keep_until + timedelta(seconds=1)
    )
    plan = audit_deletion.plan_deletion(ground, system_clock())
    assert [segment.data_class for segment in plan.segments] == ["internal-content-answers"]
    assert plan.records == 2
    assert verified(ground, folder).records == 4
    audit_deletion.delete(ground, system_clock())
    found = verified(ground, folder)
    assert (found.is_good, found.records, found.deleted) == (True, 2, 2)
    assert audit_deletion.plan_deletion(ground, system_clock()).segments == []
    records = list(audit_trail.search(ground, folder, AuditQuery()))
    assert [(record.request_id, record.prompt) for record in records] == [("a", None), ("b", None)]
    serve(log, "c", prompt="when?", answer="never")
    ship(ground, folder, log)
    assert verified(ground, folder).is_good


def test_content_stays_in_its_residency_and_records_are_everywhere(
    ground: Ground, folder: Path, log: AuditLog
) -> None:
    sites = dict(ground.fleet.sites)
    sites["west"] = sites["west"].model_copy(update={"region": "elsewhere"})
    ground = replace(ground, fleet=ground.fleet.model_copy(update={"sites": sites}))
    serve(log, "a", prompt="who?", answer="nobody")
    assert ship(ground, folder, log).shipped == 2
    kept = {row.data_class: row.sites for row in AuditTable(ground.database).all()}
    assert kept == {"internal": ["east", "west"], "internal-content-answers": ["east"]}
    serve(log, "b", use_case="unheard-of", prompt="who?")
    with pytest.raises(Failed, match="not declared"):
        ship(ground, folder, log)
    assert len(segments(folder, SEALED)) == 1
    assert ids(ground, folder) == ["a", "b"]
    assert ids(ground, folder, content=True) == ["a", "b"]


def test_what_is_deleted_without_proof_is_found(
    ground: Ground,
    folder: Path,
    log: AuditLog,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = {DataClass.INTERNAL: Retention(audit_s=1)}
    ground = replace(ground, fleet=ground.fleet.model_copy(update={"retention": short}))
    monkeypatch.setattr(audit_shipping, "_LOCKED_AT_LEAST", timedelta(seconds=12))
    serve(log, "a")
    ship(ground, folder, log)
    serve(log, "b")
    ship(ground, folder, log)
    rows = AuditTable(ground.database).all()
    until(lambda: system_clock() > rows[-1].keep_until + timedelta(seconds=1))
    for store in audit_shipping.audit_stores(ground).values():
        store.delete(rows[0].key)
    assert "missing" in faults(ground, folder)
    audit_deletion.delete(ground, system_clock())
    assert verified(ground, folder).is_good
    with ground.database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM fleet_journal WHERE event='audit.deleted'"))
    assert {"missing", "truncated"} <= faults(ground, folder)
