"""The images: the same twice, whole or not there, in a real registry, and run from their layers."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from tests.conftest import Until

from gpufleet.edges.engines import resolve
from gpufleet.edges.image_layers import Layers
from gpufleet.edges.image_layout import Layout, Packed, pack
from gpufleet.edges.image_table import Recipe, find_recipe
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows import images
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.images import ImageReport

RECIPE = find_recipe("gpufleet")
USER = "10001:10001"
FLEET_FILE = f"{RECIPE.home}/fleets/article/production.yaml"
_MAKE_STACKS = f"""
from pathlib import Path
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.environment import Environment
from gpufleet.flows.stacks import stacks_of

file = Path({FLEET_FILE!r})
environment = Environment.load(Workspace.here(), file, print)
cli = environment.cli
cli.prepare()
for stack in stacks_of(environment.fleet, environment.state):
    cli.ensure(stack, file)
    print("made", stack.shown)
"""
_AS_A_RUNTIME_DOES = """
set -e
root=$1 fleets=$2
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o uid=10001,gid=10001 state "$root/opt/gpufleet/.fleet"
mkdir -p "$root/opt/gpufleet/fleets"
mount --bind "$fleets" "$root/opt/gpufleet/fleets"
mount -o remount,ro,bind "$root"
shift 2
exec "$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v chroot)" --userspec=10001:10001 "$root" "$@"
"""


def _small(folder: Path, *, mtime: int, mode: int) -> Path:
    """Content of a layer, as another person's machine would write it."""
    home = folder / "content" / "opt" / "gpufleet"
    (home / ".fleet").mkdir(parents=True)
    (home / "run").write_text("#!/bin/true\n")
    (home / "run").chmod(mode | 0o100)
    (home / "data").write_text("x")
    (home / "data").chmod(mode)
    (home / "link").symlink_to("data")
    for path in (folder / "content").rglob("*"):
        os.utime(path, (mtime, mtime), follow_symlinks=False)
    return folder / "content"


def _tiny(folder: Path, recipe: Recipe = RECIPE, *, mtime: int = 5, mode: int = 0o600) -> Layout:
    """An image of one small layer in a new folder."""
    layout = Layout(folder / "gpufleet")
    with layout.building() as work:
        archive = work / "sources.tar"
        pack(_small(folder, mtime=mtime, mode=mode), archive, recipe.home)
        layout.replace(recipe, "sha256:in", "amd64", [Packed("sources", "sha256:in", archive)])
    return layout


def _report(layout: Layout) -> ImageReport:
    found = layout.report()
    assert found is not None
    return found


def test_the_same_content_is_the_same_image_whoever_wrote_it_when(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    one = _tiny(tmp_path / "here", mtime=1_000_000, mode=0o600)
    other = _tiny(tmp_path / "there", mtime=1_700_000_000, mode=0o664)
    assert _report(one).digest == _report(other).digest
    one.verify()


def test_a_changed_or_missing_blob_is_found(tmp_path: Path) -> None:
    layout = _tiny(tmp_path)
    (layer,) = _report(layout).layers
    blob = layout.blob(layer.digest)
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Failed):
        layout.verify()
    blob.unlink()
    with pytest.raises(Failed):
        layout.verify()


def test_a_configuration_that_is_not_the_manifest_s_is_found(tmp_path: Path) -> None:
    layout = _tiny(tmp_path)
    manifest = layout.blob(_report(layout).digest)
    config = layout.blob(json.loads(manifest.read_text())["config"]["digest"])
    config.write_text(config.read_text().replace('"10001:10001"', '"0:0"'))
    with pytest.raises(Failed):
        layout.verify()


def test_an_image_that_cannot_be_written_leaves_the_last_one_as_it_was(tmp_path: Path) -> None:
    layout = _tiny(tmp_path)
    before = _report(layout)
    lost = Packed("sources", "sha256:new", tmp_path / "not-there.tar")
    with layout.building(), pytest.raises(Failed):
        layout.replace(RECIPE, "sha256:new", "amd64", [lost])
    assert _report(layout) == before
    left = {path.name for path in tmp_path.iterdir()} - {"content"}
    assert left == {"gpufleet", ".gpufleet.lock"}


