"""Playbooks in processes of their own: killed workers, left processes, results, secrets."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import Until

from gpufleet.edges.playbooks import (
    MARK,
    Playbook,
    end_left,
    find_left,
    result_of,
    run_playbook,
)
from gpufleet.spec.errors import BadInput, Failed

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[2]
REPORT = """
    - name: Report
      ansible.builtin.set_stats:
        per_host: true
        data: {gpufleet: {before: "1", after: "{{ gpufleet_version }}", validated: true}}
"""
WAITS = """
    - name: Count
      ansible.builtin.lineinfile:
        path: "{{ folder }}/did-{{ inventory_hostname }}"
        line: "{{ lookup('pipe', 'date +%s%N') }}"
        create: true
        mode: "0600"
    - name: Wait for the file
      ansible.builtin.wait_for:
        path: "{{ folder }}/come"
        timeout: 60
"""


@pytest.fixture
def playbooks(tmp_path: Path) -> Path:
    """A folder of playbooks that stands alone: two hosts of this machine."""
    made = tmp_path / "playbooks"
    made.mkdir()
    (made / "ansible.cfg").write_text("[defaults]\ninventory = hosts.yml\n")
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts: dict[str, dict[str, str]] = {f"gpu-{number:03d}": {} for number in (1, 2)}
    (made / "hosts.yml").write_text(json.dumps({"all": {"vars": local, "hosts": hosts}}))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of one run; whatever of it still runs is ended after the test."""
    made = tmp_path / "run"
    yield made
    end_left(made)


def written(playbooks: Path, *tasks: str) -> Path:
    file = playbooks / "play.yml"
    parts = [textwrap.indent(textwrap.dedent(part).strip("\n"), "    ") for part in tasks]
    head = "- name: Play\n  hosts: all\n  gather_facts: false\n  tasks:"
    file.write_text("\n".join([head, *parts]) + "\n")
    return file


def book(file: Path, *hosts: str, **variables: str) -> Playbook:
    extra = {"gpufleet_version": "2", "folder": str(file.parent)}
    return Playbook(file, hosts or ("gpu-001", "gpu-002"), extra, variables)


def did(playbooks: Path) -> dict[str, int]:
    return {
        file.name.removeprefix("did-"): len(file.read_text().splitlines())
        for file in playbooks.glob("did-*")
    }


