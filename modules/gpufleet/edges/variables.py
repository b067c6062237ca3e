"""The variables with which plain tools see an environment."""

import os
from pathlib import Path
from typing import Final

from gpufleet.edges.ansible_collections import collections_path
from gpufleet.edges.workspace import EnvironmentDir, Workspace

BACKEND_VARIABLE: Final = "PULUMI_BACKEND_URL"


def variables_for(
    workspace: Workspace,
    state: EnvironmentDir,
    fleet_file: Path,
    *,
    embedded: bool,
    existing: bool,
) -> dict[str, str]:
    """The variables with which plain `pulumi`, `kubectl` and `ansible-playbook` see a fleet.

    Args:
        workspace: the clone.
        state: the environment's state.
        fleet_file: what Ansible's inventory reads.
        embedded: whether it has sites that gpufleet runs itself.
        existing: whether it has clusters of the caller's own kubeconfig.
    """
    paths = [str(workspace.state / "bin"), str(workspace.root / ".venv" / "bin")]
    inherited = [part for part in os.environ.get("PATH", "").split(os.pathsep) if part not in paths]
    variables = {
        "PATH": os.pathsep.join([*paths, *inherited]),
        "PULUMI_HOME": str(state.pulumi_home),
        BACKEND_VARIABLE: backend_url(state.pulumi_state),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(state.passphrase_file),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_IGNORE_AMBIENT_PLUGINS": "true",
        "PULUMI_DISABLE_REGISTRY_RESOLVE": "true",
        "GPUFLEET_FLEET": str(fleet_file),
    }
    settings = workspace.root / "playbooks" / "ansible.cfg"
    # An image carries none.
    if settings.is_file():
        variables["ANSIBLE_CONFIG"] = str(settings)
        variables["ANSIBLE_COLLECTIONS_PATH"] = str(collections_path())
    if embedded:
        ours = str(state.kubeconfig)
        own = own_kubeconfig().split(os.pathsep)
        others = [part for part in own if existing and part != ours]
        variables["KUBECONFIG"] = os.pathsep.join([ours, *others])
    return variables


def backend_url(folder: Path) -> str:
    """A folder as Pulumi's file backend."""
    # Without a file of attributes, and its checksum, beside each of thousands of checkpoints.
    return f"{folder.as_uri()}?metadata=skip"


def own_kubeconfig() -> str:
    """The caller's own kubeconfig, a path or a list of them: where kubectl would look."""
    return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
