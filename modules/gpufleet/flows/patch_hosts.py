"""Playbooks on the hosts of a patch: each run once, whoever is killed while it goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.core.freeze import Purpose
from gpufleet.core.leases import lease_of
from gpufleet.edges.ansible_collections import LOCK, ansible_collections
from gpufleet.edges.playbook_events import PlaybookResult
from gpufleet.edges.playbook_process import shortened
from gpufleet.edges.playbooks import Playbook, run_playbook
from gpufleet.flows.durable import Run
from gpufleet.flows.environment import variables_of
from gpufleet.local.host_access import host_access
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.patching import HostState, PatchPlan
from gpufleet.spec.progress import HostProgress

PLAYBOOKS: Final[Mapping[PatchTarget, str]] = {
    PatchTarget.DRIVER: "drivers.yml",
    PatchTarget.FIRMWARE: "firmware.yml",
    PatchTarget.RUNTIME: "runtime.yml",
    PatchTarget.OS: "runtime.yml",
}
_PASSED: Final = frozenset({"KUBECONFIG", "ANSIBLE_COLLECTIONS_PATH"})
"""What of the variables of plain tools playbooks of a flow need."""
_REASON: Final = 200
"""Characters of a reason: annotations of nodes are for people."""
ROLLBACK: Final = "rollback.yml"
QUARANTINE: Final = "quarantine.yml"


@dataclass(frozen=True)
class Errand:
    """One run of a playbook."""

    label: str
    """Names its folder; unique in the flow."""
    playbook: str
    hosts: Sequence[str]
    version: str
    purpose: Purpose
    wave: int
    reason: str = ""
    """Why it is needed, for the marks on nodes."""


def run_errand(run: Run, plan: PatchPlan, errand: Errand) -> PlaybookResult:
    """Run it, or find what an earlier try has done.

    Raises:
        Failed: Ansible could not be started.
    """
    ground = run.ground
    if (ground.workspace.playbooks / LOCK.name).is_file():
        ansible_collections(run.tell)
    folder = ground.state.patches / run.id / errand.label
    playbook = Playbook(
        file=ground.workspace.playbooks / errand.playbook,
        hosts=errand.hosts,
        extra_vars=_extra_vars(run, plan, errand),
        variables=_variables(run),
    )
    return run_playbook(folder, playbook, _teller(run, errand))


def _extra_vars(run: Run, plan: PatchPlan, errand: Errand) -> dict[str, JsonValue]:
    sites = {plan.hosts[host].site for host in errand.hosts}
    reason = shortened(errand.reason, _REASON) or f"patch {run.id}"
    return {
        "gpufleet_component": plan.order.component.value,
        "gpufleet_part": plan.order.part.value,
        "gpufleet_version": errand.version,
        "gpufleet_flow": run.id,
        # Hosts of one run stand in one rack, so that there is one lease.
        "gpufleet_fence": max(run.fences[lease_of(site)].token for site in sites),
        "gpufleet_purpose": errand.purpose.value,
        "gpufleet_actor": run.actor,
        # Planned as one batch; by hand hosts go one after the other.
        "gpufleet_batch": len(errand.hosts),
        "gpufleet_needs_s": plan.batch_s + plan.rollback_s,
        # Elsewhere playbooks find the reason themselves, and a variable from here would win.
        **({"gpufleet_reason": reason} if errand.purpose is Purpose.QUARANTINE else {}),
    }


def _variables(run: Run) -> dict[str, str]:
    """What playbooks need to see the environment, of what plain tools are given."""
    ground = run.ground
    found = variables_of(ground.workspace, ground.fleet_file)
    passed = {name: value for name, value in found.items() if name in _PASSED}
    own = {"GPUFLEET_FLEET": str(ground.fleet_file)}
    return {**host_access(ground.state), **passed, **own}


def _teller(run: Run, errand: Errand) -> Callable[[Mapping[str, Any]], None]:
    """Tells the state of each host, as the events of a run come in."""
    begun = time.monotonic()

    def tell(event: Mapping[str, Any]) -> None:
        host = event.get("host")
        if not host:
            return
        bad = event["kind"] in {"failed", "unreachable"} and not event.get("ignored")
        state = event["kind"] if bad else HostState.RUNNING.value
        elapsed_s = time.monotonic() - begun
        run.tell(HostProgress(host, errand.wave, state, event.get("task", ""), elapsed_s))

    return tell
