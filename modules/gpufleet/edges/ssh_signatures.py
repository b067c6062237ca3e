"""Signatures by `ssh-keygen -Y`: plain SSH keys, so that agents and hardware keys work as well."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gpufleet.spec.errors import BadInput, Failed

_SIGN_WITHIN_S: Final = 120
"""A hardware key waits for a touch, and a person for the passphrase prompt."""
_VERIFY_WITHIN_S: Final = 20


def sign(statement: bytes, key: Path, namespace: str) -> str:
    """An armored signature.

    Args:
        statement: what is signed.
        key: a private key; or a public one, whose private part an SSH agent or a token holds.
        namespace: what the signature is for: one for something else never passes.

    Raises:
        BadInput: the key cannot be read.
        Failed: ssh-keygen is missing, or was not given the passphrase, or the touch.
    """
    if not key.is_file():
        raise BadInput("no such key file", where=str(key), mend="name one with --key")
    try:
        result = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", namespace],  # noqa: S607 - OpenSSH's own, from PATH
            input=statement,
            capture_output=True,
            timeout=_SIGN_WITHIN_S,
            check=False,
        )
    except FileNotFoundError:
        raise _missing() from None
    except subprocess.TimeoutExpired:
        raise Failed(f"ssh-keygen did not sign in {_SIGN_WITHIN_S} s", where=str(key)) from None
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise Failed(
            f"ssh-keygen could not sign: {said[-1][:200] if said else 'no reason given'}",
            where=str(key),
            mend="is the key in the agent (ssh-add -l), or its token plugged in?",
        )
    return result.stdout.decode()


def is_signed(
    statement: bytes, signature: str, *, keys: Sequence[str], namespace: str, identity: str
) -> bool:
    """Whether one of an identity's public keys has signed a statement for this purpose.

    Raises:
        Failed: ssh-keygen is missing or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="gpufleet-") as folder:
        allowed, armored = Path(folder, "allowed"), Path(folder, "signature")
        allowed.write_text(
            "".join(f'{identity} namespaces="{namespace}" {key}\n' for key in keys), "utf-8"
        )
        armored.write_text(signature, "utf-8")
        command = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-s", str(armored)]
        try:
            result = subprocess.run(
                [*command, "-I", identity, "-n", namespace],
                input=statement,
                capture_output=True,
                timeout=_VERIFY_WITHIN_S,
                check=False,
            )
        except FileNotFoundError:
            raise _missing() from None
        except subprocess.TimeoutExpired:
            raise Failed(f"ssh-keygen did not answer in {_VERIFY_WITHIN_S} s") from None
    return result.returncode == 0


def _missing() -> Failed:
    return Failed(
        "ssh-keygen is not on PATH", mend="install OpenSSH (Debian: apt-get install openssh-client)"
    )
