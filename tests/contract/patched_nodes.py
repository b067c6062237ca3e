"""An environment whose nodes playbooks take out of service: its hosts are this machine."""

import copy
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml
from tests.conftest import small_fleet
from tests.playbooks import PLAYBOOKS, Told, run_playbook

from gpufleet.edges.kube import Cluster
from gpufleet.edges.workspace import Workspace
from gpufleet.flows.ground import Ground
from gpufleet.spec.records import Claim, JournalRecord

SITE: Final = "east"
HOST: Final = "east-h100-001"
OTHER: Final = "east-h100-002"
OURS: Final = "gpufleet.dev/cordoned-by"
_ANNOTATIONS: Final = (
    OURS,
    "gpufleet.dev/cordoned-with",
    "gpufleet.dev/quarantine-reason",
    "gpufleet.dev/quarantined-by",
)
CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//gpufleet//tests//EN
{events}END:VCALENDAR
"""
EVENT = """BEGIN:VEVENT
UID:{name}
SUMMARY:{name}
DTSTAMP:{stamp}
DTSTART:{start}
DTEND:{end}
END:VEVENT
"""
PLAY = """
- name: Guard
  ansible.builtin.import_playbook: {guard}
- name: Take out of service, and back
  hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {{name: host_lock}}
    - ansible.builtin.include_role: {{name: node_cordon}}
    - ansible.builtin.include_role: {{name: node_drain}}
    - ansible.builtin.include_role: {{name: node_uncordon}}
      when: uncordon | default(true) | bool
    - ansible.builtin.include_role: {{name: host_lock}}
      vars: {{host_lock_state: released}}
    - ansible.builtin.include_role: {{name: host_report}}
"""


@dataclass
class Patched:
    """A fleet whose two hosts are this machine, and whose nodes are real."""

    file: Path
    folder: Path
    kubeconfig: Path
    cluster: Cluster
    ground: Ground

    def run(self, playbook: Path, *arguments: str, hosts: str = HOST) -> Told:
        """Run a playbook on one host, or on others."""
        return run_playbook(
            self.file,
            playbook,
            *("--connection", "local", "--limit", hosts),
            *("-e", f"gpufleet_kube_config={self.kubeconfig}", "-e", "ansible_become=false"),
            *("-e", f"host_lock_path={self.folder}/lock/patch.json"),
            *arguments,
        )

    def around(self, *arguments: str, hosts: str = HOST) -> Told:
        """Cordon, drain and uncordon, as every playbook that patches does."""
        return self.run(self.folder / "around.yml", *arguments, hosts=hosts)

    def record(self, **values: str) -> tuple[str, str]:
        """The record of a host's last change, as an argument that names its file."""
        file = self.folder / "record.json"
        if values:
            file.write_text(json.dumps({"part": "driver", "version": "580.105.08", **values}))
        return ("-e", f"patch_record_file={file}")

    def cordon(self, mark: str) -> None:
        """Cordon the host's node under a mark."""
        annotations = {OURS: mark, "gpufleet.dev/cordoned-with": "0"}
        self.cluster.merge(
            f"/api/v1/nodes/{HOST}",
            {"metadata": {"annotations": annotations}, "spec": {"unschedulable": True}},
        )

    def held(self, flow: str) -> tuple[str, ...]:
        """The lease for a flow, as the arguments that it gives a playbook."""
        lease = self.ground.leases.acquire(Claim(target=f"patch:{SITE}", owner=flow, holder=flow))
        return ("-e", f"gpufleet_flow={flow}", "-e", f"gpufleet_fence={lease.token}")

    def node(self, name: str = HOST) -> dict[str, Any]:
        """A node as it is now."""
        found = self.cluster.get(f"/api/v1/nodes/{name}")
        assert found is not None
        return found

    def is_cordoned(self, name: str = HOST) -> bool:
        """Whether a node takes no work."""
        return bool(self.node(name)["spec"].get("unschedulable"))

    def mark(self, name: str = HOST) -> str | None:
        """Whose mark a node carries."""
        return (self.node(name)["metadata"].get("annotations") or {}).get(OURS)

    def clear(self, name: str) -> None:
        """Take every mark of a patch and of quarantine from a node."""
        given = self.node(name)["spec"].get("taints", [])
        annotations = dict.fromkeys(_ANNOTATIONS)
        labels = {"gpufleet.dev/quarantined": None}
        taints = [taint for taint in given if taint["key"] == "nvidia.com/gpu"]
        self.cluster.merge(
            f"/api/v1/nodes/{name}",
            {
                "metadata": {"annotations": annotations, "labels": labels},
                "spec": {"unschedulable": None, "taints": taints},
            },
        )

    def freeze(self, name: str, begins_in: timedelta, lasts: timedelta) -> None:
        """Let the company's calendar hold one event."""
        start = datetime.now(UTC) + begins_in
        form = "%Y%m%dT%H%M%SZ"
        event = EVENT.format(
            name=name,
            stamp=f"{datetime.now(UTC):{form}}",
            start=f"{start:{form}}",
            end=f"{start + lasts:{form}}",
        )
        calendar = self.file.parent / "calendars" / "company.ics"
        calendar.write_text(CALENDAR.format(events=event).replace("\n", "\r\n"))

    def events(self, name: str) -> list[JournalRecord]:
        """Facts of a kind in the journal."""
        return [record for record in self.ground.journal.records() if record.event == name]


@contextmanager
def environment(folder: Path, cluster: Cluster, kubeconfig: Path) -> Iterator[Patched]:
    """A fleet of two nodes that are in a cluster, with a third that is in no pool.

    The database is named by GPUFLEET_DATABASE_URL; afterwards the nodes carry no marks.
    """
    name = f"playbooks-{uuid.uuid4().hex[:8]}"
    declared = small_fleet(SITE).model_dump(
        mode="json", exclude_none=True, exclude_defaults=True, by_alias=True
    )
    declared["fleet"] = name
    group = declared["node_groups"]["east-h100"]
    group["ssh"] = {"known_hosts": "hosts/known_hosts"}
    declared["node_groups"]["spare"] = copy.deepcopy({**group, "nodes": 1})
    (folder / "calendars").mkdir()
    file = folder / "production.yaml"
    file.write_text(yaml.safe_dump(declared))
    (folder / "around.yml").write_text(PLAY.format(guard=PLAYBOOKS / "_guard.yml"))
    ground = Ground.open(Workspace.here(), file)
    ground.state.kubeconfig.write_bytes(kubeconfig.read_bytes())
    made = Patched(file, folder, kubeconfig, cluster, ground)
    made.freeze("long ago", timedelta(days=-9), timedelta(days=1))
    try:
        yield made
    finally:
        for each in (HOST, OTHER):
            made.clear(each)
        ground.close()
        shutil.rmtree(Workspace.here().state / name)
