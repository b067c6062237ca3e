"""Pinned Debian packages: fetched by the machine's apt, checked by hash, unpacked without scripts.

A lock has a line for each package, `NAME=VERSION sha256:DIGEST`, and one `architecture: NAME`.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote

from gpufleet.edges.workspace import cache_dir
from gpufleet.spec.errors import BadInput, Failed, Retryable

_LINE: Final = re.compile(
    r"(?P<name>[a-z0-9.+-]+)=(?P<version>\S+) sha256:(?P<digest>[0-9a-f]{64})"
)
_ARCHITECTURE: Final = "architecture: "
_URI: Final = re.compile(r"^'\S+' (\S+) \d+ SHA256:([0-9a-f]{64})$", re.MULTILINE)
_LISTS_MEND: Final = "run apt-get update; ./fleet images.pin shows what the mirror has newer"


@dataclass(frozen=True)
class Package:
    """One pinned package."""

    name: str
    version: str
    digest: str
    """SHA-256 of the package's file, hexadecimal."""


@dataclass(frozen=True)
class DebianLock:
    """Pinned packages of one architecture, in the order in which they are unpacked."""

    file: Path
    comment: str
    architecture: str
    """As Debian and OCI call it, such as `amd64`."""
    packages: tuple[Package, ...]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Parse a lock.

        Raises:
            BadInput: a line that is not one of a lock.
        """
        comment, architecture, packages = "", "", []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if line.startswith("#"):
                comment += line + "\n"
            elif line.startswith(_ARCHITECTURE):
                architecture = line.removeprefix(_ARCHITECTURE)
            elif found := _LINE.fullmatch(line):
                packages.append(Package(**found.groupdict()))
            elif line:
                raise BadInput("is not NAME=VERSION sha256:DIGEST", where=f"{file}:{number}")
        return cls(file, comment, architecture, tuple(packages))

    def text(self) -> str:
        """The lock as it is written."""
        lines = [f"{each.name}={each.version} sha256:{each.digest}" for each in self.packages]
        return "\n".join([f"{self.comment}{_ARCHITECTURE}{self.architecture}", *lines, ""])

    def newest(self) -> Self:
        """The same packages as the machine's apt knows them now.

        Raises:
            Failed: apt does not know one, or this is no Debian.
        """
        names = [f"{each.name}:{self.architecture}" for each in self.packages]
        told = _apt(["download", "--print-uris", *names], Path.cwd())
        known = {}
        for file, digest in _URI.findall(told):
            name, version, _ = unquote(file).split("_")
            known[name] = Package(name, version, digest)
        packages = tuple(known[each.name] for each in self.packages)
        return type(self)(self.file, self.comment, self.architecture, packages)

    def fetch(self) -> dict[str, Path]:
        """The file of each package by name, from the user's cache or by apt.

        Raises:
            Failed: apt has not this version, or its content is not the pinned one.
            Retryable: the mirror does not answer.
        """
        cache = cache_dir() / "debian"
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        wanted = {each: cache / f"{each.digest}.deb" for each in self.packages}
        missing = [each for each, file in wanted.items() if not file.is_file()]
        if missing:
            with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as folder:
                names = [f"{each.name}:{self.architecture}={each.version}" for each in missing]
                _apt(["download", *names], Path(folder))
                got = {_digest(file): file for file in Path(folder).glob("*.deb")}
                for each in missing:
                    if each.digest not in got:
                        raise Failed(
                            f"{each.name} {each.version} is not what the lock pins",
                            where=str(self.file),
                            mend="do not use it: the package's content changed after it was pinned",
                        )
                    got[each.digest].replace(wanted[each])
        return {each.name: file for each, file in wanted.items()}

    def unpack(self, into: Path) -> None:
        """Unpack every package below a new folder; none of their scripts is run.

        Raises:
            Failed, Retryable: as `fetch`.
        """
        into.mkdir(parents=True)
        for file in self.fetch().values():
            subprocess.run(
                ["dpkg-deb", "--extract", str(file), str(into)],  # noqa: S607 - beside apt-get
                check=True,
                stdin=subprocess.DEVNULL,
            )


def _apt(arguments: list[str], folder: Path) -> str:
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        mend = "build on Debian, or with the Containerfile and a registry"
        raise Failed("the base is made of Debian packages, and there is no apt-get", mend=mend)
    # Fetched into a private folder, where apt's own unprivileged user may not write.
    options = ["--option=APT::Sandbox::User=root", "--quiet=2"]
    told = subprocess.run(
        [apt, *options, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if told.returncode:
        lines = [line for line in told.stderr.splitlines() if line.startswith("E: ")] or [""]
        kind = Retryable if "Failed to fetch" in told.stderr else Failed
        raise kind(f"apt cannot fetch a package: {lines[0][3:203]}", mend=_LISTS_MEND)
    return told.stdout


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
