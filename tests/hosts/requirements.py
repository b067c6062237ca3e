"""What a lab needs of a machine, and why it may not have it."""

import os
import shutil
import subprocess
import sys
from typing import Final

_PROGRAMS: Final = (
    *("apt-get", "dpkg-deb", "gpg", "ip", "mount", "nsenter", "setpriv", "ssh", "ssh-add"),
    *("ssh-agent", "ssh-keyscan", "umount", "unshare"),
)


def why_not() -> str:
    """Why no lab can be here, in a sentence; empty where one can."""
    if sys.platform != "linux":
        return "the hosts are Linux namespaces, and this is no Linux"
    if os.geteuid() != 0:
        return "the hosts need root: namespaces, mounts, a bridge"
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"the hosts need {', '.join(missing)}"
    probe = "mount -t tmpfs tmpfs /mnt && ip link add gf-probe type veth peer name gf-peer"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--", "sh", "-c", probe],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return f"the hosts need namespaces that this machine refuses: {tried.stderr.strip()[:200]}"
    return ""
