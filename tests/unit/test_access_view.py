"""What people type for keys and records, and what they are shown."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from gpufleet.spec.access import ApiKey, IssuedKey
from gpufleet.spec.errors import BadInput
from gpufleet.tasks import access_view, audit_view

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = ApiKey(
    id="abcdefghijkl",
    hash="0" * 64,
    team="search",
    use_cases=["answers"],
    rate_rpm=None,
    concurrency_limit=None,
    created_at=NOON,
    created_by="mara@desk",
    expires_at=NOON + timedelta(days=1),
)


def test_a_key_is_asked_for_as_people_write_it() -> None:
    asked = access_view.request("search", "answers, drafts,", "60", "4", "90d")
    assert asked.use_cases == ["answers", "drafts"]
    assert (asked.rate_rpm, asked.concurrency_limit) == (60, 4)
    assert asked.expires_in_s == 90 * 86_400
    assert access_view.request("search", "answers", "", "", "").expires_in_s is None


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (("Search!", "answers", "", "", ""), "--team"),
        (("search", "", "", "", ""), "--use-cases"),
        (("search", "a,a", "", "", ""), "--use-cases"),
        (("search", "../x", "", "", ""), "--use-cases"),
        (("search", "answers", "many", "", ""), "--rate-rpm"),
        (("search", "answers", "0", "", ""), "--rate-rpm"),
        (("search", "answers", "", "-1", ""), "--concurrency"),
        (("search", "answers", "", "", "soon"), "--expires-in"),
        (("search", "answers", "", "", "-1d"), "--expires-in"),
        (("search", "answers", "", "", "0s"), "--expires-in"),
    ],
)
def test_a_flag_that_cannot_be_right_is_named(flags: tuple[str, ...], where: str) -> None:
    with pytest.raises(BadInput) as refused:
        access_view.request(*flags)
    assert refused.value.where == where
    assert "\n" not in refused.value.what


@pytest.mark.parametrize("text", ["", "soon", "-1h", "0"])
def test_an_overlap_is_a_duration(text: str) -> None:
    with pytest.raises(BadInput):
        access_view.duration(text, "--overlap")


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        ({"since": "yesterday"}, "--since"),
        ({"until": "2026-13-01"}, "--until"),
        ({"status": "ok"}, "--status"),
    ],
)
def test_a_question_that_cannot_be_right_is_named(flags: dict[str, str], where: str) -> None:
    with pytest.raises(BadInput) as refused:
        audit_view.query(**flags)
    assert refused.value.where == where


def test_a_time_without_a_zone_is_in_utc() -> None:
    asked = audit_view.query(since="2026-03-01T12:00", until="2026-03-01T13:00+01:00")
    assert asked.since == asked.until == NOON


def test_a_new_key_is_shown_once_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    issued = IssuedKey(key=KEY, text="gf-abcdefghijkl-" + "A" * 43)
    access_view.show_issued(issued, json=False)
    assert capsys.readouterr().out == f"{issued.text}\n"
    access_view.show_issued(issued, json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["key"] == issued.text
    assert "hash" not in told


def test_a_list_shows_no_secret_and_each_keys_state(capsys: pytest.CaptureFixture[str]) -> None:
    revoked = KEY.model_copy(update={"id": "b" * 12, "revoked_at": NOON})
    access_view.show_keys([KEY, revoked], NOON)
    shown = capsys.readouterr().out
    assert [line.split()[2] for line in shown.splitlines()[1:]] == ["valid", "revoked"]
    assert KEY.hash not in shown
    assert access_view.told(KEY, NOON + timedelta(days=1))["state"] == "expired"
    assert "hash" not in access_view.told(KEY, NOON)
