"""update-grub: which of the installed kernels the next boot starts."""

import re
import subprocess
from typing import Final

from tests.hosts.stubs import state
from tests.hosts.stubs.output import say

_IMAGE: Final = "linux-image-"
_TITLE: Final = "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux "
_DEFAULT: Final = """\
GRUB_DISTRIBUTOR=Debian GRUB_DEFAULT=0
for file in /etc/default/grub.d/*.cfg; do [ ! -e "$file" ] || . "$file"; done
printf %s "$GRUB_DEFAULT"
"""
"""As grub-mkconfig reads its settings."""


def update_grub(_arguments: list[str]) -> int:
    """The kernel of the default title, or the newest where there is no such title."""
    state.require_root("update-grub")
    kernels = [file.name.removeprefix(_IMAGE) for file in state.INSTALLED.glob(f"{_IMAGE}*")]
    kernels.sort(key=lambda release: [int(part) for part in re.findall(r"\d+", release)])
    told = subprocess.run(["/bin/sh", "-c", _DEFAULT], capture_output=True, text=True, check=True)
    wanted = told.stdout.removeprefix(_TITLE)
    chosen = wanted if wanted in kernels else kernels[-1]
    state.STATE.mkdir(parents=True, exist_ok=True)
    (state.STATE / "next_kernel").write_text(f"{chosen}\n", encoding="utf-8")
    say(f"Found linux image: /boot/vmlinuz-{chosen}")
    return 0
