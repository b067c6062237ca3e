"""An environment whose hosts are patched: small playbooks on this machine, an API and a Prometheus.

A host's version is what stands in `hosts/NAME`. What it was validated with before it took work
again stands in `serves/NAME`, which is empty while it is out of service. What a playbook did is a
line in `did`.
"""

import json
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import yaml

from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.ground import Ground
from gpufleet.spec.patching import PatchOrder

SITE: Final = "main"
OLD: Final = "580.95.05"
NEW: Final = "580.105.08"
REPLICAS: Final = 7
_COUNT = """
    - name: Count
      ansible.builtin.lineinfile:
        path: "{{ folder }}/did"
        line: "{{ gpufleet_purpose }} {{ inventory_hostname }} {{ gpufleet_version }} {{ stamp }}"
        insertafter: EOF
        create: true
        mode: "0600"
      vars:
        stamp: "{{ now(utc=true, fmt='%s%f') }}"
      delegate_to: localhost
      throttle: 1
"""
_REPORT = """
            - name: Report
              ansible.builtin.set_stats:
                per_host: true
                data:
                  gpufleet:
                    before: "{{ before }}"
                    after: "{{ lookup('file', folder + '/hosts/' + inventory_hostname) }}"
                    validated: true
                    uncordoned: true
"""
_INSTALL = """
- name: Install
  hosts: all
  gather_facts: false
  vars:
    folder: "{{ lookup('env', 'GPUFLEET_FLEET') | dirname | dirname }}"
    faults: "{{ folder }}/faults/{{ inventory_hostname }}-{{ gpufleet_version }}"
  tasks:
    - name: Ask the guard
      ansible.builtin.include_role:
        name: freeze_guard
    - name: Reach it
      ansible.builtin.raw: "true"
      changed_when: false
COUNT
    - name: Wait until it may go on
      ansible.builtin.wait_for:
        path: "{{ faults }}-waits"
        state: absent
        timeout: 100
      when: lookup('fileglob', faults + '-waits') | length > 0
    - name: Look
      ansible.builtin.set_fact:
        before: "{{ lookup('file', folder + '/hosts/' + inventory_hostname) }}"
        cacheable: false
    - name: Take it out of service
      ansible.builtin.copy:
        content: ""
        dest: "{{ folder }}/serves/{{ inventory_hostname }}"
        mode: "0600"
    - name: Change
      block:
        - name: Install
          ansible.builtin.copy:
            content: "{{ gpufleet_version }}"
            dest: "{{ folder }}/hosts/{{ inventory_hostname }}"
            mode: "0600"
        - name: Validate
          ansible.builtin.assert:
            that: lookup('fileglob', faults + '-breaks') | length == 0
            fail_msg: nvidia-smi has failed
        - name: Put it back into service
          ansible.builtin.copy:
            content: "{{ gpufleet_version }}"
            dest: "{{ folder }}/serves/{{ inventory_hostname }}"
            mode: "0600"
REPORT
      rescue:
        - name: Report the quarantine
          ansible.builtin.set_stats:
            per_host: true
            data:
              gpufleet:
                before: "{{ before }}"
                after: "{{ gpufleet_version }}"
                validated: false
                quarantined: true
                reason: nvidia-smi has failed
"""
_QUARANTINE = """
- name: Quarantine
  hosts: all
  gather_facts: false
  connection: local
  vars:
    folder: "{{ lookup('env', 'GPUFLEET_FLEET') | dirname | dirname }}"
  tasks:
COUNT
"""
_GUARD = """
- name: Be refused in a freeze
  gpufleet_refusal:
    msg: a freeze has begun
  when:
    - lookup('fileglob', folder + '/frozen') | length > 0
    - gpufleet_purpose == "change"
"""
_REFUSAL: Final = """
from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        asked = self._task.args
        return {"failed": True, "msg": asked["msg"], "gpufleet_error": {"exit_code": 3}}
"""
CONFIG: Final = """
[defaults]
inventory = hosts.yml
roles_path = roles
action_plugins = action
[ssh_connection]
retries = 0
"""


