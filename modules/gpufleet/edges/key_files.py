"""Files that hold keys: read whole, and secret ones only where nobody else can read them."""

import os
import stat
from pathlib import Path
from typing import Final

from gpufleet.spec.errors import BadInput

_BYTES_MAX: Final = 2**20


def named_file(variable: str, declared: Path | None) -> Path | None:
    """The file that a variable of the environment names, else the one that is declared."""
    given = os.environ.get(variable)
    return Path(given) if given else declared


def read_public(file: Path) -> bytes:
    """A file that everybody may read.

    Raises:
        BadInput: it cannot be read, or is far too long for a key.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_BYTES_MAX + 1)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(file)) from None
    if len(content) > _BYTES_MAX:
        raise BadInput("is no file of a key: it is longer than 1 MiB", where=str(file))
    return content


def read_secret(file: Path) -> bytes:
    """A file that only its owner may read, or we by our group where it is not ours.

    The latter is how Kubernetes gives a Secret to a pod that does not run as root.

    Raises:
        BadInput: others may, it cannot be read, or is far too long for a key.
    """
    content = read_public(file)
    details = file.stat()
    by_group = 0o040 if details.st_uid != os.geteuid() else 0
    if stat.S_IMODE(details.st_mode) & 0o077 & ~by_group:
        raise BadInput("others can read this key", where=str(file), mend=f"chmod 600 {file}")
    return content