def test_a_second_build_at_once_is_told_to_wait(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "gpufleet")
    with (
        layout.building(),
        pytest.raises(Retryable, match="under way"),
        Layout(layout.folder).building(),
    ):
        pass


def test_what_a_killed_build_left_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".gpufleet.1.work" / "debian").mkdir(parents=True)
    _tiny(tmp_path)
    assert not (tmp_path / ".gpufleet.1.work").exists()


@pytest.fixture(scope="session")
def built() -> ImageReport:
    """gpufleet's image from this clone; unchanged layers of an earlier run are kept."""
    try:
        return images.build(Workspace.here(), "gpufleet", lambda _: None)
    except (Failed, Retryable) as error:
        if "apt" in error.what:
            pytest.skip(f"the pinned Debian packages cannot be had: {error.what}")
        raise


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real registry of this session's own."""
    crane = str(resolve(lambda _: None, ["oci"]).path("crane"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    folder = tmp_path_factory.mktemp("registry")
    process = subprocess.Popen(
        [crane, "registry", "serve", "--address", address, "--disk", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"http://{address}/v2/", trust_env=False)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            break
    yield address
    process.terminate()
    process.wait()
    shutil.rmtree(folder)


def test_an_image_comes_back_from_a_registry_as_it_was_pushed(
    registry: str, tmp_path: Path
) -> None:
    layout = _tiny(tmp_path)
    reference = layout.push(f"{registry}/gpufleet")
    assert reference == f"{registry}/gpufleet@{_report(layout).digest}"
    crane = str(resolve(lambda _: None, ["oci"]).path("crane"))
    pulled = subprocess.run([crane, "export", reference, "-"], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(pulled.stdout)) as archive:
        assert {member.name: (member.mode, member.uid) for member in archive} == {
            "opt": (0o755, 0),
            "opt/gpufleet": (0o755, 0),
            "opt/gpufleet/.fleet": (0o755, 10001),
            "opt/gpufleet/data": (0o644, 0),
            "opt/gpufleet/link": (0o644, 0),
            "opt/gpufleet/run": (0o755, 0),
        }


def test_a_registry_that_does_not_answer_is_worth_another_try(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(Retryable, match="cannot be pushed"):
            _tiny(tmp_path).push(f"{address}/gpufleet")


@pytest.fixture(scope="session")
def root(built: ImageReport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image's files, layer over layer."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("unpacking an image with its owners and running it needs root")
    allowed = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], check=False
    )
    if allowed.returncode:
        pytest.skip("this machine allows no mounts, even to root")
    folder = tmp_path_factory.mktemp("image") / "root"
    folder.mkdir()
    layout = images.layout_of(Workspace.here(), "gpufleet")
    for layer in built.layers:
        blob = layout.blob(layer.digest)
        subprocess.run(["tar", "-xzf", str(blob), "-C", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


def _inside(root: Path, fleets: Path, *command: str) -> list[str]:
    shell = ["unshare", "--mount", "--propagation=private", "sh", "-c", _AS_A_RUNTIME_DOES, "sh"]
    return [*shell, str(root), str(fleets), *command]


def _environment() -> dict[str, str]:
    """What the image's configuration and the worker's Deployment set, and nothing of this host."""
    return {**RECIPE.environment, "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108 - in the image


@pytest.fixture
def fleets(tmp_path: Path) -> Path:
    """The article's fleet on a cluster that is there already, as a ConfigMap brings it."""
    shutil.copytree(PROJECT_ROOT / "fleets" / "article", tmp_path / "fleets" / "article")
    file = tmp_path / "fleets" / "article" / "production.yaml"
    fleet = yaml.safe_load(file.read_text())
    fleet["sites"]["main"]["cluster"] = {"provider": "existing", "context": "main"}
    file.write_text(yaml.safe_dump(fleet))
    return tmp_path / "fleets"


def test_the_image_answers_as_a_user_that_is_not_root_and_holds_no_shell(
    root: Path, fleets: Path
) -> None:
    for arguments, expected in (
        (("--version",), "fleet 0.1.0"),
        (("worker", "--help"), "--listen"),
    ):
        told = subprocess.run(
            _inside(root, fleets, *RECIPE.entrypoint, *arguments),
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
        assert told.returncode == 0, told.stderr
        assert expected in told.stdout
    assert not [
        name for name in ("sh", "bash", "dash", "apt-get") if (root / "bin" / name).exists()
    ]
    own = {path.stat().st_uid for path in (root / RECIPE.home.lstrip("/")).iterdir()}
    assert own == {0, 10001}


def test_a_worker_of_the_image_becomes_ready_with_a_read_only_root(
    root: Path, fleets: Path, tmp_path: Path, until: Until
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["worker", f"--fleet={FLEET_FILE}", f"--port={port}", "--listen=127.0.0.1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            _inside(root, fleets, *RECIPE.entrypoint, *arguments),
            stdout=log,
            stderr=log,
            env=_environment(),
        )
        try:

            def ready() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                try:
                    answer = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
                except httpx.TransportError:
                    return False
                return answer.status_code == 200

            until(ready)
            metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
            assert "gpufleet_flows" in metrics
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_the_image_has_the_engines_of_its_stacks_and_they_run(root: Path, fleets: Path) -> None:
    python = f"{RECIPE.home}/.venv/bin/python"
    told = subprocess.run(
        _inside(root, fleets, python, "-c", _MAKE_STACKS),
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert told.stdout.splitlines() == ["made platform main", "made pools main"], told.stderr


def test_a_second_build_changes_nothing(built: ImageReport) -> None:
    layout = images.layout_of(Workspace.here(), "gpufleet")
    before = layout.folder.stat().st_ino
    assert images.plan(Workspace.here(), "gpufleet").is_built
    assert images.build(Workspace.here(), "gpufleet", lambda _: None) == built
    assert layout.folder.stat().st_ino == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_clone_in_another_folder_builds_the_same_image(
    built: ImageReport, tmp_path: Path
) -> None:
    tracked = subprocess.run(
        ["git", "-C", str(PROJECT_ROOT), "ls-files", "-z"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, tracked):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT_ROOT / name, tmp_path / name)
    (tmp_path / ".fleet").mkdir()
    (tmp_path / ".fleet" / "secret.yaml").write_text("a secret")
    assert images.build(Workspace(tmp_path), "gpufleet", lambda _: None).digest == built.digest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gateway_s_image_starts_its_proxy(tmp_path: Path) -> None:
    images.build(Workspace.here(), "gateway", lambda _: None)
    images.verify(Workspace.here(), "gateway")
    recipe = find_recipe("gateway")
    layers = Layers(recipe)
    for name in layers.names:
        layers.make(name, tmp_path / name, lambda _: None)
        shutil.copytree(tmp_path / name, tmp_path / "root", symlinks=True, dirs_exist_ok=True)
    # By its path: the image's own PATH, with which it is started below, has not this machine's.
    chroot = shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin")
    assert chroot is not None
    inside = [chroot, f"--userspec={USER}", str(tmp_path / "root")]
    python, *_ = recipe.entrypoint
    proxy = [python, "-P", "-m", "litellm.proxy.proxy_cli", "--version"]
    told = subprocess.run([*inside, *proxy], capture_output=True, text=True, check=False)
    assert re.search(r"\b1\.106\.2\b", told.stdout), told.stderr
    told = subprocess.run(
        [*inside, *recipe.entrypoint, "--help"],
        env=dict(recipe.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the gateway's folder" in told.stdout, told.stderr
    imports = "import gpufleet_gateway.app"
    told = subprocess.run(
        [*inside, python, "-P", "-c", imports],
        env=dict(recipe.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
