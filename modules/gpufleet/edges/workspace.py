"""Where things are: the project, its state under `.fleet/`, and the user's cache."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from gpufleet.spec.errors import BadInput, Failed
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plan_file import PLAN_SUFFIX

PROJECT_ROOT: Final = Path(__file__).resolve().parents[3]
STATE_FOLDER: Final = ".fleet"
PRIVATE: Final = 0o700
DATABASE_URL_VARIABLE: Final = "GPUFLEET_DATABASE_URL"
PASSPHRASE_VARIABLE: Final = "GPUFLEET_PASSPHRASE_FILE"  # noqa: S105 - a name, not a secret
"""Names a file with the passphrase that the stacks' states are encrypted with, made elsewhere."""
DATABASE_URL_FILE: Final = "database.url"
"""Keeps the variable's value for processes that do not inherit it; mode 0600."""


def cache_dir() -> Path:
    """The user's cache of built engines: made once for each machine, not for each clone."""
    if given := os.environ.get("GPUFLEET_CACHE"):
        return Path(given).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "gpufleet"


@dataclass(frozen=True)
class EnvironmentDir:
    """The state of one environment on this machine: `.fleet/NAME/ENVIRONMENT`, mode 0700."""

    root: Path

    @property
    def kubeconfig(self) -> Path:
        """One context for each embedded site, named like the site; mode 0600."""
        return self.root / "kubeconfig"

    @property
    def pulumi_home(self) -> Path:
        """Pulumi's own folder, with its plugins."""
        return self.root / "pulumi" / "home"

    @property
    def pulumi_state(self) -> Path:
        """The file backend."""
        return self.root / "pulumi" / "state"

    @property
    def passphrase_file(self) -> Path:
        """Encrypts the secrets in stack states; mode 0600."""
        return self.root / "pulumi" / "passphrase"

    @property
    def gateway(self) -> Path:
        """What the processes of the embedded gateway share; mode 0700."""
        return self.root / "gateway"

    @property
    def patches(self) -> Path:
        """What playbooks of patches left, by flow and batch; mode 0700."""
        return self.root / "patches"

    @property
    def logs(self) -> Path:
        """Logs of processes and tasks."""
        return self.root / "logs"

    def site(self, name: str) -> Path:
        """State of one embedded site."""
        return self.root / "sites" / name

    def ports(self, site: str | None = None) -> Path:
        """The loopback ports of an embedded site by name, or of what all sites share; JSON."""
        return (self.site(site) if site else self.root) / "ports.json"

    def port(self, site: str, process: str) -> int:
        """The loopback port of one process of an embedded site.

        Raises:
            Failed: the site was never up.
        """
        try:
            return int(json.loads(self.ports(site).read_text(encoding="utf-8"))[process])
        except (OSError, ValueError, KeyError):
            raise Failed(
                f"{process} has no port yet", where=f"site {site}", mend="run ./fleet up"
            ) from None

    def shared_port(self, process: str) -> int:
        """The loopback port of one process that all embedded sites share.

        Raises:
            Failed: the platform was never up.
        """
        try:
            return int(json.loads(self.ports().read_text(encoding="utf-8"))[process])
        except (OSError, ValueError, KeyError):
            raise Failed(f"{process} has no port yet", mend="run ./fleet up") from None

    def make(self) -> Self:
        """Create the folder and its private parts."""
        for folder in (
            self.root,
            self.root / "pulumi",
            self.pulumi_state,
            self.pulumi_home,
            self.logs,
        ):
            folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
            folder.chmod(PRIVATE)
        return self


@dataclass(frozen=True)
class Workspace:
    """A clone of the project."""

    root: Path

    @classmethod
    def here(cls) -> Self:
        """The clone that this code is running from."""
        return cls(PROJECT_ROOT)

    @property
    def state(self) -> Path:
        """Everything that this clone keeps; may be removed when nothing runs."""
        return self.root / STATE_FOLDER

    @property
    def default_fleet(self) -> Path:
        """The fleet file that tasks use where none is named."""
        return self.root / "fleets" / "sample" / "production.yaml"

    def for_fleet(self, fleet: Fleet) -> EnvironmentDir:
        """Where the state of a fleet's environment is."""
        return EnvironmentDir(self.state / fleet.fleet / fleet.environment)

    def stack_folder(self, project: str) -> Path:
        """The folder of a Pulumi project: `platform` or `pools`."""
        return self.root / "stacks" / project

    def stack_config(self, project: str, name: str) -> Path:
        """The configuration of one stack: the salt of its passphrase, no secret in clear."""
        return self.state / "stacks" / project / f"Pulumi.{name}.yaml"

    @property
    def playbooks(self) -> Path:
        """The folder of the playbooks, with `ansible.cfg` and the inventory."""
        return self.root / "playbooks"

    def find_fleet(self, given: str | None) -> Path:
        """A fleet file as people name it: by path from here, or from the project's root.

        Raises:
            BadInput: there is no such file.
        """
        if given is None:
            return self.default_fleet
        for candidate in (Path(given), self.root / given):
            if candidate.is_file():
                return candidate.resolve()
        known = sorted(
            str(path.relative_to(self.root))
            for path in (self.root / "fleets").glob("*/*.yaml")
            if not path.name.endswith(PLAN_SUFFIX)
        )
        raise BadInput("no such fleet file", where=given, mend="there are: " + ", ".join(known))
