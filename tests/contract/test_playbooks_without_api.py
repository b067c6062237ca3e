"""An API server that is away: a playbook asks again, loses no node and serves none unproven."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from tests.conftest import Until
from tests.contract.patched_nodes import HOST, OTHER, OURS, SITE, Patched, environment
from tests.hosts.nodes import nodes
from tests.playbooks import PLAYBOOKS, Told
from tests.relay import ALWAYS, Relay

from gpufleet.edges.kube import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PODS = "/api/v1/namespaces/default/pods"
POD = {
    "metadata": {
        "name": "served",
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "served", "uid": "1"}
        ],
    },
    "spec": {
        "nodeName": HOST,
        # Nobody runs it: it goes at once.
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "engine", "image": "engine"}],
    },
}
PHASES = ("node_cordon", "node_drain", "node_uncordon")
PLAY = """
- name: Guard
  ansible.builtin.import_playbook: {guard}
- name: Take out of service, and back
  hosts: all
  gather_facts: false
  vars:
    node_uncordon_validated: true
    gpufleet_kube_pause_s: 0
  tasks:
    - ansible.builtin.include_role: {{name: host_lock}}
    - ansible.builtin.include_tasks: {phase}
      loop: [node_cordon, node_drain, node_uncordon]
"""
PHASE = """
- ansible.builtin.copy:
    dest: "{{ away_file }}"
    content: "{{ away }}"
    mode: "0600"
  when: item == away_in
- ansible.builtin.include_role:
    name: "{{ item }}"
"""


class Away:
    """The environment, with its API server behind a port that can go away."""

    def __init__(self, patched: Patched, relay: Relay) -> None:
        self.patched = patched
        self.relay = relay
        self.folder = patched.folder

    def around(self, phase: str, connections: int, *arguments: str) -> Told:
        """Cordon, drain and uncordon; from a phase on the API server is away for connections."""
        told = {
            "away_in": phase,
            "away": connections,
            "away_file": str(self.folder / "away"),
            "gpufleet_kube_config": str(self.folder / "relayed.kubeconfig"),
        }
        return self.patched.run(
            self.folder / "away.yml",
            "-e",
            yaml.safe_dump(told, default_flow_style=True),
            *arguments,
        )

    def back(self) -> None:
        """Let the API server answer again."""
        (self.folder / "away").unlink()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, until: Until
) -> Iterator[tuple[Cluster, Path]]:
    """A cluster of two nodes."""
    with nodes(tmp_path_factory.mktemp("cluster") / "it", [HOST, OTHER], until, SITE) as made:
        yield made


@pytest.fixture
def away(
    served: tuple[Cluster, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Away]:
    monkeypatch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{tmp_path / 'fleet.db'}")
    cluster, kubeconfig = served
    (tmp_path / "phase.yml").write_text(PHASE)
    (tmp_path / "away.yml").write_text(
        PLAY.format(guard=PLAYBOOKS / "_guard.yml", phase=tmp_path / "phase.yml")
    )
    config = yaml.safe_load(kubeconfig.read_text())
    port = urlsplit(config["clusters"][0]["cluster"]["server"]).port
    assert port
    with (
        Relay(port, tmp_path / "away") as relay,
        environment(tmp_path, cluster, kubeconfig) as patched,
    ):
        for each in config["clusters"]:
            each["cluster"]["server"] = f"https://127.0.0.1:{relay.port}"
        (tmp_path / "relayed.kubeconfig").write_text(yaml.safe_dump(config))
        cluster.create(PODS, POD)
        yield Away(patched, relay)
        if cluster.get(f"{PODS}/served"):
            cluster.delete(f"{PODS}/served")


@pytest.mark.parametrize("phase", PHASES)
def test_an_api_server_that_comes_back_is_asked_again(away: Away, phase: str) -> None:
    told = away.around(phase, 8)
    assert told.code == 0, told.messages
    assert away.relay.refused == 8
    assert not away.patched.is_cordoned()
    assert away.patched.mark() is None


@pytest.mark.parametrize("phase", PHASES)
def test_an_api_server_that_stays_away_leaves_no_node_that_nobody_knows_of(
    away: Away, phase: str
) -> None:
    short = ("-e", "gpufleet_kube_retries=2", "-e", "node_uncordon_ready_within_s=10")
    told = away.around(phase, ALWAYS, *short)
    assert told.code != 0
    assert "Max retries exceeded" in told.messages
    away.back()
    # Before anything was changed it serves as before; after that it keeps our mark.
    touched = phase != "node_cordon"
    assert away.patched.is_cordoned() is touched
    [begun] = away.patched.events("playbook.begun")
    assert away.patched.mark() == (f"patch/{begun.flow}" if touched else None)
    # The next run has a higher token, and takes the place of the one that was lost.
    told = away.around("nowhere", 0)
    assert told.code == 0, told.messages
    assert not away.patched.is_cordoned()
    assert OURS not in (away.patched.node()["metadata"].get("annotations") or {})
    assert HOST in told.changed
