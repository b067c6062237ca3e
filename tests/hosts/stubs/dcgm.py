"""dcgmi: what the host's data centre GPU manager says of its GPUs."""

import json
from typing import Final

from tests.hosts.stubs import gpus, state, units
from tests.hosts.stubs.output import say, warn

_NO_CONNECTION: Final = 255
_ISOLATE: Final = 226
"""DCGM's exit code for a GPU that should leave service."""
_LEVEL: Final = ("-r", "--run")
_TESTS: Final = {
    "1": ("software",),
    "2": ("software", "pcie", "memory"),
    "3": ("software", "pcie", "memory", "diagnostic", "targeted_stress", "targeted_power"),
}


def dcgmi(arguments: list[str]) -> int:
    """`discovery`, `diag`, `health`, `--version`."""
    if {"--version", "-v"} & set(arguments):
        package = state.installed("datacenter-gpu-manager-4-core")
        say(f"version: {package.version if package else ''}")
        return 0
    if units.active("nvidia-dcgm") != "active":
        warn("Error: unable to establish a connection to the specified host: localhost")
        warn("Error: Unable to connect to host engine. Host engine connection invalid/disconnected")
        return _NO_CONNECTION
    version, count = state.loaded("nvidia"), int(state.setting("gpus"))
    if version is None or state.fault("smi") is not None:
        warn("Error: The NVIDIA library (NVML) could not be initialized.")
        return _NO_CONNECTION
    if "diag" in arguments:
        return _diagnose(arguments, version, count)
    if "discovery" in arguments:
        say(f"{count} GPUs found.")
        for index in range(count):
            say(f"| {index:<6} | Name: {state.setting('gpu_name')} |")
            say(f"|        | Device UUID: {gpus.uuid(index)} |")
    elif "health" in arguments:
        say(f"Overall Health: {'Failure' if state.fault('dcgm') is not None else 'Healthy'}")
    else:
        warn("Usage: dcgmi discovery -l | diag -r N [-j] | health -c")
        return 1
    return 0


def _diagnose(arguments: list[str], version: str, count: int) -> int:
    """With the fault `dcgm`, the last test fails on the first GPU, with the fault's text."""
    level = next((arguments[i + 1] for i, a in enumerate(arguments[:-1]) if a in _LEVEL), "1")
    names = _TESTS.get(level, _TESTS["3"])
    told = state.fault("dcgm")
    failing = names[-1] if told is not None else ""
    if not {"-j", "--json"} & set(arguments):
        say("Successfully ran diagnostic for group.")
        for name in names:
            say(f"| {name:<25} | {'Fail' if name == failing else 'Pass':<46} |")
        return _ISOLATE if failing else 0
    tests = [_outcome(name, count, told if name == failing else None) for name in names]
    categories = [("Deployment", tests[:1]), ("Integration", tests[1:])]
    body = {
        "DCGM Diagnostic": {
            "test_categories": [{"category": c, "tests": found} for c, found in categories if found]
        },
        "metadata": {"Driver Version Detected": version, "version": "4.4.1"},
    }
    say(json.dumps(body, indent=2))
    return _ISOLATE if failing else 0


def _outcome(name: str, count: int, fails_with: str | None) -> dict[str, object]:
    """One test in DCGM 4's form."""
    results: list[dict[str, object]] = []
    for index in range(count):
        bad = fails_with is not None and index == 0
        result: dict[str, object] = {
            "entity_group": "GPU",
            "entity_group_id": 1,
            "entity_id": index,
            "status": "Fail" if bad else "Pass",
        }
        if bad:
            result["warnings"] = [{"error_id": 95, "warning": fails_with or "a fault"}]
        results.append(result)
    summary = {"status": "Pass" if fails_with is None else "Fail"}
    return {"name": name, "results": results, "test_summary": summary}
