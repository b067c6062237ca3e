"""Images: planned from their inputs, built layer by layer, checked, pushed."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpufleet.edges.debian_packages import DebianLock
from gpufleet.edges.engines import resolve
from gpufleet.edges.image_layers import Layers
from gpufleet.edges.image_layout import Layout, Packed, pack
from gpufleet.edges.image_table import Recipe, find_recipe, read_recipes
from gpufleet.edges.workspace import Workspace
from gpufleet.spec.errors import Failed
from gpufleet.spec.images import BuildPlan, ImageReport, LayerPlan
from gpufleet.spec.progress import Progress, StepProgress

OnProgress = Callable[[Progress], None]


def plan(workspace: Workspace, image: str) -> BuildPlan:
    """What a build would make, and what it would keep of the image that stands; changes nothing.

    Raises:
        BadInput: there is no such image.
    """
    recipe = find_recipe(image, workspace.root)
    layers = Layers(recipe, workspace.root)
    standing = layout_of(workspace, image).report()
    known = {row.inputs for row in standing.layers} if standing else set()
    wanted = {name: layers.inputs(name) for name in layers.names}
    inputs = _digest(recipe, wanted)
    return BuildPlan(
        image=image,
        inputs=inputs,
        layers=[
            LayerPlan(layer=name, inputs=digest, action="keep" if digest in known else "make")
            for name, digest in wanted.items()
        ],
        digest=standing.digest if standing and standing.inputs == inputs else "",
    )


def build(workspace: Workspace, image: str, on_progress: OnProgress) -> ImageReport:
    """Build what the plan says; a second build changes nothing.

    Raises:
        BadInput: there is no such image.
        Failed, Retryable: something that is pinned cannot be had, or another build is under way.
    """
    recipe, layout = find_recipe(image, workspace.root), layout_of(workspace, image)
    layers = Layers(recipe, workspace.root)
    resolve(on_progress, ["oci"])
    with layout.building() as work:
        # Planned under the lock: what another build made meanwhile is kept.
        planned = plan(workspace, image)
        if not planned.is_built:
            packed = [_packed(layers, layout, each, work, on_progress) for each in planned.layers]
            with _told(image, "compressed and written", on_progress):
                layout.replace(recipe, planned.inputs, layers.architecture, packed)
    return shown(workspace, image)


def make_layers(workspace: Workspace, image: str, into: Path, on_progress: OnProgress) -> None:
    """Make every layer as a folder `into/LAYER`: what a Containerfile copies.

    Raises:
        BadInput: there is no such image.
        Failed: a folder is there already.
    """
    layers = Layers(find_recipe(image, workspace.root), workspace.root)
    for name in layers.names:
        if (into / name).exists():
            raise Failed("is there already", where=str(into / name), mend="name another folder")
        layers.make(name, into / name, on_progress)


def listed(workspace: Workspace) -> list[ImageReport]:
    """Every image that was built."""
    found = (layout_of(workspace, name).report() for name in read_recipes(workspace.root))
    return [report for report in found if report]


def shown(workspace: Workspace, image: str) -> ImageReport:
    """One built image.

    Raises:
        BadInput: there is no such image.
        Failed: it was not built yet.
    """
    find_recipe(image, workspace.root)
    report = layout_of(workspace, image).report()
    if report is None:
        mend = f"./fleet images.build --image {image} --apply"
        raise Failed("is not built yet", where=f"image {image}", mend=mend)
    return report


def verify(workspace: Workspace, image: str) -> ImageReport:
    """Check a built image: every blob by its digest, configuration and manifest by each other.

    Raises:
        BadInput: there is no such image.
        Failed: it is not whole.
    """
    report = shown(workspace, image)
    layout_of(workspace, image).verify()
    return report


def push(workspace: Workspace, image: str, repository: str) -> str:
    """Copy a built image to a registry, which checks each digest itself; its reference by digest.

    Raises:
        Failed, Retryable: as the registry says.
    """
    return layout_of(workspace, image).push(repository)


def pin(workspace: Workspace, *, apply: bool) -> list[str]:
    """Bring the pinned Debian packages to the newest that apt knows; what differs, a line each.

    Raises:
        Failed, Retryable: apt does not know one.
    """
    changes = []
    for file in sorted({recipe.debian for recipe in read_recipes(workspace.root).values()}):
        lock = DebianLock.read(file)
        newest = lock.newest()
        changes += [
            f"{old.name} {old.version} → {new.version}"
            for old, new in zip(lock.packages, newest.packages, strict=True)
            if old != new
        ]
        if apply and newest != lock:
            file.write_text(newest.text(), encoding="utf-8")
    return changes


def layout_of(workspace: Workspace, image: str) -> Layout:
    """Where an image is built."""
    return Layout(workspace.state / "images" / image)


def _packed(
    layers: Layers, layout: Layout, planned: LayerPlan, work: Path, on_progress: OnProgress
) -> Packed:
    standing = layout.report()
    for row in standing.layers if standing else []:
        if row.inputs == planned.inputs:
            return Packed(planned.layer, planned.inputs, layout.blob(row.digest))
    folder, archive = work / planned.layer, work / f"{planned.layer}.tar"
    with _told(layers.recipe.name, planned.layer, on_progress):
        layers.make(planned.layer, folder, on_progress)
        pack(folder, archive, layers.recipe.home)
        shutil.rmtree(folder)
    return Packed(planned.layer, planned.inputs, archive)


@contextmanager
def _told(image: str, what: str, on_progress: OnProgress) -> Iterator[None]:
    started = time.monotonic()
    on_progress(StepProgress(image, f"{image}: {what}", "running", 0.0, ""))
    yield
    elapsed_s = time.monotonic() - started
    on_progress(StepProgress(image, f"{image}: {what}", "done", elapsed_s, ""))


def _digest(recipe: Recipe, inputs: dict[str, str]) -> str:
    started = [recipe.home, recipe.entrypoint, sorted(recipe.environment.items())]
    return f"sha256:{hashlib.sha256(repr((started, inputs)).encode()).hexdigest()}"
