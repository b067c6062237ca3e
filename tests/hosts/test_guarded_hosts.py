"""Playbooks on real hosts: who is reached, who may change them, and whether their GPUs are fit."""

import json
from pathlib import Path

import pytest
from tests.hosts.lab import Lab
from tests.playbooks import PLAYBOOKS, Told, run_playbook

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(600)]
ONE, TWO = "gpu-001", "gpu-002"
LOCK = "/run/gpufleet/patch.json"
PLAY = f"""
- name: Guard
  ansible.builtin.import_playbook: {PLAYBOOKS / "_guard.yml"}
- name: Lock
  hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {{name: host_lock}}
"""


def play(lab: Lab, folder: Path, playbook: Path, *arguments: str, hosts: str = ONE) -> Told:
    """Run a playbook over SSH on hosts of the lab, with a database of the test's own."""
    file = folder / "fleet" / "production.yaml"
    if not file.exists():
        file = lab.write_fleet(folder / "fleet")
    variables = {
        **lab.environment,
        "GPUFLEET_DATABASE_URL": f"sqlite:///{folder / 'fleet.db'}",
        "ANSIBLE_HOME": str(folder / "ansible"),
    }
    # The nodes of the lab's site are in no cluster.
    no_cluster = ("-e", "gpu_validate_token=false")
    return run_playbook(
        file, playbook, "--limit", hosts, *no_cluster, *arguments, variables=variables
    )


def test_sound_hosts_are_fit_to_serve_and_nothing_is_changed(lab: Lab, tmp_path: Path) -> None:
    told = play(lab, tmp_path, PLAYBOOKS / "validate.yml", hosts=f"{ONE},{TWO}")
    assert told.code == 0, told.messages
    assert told.changed == {ONE: 0, TWO: 0}
    assert told.report(ONE)["validated"] is True
    assert told.report(ONE)["after"] == "580.95.05"


def test_a_gpu_that_fell_off_the_bus_makes_its_host_unfit_and_no_other(
    one: Lab, tmp_path: Path
) -> None:
    one[ONE].log_xid(79)
    told = play(one, tmp_path, PLAYBOOKS / "validate.yml", hosts=f"{ONE},{TWO}")
    assert told.code != 0
    assert f"{ONE} is not fit to serve: xid: since the boot: 79 at" in told.messages
    assert told.report(ONE)["validated"] is False
    assert told.report(TWO)["validated"] is True


def test_a_host_key_that_changed_is_told_in_one_sentence_and_nothing_is_sent(
    one: Lab, tmp_path: Path
) -> None:
    one.new_host_key(ONE)
    playbook = tmp_path / "lock.yml"
    playbook.write_text(PLAY)
    for each in (playbook, PLAYBOOKS / "validate.yml"):
        told = play(one, tmp_path, each)
        assert told.code != 0
        assert f"host {ONE}: its SSH host key is not the one in" in told.messages


def test_a_host_refuses_whoever_has_an_older_token_than_it_has_seen(
    one: Lab, tmp_path: Path
) -> None:
    playbook = tmp_path / "lock.yml"
    playbook.write_text(PLAY)
    told = play(one, tmp_path, playbook)
    assert told.code == 0, told.messages
    kept = json.loads(one.ssh(ONE, "cat", LOCK).stdout)
    assert kept["boot_id"] == one[ONE].boot_id
    assert kept["held"] is True
    # Somebody with a higher token has been there since.
    newer = json.dumps({**kept, "flow": "another", "fence": kept["fence"] + 10})
    one[ONE].run("sh", "-c", f"echo '{newer}' > {LOCK}")
    told = play(one, tmp_path, playbook)
    assert told.code != 0
    assert "is too old: another has changed this host" in told.messages
    assert json.loads(one.ssh(ONE, "cat", LOCK).stdout)["flow"] == "another"
