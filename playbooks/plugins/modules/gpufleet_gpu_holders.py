"""Ansible module: which processes of a host have a GPU open."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gpufleet_gpu_holders
short_description: Tells which processes have a GPU open
description:
  - Reads /proc; needs root to see the processes of others. Changes nothing.
options:
  devices:
    description: What the paths of the devices begin with.
    type: str
    default: /dev/nvidia
author: gpufleet (@gpufleet)
"""

EXAMPLES = r"""
- name: Ask who has a GPU open
  gpufleet_gpu_holders:
  register: holders
"""

RETURN = r"""
processes:
  description: One entry for each process, with C(pid), C(name), C(devices) and C(shown).
  type: list
  elements: dict
  returned: always
"""


def holders(proc: Path, devices: str) -> list[dict[str, object]]:
    """Processes with an open file or a mapping below a prefix, by number."""
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        opened = sorted(path for path in _open(folder) if path.startswith(devices))
        if opened:
            name = _name(folder)
            found.append(
                {
                    "pid": int(folder.name),
                    "name": name,
                    "devices": opened,
                    "shown": f"{name} ({folder.name})",
                }
            )
    return sorted(found, key=lambda entry: int(str(entry["pid"])))


def _open(process: Path) -> set[str]:
    """Paths that a process has open; none of one that ends meanwhile."""
    paths = set()
    try:
        for descriptor in (process / "fd").iterdir():
            try:
                paths.add(str(descriptor.readlink()))
            except OSError:
                continue
        for line in (process / "maps").read_text(errors="replace").splitlines():
            fields = line.split(None, 5)
            if len(fields) > 5:  # noqa: PLR2004 - the path is the sixth field of proc_pid_maps(5)
                paths.add(fields[5])
    except OSError:
        return paths
    return paths


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        argument_spec={"devices": {"type": "str", "default": "/dev/nvidia"}},
        supports_check_mode=True,
    )
    module.exit_json(changed=False, processes=holders(Path("/proc"), module.params["devices"]))


if __name__ == "__main__":
    main()
