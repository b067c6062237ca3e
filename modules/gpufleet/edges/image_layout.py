"""OCI image layouts in `.fleet/images`, written by go-containerregistry: same input, same bytes."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from gpufleet.edges.engines import resolve
from gpufleet.edges.image_table import USER, Recipe
from gpufleet.spec.errors import Failed, Retryable
from gpufleet.spec.images import ImageReport, LayerRow

_LAYER: Final = "dev.gpufleet.layer"
_INPUTS: Final = "dev.gpufleet.inputs"
_EPOCH_S: Final = 1
"""The time of every file: what SOURCE_DATE_EPOCH is for other builders. Not 0, which means none."""
_CREATED: Final = "1970-01-01T00:00:01Z"
_DIRECTORY, _PROGRAM, _FILE, _ANYBODY = 0o755, 0o755, 0o644, 0o1777
_ERROR: Final = 300


@dataclass(frozen=True)
class Packed:
    """A layer as a file: a tar archive, or a blob of an earlier image."""

    layer: str
    inputs: str
    file: Path


@dataclass(frozen=True)
class Layout:
    """The layout of one image; appears whole or not at all.

    Args:
        folder: `.fleet/images/NAME`.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Of the image."""
        return self.folder.name

    def report(self) -> ImageReport | None:
        """What stands in the layout; None where nothing was built.

        Raises:
            Failed: it is not a layout of ours.
        """
        if not (self.folder / "index.json").is_file():
            return None
        try:
            (entry,) = self._json("index.json")["manifests"]
            manifest = self._json(self.blob(entry["digest"]))
            config = self._json(self.blob(manifest["config"]["digest"]))["config"]
            layers = [
                LayerRow(
                    layer=layer["annotations"][_LAYER],
                    inputs=layer["annotations"][_INPUTS],
                    digest=layer["digest"],
                    size_bytes=layer["size"],
                )
                for layer in manifest["layers"]
            ]
            return ImageReport(
                image=self.name,
                digest=entry["digest"],
                inputs=config["Labels"][_INPUTS],
                architecture=entry["platform"]["architecture"],
                size_bytes=sum(layer.size_bytes for layer in layers),
                layers=layers,
                folder=str(self.folder),
            )
        except (OSError, ValueError, KeyError, TypeError):
            mend = (
                f"remove it, and build it again: ./fleet images.build --image {self.name} --apply"
            )
            raise Failed("is not a whole image", where=str(self.folder), mend=mend) from None

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        return self.folder / "blobs" / digest.replace(":", "/")

    def verify(self) -> None:
        """Check every blob against its digest, and configuration and manifest against each other.

        Raises:
            Failed: something is missing or was changed.
        """
        _image_tool(["verify", str(self.folder)], b"", str(self.folder))

    def replace(
        self, recipe: Recipe, inputs: str, architecture: str, layers: Sequence[Packed]
    ) -> None:
        """Write the image beside the layout, then take its place.

        Raises:
            Failed: the image cannot be written.
        """
        fresh = self.folder.with_name(f".{self.name}.{os.getpid()}")
        old = self.folder.with_name(f".{self.name}.{os.getpid()}.old")
        image = _image(recipe, inputs, architecture, layers)
        try:
            _image_tool(["write", str(fresh)], json.dumps(image).encode(), str(self.folder))
            if self.folder.exists():
                self.folder.rename(old)
            fresh.rename(self.folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def building(self) -> Iterator[Path]:
        """The only build of this image at a time; gives a folder that is removed afterwards.

        Raises:
            Retryable: another build is under way.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(self.folder.with_name(f".{self.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Retryable(
                "another build of this image is under way",
                where=f"image {self.name}",
                mend="wait for it, then run this again",
            ) from None
        try:
            # Whoever left these held the lock that is ours now.
            for stale in self.folder.parent.glob(f".{self.name}.[0-9]*"):
                shutil.rmtree(stale)
            work = self.folder.with_name(f".{self.name}.{os.getpid()}.work")
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work)
        finally:
            lock.release()

    def push(self, repository: str) -> str:
        """Copy the image to a registry; its reference by digest.

        Raises:
            Failed: the registry refuses.
            Retryable: it does not answer.
        """
        found = self.report()
        if found is None:
            mend = f"./fleet images.build --image {self.name} --apply"
            raise Failed("is not built yet", where=f"image {self.name}", mend=mend)
        reference = f"{repository}@{found.digest}"
        crane = str(resolve(lambda _: None, ["oci"]).path("crane"))
        told = subprocess.run(
            [crane, "push", str(self.folder), reference],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode:
            said = (told.stderr.strip().splitlines() or ["no output"])[-1][-_ERROR:]
            kind = Retryable if "dial tcp" in said or "connection" in said else Failed
            mend = "log in with your registry's client (~/.docker/config.json), run it again"
            raise kind(f"cannot be pushed: {said}", where=reference, mend=mend)
        return reference

    def _json(self, file: str | Path) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / file).read_text(encoding="utf-8"))
        return content


def pack(folder: Path, into: Path, home: str) -> None:
    """Write a folder as a tar archive that hangs on its content alone: names, modes, bytes.

    Everything is root's, but `/tmp` and the state folder of the image's own files.
    """
    with tarfile.open(into, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.mtime = _EPOCH_S
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(entry)
            elif path.is_dir():
                entry.type = tarfile.DIRTYPE
                entry.mode = _ANYBODY if entry.name in {"tmp", "var/tmp"} else _DIRECTORY
                if f"/{entry.name}" == f"{home}/.fleet":
                    entry.uid = entry.gid = USER
                archive.addfile(entry)
            else:
                status = path.stat()
                entry.size = status.st_size
                entry.mode = _PROGRAM if status.st_mode & 0o100 else _FILE
                with path.open("rb") as content:
                    archive.addfile(entry, content)


def _image(
    recipe: Recipe, inputs: str, architecture: str, layers: Sequence[Packed]
) -> Mapping[str, Any]:
    """What `oci-image write` reads; the configuration is OCI's, word for word."""
    fixed = {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "LANG": "C.UTF-8"}
    environment = {**fixed, "PYTHONDONTWRITEBYTECODE": "1", **recipe.environment}
    return {
        "name": recipe.name,
        "architecture": architecture,
        "created": _CREATED,
        "config": {
            "User": f"{USER}:{USER}",
            "Entrypoint": list(recipe.entrypoint),
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "WorkingDir": recipe.home,
            "Labels": {_INPUTS: inputs, "org.opencontainers.image.title": recipe.name},
        },
        "layers": [
            {
                "path": str(layer.file),
                "created_by": f"gpufleet images.build: {layer.layer}",
                "annotations": {_LAYER: layer.layer, _INPUTS: layer.inputs},
            }
            for layer in layers
        ],
    }


def _image_tool(arguments: list[str], given: bytes, where: str) -> None:
    tool = str(resolve(lambda _: None, ["oci"]).path("oci-image"))
    told = subprocess.run([tool, *arguments], input=given, capture_output=True, check=False)
    if told.returncode:
        said = told.stderr.decode(errors="replace").removeprefix("oci-image: ").strip()
        if "no space left" in said:
            raise Retryable("the disk is full", where=where, mend="free some, then run it again")
        raise Failed(
            said[:_ERROR], where=where, mend="build it again: ./fleet images.build --apply"
        )
