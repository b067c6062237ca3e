"""Only the collections that playbooks use come out of a wheel, and only out of the pinned one."""

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpufleet.edges.ansible_collections import COLLECTIONS, ansible_collections, collections_path
from gpufleet.spec.errors import Failed, Retryable

if TYPE_CHECKING:
    from gpufleet.spec.progress import EngineProgress

WHEEL = "ansible-1.0-py3-none-any.whl"
ABOUT = {
    "ansible-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: ansible\nVersion: 1.0\n",
    "ansible-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "ansible-1.0.dist-info/RECORD": "",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path, *collections: str) -> Path:
    file = folder / WHEEL
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in ABOUT.items():
            archive.writestr(name, text)
        for collection in collections:
            root = f"ansible_collections/{collection.replace('.', '/')}"
            archive.writestr(f"{root}/plugins/modules/one.py", "")
            archive.writestr(f"{root}/tests/big.py", "")
    return file


def lock(of: Path, tmp_path: Path) -> Path:
    digest = hashlib.sha256(of.read_bytes()).hexdigest()
    file = tmp_path / "collections.lock"
    file.write_text(f"ansible==1.0 \\\n    --hash=sha256:{digest}\n")
    return file


def test_the_named_collections_are_unpacked_once_and_nothing_else(
    index: Path, tmp_path: Path
) -> None:
    told: list[EngineProgress] = []
    pinned = lock(wheel(index, *COLLECTIONS, "other.vendor"), tmp_path)
    cache = tmp_path / "cache"
    made = ansible_collections(told.append, lock=pinned, cache=cache)
    assert made == collections_path(pinned, cache)
    files = sorted(str(file.relative_to(made)) for file in made.rglob("*.py"))
    assert files == [
        f"ansible_collections/{name.replace('.', '/')}/plugins/modules/one.py"
        for name in sorted(COLLECTIONS)
    ]
    assert told[-1].state == "done"
    (index / WHEEL).unlink()
    assert ansible_collections(told.append, lock=pinned, cache=cache) == made


def test_another_content_than_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    pinned = lock(wheel(index, *COLLECTIONS), tmp_path)
    wheel(index, *COLLECTIONS, "smuggled.in")
    cache = tmp_path / "cache"
    with pytest.raises(Failed, match="not the one in"):
        ansible_collections(lambda _: None, lock=pinned, cache=cache)
    assert not (collections_path(pinned, cache) / "whole").exists()


def test_a_wheel_without_a_collection_is_refused_by_its_name(index: Path, tmp_path: Path) -> None:
    pinned = lock(wheel(index, *COLLECTIONS[:-1]), tmp_path)
    with pytest.raises(Failed, match=COLLECTIONS[-1]):
        ansible_collections(lambda _: None, lock=pinned, cache=tmp_path / "cache")


def test_no_network_may_pass_and_the_next_run_mends_what_was_begun(
    index: Path, tmp_path: Path
) -> None:
    made = wheel(index, *COLLECTIONS)
    pinned = lock(made, tmp_path)
    kept = made.rename(tmp_path / WHEEL)
    cache = tmp_path / "cache"
    with pytest.raises(Retryable, match="cannot be had"):
        ansible_collections(lambda _: None, lock=pinned, cache=cache)
    kept.rename(index / WHEEL)
    folder = ansible_collections(lambda _: None, lock=pinned, cache=cache)
    assert (folder / "ansible_collections" / "kubernetes" / "core").is_dir()