def write_site(folder: Path, hosts: int = 4, **declared: Any) -> Path:  # noqa: ANN401 - YAML
    """Write fleet file and playbooks; returns the fleet file."""
    for name in ("hosts", "serves", "faults", "fleets", "playbooks/roles/freeze_guard/tasks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    file = folder / "fleets" / "production.yaml"
    fleet = yaml.safe_load((PROJECT_ROOT / "fleets/article/production.yaml").read_text())
    group = fleet["node_groups"]["h100"]
    del fleet["freeze_calendars"]
    ssh = {"known_hosts": "known_hosts"}
    fleet |= {
        "fleet": "patched",
        "governance": {"calendar_required": False},
        "node_groups": {"h100": {**group, "nodes": hosts, "ssh": ssh}},
        **declared,
    }
    file.write_text(json.dumps(fleet, default=str))
    (file.parent / "known_hosts").write_text("")
    names = [f"h100-{number + 1:03d}" for number in range(hosts)]
    for name in names:
        for kept in ("hosts", "serves"):
            (folder / kept / name).write_text(OLD)
    write_playbooks(folder, names)
    return file


def write_playbooks(folder: Path, names: list[str], away: tuple[str, ...] = ()) -> None:
    """Playbooks that stand alone; hosts that are away are asked by SSH where nobody answers."""
    playbooks = folder / "playbooks"
    count = _COUNT.strip("\n")
    report = _REPORT.replace("\n    ", "\n").strip("\n")
    install = _INSTALL.replace("COUNT", count).replace("REPORT", report)
    for name in ("drivers.yml", "rollback.yml"):
        (playbooks / name).write_text(install)
    (playbooks / "quarantine.yml").write_text(_QUARANTINE.replace("COUNT", count))
    (playbooks / "roles/freeze_guard/tasks/main.yml").write_text(textwrap.dedent(_GUARD))
    (playbooks / "action").mkdir(exist_ok=True)
    (playbooks / "action" / "gpufleet_refusal.py").write_text(_REFUSAL)
    (playbooks / "ansible.cfg").write_text(CONFIG)
    local: dict[str, Any] = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    hosts = {name: gone if name in away else local for name in names}
    (playbooks / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))


def ground_in(folder: Path) -> Ground:
    """The environment as tasks and worker see it."""
    return Ground.open(Workspace(folder), folder / "fleets" / "production.yaml")


def order(**values: Any) -> PatchOrder:  # noqa: ANN401 - fields of the order
    """An order for the new driver with a short soak."""
    asked = {"component": "driver", "part": "driver", "version": NEW, "soak_s": 1, **values}
    return PatchOrder.model_validate(asked)


def did(folder: Path) -> list[tuple[str, str, str]]:
    """Purpose, host and version of everything that a playbook did, in order."""
    file = folder / "did"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(words[0], words[1], words[2]) for words in map(str.split, lines)]


def versions(folder: Path) -> dict[str, str]:
    """What each host has."""
    return {file.name: file.read_text() for file in sorted((folder / "hosts").iterdir())}


def unproven(folder: Path) -> dict[str, str]:
    """Hosts that serve with another version than was validated on them last; there must be none."""
    serves = {file.name: file.read_text() for file in (folder / "serves").iterdir()}
    return {host: has for host, has in versions(folder).items() if serves[host] not in {"", has}}


@dataclass
class Site:
    """The API and the Prometheus of a site, on one port."""

    hosts: list[str]
    missing: float = 0
    """What the gate on ready replicas reads."""
    down: bool = False
    """Whether neither answers."""
    cordoned: set[str] = field(default_factory=set)
    """Nodes that a person has cordoned."""
    _server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self, site.listed(urlsplit(self.path).path))

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                form = parse_qs(self.rfile.read(length).decode())
                site.answer(self, site.measured(form["query"][0]))

            def log_message(self, *_: object) -> None:
                """Tests read no access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def place(self, ground: Ground) -> None:
        """Tell an environment where it is."""
        url = f"http://127.0.0.1:{self.port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": SITE, "context": {"cluster": "c", "user": "u"}}],
            "current-context": SITE,
        }
        ground.state.kubeconfig.write_text(json.dumps(config))
        ground.state.site(SITE).mkdir(parents=True, exist_ok=True)
        ground.state.ports(SITE).write_text(json.dumps({"prometheus": self.port}))

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: Mapping[str, Any]) -> None:
        """Send JSON."""
        content = json.dumps(body).encode()
        handler.send_response(403 if self.down else 200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def listed(self, path: str) -> dict[str, Any]:
        """Nodes, pods and Deployments: everything is ready."""
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        items: list[dict[str, Any]] = []
        if path == "/api/v1/nodes":
            items = [
                {
                    "metadata": {"name": name},
                    "spec": {"unschedulable": name in self.cordoned},
                    "status": ready,
                }
                for name in self.hosts
            ]
        elif path == "/api/v1/pods":
            labels = {"gpufleet.dev/pool": "answers"}
            items = [
                {
                    "metadata": {"name": f"p{number}", "labels": labels},
                    "spec": {"nodeName": self.hosts[number % len(self.hosts)]},
                    "status": ready,
                }
                for number in range(REPLICAS)
            ]
        elif path == "/apis/apps/v1/deployments":
            items = [{"metadata": {"name": "answers"}, "spec": {"replicas": REPLICAS}}]
        return {"metadata": {"resourceVersion": "1"}, "items": items}

    def measured(self, query: str) -> dict[str, Any]:
        """Replicas that are missing; nothing of anything else."""
        asked = "engines_declared" in query or "declared" in query
        result = [{"metric": {}, "value": [1_700_000_000, str(self.missing)]}] if asked else []
        return {"status": "success", "data": {"resultType": "vector", "result": result}}