def killed_worker(folder: Path, file: Path, until: Until) -> psutil.Process:
    """A worker that ran a playbook and was killed; the process that it left."""
    code = f"""
import sys
from pathlib import Path
from gpufleet.edges.playbooks import Playbook, run_playbook
extra = {{"gpufleet_version": "2", "folder": {str(file.parent)!r}}}
book = Playbook(Path({str(file)!r}), ("gpu-001", "gpu-002"), extra, {{}})
run_playbook(Path({str(folder)!r}), book, lambda event: None)
"""
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    until(lambda: did(file.parent) == {"gpu-001": 1, "gpu-002": 1})
    os.killpg(worker.pid, signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    left = find_left(folder)
    assert left
    return psutil.Process(left.pid)


def marked(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(str(folder)):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_run_tells_what_came_of_each_host(playbooks: Path, folder: Path) -> None:
    file = written(
        playbooks,
        """
        - name: Change
          ansible.builtin.command: "true"
        - name: Break
          ansible.builtin.fail:
            msg: no such package
          when: inventory_hostname == "gpu-002"
        """,
        REPORT,
    )
    events: list[Any] = []
    result = run_playbook(folder, book(file), events.append)
    good, bad = result.hosts["gpu-001"], result.hosts["gpu-002"]
    assert (good.failed, good.changed, good.report["after"]) == (False, True, "2")
    assert (bad.failed, bad.failed_task, bad.error) == (True, "Break", "no such package")
    assert dict(bad.report) == {}
    assert {event["task"] for event in events if event.get("host") == "gpu-001"} >= {"Change"}


def test_a_rescued_host_is_as_its_report_says(playbooks: Path, folder: Path) -> None:
    file = written(
        playbooks,
        """
        - name: Work
          block:
            - name: Break
              ansible.builtin.fail:
                msg: broken
          rescue:
            - name: Report
              ansible.builtin.set_stats:
                per_host: true
                data: {gpufleet: {quarantined: true, reason: broken}}
        """,
    )
    result = run_playbook(folder, book(file, "gpu-001"), lambda _: None)
    host = result.hosts["gpu-001"]
    assert (host.failed, host.report["quarantined"], host.failed_task) == (False, True, "Break")


def test_only_the_hosts_that_were_named_are_touched(playbooks: Path, folder: Path) -> None:
    file = written(playbooks, REPORT)
    result = run_playbook(folder, book(file, "gpu-002"), lambda _: None)
    assert set(result.hosts) == {"gpu-002"}


def test_a_host_that_the_inventory_does_not_have_has_failed(playbooks: Path, folder: Path) -> None:
    file = written(playbooks, REPORT)
    result = run_playbook(folder, book(file, "gpu-001", "gpu-009"), lambda _: None)
    assert not result.hosts["gpu-001"].failed
    assert (result.hosts["gpu-009"].failed, result.hosts["gpu-009"].error) == (
        True,
        "nothing was done on it",
    )


def test_a_run_that_has_ended_is_read_and_not_run_again(playbooks: Path, folder: Path) -> None:
    (playbooks / "come").touch()
    file = written(playbooks, WAITS, REPORT)
    first = run_playbook(folder, book(file), lambda _: None)
    again = run_playbook(folder, book(file), lambda _: None)
    assert again.hosts == first.hosts == result_of(folder, ["gpu-001", "gpu-002"]).hosts  # type: ignore[union-attr]
    assert did(playbooks) == {"gpu-001": 1, "gpu-002": 1}


def test_what_a_killed_worker_left_is_found_and_awaited(
    playbooks: Path, folder: Path, until: Until
) -> None:
    file = written(playbooks, WAITS, REPORT)
    process = killed_worker(folder, file, until)
    assert process.is_running()
    results: list[Any] = []
    waiting = threading.Thread(
        target=lambda: results.append(run_playbook(folder, book(file), lambda _: None))
    )
    waiting.start()
    (playbooks / "come").touch()
    waiting.join(60)
    assert [host.report["after"] for host in results[0].hosts.values()] == ["2", "2"]
    assert did(playbooks) == {"gpu-001": 1, "gpu-002": 1}
    assert find_left(folder) is None


def test_what_a_killed_worker_left_can_be_ended_with_all_its_children(
    playbooks: Path, folder: Path, until: Until
) -> None:
    file = written(playbooks, WAITS, REPORT)
    killed_worker(folder, file, until)
    assert len(marked(folder)) > 1
    assert end_left(folder) > 1
    assert marked(folder) == []
    assert find_left(folder) is None


def test_a_run_that_was_cut_short_with_its_machine_is_begun_again(
    playbooks: Path, folder: Path, until: Until
) -> None:
    file = written(playbooks, WAITS, REPORT)
    killed_worker(folder, file, until)
    for pid in marked(folder):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not marked(folder))
    (playbooks / "come").touch()
    result = run_playbook(folder, book(file), lambda _: None)
    assert [host.failed for host in result.hosts.values()] == [False, False]
    assert did(playbooks) == {"gpu-001": 2, "gpu-002": 2}


def test_ansible_left_without_its_runner_is_ended_before_it_is_begun_again(
    playbooks: Path, folder: Path, until: Until
) -> None:
    file = written(playbooks, WAITS, REPORT)
    runner = killed_worker(folder, file, until)
    runner.kill()
    until(lambda: find_left(folder) is None)
    (playbooks / "come").touch()
    run_playbook(folder, book(file), lambda _: None)
    assert marked(folder) == []
    assert did(playbooks) == {"gpu-001": 2, "gpu-002": 2}


def test_another_process_with_the_same_id_is_never_taken_for_a_run(
    playbooks: Path, folder: Path, until: Until
) -> None:
    file = written(playbooks, WAITS, REPORT)
    killed_worker(folder, file, until)
    kept = folder / "1" / "process.json"
    told = json.loads(kept.read_text())
    kept.write_text(json.dumps({**told, "started": told["started"] - 1}))
    assert find_left(folder) is None


def test_no_secret_is_in_a_command_line_a_log_or_an_artifact(playbooks: Path, folder: Path) -> None:
    secret = "open-sesame-7f3a"
    file = written(
        playbooks,
        """
        - name: Use it
          ansible.builtin.set_fact:
            password: "{{ lookup('env', 'GPUFLEET_BMC_PASSWORD') }}"
          no_log: true
        - name: Have it
          ansible.builtin.assert:
            that: password | length > 0
        """,
        REPORT,
    )
    lines: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for pid in marked(folder):
                try:
                    lines.add(" ".join(psutil.Process(pid).cmdline()))
                except psutil.Error:
                    continue

    watching = threading.Thread(target=watch)
    watching.start()
    result = run_playbook(folder, book(file, GPUFLEET_BMC_PASSWORD=secret), lambda _: None)
    ended.set()
    watching.join()
    assert not any(host.failed for host in result.hosts.values())
    assert lines
    assert not [line for line in lines if secret in line or "gpufleet_version" in line]
    for file in folder.rglob("*"):
        if file.is_file():
            assert secret not in file.read_text(errors="replace"), file
            assert file.stat().st_mode & 0o077 == 0, file


def test_host_keys_are_checked_whatever_the_runner_thinks(playbooks: Path, folder: Path) -> None:
    file = written(
        playbooks,
        """
        - name: Tell
          ansible.builtin.set_stats:
            per_host: true
            data: {gpufleet: {after: "{{ lookup('config', 'HOST_KEY_CHECKING') }}"}}
        """,
    )
    result = run_playbook(folder, book(file, "gpu-001"), lambda _: None)
    assert result.hosts["gpu-001"].report["after"] in {True, "True"}


def test_a_playbook_that_is_not_there_is_bad_input(playbooks: Path, folder: Path) -> None:
    with pytest.raises(BadInput, match="no such playbook"):
        run_playbook(folder, book(playbooks / "play.yml"), lambda _: None)


def test_ansible_that_cannot_begin_says_why(playbooks: Path, folder: Path) -> None:
    file = written(playbooks, REPORT)
    file.write_text("- hosts: all\n  tasks: {no: list}\n")
    with pytest.raises(Failed, match="without doing anything"):
        run_playbook(folder, book(file), lambda _: None)
