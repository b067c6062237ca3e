"""What hosts have installed, out of what their package managers and drivers print."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gpufleet.core.patching.versions import upstream

_INSTALLATION: Final = re.compile(
    r"^Inst (\S+?)(?::\w+)? (?:\[([^\]]*)\] )?\((\S+) ([^)]*)\)", re.MULTILINE
)

_SIZE: Final = re.compile(r"^Size: (\d+)$", re.MULTILINE)
_INSTALLED_SIZE: Final = re.compile(r"^Installed-Size: (\d+)$", re.MULTILINE)
_KIB: Final = 1024

INSTALLED: Final = "installed"
HOLD: Final = "hold"
DPKG_FORMAT: Final = "${Package}\t${Version}\t${db:Status-Status}\t${db:Status-Want}\n"
"""For `dpkg-query --show --showformat`."""
RPM_FORMAT: Final = "%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n"
"""For `rpm --query --queryformat`."""
REPOQUERY_FORMAT: Final = "%{name}\t%{epoch}:%{version}-%{release}\n"
"""For `dnf repoquery --queryformat`."""


@dataclass(frozen=True)
class Package:
    """One package as the host's package manager knows it."""

    version: str
    state: str = INSTALLED
    """dpkg's word: `installed`, `half-configured`, `unpacked`..."""
    held: bool = False


@dataclass(frozen=True)
class Gpu:
    """What `nvidia-smi` says of one GPU."""

    driver: str
    vbios: str


def parse_dpkg(text: str) -> dict[str, Package]:
    """Packages by name out of `dpkg-query` with `DPKG_FORMAT`; those without a version left out."""
    found = {}
    for line in text.splitlines():
        name, version, state, want = (*line.split("\t"), "", "", "", "")[:4]
        if version:
            found[name] = Package(version, state, want == HOLD)
    return found


def parse_rpm(text: str) -> dict[str, Package]:
    """Packages by name out of `rpm --query` with `RPM_FORMAT`, an epoch of 0 left out."""
    found = {}
    for line in text.splitlines():
        name, tab, version = line.partition("\t")
        if tab:
            found[name] = Package(version.removeprefix("0:"))
    return found


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """GPUs out of `nvidia-smi --query-gpu=driver_version,vbios_version --format=csv,noheader`."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    return [Gpu(row[0], row[1]) for row in rows if len(row) == len(Gpu.__dataclass_fields__)]


def parse_enabled_services(text: str) -> list[str]:
    """Services that start with the host, out of `systemctl list-unit-files --no-legend`."""
    rows = (line.split() for line in text.splitlines())
    return [row[0].removesuffix(".service") for row in rows if len(row) > 1 and row[1] == "enabled"]


def parse_madison(text: str) -> dict[str, list[str]]:
    """Versions by package out of `apt-cache madison`, the newest first."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) > 1 and fields[1] not in found.setdefault(fields[0], []):
            found[fields[0]].append(fields[1])
    return found


def parse_repoquery(text: str) -> dict[str, list[str]]:
    """Versions by package out of `dnf repoquery` with `REPOQUERY_FORMAT`, the newest first.

    dnf writes the oldest first; an epoch of 0 is left out.
    """
    found: dict[str, list[str]] = {}
    for line in reversed(text.splitlines()):
        for name, package in parse_rpm(line).items():
            if package.version not in found.setdefault(name, []):
                found[name].append(package.version)
    return found


def versionlock(name: str, version: str) -> str:
    """The line by which dnf's plugin of that name keeps a package at a version.

    It wants the epoch: a line that fits no package hides every version of it.
    """
    return f"{name}-{version if ':' in version else f'0:{version}'}.*"


def parse_security_updates(text: str, marks: Iterable[str] = ("-security",)) -> dict[str, str]:
    """Packages with their new versions that `apt-get --simulate upgrade` takes from security.

    Args:
        text: its output.
        marks: what an origin's name holds where it is one of security updates, as
            `Debian-Security:12/stable-security` does.
    """
    wanted = tuple(marks)
    return {
        match[1]: match[3]
        for match in _INSTALLATION.finditer(text)
        if match[2] is not None and any(mark in match[4] for mark in wanted)
    }


def missing(packages: Mapping[str, Package], wanted: Mapping[str, str]) -> dict[str, str]:
    """What of the wanted versions is not there, or not whole.

    Args:
        packages: what is there.
        wanted: version by package; an empty version is none at all.
    """
    return {
        name: version
        for name, version in wanted.items()
        if version
        and (
            (found := packages.get(name)) is None
            or not is_version(found.version, version)
            or found.state != INSTALLED
        )
    }


def going_back(packages: Mapping[str, Package], names: Iterable[str]) -> dict[str, str]:
    """Exact version by package of what a host has to be able to get again.

    Beside the named ones these are what came with them, by its version; another package that is
    only called alike, such as a container toolkit beside a driver, does not go back with them.
    """
    whole = {name: each.version for name, each in packages.items() if each.state == INSTALLED}
    versions = {upstream(whole[name]) for name in names if name in whole}
    named = set(names)
    return {
        name: version
        for name, version in whole.items()
        if name in named or upstream(version) in versions
    }


def is_version(found: str, wanted: str) -> bool:
    """Whether a package's version is the one wanted, given whole or as the upstream's."""
    return found == wanted or upstream(found) == wanted


def pick(available: Iterable[str], wanted: str) -> str | None:
    """The exact version of a package that a repository has for the one wanted, if any.

    Args:
        available: versions, the most preferred first.
        wanted: whole, or the upstream's.
    """
    found = list(available)
    if wanted in found:
        return wanted
    return next((version for version in found if is_version(version, wanted)), None)


def parse_sizes(text: str) -> tuple[int, int]:
    """Bytes to fetch and bytes installed, out of `apt-cache show`; what is not told is 0."""
    fetched = sum(int(size) for size in _SIZE.findall(text))
    return fetched, sum(int(size) for size in _INSTALLED_SIZE.findall(text)) * _KIB


def space_needed(text: str, spare_bytes: int) -> dict[str, int]:
    """Bytes that have to be free, by folder.

    What is installed is there twice while dpkg unpacks it over what was; below `/var` modules are
    built, and what is fetched is kept.

    Args:
        text: of `apt-cache show` for each exact version.
        spare_bytes: that have to be free in any case.
    """
    fetched, installed = parse_sizes(text)
    return {
        "/usr": 2 * installed + spare_bytes,
        "/var": fetched + installed + spare_bytes,
        "/boot": spare_bytes,
    }
