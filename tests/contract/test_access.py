"""API keys in real databases, and the file that the gateway's workers read."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.conftest import small_fleet

from gpufleet.core.gateway.keys import KeyFault, KeyRefused, Keyring, split_key
from gpufleet.edges.database import Database
from gpufleet.edges.gateway_files import read_published
from gpufleet.edges.key_table import KeyTable
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows import access
from gpufleet.flows.ground import Ground
from gpufleet.spec.access import IssuedKey, KeyRequest
from gpufleet.spec.errors import BadInput
from gpufleet.spec.gateway import KEYS_FILE, Key, Keys

HOUR = timedelta(hours=1)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ground(database: Database, clock: Clock, tmp_path: Path) -> Ground:
    state = EnvironmentDir(tmp_path / "state").make()
    fleet = small_fleet("east")
    return Ground(Workspace(PROJECT_ROOT), tmp_path / "fleet.yaml", fleet, state, database, clock)


def wanted(ground: Ground, **more: object) -> KeyRequest:
    name, case = next(iter(ground.fleet.use_cases.items()))
    return KeyRequest.model_validate({"team": case.team, "use_cases": [name], **more})


def published(ground: Ground, folder: Path, now: datetime) -> Keys:
    access.publish_keys(ground, folder, now)
    keys = read_published(folder / KEYS_FILE, Keys)
    assert keys is not None
    return keys


def opens(ground: Ground, folder: Path, issued: IssuedKey, now: datetime) -> Key | KeyFault:
    """What the gateway finds for a key's text."""
    try:
        return Keyring(published(ground, folder, now)).find(issued.text, now.timestamp())
    except KeyRefused as refused:
        return refused.kind


def test_an_issued_key_opens_what_was_asked_for(
    ground: Ground, clock: Clock, tmp_path: Path
) -> None:
    asked = wanted(ground, rate_rpm=60, concurrency_limit=4, expires_in_s="90d")
    issued = access.issue(ground, asked)
    found = opens(ground, tmp_path, issued, clock.now)
    assert isinstance(found, Key)
    assert (found.team, found.use_cases) == (asked.team, asked.use_cases)
    assert (found.rate_rpm, found.concurrency_limit) == (60, 4)
    assert found.expires_at == (clock.now + timedelta(days=90)).timestamp()


def test_the_text_of_a_key_is_kept_nowhere(ground: Ground, clock: Clock, tmp_path: Path) -> None:
    issued = access.issue(ground, wanted(ground))
    published(ground, tmp_path, clock.now)
    secret = issued.text.split("-", 2)[2]
    journal = "".join(record.model_dump_json() for record in ground.journal.records())
    rows = "".join(key.model_dump_json() + repr(key) for key in access.listed(ground))
    assert secret not in journal + rows + (tmp_path / KEYS_FILE).read_text() + repr(issued)
    for file in ground.state.root.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()


def test_who_issued_rotated_and_revoked_a_key_is_journalled(ground: Ground) -> None:
    issued = access.issue(ground, wanted(ground))
    rotated = access.rotate(ground, issued.key.id)
    access.revoke(ground, rotated.key.id)
    access.revoke(ground, rotated.key.id)
    facts = [(record.event, record.target) for record in ground.journal.records()]
    assert facts == [
        ("access.issued", f"key {issued.key.id}"),
        ("access.rotated", f"key {rotated.key.id}"),
        ("access.revoked", f"key {rotated.key.id}"),
    ]


def test_a_revoked_key_is_in_the_next_file_no_more(
    ground: Ground, clock: Clock, tmp_path: Path
) -> None:
    issued, other = access.issue(ground, wanted(ground)), access.issue(ground, wanted(ground))
    access.revoke(ground, issued.key.id)
    assert opens(ground, tmp_path, issued, clock.now) is KeyFault.UNKNOWN
    assert isinstance(opens(ground, tmp_path, other, clock.now), Key)
    by, at = access.found(ground, issued.key.id).revoked_by, clock.now
    clock.now += HOUR
    again = access.revoke(ground, issued.key.id)
    assert (again.revoked_by, again.revoked_at) == (by, at)


def test_an_expired_key_is_refused_and_leaves_the_file(
    ground: Ground, clock: Clock, tmp_path: Path
) -> None:
    issued = access.issue(ground, wanted(ground, expires_in_s="1h"))
    late = clock.now + HOUR
    keys = published(ground, tmp_path, clock.now)
    with pytest.raises(KeyRefused, match="expired"):
        Keyring(keys).find(issued.text, late.timestamp())
    assert published(ground, tmp_path, late).keys == []


