#!/usr/bin/python
"""Lets one patch at a time change a host: a file on it holds the highest token that was seen."""

import fcntl
import json
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: gpufleet_host_lock
short_description: Lets one patch at a time change a host
description:
  - >-
    Tokens of a site's lease only grow. A host remembers the highest that it has seen, so that a
    patch that has lost its lease, and does not know it yet, changes nothing more.
  - The file is below C(/run); a reboot empties it, and the patch that goes on locks it again.
options:
  path:
    description: The lock's file.
    type: path
    default: /run/gpufleet/patch.json
  flow:
    description: Who changes the host.
    type: str
    required: true
  fence:
    description: The token of its lease; 0 in check mode, where nobody holds one.
    type: int
    default: 0
  state:
    description: C(held) to take the lock or keep it, C(released) to give it back.
    type: str
    choices: [held, released]
    default: held
author: gpufleet
"""

RETURN = """
boot_id:
  description: Of the boot that the host is in.
  returned: always
  type: str
before:
  description: What the file held; empty where there was none.
  returned: always
  type: dict
"""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def wanted(before, flow, fence, state, boot_id):
    """What the file is to hold, and why not; one of the two is empty.

    Args:
        before: what it holds; empty where there is none.
        flow: who asks.
        fence: its token; 0 in check mode.
        state: held or released.
        boot_id: of this boot.
    """
    known = before.get("fence", 0)
    is_ours = before.get("flow") == flow
    if not fence:
        if before.get("held") and not is_ours:
            return {}, f"is being changed by {before['flow']} (token {known})"
        return before, ""
    if fence < known or (fence == known and before.get("flow") and not is_ours):
        return {}, (
            f"token {fence} of {flow} is too old: {before['flow']} has changed this host with "
            f"token {known}; nothing more is done here"
        )
    return {"flow": flow, "fence": fence, "boot_id": boot_id, "held": state == "held"}, ""


def main():
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/run/gpufleet/patch.json"},
            "flow": {"type": "str", "required": True},
            "fence": {"type": "int", "default": 0},
            "state": {"type": "str", "choices": ["held", "released"], "default": "held"},
        },
        supports_check_mode=True,
    )
    file = Path(module.params["path"])
    boot_id = BOOT_ID.read_text(encoding="ascii").strip()
    asked = (module.params["flow"], module.params["fence"], module.params["state"], boot_id)
    try:
        if module.check_mode:
            before = read(file)
            after, why_not = wanted(before, *asked)
        else:
            before, after, why_not = exchange(file, asked)
    except OSError as error:
        module.fail_json(msg=f"{file}: the host's lock cannot be kept: {error}")
    if why_not:
        module.fail_json(msg=why_not, before=before, boot_id=boot_id)
    module.exit_json(changed=after != before, before=before, boot_id=boot_id)


def exchange(file, asked):
    """Read, decide and write under a lock of the system."""
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (file.parent / f".{file.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        before = read(file)
        after, why_not = wanted(before, *asked)
        if not why_not and after != before:
            temporary = file.with_name(f".{file.name}.new")
            with temporary.open("w", encoding="ascii") as written:
                json.dump(after, written)
                written.flush()
                os.fsync(written.fileno())
            temporary.replace(file)
    return before, after, why_not


def read(file):
    """What a file holds; empty where there is none, or one that was cut short."""
    try:
        held = json.loads(file.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


if __name__ == "__main__":
    main()
