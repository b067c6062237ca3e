"""What is to be installed, and what was, is on the host before anything is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gpufleet.edges.workspace import PROJECT_ROOT

PLAYBOOKS = PROJECT_ROOT / "playbooks"
TASKS = PLAYBOOKS / "roles/exact_packages/tasks"
OLD, NEW = "580.95.05-1", "580.105.08-1"
APT = """#!/bin/sh
echo "apt-get $*" >> "$LOG"
case "$*" in
download*) [ -e "$GONE" ] && { echo "E: Can't find a source to download version" >&2; exit 100; };;
esac
exit 0
"""
DPKG = f"""#!/bin/sh
printf 'nvidia-driver\\t{OLD}\\tinstalled\\thold\\nlibcuda1\\t{OLD}\\tinstalled\\tinstall\\n'
printf 'libcuda-tools\\t1.18.0-1\\tinstalled\\tinstall\\n'
exit 1
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    """A folder with an apt that writes down what is asked of it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "given").mkdir()
    (tmp_path / "given/admin").write_text("Package: *\n", encoding="ascii")
    (tmp_path / "archives").mkdir()
    for name, script in (("apt-get", APT), ("dpkg-query", DPKG)):
        (tmp_path / "bin" / name).write_text(script, encoding="ascii")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def fetch(folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {
        "ansible_facts": {"pkg_mgr": "apt"},
        "ansible_python_interpreter": sys.executable,
        "exact_packages_wanted": {"nvidia-driver": NEW},
        "exact_packages_found": {
            "nvidia-driver": {"version": OLD, "state": "installed", "held": True}
        },
        "exact_packages_chosen": {"nvidia-driver": NEW},
        "exact_packages_family": "driver",
        "exact_packages_globs": ["libcuda*"],
        "exact_packages_family_version": "580.105.08",
        "exact_packages_folder": str(folder / "cache"),
        "exact_packages_archives": str(folder / "archives"),
        "exact_packages_preferences": str(folder / "given"),
        "exact_packages_goes_back": True,
    }
    role = {"name": "exact_packages", "tasks_from": "fetched_apt"}
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "roles": [],
            "tasks": [{"ansible.builtin.include_role": role}],
        }
    ]
    (folder / "play.yml").write_text(yaml.safe_dump(play), encoding="utf-8")
    (folder / "vars.json").write_text(json.dumps(variables), encoding="utf-8")
    return subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,"),
            *("-e", f"@{folder / 'vars.json'}", str(folder / "play.yml")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "ANSIBLE_ASYNC_DIR": str(folder / "async"),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_ROLES_PATH": str(PLAYBOOKS / "roles"),
            "ANSIBLE_FILTER_PLUGINS": str(PLAYBOOKS / "plugins/filter"),
            "LOG": str(folder / "log"),
            "GONE": str(folder / "gone"),
        },
    )


@pytest.mark.slow
def test_new_and_old_packages_are_fetched_with_what_belongs_to_them(apt: Path) -> None:
    told = fetch(apt)
    assert told.returncode == 0, told.stdout + told.stderr
    new, old = (apt / "log").read_text(encoding="utf-8").splitlines()
    assert "--download-only" in new
    assert new.endswith(f"install --ignore-hold nvidia-driver={NEW}")
    assert old == f"apt-get download nvidia-driver={OLD} libcuda1={OLD}"
    preferences = apt / "cache/preferences.d"
    assert f"PreferencesParts={preferences}" in new
    assert "Pin: version 580.105.08*" in (preferences / "gpufleet-driver").read_text("utf-8")
    assert (preferences / "admin").exists()
    # Nothing of apt's own is changed.
    assert [file.name for file in (apt / "given").iterdir()] == ["admin"]


@pytest.mark.slow
def test_a_host_whose_packages_cannot_be_had_again_is_refused(apt: Path) -> None:
    (apt / "gone").touch()
    told = fetch(apt)
    assert told.returncode != 0
    assert "it could not go back; nothing was touched" in told.stdout
    assert "find a source to download" in told.stdout


def test_packages_are_fetched_in_preflight_and_never_in_check_mode() -> None:
    tasks = yaml.safe_load((TASKS / "preflight.yml").read_text(encoding="utf-8"))
    (fetched,) = (
        task for task in tasks if "fetched_" in str(task.get("ansible.builtin.include_tasks"))
    )
    assert "not ansible_check_mode" in fetched["when"]
    patch = (PLAYBOOKS / "tasks/host.yml").read_text(encoding="utf-8")
    assert patch.index("preflight.yml") < patch.index("patch.yml")
    # An installation reads the lists of the preflight.
    for file in TASKS.glob("install_*.yml"):
        assert "update_cache" not in file.read_text(encoding="utf-8")
