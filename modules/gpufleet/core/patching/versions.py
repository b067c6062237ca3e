"""Which of two versions is newer, as each kind of version is ordered."""

import re
from collections.abc import Callable
from itertools import zip_longest
from typing import Final

Compare = Callable[[str, str], int]
"""Below zero where the first version is older, zero where both are equal, else above zero."""
_CHUNKS: Final = re.compile(r"(\D*)(\d*)", re.ASCII)
_RPM_PART: Final = re.compile(r"[0-9]+|[a-zA-Z]+|~|\^")
_SEMVER: Final = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?", re.ASCII)
_KERNEL: Final = re.compile(r"\d+(?:\.\d+)*(?:-\d+(?:\.\d+)*)?", re.ASCII)


def debian(first: str, second: str) -> int:
    """Compare `[epoch:]upstream[-revision]` as dpkg does. Source: deb-version(7)."""
    pairs = zip(_debian_parts(first), _debian_parts(second), strict=True)
    return next((found for one, other in pairs if (found := _debian_part(one, other))), 0)


def _debian_parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return epoch, upstream if dash else rest, revision if dash else "0"


def _debian_part(first: str, second: str) -> int:
    """Text and numbers in turn; `~` is before the end, and letters before other characters."""
    for (text, number), (other_text, other_number) in zip_longest(
        _CHUNKS.findall(first), _CHUNKS.findall(second), fillvalue=("", "")
    ):
        for sign, other in zip_longest(text, other_text, fillvalue=""):
            if difference := _debian_order(sign) - _debian_order(other):
                return difference
        if difference := int(number or 0) - int(other_number or 0):
            return difference
    return 0


def _debian_order(sign: str) -> int:
    if not sign:
        return 0
    if sign == "~":
        return -1
    return ord(sign) if sign.isalpha() else ord(sign) + 256


def rpm(first: str, second: str) -> int:
    """Compare `[epoch:]version[-release]` as rpm does. Source: rpm-version(7)."""
    pairs = zip(_debian_parts(first), _debian_parts(second), strict=True)
    return next((found for one, other in pairs if (found := _rpm_part(one, other))), 0)


def _rpm_part(first: str, second: str) -> int:
    """Numbers are above text, more is above less, `~` is below and `^` just above the end."""
    for one, other in zip_longest(_RPM_PART.findall(first), _RPM_PART.findall(second)):
        if one == other:
            continue
        if (rank := _rpm_rank(one)) != (other_rank := _rpm_rank(other)):
            return rank - other_rank
        if one.isdigit():
            if difference := int(one) - int(other):
                return difference
        else:
            return 1 if one > other else -1
    return 0


def _rpm_rank(part: str | None) -> int:
    if part is None:
        return 1
    if part in {"~", "^"}:
        return 0 if part == "~" else 2
    return 4 if part.isdigit() else 3


def semantic(first: str, second: str) -> int:
    """Compare `major.minor.patch[-prerelease]`. Source: semver.org 2.0.0, section 11.

    Raises:
        ValueError: one of them is no such version.
    """
    one, other = _semantic(first), _semantic(second)
    return (one > other) - (one < other)


def _semantic(version: str) -> tuple[object, ...]:
    match = _SEMVER.match(version)
    if match is None:
        message = f"`{version:.60}` is no semantic version"
        raise ValueError(message)
    major, minor, patch, prerelease = match.groups()
    parts = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in (prerelease or "").split(".")
    )
    return int(major), int(minor or 0), int(patch or 0), not prerelease, parts


def hexadecimal(first: str, second: str) -> int:
    """Compare dotted hexadecimal numbers, as NVIDIA writes the version of a GPU's firmware.

    Raises:
        ValueError: one of them is none.
    """
    one, other = ([int(part, 16) for part in version.split(".")] for version in (first, second))
    return (one > other) - (one < other)


def firmware(first: str, second: str) -> int:
    """Compare versions of firmware: NVIDIA writes hexadecimal numbers, others do not."""
    try:
        return hexadecimal(first, second)
    except ValueError:
        return debian(first, second)


def upstream(version: str) -> str:
    """A package's version without epoch, revision and what a distribution has appended to it."""
    return re.split(r"[~+]", _debian_parts(version)[1])[0]


def kernel(release: str) -> str:
    """The numbers of a kernel's release: `6.8.0-45` of `6.8.0-45-generic`; empty without any."""
    match = _KERNEL.match(release)
    return match[0] if match else ""


def branch(driver: str) -> str:
    """The branch of a driver's version: `580` of `580.95.05`."""
    return driver.partition(".")[0]
