"""Pulumi's own folder: its plugins, and what else it looks for there."""

import shutil
from pathlib import Path
from typing import Final

from gpufleet.edges.engines import PROVIDER_VERSION, Binaries

_PLUGINS: Final = {
    "resource-kubernetes": (PROVIDER_VERSION, "pulumi-resource-kubernetes"),
    # The language host looks for its script beside itself.
    "language-python": ("3.259.0", "pulumi-language-python", "pulumi-language-python-exec"),
}


def prepare_home(home: Path, binaries: Binaries) -> None:
    """Put the plugins where Pulumi looks for them, and let it keep no logs."""
    _without_logs(home / "logs")
    for plugin, (version, *names) in _PLUGINS.items():
        folder = home / "plugins" / f"{plugin}-v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            _place(binaries.path(name), folder / name)


def replace_link(source: Path, target: Path) -> None:
    """Make `target` a link to `source`."""
    if not (target.is_symlink() and target.readlink() == source):
        target.unlink(missing_ok=True)
        target.symlink_to(source)


def _place(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link where the disk allows, else a copy.

    Not a symbolic link: the language host would look for its script where that leads.
    """
    source = source.resolve()
    if (
        target.exists()
        and target.stat().st_size == source.stat().st_size
        and (target.samefile(source) or target.stat().st_mtime == source.stat().st_mtime)
    ):
        return
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _without_logs(folder: Path) -> None:
    """A file where Pulumi would make its folder of logs: it then goes on without them.

    It has no switch for them. They hold every call in full, encrypted: half of the processor time
    of an update without changes, and 24 MB for 700 resources, for which nobody asked.
    """
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.touch(exist_ok=True)
