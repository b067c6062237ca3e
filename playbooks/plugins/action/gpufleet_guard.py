"""Asks gpufleet whether a playbook may begin, and holds its lease: the first task of each play."""

import os
from dataclasses import asdict
from typing import Any

from ansible import context

from gpufleet.core.freeze import Purpose
from gpufleet.core.patching.purposes import only_look, purpose_of
from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.flows.playbook_guard import GuardOrder, admit, demand_held, opened
from gpufleet.spec.windows import ChangeKind

_SPEC = {
    "hosts": {"type": "list", "elements": "str", "default": []},
    "change": {
        "type": "str",
        "default": ChangeKind.DRIVER.value,
        "choices": [kind.value for kind in ChangeKind],
    },
    "purpose": {
        "type": "str",
        "default": "",
        "choices": [
            "",
            *(purpose.value for purpose in (Purpose.CHANGE, Purpose.ROLLBACK, Purpose.QUARANTINE)),
        ],
    },
    "needs_s": {"type": "float", "default": 0},
    "playbook": {"type": "str", "default": ""},
    "version": {"type": "str", "default": ""},
    "flow": {"type": "str", "default": ""},
    "fence": {"type": "int", "default": 0},
    "fences": {"type": "dict", "default": {}},
    "actor": {"type": "str", "default": ""},
    "returns": {"type": "bool", "default": False},
    "named": {"type": "bool", "default": True},
    "together": {"type": "bool", "default": False},
    "failed": {"type": "list", "elements": "str", "default": []},
    "failures_allowed": {"type": "int", "default": 0},
    "held_at": {"type": "str"},
}


class ActionModule(PlaybookAction):
    """Runs in the controller's process.

    With `held_at`, the name of a site, it only makes sure that the lease of that site is still held
    by `flow` with the token `fence`; nothing is asked where that is 0, as in check mode.

    What the run is for is known by the playbook that was named on Ansible's command line: it may be
    exempt from a freeze, and every variable can be set by whoever starts it.
    """

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The flow, its token by site, and the mark of the nodes that it cordons."""
        with opened(self.variables) as ground:
            if asked["held_at"]:
                if asked["fence"]:
                    demand_held(ground, asked["held_at"], asked["flow"], asked["fence"])
                found: dict[str, Any] = {}
            else:
                found = asdict(admit(ground, self._order(asked)))
        return found

    def _order(self, asked: dict[str, Any]) -> GuardOrder:
        files = [str(file) for file in context.CLIARGS.get("args", ())]
        return GuardOrder(
            hosts=asked["hosts"],
            change=ChangeKind(asked["change"]),
            purpose=purpose_of(files, asked["purpose"], by_flow=bool(asked["fence"])),
            needs_s=asked["needs_s"],
            # Tasks run in children of ansible-playbook.
            process=os.getppid(),
            playbook=asked["playbook"],
            version=asked["version"],
            flow=asked["flow"],
            fence=asked["fence"] or None,
            fences={site: int(token) for site, token in asked["fences"].items()},
            actor=asked["actor"],
            returns=asked["returns"],
            changes=not only_look(files),
            named=asked["named"],
            together=asked["together"],
            failed=asked["failed"],
            failures_allowed=asked["failures_allowed"],
            check=self.only_looks,
        )
