"""What goes into the images: pinned, hashed, tracked; nothing else."""

import re
import subprocess
from pathlib import Path

import pytest

from gpufleet.core import vocabulary as names
from gpufleet.edges import image_table
from gpufleet.edges.debian_packages import DebianLock
from gpufleet.edges.image_layers import Layers
from gpufleet.edges.image_table import find_recipe, read_recipes
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec.errors import BadInput

_PINNED = re.compile(r"^([a-z0-9._-]+(?:\[[a-z,]+\])?)==(\S+)", re.MULTILINE)


def _pins(lock: Path) -> dict[str, str]:
    return dict(_PINNED.findall(lock.read_text()))


@pytest.mark.parametrize("name", list(read_recipes()))
def test_every_package_is_hashed_and_no_host_is_named(name: str) -> None:
    found = find_recipe(name)
    text = found.packages.read_text()
    hashed = re.findall(r"==\S+ .*\\\n    --hash=sha256:", text)
    assert len(_PINNED.findall(text)) == len(hashed)
    assert "://" not in text
    assert "://" not in found.debian.read_text()


def test_the_image_has_the_versions_that_the_project_is_tested_with() -> None:
    image = _pins(find_recipe("gpufleet").packages)
    project = _pins(PROJECT_ROOT / "requirements.lock")
    assert set(image) - set(project) == {"pip"}
    assert {name: project[name] for name in image if name != "pip"} == {
        name: version for name, version in image.items() if name != "pip"
    }


def test_the_gateway_s_lock_pins_the_proxy_that_is_declared() -> None:
    assert _pins(PROJECT_ROOT / "gateway" / "requirements.lock")["litellm"] == "1.106.2"


def test_every_file_of_the_code_is_in_the_image_and_the_gateway_has_its_plugin() -> None:
    listed = ["git", "-C", str(PROJECT_ROOT), "ls-files", "modules/gpufleet"]
    tracked = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    inside = {target for target, _ in Layers(find_recipe("gpufleet")).files()}
    assert [file for file in tracked if f"opt/gpufleet/{file}" not in inside] == []
    gateway = {target for target, _ in Layers(find_recipe("gateway")).files()}
    for needed in ("gateway/gpufleet_gateway/__main__.py", "modules/gpufleet/spec/gateway.py"):
        assert f"opt/gateway/{needed}" in gateway


def test_only_tracked_files_go_in(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    for name in ("modules/gpufleet/kept.py", "modules/gpufleet/untracked.py", ".fleet/state.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for command in (["init", "--quiet"], ["add", "modules/gpufleet/kept.py"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    recipe = find_recipe("gpufleet")
    files = [target for target, _ in Layers(recipe, root).files()]
    assert files == ["opt/gpufleet/modules/gpufleet/kept.py"]


def test_a_changed_file_changes_its_layer_and_no_other(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    (root / "modules" / "gpufleet").mkdir(parents=True)
    file = root / "modules" / "gpufleet" / "a.py"
    file.write_text("one = 1\n")
    layers = Layers(find_recipe("gpufleet"), root)
    before = {name: layers.inputs(name) for name in layers.names}
    file.write_text("one = 2\n")
    after = {name: layers.inputs(name) for name in layers.names}
    assert {name for name in before if before[name] != after[name]} == {"sources"}


def test_the_image_can_dump_the_database_of_a_cluster_s_worker() -> None:
    recipe = find_recipe("gpufleet")
    clients = [
        each.name.removeprefix("postgresql-client-")
        for each in DebianLock.read(recipe.debian).packages
        if each.name.startswith("postgresql-client-")
    ]
    (version,) = clients
    path = recipe.environment["PATH"].split(":")
    assert f"/usr/lib/postgresql/{version}/bin" in path
    made_elsewhere = (PROJECT_ROOT / "images" / "gpufleet" / "Containerfile").read_text()
    assert f"ENV PATH={':'.join(path)} " in made_elsewhere


def test_a_line_that_pins_nothing_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "debian.lock"
    lock.write_text("architecture: amd64\nlibc6=2.36\n")
    with pytest.raises(BadInput, match="sha256") as refused:
        DebianLock.read(lock)
    assert refused.value.where.endswith("debian.lock:2")


def test_images_and_pods_agree_on_the_user() -> None:
    assert image_table.USER == names.IMAGE_USER


def test_there_is_no_image_of_another_name() -> None:
    with pytest.raises(BadInput, match="no such image") as refused:
        find_recipe("gatway")
    assert "gateway" in refused.value.mend
