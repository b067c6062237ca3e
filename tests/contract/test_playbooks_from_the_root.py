"""Plain ansible-playbook in the clone's root, with what `./fleet env` sets and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.environment import variables_of

COMMAND = ["playbooks/drivers.yml", "-e", "wave=1"]


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    """The article's fleet, under a name of which no environment stands."""
    folder = PROJECT_ROOT / "fleets" / "article"
    shutil.copytree(folder, tmp_path / "article")
    file = tmp_path / "article" / "production.yaml"
    declared = yaml.safe_load(file.read_text(encoding="utf-8"))
    for group in declared["node_groups"].values():
        group.pop("ssh", None)
    file.write_text(yaml.safe_dump({**declared, "fleet": "from-the-root"}), encoding="utf-8")
    return file


def run(fleet_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if "ANSIBLE" not in name}
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [program, *COMMAND, *arguments],
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**kept, **variables_of(Workspace.here(), fleet_file)},
    )


def test_playbooks_find_what_is_beside_them(fleet_file: Path) -> None:
    declared = yaml.safe_load(fleet_file.read_text(encoding="utf-8"))
    for group in declared["node_groups"].values():
        group["ssh"] = {"known_hosts": "known_hosts"}
    fleet_file.write_text(yaml.safe_dump(declared), encoding="utf-8")
    done = run(fleet_file, "--syntax-check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_fleet_whose_hosts_nobody_reaches_is_told_so(fleet_file: Path) -> None:
    done = run(fleet_file, "--check")
    assert done.returncode != 0
    told = " ".join(done.stderr.split())
    assert "no node group of the fleet file says how its hosts are reached" in told
    assert "node_groups.NAME.ssh" in told
