"""Whoever has a GPU open is named."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from gpufleet.edges.workspace import PROJECT_ROOT

FILE = PROJECT_ROOT / "playbooks" / "plugins" / "modules" / "gpufleet_gpu_holders.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    found = importlib.util.spec_from_file_location("gpufleet_gpu_holders", FILE)
    assert found is not None
    assert found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


def process(proc: Path, number: int, name: str, opened: str, mapped: str = "") -> None:
    folder = proc / str(number)
    (folder / "fd").mkdir(parents=True)
    (folder / "fd" / "3").symlink_to(opened)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "maps").write_text(f"7f0-7f1 rw-s 00000000 00:05 9 {mapped}\n" if mapped else "")


def test_open_and_mapped_devices_count_and_other_files_do_not(
    module: ModuleType, tmp_path: Path
) -> None:
    process(tmp_path, 20, "vllm", "/dev/nvidia0")
    process(tmp_path, 10, "dcgm", "/dev/null", mapped="/dev/nvidiactl")
    process(tmp_path, 30, "sshd", "/dev/null", mapped="/usr/lib/libc.so")
    (tmp_path / "meminfo").touch()
    found = module.holders(tmp_path, "/dev/nvidia")
    assert [entry["shown"] for entry in found] == ["dcgm (10)", "vllm (20)"]
    assert [entry["devices"] for entry in found] == [["/dev/nvidiactl"], ["/dev/nvidia0"]]


def test_a_process_that_ends_meanwhile_is_no_error(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "40").mkdir()
    assert module.holders(tmp_path, "/dev/nvidia") == []
