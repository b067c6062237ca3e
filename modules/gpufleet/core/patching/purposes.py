"""What a playbook is run for: its file says so, and no variable of whoever starts it."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from gpufleet.core.freeze import Purpose
from gpufleet.core.patching import versions
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.patching import Part

_OWN: Final = {"rollback.yml": Purpose.ROLLBACK, "quarantine.yml": Purpose.QUARANTINE}
_ONLY_LOOKS: Final = frozenset({"validate.yml"})
_FIRMWARE: Final = frozenset({Part.BMC, Part.VBIOS})


def purpose_of(files: Iterable[str], asked: str, *, by_flow: bool) -> Purpose:
    """What the playbooks of one command are run for.

    Rollbacks and quarantines go on in a freeze, so that an extra variable must not make one of a
    change. A flow may say it: it has the lease of the site, which the guard makes sure of.

    Args:
        files: paths of the playbooks on Ansible's command line.
        asked: what the variable `gpufleet_purpose` says; empty where there is none.
        by_flow: whether a flow runs them.

    Raises:
        BadInput: somebody says another purpose by hand.
    """
    own = {_OWN.get(PurePath(file).name, Purpose.CHANGE) for file in files}
    purpose = own.pop() if len(own) == 1 else Purpose.CHANGE
    if not asked or asked == purpose.value:
        return purpose
    if not by_flow:
        raise BadInput(
            f"is what a flow says; this playbook is a {purpose.value}",
            where=f"gpufleet_purpose={asked}",
            mend="leave it out; what goes on in a freeze is rollback.yml and quarantine.yml",
        )
    return Purpose(asked)


def only_look(files: Iterable[str]) -> bool:
    """Whether the playbooks of one command change nothing, and need neither window nor lease."""
    return {PurePath(file).name for file in files} <= _ONLY_LOOKS


def demand_back(part: Part, wanted: str, *, before: str, installed: str) -> None:
    """Refuse a rollback to a version that is newer than what a host has.

    Args:
        part: what goes back.
        wanted: the version that it is to have.
        before: what the host's record of its last change names; empty where there is none.
        installed: what it has now; empty where it has none that is whole.

    Raises:
        PolicyRefused: it is neither the one of before, nor known to be older.
    """
    if wanted in {before, installed} or (installed and _is_older(part, wanted, installed)):
        return
    has = f"it has {installed}" if installed else "nobody knows what it has"
    raise PolicyRefused(
        f"{wanted} is no way back: {has}, and its record names {before or 'none'} as before",
        where=f"{part.value} {wanted}",
        mend="a newer version is a change: drivers.yml, firmware.yml or runtime.yml installs it",
    )


def _is_older(part: Part, wanted: str, installed: str) -> bool:
    if part in _FIRMWARE:
        return versions.firmware(wanted, installed) < 0
    found = versions.debian(versions.upstream(wanted), versions.upstream(installed))
    return (found or versions.debian(wanted, installed)) < 0