def test_a_rotated_key_goes_on_for_the_overlap_and_no_longer(
    ground: Ground, clock: Clock, tmp_path: Path
) -> None:
    old = access.issue(ground, wanted(ground, rate_rpm=60, expires_in_s="10h"))
    clock.now += 2 * HOUR
    new = access.rotate(ground, old.key.id, HOUR)
    assert new.key.rotated_from == old.key.id
    assert (new.key.rate_rpm, new.key.expires_at) == (60, clock.now + 10 * HOUR)
    before, after = clock.now + HOUR - timedelta(seconds=1), clock.now + HOUR
    assert isinstance(opens(ground, tmp_path, old, before), Key)
    assert opens(ground, tmp_path, old, after) is KeyFault.UNKNOWN
    assert isinstance(opens(ground, tmp_path, new, after), Key)


def test_an_overlap_never_makes_a_key_last_longer(ground: Ground, clock: Clock) -> None:
    old = access.issue(ground, wanted(ground, expires_in_s="1h"))
    access.rotate(ground, old.key.id, 5 * HOUR)
    assert access.found(ground, old.key.id).expires_at == clock.now + HOUR


def test_what_is_not_valid_any_more_cannot_be_rotated(ground: Ground, clock: Clock) -> None:
    revoked = access.issue(ground, wanted(ground))
    access.revoke(ground, revoked.key.id)
    expired = access.issue(ground, wanted(ground, expires_in_s="1h"))
    clock.now += HOUR
    for issued in (revoked, expired):
        with pytest.raises(BadInput, match="not valid any more"):
            access.rotate(ground, issued.key.id)
    with pytest.raises(BadInput, match="no such key"):
        access.rotate(ground, "0" * 12)


def test_a_key_revoked_while_it_is_rotated_gets_no_successor(
    ground: Ground, database: Database, clock: Clock
) -> None:
    old = access.issue(ground, wanted(ground))
    successor = access._made(wanted(ground), clock.now, None, rotated_from=old.key.id)
    access.revoke(ground, old.key.id)
    with pytest.raises(BadInput, match="revoked"):
        KeyTable(database).add(successor.key, ends=clock.now + HOUR)
    assert [key.id for key in access.listed(ground)] == [old.key.id]


def test_a_key_is_for_use_cases_of_its_team_only(ground: Ground) -> None:
    asked = wanted(ground)
    with pytest.raises(BadInput, match="no use case of team"):
        access.issue(ground, asked.model_copy(update={"use_cases": ["nothing"]}))
    with pytest.raises(BadInput, match="no team"):
        access.issue(ground, asked.model_copy(update={"team": "nobody"}))
    assert access.listed(ground) == []


def test_the_same_key_is_kept_once_though_a_commit_was_not_heard_of(
    ground: Ground, database: Database
) -> None:
    issued = access.issue(ground, wanted(ground))
    KeyTable(database).add(issued.key)
    assert [key.id for key in access.listed(ground)] == [issued.key.id]
    assert split_key(issued.text) == (issued.key.id, issued.key.hash)


def test_the_last_use_is_remembered_and_never_goes_back(
    ground: Ground, database: Database, clock: Clock
) -> None:
    id_ = access.issue(ground, wanted(ground)).key.id
    table = KeyTable(database)
    table.used({id_: clock.now, "0" * 12: clock.now})
    table.used({id_: clock.now - HOUR})
    table.used({})
    assert access.found(ground, id_).last_used_at == clock.now


def test_keys_that_have_not_changed_are_not_written_again(
    ground: Ground, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / KEYS_FILE
    access.issue(ground, wanted(ground))
    first = published(ground, tmp_path, clock.now)
    before = file.stat()
    assert before.st_mode & 0o777 == 0o600
    os.utime(file, (0, 0))
    clock.now += HOUR
    assert published(ground, tmp_path, clock.now) == first
    assert file.stat().st_ino == before.st_ino
    # It says all the same that they are still right.
    assert file.stat().st_mtime > 0
    access.issue(ground, wanted(ground))
    assert published(ground, tmp_path, clock.now).at == clock.now.timestamp()
    file.write_text("{")
    assert len(published(ground, tmp_path, clock.now).keys) == 2
