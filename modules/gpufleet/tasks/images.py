"""Container images: gpufleet's own and the gateway's."""

from typing import TYPE_CHECKING, Final

from invoke import Context

from gpufleet.tasks.command import APPLY_HELP, JSON_HELP, command, print_json, workspace

if TYPE_CHECKING:
    from gpufleet.spec.images import BuildPlan, ImageReport

_IMAGE_HELP: Final = "gpufleet or gateway."
_HELP: Final = {"image": _IMAGE_HELP, "json": JSON_HELP}
_MIB: Final = 2**20


@command({**_HELP, "apply": APPLY_HELP, "push": "Then copy it to this REGISTRY/REPOSITORY."})
def build(
    _: Context, image: str = "gpufleet", apply: bool = False, push: str = "", json: bool = False
) -> None:
    """Build an image into .fleet/images, from pinned packages and tracked files alone.

    Example: ./fleet images.build --image gpufleet --apply --push registry.example.com/gpufleet
    """
    from gpufleet.flows import images
    from gpufleet.tasks.console import ProgressView, facts

    here = workspace()
    if not apply:
        plan = images.plan(here, image)
        print_json(plan.model_dump()) if json else _show_plan(plan)
        return
    with ProgressView() as view:
        report = images.build(here, image, view)
    reference = images.push(here, image, push) if push else ""
    if json:
        print_json({**report.model_dump(), "reference": reference})
    else:
        _show(report)
        if reference:
            facts.print(f"pushed: {reference}", soft_wrap=True)


@command({"json": JSON_HELP}, name="list")
def list_(_: Context, json: bool = False) -> None:
    """Every image that was built here.

    Example: ./fleet images.list
    """
    from gpufleet.flows import images
    from gpufleet.tasks.console import facts

    found = images.listed(workspace())
    if json:
        print_json([report.model_dump() for report in found])
    elif not found:
        facts.print("none is built yet: ./fleet images.build --apply")
    else:
        for report in found:
            size = f"{report.size_bytes / _MIB:.0f} MiB"
            facts.print(f"{report.image}  {report.digest}  {size}", soft_wrap=True)


@command(_HELP)
def show(_: Context, image: str = "gpufleet", json: bool = False) -> None:
    """One built image: digest, size, layers, and what each was made from.

    Example: ./fleet images.show --image gateway
    """
    from gpufleet.flows import images

    report = images.shown(workspace(), image)
    print_json(report.model_dump()) if json else _show(report)


@command(_HELP)
def verify(_: Context, image: str = "gpufleet", json: bool = False) -> None:
    """Check a built image: every blob has its digest, and its parts belong together.

    Example: ./fleet images.verify
    """
    from gpufleet.flows import images
    from gpufleet.tasks.console import facts

    report = images.verify(workspace(), image)
    if json:
        print_json(report.model_dump())
    else:
        facts.print(f"{report.image}  {report.digest} is whole", soft_wrap=True)


@command({**_HELP, "into": "Folder to make them in, one for each layer."})
def layers(_: Context, into: str, image: str = "gpufleet", json: bool = False) -> None:
    """Make the layers of an image as folders: what its Containerfile copies.

    Example: ./fleet images.layers --image gpufleet --into /out
    """
    from pathlib import Path

    from gpufleet.flows import images
    from gpufleet.tasks.console import ProgressView, facts

    with ProgressView() as view:
        images.make_layers(workspace(), image, Path(into).resolve(), view)
    print_json({"into": into}) if json else facts.print(f"made in {into}")


@command({"apply": APPLY_HELP, "json": JSON_HELP})
def pin(_: Context, apply: bool = False, json: bool = False) -> None:
    """Bring the images' debian.lock to what the mirror has now, for its security updates.

    Example: ./fleet images.pin --apply
    """
    from gpufleet.flows import images
    from gpufleet.tasks.console import facts

    changes = images.pin(workspace(), apply=apply)
    if json:
        print_json({"changes": changes, "applied": apply})
        return
    for change in changes or ["every package is the newest"]:
        facts.print(change)
    if changes and not apply:
        facts.print("--apply takes them")


def _show_plan(plan: "BuildPlan") -> None:
    from gpufleet.tasks.console import facts

    for layer in plan.layers:
        facts.print(f"{layer.action}  {layer.layer:9} from {layer.inputs}", soft_wrap=True)
    if plan.is_built:
        facts.print(f"{plan.image} is built from exactly this: {plan.digest}", soft_wrap=True)
    else:
        facts.print(f"--apply builds {plan.image} into .fleet/images/{plan.image}")


def _show(report: "ImageReport") -> None:
    from gpufleet.tasks.console import facts

    facts.print(f"{report.image} for linux/{report.architecture}")
    facts.print(f"digest  {report.digest}", soft_wrap=True)
    facts.print(f"size    {report.size_bytes / _MIB:.1f} MiB in {len(report.layers)} layers")
    for layer in report.layers:
        line = f"  {layer.layer:9} {layer.size_bytes / _MIB:7.1f} MiB  {layer.digest}"
        facts.print(f"{line}\n  {'':9}     from    {layer.inputs}", soft_wrap=True)
    facts.print(f"folder  {report.folder}", soft_wrap=True)
