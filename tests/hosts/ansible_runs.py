"""One Ansible module on hosts of the lab, as a role would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hosts.debian_root import USER
from tests.hosts.lab import Lab


def module(lab: Lab, host: str, which: str, /, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """Run a module as root, over SSH with the host's key checked; its result."""
    inventory = {
        "all": {
            "hosts": {
                host: {
                    "ansible_host": lab[host].address,
                    "ansible_user": USER,
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "ansible_ssh_common_args": (
                        f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={lab.known_hosts}"
                    ),
                }
            }
        }
    }
    file = lab.folder / f"inventory-{host}.json"
    file.write_text(json.dumps(inventory), encoding="utf-8")
    results = lab.folder / "results"
    (results / host).unlink(missing_ok=True)
    command = [str(Path(sys.executable).with_name("ansible")), "--tree", str(results)]
    done = subprocess.run(
        [*command, "-i", str(file), host, "-b", "-m", which, "-a", json.dumps(arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=lab.folder,
        env={
            **os.environ,
            **lab.environment,
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_HOME": str(lab.folder / "ansible"),
        },
    )
    assert (results / host).is_file(), done.stdout + done.stderr
    result: dict[str, Any] = json.loads((results / host).read_text(encoding="utf-8"))
    return result
