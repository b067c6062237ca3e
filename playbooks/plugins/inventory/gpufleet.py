"""Ansible's inventory of a fleet: groups by site, rack, pool, GPU type, wave and state."""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.vars import load_extra_vars

try:
    from gpufleet.core.patching.hosts import why_no_wave
    from gpufleet.core.patching.nodes import PATIENCE
    from gpufleet.edges.workspace import Workspace
    from gpufleet.flows.hosts import read_inventory
    from gpufleet.spec.errors import FleetError
except ImportError as error:
    raise AnsibleParserError(
        f"gpufleet cannot be imported ({error}): playbooks run in gpufleet's own environment,"
        ' after eval "$(./fleet env)"'
    ) from error

DOCUMENTATION = """
name: gpufleet
short_description: Hosts and groups of a gpufleet fleet file
description:
  - Hosts are called like the nodes, C(GROUP-001).
  - >-
    Groups are C(site_*), C(rack_*), C(node_group_*), C(pool_*), C(gpu_type_*), C(state_*), and
    C(wave_*) of every host that can be patched, by what the fleet file declares.
options:
  plugin:
    description: Selects this plugin.
    type: str
    required: true
    choices: [gpufleet]
  fleet:
    description: >-
      Path of the fleet file, from here or from the project's folder; the sample's production
      where it is not given.
    type: str
    default: ""
    env:
      - name: GPUFLEET_FLEET
"""


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]  # Ansible ships no types
    """Reads the fleet file, and what the environment's database remembers of its hosts."""

    NAME = "gpufleet"

    def verify_file(self, path: str) -> bool:
        """Whether a file may be one that selects this plugin."""
        return bool(super().verify_file(path)) and Path(path).name.startswith("gpufleet.")

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 - Ansible's own signature
        """Fill Ansible's inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        workspace = Workspace.here()
        try:
            fleet_file = workspace.find_fleet(self.get_option("fleet") or None)
            found = read_inventory(workspace, fleet_file)
        except FleetError as error:
            raise AnsibleParserError(str(error)) from error
        # Ansible itself would only say that no host matches.
        wave = load_extra_vars(loader=loader).get("wave")
        if wave is not None and (why := why_no_wave(found, str(wave))):
            raise AnsibleParserError(f"{fleet_file}: {why}")
        inventory.set_variable("all", "gpufleet_fleet_file", str(fleet_file))
        for name, count in PATIENCE.items():
            inventory.set_variable("all", name, count)
        for group in found.groups:
            inventory.add_group(group)
        for host in found.hosts.values():
            inventory.add_host(host.name)
            for name, value in host.variables.items():
                inventory.set_variable(host.name, name, value)
            if host.left_out:
                self.display.vv(f"{host.name} cannot be patched: {host.left_out}")
        for group, members in found.groups.items():
            for member in members:
                inventory.add_host(member, group=group)
