"""`./fleet` on the command line: quick to list, clear about slips, documented exit codes."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLEET = [sys.executable, "-P", "-m", "gpufleet.tasks"]
HEAVY = ("boto3", "httpx", "kubernetes", "pulumi", "pydantic", "rich")
LISTED = """
import runpy, sys
sys.argv = ["fleet", "--list"]
try:
    runpy.run_module("gpufleet.tasks", run_name="__main__")
except SystemExit:
    pass
print(*sys.modules, file=sys.stderr)
"""
INTERRUPTED = """
import signal
from invoke import Collection
from gpufleet.tasks.__main__ import Fleet
from gpufleet.tasks.command import command

@command()
def wait(_):
    print("waiting", flush=True)
    signal.pause()

Fleet(namespace=Collection(wait)).run(["fleet", "wait"])
"""


def fleet(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLEET, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def task_names() -> list[str]:
    listed = json.loads(fleet("--list", "--list-format", "json").stdout)
    return [entry["name"] for entry in listed["tasks"]]


def test_a_bare_call_lists_the_tasks_and_says_where_to_start() -> None:
    result = fleet()
    assert (result.returncode, result.stderr) == (0, "")
    assert "  doctor  " in result.stdout
    assert result.stdout.endswith("start with ./fleet up\n")


def test_the_list_is_answered_without_loading_anything_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LISTED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "  up  " in result.stdout
    assert not set(HEAVY) & set(result.stderr.split())


def test_every_task_helps_with_an_example_and_tells_each_option() -> None:
    names = task_names()
    assert {"up", "down", "status", "doctor", "env", "preview", "lint", "test", "docs"} <= {*names}
    for name in names:
        told = fleet(name, "--help").stdout
        assert f"Example: ./fleet {name}" in told or f'Example: eval "$(./fleet {name})"' in told
        for option in told.split("Options:")[1].split("\n  -")[1:]:
            assert len(option.split("  ", 1)[-1].strip()) > 10, option


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("statsu", "there is no task `statsu`; did you mean `status`?"),
        ("zebra", "there is no task `zebra`; `./fleet --list` tells the tasks"),
        ("up --jsn", "there is no option `--jsn`; did you mean `--json`?"),
        ("patch.plan --failures abc", "`abc` is not a whole number (--failures)"),
        ("patch.plan --failures=1.5", "`1.5` is not a whole number (--failures)"),
        ("up --quickly", "there is no option `--quickly`; `./fleet up --help` tells its options"),
        ("status --fleet", "Flag `--fleet` needed value and was not given one"),
        ("--help nothing", "there is no task `nothing`"),
    ],
)
def test_a_slip_is_bad_input_told_in_one_line(line: str, told: str) -> None:
    result = fleet(*shlex.split(line))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"fleet: {told}")
    assert result.stderr.count("\n") == 1


def test_a_fleet_file_that_is_not_there_names_those_that_are() -> None:
    result = fleet("status", "--fleet", "fleets/smaple/production.yaml")
    assert (result.returncode, result.stdout) == (2, "")
    assert "fleets/smaple/production.yaml: no such fleet file" in result.stderr
    assert "fleets/sample/production.yaml" in result.stderr


def test_with_json_an_error_is_one_object_on_stdout(tmp_path: Path) -> None:
    wrong = tmp_path / "production.yaml"
    wrong.write_text("fleet: broken\nenvironmnt: production\n")
    result = fleet("env", "--json", "--fleet", str(wrong))
    told = json.loads(result.stdout)
    assert result.returncode == told["exit_code"] == 2
    assert set(told) == {"error", "where", "mend", "exit_code"}
    assert str(wrong) in told["where"]
    assert result.stderr == ""


def test_env_is_what_a_shell_evaluates(tmp_path: Path) -> None:
    listed = json.loads(fleet("env", "--json").stdout)
    shown = subprocess.run(
        ["/bin/sh", "-c", f'eval "$({shlex.join([*FLEET, "env"])})" && env -0'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    variables = dict(entry.split("=", 1) for entry in shown.split("\0") if entry)
    assert {name: variables[name] for name in listed} == listed
    assert listed["KUBECONFIG"] == str(ROOT / ".fleet/sample/production/kubeconfig")


def test_a_fleet_file_is_found_from_any_folder(tmp_path: Path) -> None:
    here = fleet("env", "--json", "--fleet", "fleets/article/production.yaml")
    there = fleet("env", "--json", "--fleet", "fleets/article/production.yaml", cwd=tmp_path)
    assert here.stdout == there.stdout != ""


def test_doctor_prints_json_alone_and_agrees_with_its_exit_code() -> None:
    result = fleet("doctor", "--json")
    findings = json.loads(result.stdout)
    assert all(set(finding) == {"what", "level", "seen", "mend"} for finding in findings)
    assert all(finding["mend"] for finding in findings if finding["level"] != "ok")
    assert result.returncode == int(any(finding["level"] == "bad" for finding in findings))


@pytest.mark.parametrize("line", ["test --only nothing", "test --only hosts --select no_such_test"])
def test_a_gate_that_would_test_nothing_does_not_pass(line: str) -> None:
    assert fleet(*shlex.split(line)).returncode in {1, 2}


def test_ctrl_c_is_one_line_and_its_own_exit_code() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "waiting\n"
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert told.strip() == "fleet: interrupted; the next run goes on from here"


def test_a_reader_that_has_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [*FLEET, "env"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (0, b"")


def test_names_are_completed_by_a_shell() -> None:
    script = fleet("--print-completion-script", "bash").stdout
    assert "complete -F _complete_fleet -o default fleet ./fleet\n" in script
    completed = fleet("--complete", "--", "fleet").stdout.split()
    assert set(task_names()) <= set(completed)
