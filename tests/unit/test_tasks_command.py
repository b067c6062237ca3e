"""What a task that fails tells: each error family its exit code, surprises a file, no traceback."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke import Collection, Context

from gpufleet.spec.errors import (
    BadInput,
    Failed,
    FleetError,
    PolicyRefused,
    Retryable,
    TargetMissed,
)
from gpufleet.tasks import command as under_test
from gpufleet.tasks.__main__ import Fleet
from gpufleet.tasks.command import JSON_HELP, command

Run = Callable[..., int]
FAMILIES = [(Failed, 1), (BadInput, 2), (PolicyRefused, 3), (Retryable, 4), (TargetMissed, 5)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a task that raises an error, in a project of its own; gives the exit code."""
    monkeypatch.setattr(under_test, "ROOT", tmp_path)
    monkeypatch.delenv("GPUFLEET_TRACEBACK", raising=False)

    def go(error: BaseException, *options: str) -> int:
        @command({"json": JSON_HELP}, name="work")
        def work(_: Context, json: bool = False) -> None:  # noqa: ARG001, FBT001, FBT002 - a flag
            raise error

        with pytest.raises(SystemExit) as ended:
            Fleet(namespace=Collection(work)).run(["fleet", "work", *options])
        return int(str(ended.value.code))

    return go


@pytest.mark.parametrize(("family", "code"), FAMILIES)
def test_each_family_of_errors_has_its_exit_code(
    run: Run, capsys: pytest.CaptureFixture[str], family: type[FleetError], code: int
) -> None:
    assert run(family("no room", where="site fra1", mend="make some")) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "fleet: site fra1: no room\n  make some\n"


@pytest.mark.parametrize(("family", "code"), FAMILIES)
def test_with_json_an_error_is_told_to_machines_alone(
    run: Run, capsys: pytest.CaptureFixture[str], family: type[FleetError], code: int
) -> None:
    assert run(family("no room", where="site fra1", mend="make some"), "--json") == code
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out) == {
        "error": "no room",
        "where": "site fra1",
        "mend": "make some",
        "exit_code": code,
    }


def test_a_surprise_is_told_shortly_and_its_traceback_kept(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(ZeroDivisionError("division by zero")) == 1
    told = capsys.readouterr().err
    assert told.startswith("fleet: unexpected ZeroDivisionError: division by zero\n")
    assert "Traceback" not in told
    (kept,) = (tmp_path / ".fleet" / "logs").iterdir()
    assert str(kept.relative_to(tmp_path)) in told
    assert "Traceback (most recent call last)" in kept.read_text()
    assert "ZeroDivisionError: division by zero" in kept.read_text()


def test_a_surprise_with_json_is_an_object_too(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(KeyError("site"), "--json") == 1
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out)["error"] == "unexpected KeyError: 'site'"


def test_a_surprise_is_told_even_where_its_traceback_cannot_be_kept(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / ".fleet").write_text("not a folder")
    assert run(KeyError("site")) == 1
    assert "its traceback could not be kept" in capsys.readouterr().err


def test_the_traceback_is_shown_to_who_asks_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUFLEET_TRACEBACK", "1")
    with pytest.raises(KeyError):
        run(KeyError("site"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_worth_another_try(
    run: Run, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    assert run(OSError(number, "full", "/state/file")) == 4
    assert capsys.readouterr().err.startswith("fleet: /state/file: the disk is full\n")


def test_ctrl_c_ends_with_its_own_code(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip() == ("fleet: interrupted; the next run goes on from here")
