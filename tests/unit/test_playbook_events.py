"""What is kept of ansible-runner's events, and what they say about hosts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.edges.playbook_events import Refusal, read_events, result_of_events
from gpufleet.edges.playbook_process import shortened, told, why_failed

AT = "2026-03-01T10:00:00+00:00"
LATER = "2026-03-01T10:00:07.500000+00:00"


def event(kind: str, host: str = "gpu-001", **data: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"event": kind, "created": AT, "event_data": {"host": host, "task": "Install", **data}}


def test_of_a_task_only_its_error_is_kept() -> None:
    result = {"msg": "no such package", "stdout": "token", "invocation": {"password": "secret"}}
    kept = told(event("runner_on_failed", res=result))
    assert kept["error"] == "no such package"
    assert "secret" not in json.dumps(kept)
    assert "token" not in json.dumps(kept)


def test_nothing_of_a_secret_task_is_kept() -> None:
    kept = told(event("runner_on_failed", res={"censored": "hidden", "msg": "password 1234"}))
    assert kept["error"] == "its output is secret"


def test_a_loop_tells_its_first_failed_item() -> None:
    items = [{"msg": "fine"}, {"failed": True, "msg": "broken"}, {"failed": True, "msg": "too"}]
    kept = told(event("runner_on_failed", res={"msg": "All items completed", "results": items}))
    assert kept["error"] == "broken"


def test_a_command_that_failed_tells_what_it_wrote() -> None:
    result = {"msg": "non-zero return code", "rc": 1, "stderr": "modprobe: no such module\n"}
    assert why_failed(result) == "modprobe: no such module"
    assert why_failed({**result, "stderr": "", "stdout": "NVIDIA-SMI has failed"}) == (
        "NVIDIA-SMI has failed"
    )
    assert why_failed({"msg": "non-zero return code", "rc": 1}) == "non-zero return code"


def test_of_a_long_message_its_end_is_kept_where_tools_say_what_went_wrong() -> None:
    error = "E: Sub-process /usr/bin/dpkg returned an error code (1)"
    message = f"'/usr/bin/apt-get install {'package=1.2.3 ' * 90}' failed: {error}"
    kept = told(event("runner_on_failed", res={"msg": message}))["error"]
    assert kept.endswith(error)
    assert kept.startswith("'/usr/bin/apt-get install")


@given(st.text(), st.integers(20, 60))
def test_a_text_is_shortened_in_its_middle_only(text: str, most: int) -> None:
    kept = shortened(text, most)
    assert len(kept) <= most
    assert kept == text or (len(text) > most and kept[-1] == text[-1] and kept[0] == text[0])


def test_the_report_of_a_host_is_kept_as_it_is() -> None:
    stats = {"data": {"gpufleet": {"after": "2"}}, "per_host": True}
    assert told(event("runner_on_ok", res={"ansible_stats": stats}))["report"] == {"after": "2"}


@given(st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.lists(st.text())))
def test_whatever_a_task_returns_its_event_can_be_told(result: dict[str, Any]) -> None:
    for kind in ("runner_on_ok", "runner_on_failed", "runner_on_unreachable", "verbose"):
        json.dumps(told(event(kind, res=result)))


def test_half_a_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'{"a": 1}\n{"b"')
    found, offset = read_events(file)
    assert found == [{"a": 1}]
    with file.open("ab") as more:
        more.write(b": 2}\n")
    assert read_events(file, offset)[0] == [{"b": 2}]
    assert read_events(tmp_path / "none") == ([], 0)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=8), st.data())
def test_events_are_read_once_however_they_come(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, int]], data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("events") / "events.jsonl"
    content = b"".join(json.dumps(each).encode() + b"\n" for each in events)
    cut = data.draw(st.integers(0, len(content)))
    file.write_bytes(content[:cut])
    first, offset = read_events(file)
    file.write_bytes(content)
    rest, _ = read_events(file, offset)
    assert first + rest == events


def kept(kind: str, at: str = AT, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"kind": kind, "at": at, "host": "gpu-001", "task": "Install", "role": "", **values}


def test_the_first_fault_is_the_cause_and_the_time_is_that_of_all_tasks() -> None:
    events = [
        kept("start"),
        kept("failed", error="broken", ignored=False),
        kept("failed", LATER, error="cannot go back", ignored=False),
        {"kind": "stats", "at": LATER, "failed": ["gpu-001"]},
    ]
    host = result_of_events(events, ["gpu-001"], code=2).hosts["gpu-001"]
    assert (host.failed, host.error, host.seconds) == (True, "broken", 7.5)


def test_ignored_faults_are_none() -> None:
    events = [
        kept("failed", error="never mind", ignored=True),
        {"kind": "stats", "at": LATER, "failed": []},
    ]
    host = result_of_events(events, ["gpu-001"], code=0).hosts["gpu-001"]
    assert (host.failed, host.error, host.failed_task) == (False, "", "")


def test_a_run_that_was_cut_short_has_failed_but_for_hosts_that_had_reported() -> None:
    report = {"after": "2", "validated": True}
    events = [
        kept("ok", changed=True, report=report),
        {**kept("start"), "host": "gpu-002"},
    ]
    found = result_of_events(events, ["gpu-001", "gpu-002", "gpu-003"], code=None).hosts
    assert [host.failed for host in found.values()] == [False, True, True]
    assert found["gpu-002"].error == "the run was cut short"


def test_only_a_guard_that_let_nothing_happen_is_a_refusal() -> None:
    refused = kept(
        "failed", error="frozen: Quarter end", ignored=False, role="freeze_guard", exit_code=3
    )
    stats = {"kind": "stats", "at": LATER, "failed": ["gpu-001"]}

    def refusal(*events: dict[str, Any]) -> Refusal | None:
        return result_of_events([*events, stats], ["gpu-001", "gpu-002"], code=2).refusal

    assert refusal(refused) == Refusal("frozen: Quarter end", may_pass=True)
    assert refusal({**refused, "exit_code": 2}) == Refusal("frozen: Quarter end", may_pass=False)
    assert refusal(kept("ok", changed=True), refused) is None
    assert refusal({**refused, "role": "gpu_driver"}) is None
