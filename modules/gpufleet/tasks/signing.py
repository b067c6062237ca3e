"""The flags of everybody who signs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpufleet.flows.approvals import Signer

IDENTITY_HELP = "Identity of the fleet file that signs."
KEY_HELP = "SSH key that it signs with; a public one asks the agent. Default: ~/.ssh/id_ed25519."


def signer(identity: str, key: str) -> "Signer | None":
    """Who signs, as the flags say; None where nobody does."""
    from pathlib import Path

    from gpufleet.flows.approvals import Signer

    if not identity:
        return None
    return Signer(identity, Path(key or "~/.ssh/id_ed25519").expanduser())


def required(given: "Signer | None") -> "Signer":
    """The one who signs.

    Raises:
        BadInput: nobody does.
    """
    from gpufleet.spec.errors import BadInput

    if given is None:
        raise BadInput(
            "somebody has to sign",
            where="--identity",
            mend="name an identity of the fleet file: --identity NAME --key FILE",
        )
    return given
