"""The gateway's Python environment, made by the real uv; no package is fetched."""

import subprocess
import threading
from pathlib import Path

import pytest

from gpufleet.edges.gateway_environment import gateway_python
from gpufleet.spec.errors import FleetError, Retryable
from gpufleet.spec.progress import EngineProgress


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.lock"
    file.write_text("# nothing\n")
    return file


def test_it_is_made_once_for_a_machine_and_again_for_another_lock(
    tmp_path: Path, lock: Path
) -> None:
    told: list[EngineProgress] = []
    python = gateway_python(told.append, lock=lock, cache=tmp_path / "cache")
    program = "import sys; sys.exit(sys.prefix == sys.base_prefix)"
    subprocess.run([python, "-c", program], check=True)
    assert [told[0].state, told[-1].state] == ["building", "done"]
    told.clear()
    assert gateway_python(told.append, lock=lock, cache=tmp_path / "cache") == python
    assert told == []
    lock.write_text("# something else\n")
    assert gateway_python(told.append, lock=lock, cache=tmp_path / "cache") != python


def test_one_that_was_interrupted_is_made_anew(tmp_path: Path, lock: Path) -> None:
    python = gateway_python(lambda _: None, lock=lock, cache=tmp_path / "cache")
    folder = python.parent.parent
    (folder / "whole").unlink()
    (folder / "left-over").write_text("")
    assert gateway_python(lambda _: None, lock=lock, cache=tmp_path / "cache") == python
    assert not (folder / "left-over").exists()


def test_two_that_make_it_at_once_make_one(tmp_path: Path, lock: Path) -> None:
    made: list[Path] = []
    states: list[str] = []

    def make() -> None:
        def tell(event: EngineProgress) -> None:
            states.append(event.state)

        made.append(gateway_python(tell, lock=lock, cache=tmp_path / "cache"))

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 3
    assert len(set(made)) == 1


@pytest.mark.parametrize("line", ["litellm==1.106.2\n", "no such line\n"])
def test_a_package_without_its_hash_is_refused_in_one_line_and_nothing_counts_as_made(
    tmp_path: Path, lock: Path, line: str
) -> None:
    lock.write_text(line)
    for _ in range(2):
        with pytest.raises(FleetError) as refused:
            gateway_python(lambda _: None, lock=lock, cache=tmp_path / "cache")
        assert isinstance(refused.value, Retryable)
        assert "\n" not in refused.value.what
        assert ".log" in refused.value.mend
