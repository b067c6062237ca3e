"""The layers of an image as folders: Debian packages, Python packages, engines, own files.

Nothing of the machine goes in: everything is pinned by hash or tracked by git, and code is compiled
by the Python of the image itself.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpufleet.edges.debian_packages import DebianLock
from gpufleet.edges.engines import resolve, survey
from gpufleet.edges.image_table import Recipe
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.progress import EngineProgress

LAYERS: Final = ("debian", "packages", "engines", "sources")
"""From what changes seldom to what changes often: an unchanged one is never pulled again."""
_PYTHON: Final = "3.11"
_PLATFORMS: Final = {"amd64": ("x86_64", "x86_64-manylinux_2_36", "ld-linux-x86-64.so.2")}
"""Machine, wheels and program loader of each architecture that a lock may be for."""
_CERTIFICATES: Final = "etc/ssl/certs/ca-certificates.crt"
_ERROR: Final = 300
_COMPILE: Final = (
    *("-W", "ignore", "-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash"),
)
"""Without times in it; not checked, since nothing in an image can change."""
_SOME_DO_NOT_COMPILE: Final = 1
"""Packages carry templates and tests for other Pythons: those stay text."""


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one image.

    Args:
        recipe: what goes in.
        root: of the project.
    """

    recipe: Recipe
    root: Path = PROJECT_ROOT

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the image has."""
        return tuple(name for name in LAYERS if name != "engines" or self.recipe.engines)

    @property
    def architecture(self) -> str:
        """Of the image."""
        return DebianLock.read(self.recipe.debian).architecture

    def inputs(self, name: str) -> str:
        """A digest over everything that a layer is made from: `sha256:...`."""
        # What this code makes of the inputs is an input too.
        digest = hashlib.sha256(Path(__file__).read_bytes() + self.recipe.home.encode())
        match name:
            case "debian":
                digest.update(self.recipe.debian.read_bytes())
            case "packages":
                digest.update(self.recipe.debian.read_bytes() + self.recipe.packages.read_bytes())
            case "engines":
                for found in survey(self.recipe.engines, use_path=False):
                    digest.update(found.folder.name.encode() + b"\0")
            case "sources":
                for target, source in self.files():
                    content = hashlib.sha256(source.read_bytes()).digest()
                    digest.update(f"{target}\0{_mode(source)}\0".encode() + content)
        return f"sha256:{digest.hexdigest()}"

    def make(self, name: str, into: Path, on_progress: Callable[[EngineProgress], None]) -> None:
        """Make a layer in a new folder.

        Raises:
            Failed, Retryable: something that is pinned cannot be had, or not as pinned.
        """
        match name:
            case "debian":
                self._debian(into)
            case "packages":
                self._packages(into)
            case "engines":
                self._engines(into, on_progress)
            case "sources":
                self._sources(into)

    def files(self) -> list[tuple[str, Path]]:
        """Path in the image and file of everything that the project itself puts in."""
        home, rootfs = self.recipe.home.lstrip("/"), self.recipe.rootfs
        tracked = _tracked(self.root)
        own = {
            f"{home}/{file.relative_to(self.root)}": file
            for pattern in self.recipe.sources
            for file in self.root.glob(pattern)
        }
        laid = {str(file.relative_to(rootfs)): file for file in rootfs.rglob("*")}
        return sorted(
            (target, file)
            for target, file in (own | laid).items()
            if file.is_file() and (tracked is None or file in tracked)
        )

    def _debian(self, into: Path) -> None:
        DebianLock.read(self.recipe.debian).unpack(into)
        shipped = sorted((into / "usr/share/ca-certificates/mozilla").glob("*.crt"))
        bundle = into / _CERTIFICATES
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_bytes(b"".join(file.read_bytes() for file in shipped))
        self._compile(into, into, into / f"usr/lib/python{_PYTHON}")

    def _packages(self, into: Path) -> None:
        environment = into / self.recipe.home.lstrip("/") / ".venv"
        packages = environment / "lib" / f"python{_PYTHON}" / "site-packages"
        packages.mkdir(parents=True)
        _, platform, _ = _PLATFORMS[self.architecture]
        arguments = ["pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        wheels = ["--only-binary=:all:", f"--python-version={_PYTHON}"]
        target = [f"--python-platform={platform}", f"--target={packages}", "--link-mode=copy"]
        lock = ["--requirements", str(self.recipe.packages)]
        uv = str(Path(sys.executable).with_name("uv"))
        _run([uv, *arguments, *wheels, *target, *lock], "fetching the packages")
        # Scripts name the Python that uv ran on, and the lock file is uv's own.
        shutil.rmtree(packages / "bin", ignore_errors=True)
        (packages / ".lock").unlink(missing_ok=True)
        (environment / "bin").mkdir()
        (environment / "bin" / "python").symlink_to(f"/usr/bin/python{_PYTHON}")
        (environment / "pyvenv.cfg").write_text("home = /usr/bin\n")
        if self.recipe.sources:
            modules = f"{self.recipe.home}/modules"
            (packages / "gpufleet.pth").write_text(f"{modules}\n")
        self._compile_with_base(into, packages)

    def _engines(self, into: Path, on_progress: Callable[[EngineProgress], None]) -> None:
        resolve(on_progress, self.recipe.engines, use_path=False)
        folder = into / self.recipe.home.lstrip("/") / "engines" / "engines"
        for found in survey(self.recipe.engines, use_path=False):
            shutil.copytree(found.folder, folder / found.folder.name, symlinks=True)

    def _sources(self, into: Path) -> None:
        for target, source in self.files():
            (into / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, into / target)
            (into / target).chmod(_mode(source))
        # What the image's user may write to, where nothing is mounted.
        (into / self.recipe.home.lstrip("/") / ".fleet").mkdir(parents=True)
        modules = into / self.recipe.home.lstrip("/") / "modules"
        if modules.is_dir():
            self._compile_with_base(into, modules)

    def _compile_with_base(self, into: Path, folder: Path) -> None:
        base = into.with_name(f"{into.name}-base")
        DebianLock.read(self.recipe.debian).unpack(base)
        try:
            self._compile(base, into, folder)
        finally:
            shutil.rmtree(base)

    def _compile(self, base: Path, root: Path, folder: Path) -> None:
        """Compile a folder below `root` by the Python of the unpacked base, without a chroot."""
        machine, _, loader = _PLATFORMS[self.architecture]
        if os.uname().machine != machine:
            mend = f"build on {machine}, or with the Containerfile"
            raise Failed(f"this machine is {os.uname().machine}, the image {machine}", mend=mend)
        libraries = [base / part / f"{machine}-linux-gnu" for part in ("lib", "usr/lib")]
        command = [
            str(base / "lib" / f"{machine}-linux-gnu" / loader),
            *("--library-path", ":".join(map(str, libraries))),
            str(base / "usr/bin" / f"python{_PYTHON}"),
            *_COMPILE,
            # As the files are called in the image.
            *("-s", str(root), "-p", "/"),
            str(folder),
        ]
        told = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONHOME": str(base / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
        )
        # What does not compile is told on stdout; on stderr only what keeps Python from running.
        if told.returncode not in (0, _SOME_DO_NOT_COMPILE) or told.stderr:
            raise Failed(f"the image's Python does not run: {told.stderr.strip()[-200:]}")


def _tracked(root: Path) -> set[Path] | None:
    """The files that git tracks; None where this is no clone but a copy of its files."""
    if not (root / ".git").exists():
        return None
    told = _run(["git", "-C", str(root), "ls-files", "-z"], "listing tracked files")
    return {root / name for name in told.split("\0") if name}


def _mode(file: Path) -> int:
    return 0o755 if file.stat().st_mode & 0o100 else 0o644


def _run(command: list[str], doing: str) -> str:
    told = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if told.returncode:
        said = " ".join(told.stderr.split())[:_ERROR] or "no output"
        if "ash mismatch" in told.stderr:
            raise Failed(f"{doing}: a package is not the pinned one: {said}", mend="do not use it")
        mend = "check the network, then run it again"
        raise Retryable(f"{doing} failed: {said}", mend=mend)
    return told.stdout
