"""What the gateway makes in its folder."""

from pathlib import Path

import pytest

from gpufleet.spec.errors import BadInput
from gpufleet_gateway.folder import metrics_folder, secret_file


def test_a_secret_is_made_once_and_is_its_owner_s(tmp_path: Path) -> None:
    made = secret_file(tmp_path / "salt")
    assert len(bytes.fromhex(made.decode())) == 32
    assert secret_file(tmp_path / "salt") == made
    assert (tmp_path / "salt").stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.iterdir()] == ["salt"]


@pytest.mark.parametrize("content", ["", "ab" * 31, "zz" * 32, "ab" * 33])
def test_half_a_secret_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "salt").write_text(content)
    with pytest.raises(BadInput) as refused:
        secret_file(tmp_path / "salt")
    assert refused.value.where == str(tmp_path / "salt")
    assert (tmp_path / "salt").read_text() == content


def test_metrics_are_in_memory_private_and_empty_at_every_start(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    path = tmp_path / "gateway" / "metrics"
    path.parent.mkdir()
    for _ in range(2):
        made = metrics_folder(path, memory)
        assert made.resolve().parent == memory
        assert made.resolve().stat().st_mode & 0o077 == 0
        assert list(made.iterdir()) == []
        (made / "counter_1.db").write_text("x")


def test_without_memory_or_with_somebody_else_s_folder_there_metrics_are_on_the_disk(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics"
    assert not metrics_folder(path, tmp_path / "none").is_symlink()
    memory = tmp_path / "memory"
    memory.mkdir()
    inner = metrics_folder(path, memory).resolve()
    inner.chmod(0o777)
    assert metrics_folder(path, memory).resolve() == path
