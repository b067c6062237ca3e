"""Filters of the patching roles: what hosts say, in gpufleet's own words."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleFilterError

from gpufleet.core.patching import installed, records
from gpufleet.core.patching.versions import upstream
from gpufleet.edges.playbook_process import why_failed
from gpufleet.spec.patching import COMPONENT_OF, Part

_MIB = 2**20


def _package_format(manager: str) -> str:
    """The format to ask dpkg-query, rpm or dnf's repoquery with."""
    formats = {
        "dpkg": installed.DPKG_FORMAT,
        "rpm": installed.RPM_FORMAT,
        "dnf": installed.REPOQUERY_FORMAT,
    }
    return formats[manager]


def _packages(text: str, manager: str) -> dict[str, dict[str, Any]]:
    """Packages by name: version, state, held."""
    parse = installed.parse_dpkg if manager == "dpkg" else installed.parse_rpm
    return {name: asdict(package) for name, package in parse(text).items()}


def _missing(
    packages: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str]
) -> dict[str, str]:
    """What of the wanted versions is not there."""
    found = {name: installed.Package(**package) for name, package in packages.items()}
    return installed.missing(found, wanted)


def _versions(packages: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Version by package, of those that are whole."""
    return {
        name: package["version"]
        for name, package in packages.items()
        if package["state"] == installed.INSTALLED
    }


def _going_back(packages: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, str]:
    """What a host has of all that would go back."""
    found = {name: installed.Package(**package) for name, package in packages.items()}
    return installed.going_back(found, names)


def _gpus(text: str) -> list[dict[str, str]]:
    """GPUs out of nvidia-smi's table."""
    return [asdict(gpu) for gpu in installed.parse_nvidia_smi(text)]


def _choose(offered: str, wanted: Mapping[str, str], manager: str = "apt") -> dict[str, str]:
    """The exact versions that a repository has, by `apt-cache madison` or dnf's repoquery."""
    parse = installed.parse_repoquery if manager == "dnf" else installed.parse_madison
    available = parse(offered)
    chosen = {
        name: installed.pick(available.get(name, ()), version) for name, version in wanted.items()
    }
    return {name: version for name, version in chosen.items() if version}


def _security_updates(text: str) -> dict[str, str]:
    """New version by package, out of `apt-get --simulate upgrade`."""
    return installed.parse_security_updates(text)


def _too_full(told: str, needed: Mapping[str, int]) -> list[str]:
    """Folders with less free space than they need, by `df --output=avail,file`."""
    found = []
    for line in told.splitlines():
        free, _, folder = line.strip().partition(" ")
        wanted = needed.get(folder.strip(), 0)
        if free.isdigit() and int(free) < wanted:
            found.append(
                f"{folder.strip()} has {int(free) // _MIB} MiB free of {wanted // _MIB} MiB needed"
            )
    return found


def _named(joint: str) -> Any:  # noqa: ANN401 - a filter
    def name(entry: Mapping[str, str]) -> str:
        if not {"key", "value"} <= set(entry):
            raise AnsibleFilterError("expected an entry of dict2items")
        return f"{entry['key']}{joint}{entry['value']}"

    return name


def _rpm_lock(entry: Mapping[str, str]) -> str:
    """The line that holds a package, out of an entry of dict2items."""
    return installed.versionlock(entry["key"], entry["value"])


def _component(part: str) -> str:
    """The component that a part belongs to; freezes and approvals are by component."""
    return COMPONENT_OF[Part(str(part))].value


def _why(result: Mapping[str, Any]) -> str:
    """What a failed task says, in one line."""
    return " ".join(why_failed(result).split()) or "it failed"


def _service(name: str) -> str:
    """The whole name of a service's unit."""
    return f"{name}.service"


class FilterModule:
    """Where Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Filters by name."""
        return {
            "gpufleet_package_format": _package_format,
            "gpufleet_packages": _packages,
            "gpufleet_missing": _missing,
            "gpufleet_versions": _versions,
            "gpufleet_component": _component,
            "gpufleet_going_back": _going_back,
            "gpufleet_gpus": _gpus,
            "gpufleet_service": _service,
            "gpufleet_enabled_services": installed.parse_enabled_services,
            "gpufleet_upstream": upstream,
            "gpufleet_choose": _choose,
            "gpufleet_security_updates": _security_updates,
            "gpufleet_space": installed.space_needed,
            "gpufleet_too_full": _too_full,
            "gpufleet_why": _why,
            "gpufleet_named": _named(" "),
            "gpufleet_apt_name": _named("="),
            "gpufleet_record_begun": records.begun,
            "gpufleet_record_ended": records.ended,
            "gpufleet_record_found": records.found,
            "gpufleet_rpm_lock": _rpm_lock,
            "gpufleet_rpm_name": _named("-"),
        }
