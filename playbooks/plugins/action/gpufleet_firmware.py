"""Firmware of a host by its management controller, in the controller's own process."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpufleet.core.patching.firmware import as_one
from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.flows.firmware import demand, observe, update
from gpufleet.flows.firmware_line import FirmwareOrder, Login
from gpufleet.flows.power_cycle import power_cycle
from gpufleet.spec.errors import BadInput
from gpufleet.spec.hardware import Activation
from gpufleet.spec.patching import Part

_STATES = ["observed", "possible", "present", "power-cycled"]
_SPEC = {
    "state": {"type": "str", "default": "present", "choices": _STATES},
    "endpoint": {"type": "str", "required": True},
    "system": {"type": "str", "required": True},
    "part": {"type": "str", "required": True, "choices": [Part.BMC.value, Part.VBIOS.value]},
    "version": {"type": "str", "required": True},
    "image": {"type": "path", "default": ""},
    "certificate_authority": {"type": "str", "default": ""},
    "entries": {"type": "str", "default": ""},
    "rehearsed": {"type": "bool", "default": False},
    "activation": {
        "type": "str",
        "default": "",
        "choices": ["", *(each.value for each in Activation)],
    },
    "within_s": {"type": "float", "default": 3600},
    "settles_within_s": {"type": "float", "default": 60},
    "staged_after_s": {"type": "float", "default": 300},
}


class ActionModule(PlaybookAction):
    """`observed` reads the versions, `possible` refuses what could not be done, `present` does it.

    `power-cycled` puts the host's power off and on, which some firmware wants to run.

    User and password are in GPUFLEET_BMC_USER and GPUFLEET_BMC_PASSWORD; no argument holds them.
    """

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """`before` and `after` by entry of the inventory, each as one version too."""
        return _act(asked, check=self.only_looks)


def _act(asked: dict[str, Any], *, check: bool) -> dict[str, Any]:
    order, login = _order(asked), _login()
    if asked["state"] == "power-cycled":
        return {"changed": True, "resets": [] if check else power_cycle(order, login)}
    before = observe(order, login)
    todo = as_one(before) != order.version
    found = {"changed": False, "before": before, "version": as_one(before), "todo": todo}
    if asked["state"] == "observed":
        return found
    if asked["state"] == "possible" or check:
        demand(order, login)
        return {**found, "changed": asked["state"] == "present" and todo}
    done = asdict(update(order, login))
    return {**found, **done, "version": as_one(done["after"])}


def _order(asked: dict[str, Any]) -> FirmwareOrder:
    authority = asked["certificate_authority"]
    return FirmwareOrder(
        endpoint=asked["endpoint"],
        system=asked["system"],
        part=Part(asked["part"]),
        version=asked["version"],
        image=Path(asked["image"]),
        authority=Path(authority) if authority else None,
        entries=asked["entries"],
        rehearsed=asked["rehearsed"],
        activation=asked["activation"],
        within_s=asked["within_s"],
        settles_within_s=asked["settles_within_s"],
        staged_after_s=asked["staged_after_s"],
    )


def _login() -> Login:
    try:
        return Login(os.environ["GPUFLEET_BMC_USER"], os.environ["GPUFLEET_BMC_PASSWORD"])
    except KeyError as error:
        raise BadInput(
            f"the variable {error} of the environment is not set",
            mend="set GPUFLEET_BMC_USER and GPUFLEET_BMC_PASSWORD, and nothing on the command line",
        ) from None
