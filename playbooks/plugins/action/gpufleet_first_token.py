"""Asks the replicas on a node for one token each; changes nothing."""

from typing import Any

from gpufleet.edges.playbook_actions import PlaybookAction
from gpufleet.flows.first_token import tokens_of_node
from gpufleet.flows.playbook_guard import opened
from gpufleet.spec.errors import FleetError

_SPEC = {
    "site": {"type": "str", "required": True},
    "node": {"type": "str", "required": True},
    "timeout_s": {"type": "float", "default": 30},
}
_NO_REPLICA = 127


class ActionModule(PlaybookAction):
    """Gives an `answer` like those of the host's own commands."""

    SPEC = _SPEC

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Code 0 where every replica gave one, 127 where there is none."""
        try:
            with opened(self.variables) as ground:
                proofs = tokens_of_node(ground, asked["site"], asked["node"], asked["timeout_s"])
        except FleetError as error:
            answer = {"code": 1, "out": "", "error": error.what}
            return {"answer": answer}
        cold = [f"{proof.pod}: {proof.why_not}" for proof in proofs if not proof.warm]
        answer = {
            "code": 1 if cold else 0 if proofs else _NO_REPLICA,
            "out": "; ".join(cold) or f"{len(proofs)} replicas answered",
            "error": "",
        }
        return {"answer": answer}
