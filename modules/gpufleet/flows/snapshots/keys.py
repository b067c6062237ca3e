"""The keys that snapshots are encrypted, signed and trusted with, as the fleet file names them."""

import re
from pathlib import Path
from typing import Final

from blake3 import blake3

from gpufleet.core import vocabulary as names
from gpufleet.core.snapshots.signatures import (
    Signer,
    Trust,
    certificates_of,
    public_key_of,
    signer_of,
)
from gpufleet.edges.key_files import named_file, read_public, read_secret
from gpufleet.flows.ground import Ground
from gpufleet.flows.snapshots.store import KeyOfStore
from gpufleet.spec.errors import BadInput

_KEY: Final = re.compile(rb"[0-9a-fA-F]{64}")
_PRINT_DIGITS: Final = 8


def key_of(ground: Ground) -> KeyOfStore | None:
    """What chunks are encrypted with; None where the client does not encrypt.

    The key's ID in the store ends with a digest of it, so that another key of the same name is
    told from it before anything is read.

    Raises:
        BadInput: the file is not named, cannot be read, can be read by others, or holds no key.
    """
    keys = ground.fleet.snapshot_keys
    if keys.encryption_key is None:
        return None
    file = named_file(names.SNAPSHOT_KEY_VARIABLE, _beside(ground, keys.encryption_key_file))
    if file is None:
        raise BadInput(
            "names a key, and nothing names its file",
            where=f"{ground.fleet_file}: snapshot_keys.encryption_key",
            mend=f"set encryption_key_file or the variable {names.SNAPSHOT_KEY_VARIABLE}",
        )
    return _key_in(file, keys.encryption_key)


def key_for(key_id: str | None, *, where: str) -> KeyOfStore | None:
    """The key of a store where no fleet file is known: from the file that the variable names.

    Args:
        key_id: of the store's key, as its `format.json` says; None where it has none.
        where: the store, for the error.

    Raises:
        BadInput: the variable is not set, or its file cannot be read, can be read by others, or
            holds no key.
    """
    if key_id is None:
        return None
    file = named_file(names.SNAPSHOT_KEY_VARIABLE, None)
    if file is None:
        raise BadInput(
            f"its chunks are encrypted with the key `{key_id}`, and nothing names its file",
            where=where,
            mend=f"set the variable {names.SNAPSHOT_KEY_VARIABLE}",
        )
    return _key_in(file, key_id.rpartition(".")[0])


def _key_in(file: Path, name: str) -> KeyOfStore:
    content = read_secret(file).strip()
    if not _KEY.fullmatch(content):
        raise BadInput(
            "holds no key of 64 hexadecimal digits",
            where=str(file),
            mend="`openssl rand -hex 32` makes one",
        )
    key = bytes.fromhex(content.decode())
    shown = blake3(b"gpufleet snapshot key", key=key).hexdigest()[:_PRINT_DIGITS]
    return KeyOfStore(f"{name}.{shown}", key)


def signer_for(ground: Ground, file: Path | None = None) -> Signer | None:
    """Who signs takes; None where nobody does.

    Args:
        ground: of the environment.
        file: of the private key, before the one that the variable or the fleet file names.

    Raises:
        BadInput: a file cannot be read, can be read by others, or holds something else.
    """
    keys = ground.fleet.snapshot_keys
    named = file or named_file(names.SIGNING_KEY_VARIABLE, _beside(ground, keys.signing_key_file))
    if named is None:
        return None
    above = _beside(ground, keys.signing_certificates)
    chain = read_public(above) if above else b""
    return signer_of(read_secret(named), chain, where=str(named))


def trust_of(ground: Ground, key: Path | None = None, roots: Path | None = None) -> Trust | None:
    """Whose signatures count; None where nothing says so.

    Args:
        ground: of the environment.
        key: a public key, in place of what the fleet file names.
        roots: certificates of authorities, in place of what the fleet file names.

    Raises:
        BadInput: a file cannot be read, or holds something else.
    """
    keys = ground.fleet.snapshot_keys
    if key is None and roots is None:
        key = _beside(ground, keys.public_key)
        roots = _beside(ground, keys.certificate_authority)
    if key is None and roots is None:
        return None
    return Trust(
        public_key_of(read_public(key), where=str(key)) if key else None,
        certificates_of(read_public(roots), where=str(roots)) if roots else (),
    )


def demanded_trust(ground: Ground) -> Trust | None:
    """Whose signatures a restore asks for; None where it asks for none.

    Raises:
        BadInput: the fleet file demands signatures and does not say whose.
    """
    if not ground.fleet.snapshot_keys.signatures_required:
        return None
    trust = trust_of(ground)
    if trust is None:
        raise BadInput(
            "signatures are required, and nothing says whose count",
            where=f"{ground.fleet_file}: snapshot_keys.signatures_required",
            mend="set public_key or certificate_authority beside it",
        )
    return trust


def _beside(ground: Ground, path: str | None) -> Path | None:
    return ground.fleet_file.parent / path if path else None
