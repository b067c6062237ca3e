#!/usr/bin/python
"""What a host's own tools say of its GPUs, in one round trip; nothing is judged here."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: gpufleet_gpu_facts
short_description: What a host's own tools say of its GPUs
description:
  - >-
    Runs nvidia-smi, systemctl and the kernel log, initialises CUDA, looks at the PCI bus, asks
    the container runtime and its toolkit whether they are ready, and where they are asked for
    C(dcgmi diag) and C(all_reduce_perf) of nccl-tests.
  - The first two lists are the fields that nvidia-smi is asked for.
options:
  query:
    description: Fields of C(--query-gpu).
    type: list
    elements: str
    default: []
  rows:
    description: Fields of C(--query-remapped-rows).
    type: list
    elements: str
    default: []
  settling:
    description: Whether only what tells that the host is still starting is asked.
    type: bool
    default: false
  diagnostics:
    description: Level of C(dcgmi diag), 1 to 4; 0 runs none.
    type: int
    default: 0
  collective:
    description: Program of nccl-tests that is run over all GPUs; empty runs none.
    type: str
    default: ""
  timeout_s:
    description: Longest time of one command, s; the diagnostics have their own.
    type: int
    default: 60
  diagnostics_timeout_s:
    description: Longest time of the diagnostics, and of the collective, s.
    type: int
    default: 1200
author: gpufleet
"""

RETURN = """
said:
  description: Exit code, output and errors of each command; 127 where the host does not have it.
  returned: always
  type: dict
"""

NOT_THERE = 127
TOO_LONG = 124
MOST = 2**18
MOST_LOG = 2**26
XID = "NVRM: Xid"
PCI = Path("/sys/bus/pci/devices")
CUDA = """
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    sys.stderr.write(str(error))
    sys.exit(127)
count = ctypes.c_int()
code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
if code:
    sys.stderr.write("CUDA error %d" % code)
    sys.exit(1)
sys.stdout.write(str(count.value))
"""


def main():
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "query": {"type": "list", "elements": "str", "default": []},
            "rows": {"type": "list", "elements": "str", "default": []},
            "settling": {"type": "bool", "default": False},
            "diagnostics": {"type": "int", "default": 0},
            "collective": {"type": "str", "default": ""},
            "timeout_s": {"type": "int", "default": 60},
            "diagnostics_timeout_s": {"type": "int", "default": 1200},
        },
        supports_check_mode=True,
    )
    asked = module.params
    form = "--format=csv,noheader,nounits"
    query, rows = (",".join(asked[name]) for name in ("query", "rows"))
    short, long = asked["timeout_s"], asked["diagnostics_timeout_s"]
    said = {
        "system": run(["systemctl", "is-system-running"], short),
        "fabric_state": run(["systemctl", "is-active", "nvidia-fabricmanager"], short),
        "fabric": run(["nvidia-smi", "-q"], short),
        "switches": switches(),
        # In a process of its own: a driver that hangs would take this one with it.
        "cuda": run([sys.executable, "-c", CUDA], short),
    }
    if asked["settling"]:
        module.exit_json(changed=False, said=said)
    said |= {
        "query": run(["nvidia-smi", "--query-gpu=" + query, form], short),
        "rows": run(["nvidia-smi", "--query-remapped-rows=" + rows, form], short),
        "links": run(["nvidia-smi", "nvlink", "--status"], short),
        "fabric_version": package("nvidia-fabricmanager", short),
        "kernel_log": xids(short),
        "runtime": run(["crictl", "info"], short),
        "toolkit": run(["nvidia-container-cli", "info"], short),
    }
    if asked["diagnostics"]:
        said["diagnostics"] = run(
            ["dcgmi", "diag", "-r", str(asked["diagnostics"]), "--json"], long
        )
    if asked["collective"]:
        count = max(1, len(said["query"]["out"].splitlines()))
        said["collective"] = run(
            [asked["collective"], "-b", "1G", "-e", "1G", "-g", str(count)], long
        )
    module.exit_json(changed=False, said=said)


def switches():
    """How many NVSwitches are on the PCI bus: vendor 0x10de, class 0x0680."""
    try:
        found = [
            ((device / "vendor").read_text().strip(), (device / "class").read_text().strip())
            for device in PCI.iterdir()
        ]
    except OSError as error:
        return {"code": NOT_THERE, "out": "", "error": str(error)}
    count = sum(vendor == "0x10de" and kind.startswith("0x0680") for vendor, kind in found)
    return {"code": 0 if found else NOT_THERE, "out": str(count), "error": ""}


def package(name, timeout_s):
    """The version of an installed package, by whichever package manager the host has."""
    shown = "--showformat=${db:Status-Status} ${Version}"
    debian = run(["dpkg-query", "--show", shown, name], timeout_s)
    if debian["code"] == 0:
        status, _, version = debian["out"].partition(" ")
        return {**debian, "code": 0 if status == "installed" else 1, "out": version}
    return run(["rpm", "--query", "--queryformat", "%{VERSION}", name], timeout_s)


def xids(timeout_s):
    """The lines that matter of the kernel log since the boot.

    From both places: the kernel's own buffer forgets, and the journal may not have been kept.
    """
    journal = run(["journalctl", "--dmesg", "--boot", "--no-pager"], timeout_s, MOST_LOG)
    kernel = run(["dmesg"], timeout_s, MOST_LOG)
    lines = Counter()
    for answer in (journal, kernel):
        if answer["code"] == 0:
            told = [line for line in answer["out"].splitlines() if XID in line]
            # What both of them have was said once.
            lines |= Counter(line[line.index(XID) :] for line in told)
    return {
        "code": min(journal["code"], kernel["code"]),
        "out": "\n".join(sorted(lines.elements())[:1000]),
        "error": kernel["error"],
    }


def run(command, timeout_s, most=MOST):
    """Exit code, output and errors of a command."""
    program = shutil.which(command[0])
    if program is None:
        return {"code": NOT_THERE, "out": "", "error": command[0] + " is not on the host"}
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"code": TOO_LONG, "out": "", "error": f"no answer within {timeout_s} s"}
    except OSError as error:
        return {"code": NOT_THERE - 1, "out": "", "error": str(error)}
    # A signal's code is negative, and no success.
    return {"code": abs(done.returncode), "out": done.stdout[:most], "error": done.stderr[-2000:]}


if __name__ == "__main__":
    main()
