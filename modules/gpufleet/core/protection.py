"""Protected sets: what their own file says, what points to what, and that no secret is in clear."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from gpufleet.core.snapshots.stored_json import broken, parsed, refuse_newer
from gpufleet.core.weights import source_of
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.protection import ProtectedSet

ELSEWHERE: Final = (
    "the passphrase of the stacks' states",
    "the object stores' access keys, and the client's key where a store has one",
    "the password of a PostgreSQL database",
    "the clusters' credentials (kubeconfig)",
    "the private keys of everybody who signs",
)
"""What a person keeps: whoever has the set alone can read no secret with it."""
_KIND: Final = "protected set"
_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
"""Key that marks a special value in Pulumi's states (`resource.SigKey` of its SDK)."""
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a mark, not a secret
"""Value of that key for a secret (`resource.SecretSig`)."""


def encode(found: ProtectedSet) -> bytes:
    """What `set.json` holds."""
    return found.model_dump_json(indent=2).encode()


def decode(content: bytes, *, where: str) -> ProtectedSet:
    """What `set.json` says.

    Raises:
        BadInput: it is of a newer format, or not as it was written.
    """
    refuse_newer(parsed(content, _KIND, where), _KIND, where)
    try:
        return ProtectedSet.model_validate_json(content)
    except ValidationError:
        raise broken(_KIND, where) from None


def plain_secrets(state: Mapping[str, Any]) -> list[str]:
    """URNs of the resources of a stack's state that have a secret in clear.

    Args:
        state: a checkpoint as Pulumi's file backend keeps it.
    """
    latest = (state.get("checkpoint") or {}).get("latest") or {}
    resources = latest.get("resources") or []
    return [
        str(resource.get("urn", ""))
        for resource in resources
        if any(_is_plain(value) for value in _below(resource))
    ]


def pointers(fleet: Fleet, built: Iterable[tuple[str, str]]) -> dict[str, object]:
    """What an environment refers to by digest, and whose signatures it takes.

    Args:
        fleet: it.
        built: name and digest of each image that was built here.
    """
    images = {"gpufleet": fleet.images.gpufleet}
    if fleet.images.gateway:
        images["gateway"] = fleet.images.gateway
    models = {
        name: {
            "digest": revision.digest,
            "source": str(source_of(fleet, name)),
            "engine": revision.engine.image,
        }
        for name, revision in fleet.models.items()
    }
    signers = {name: list(identity.ssh_keys) for name, identity in fleet.identities.items()}
    return {
        "images": images,
        "built": dict(built),
        "models": models,
        "image_sources": list(fleet.governance.image_sources),
        "signers": signers,
    }


def tightest_rpo(fleet: Fleet) -> timedelta:
    """The shortest recovery point objective of a fleet's use cases."""
    return timedelta(seconds=min(case.rpo_s for case in fleet.use_cases.values()))


def age_of(at: datetime, now: datetime) -> timedelta:
    """How old a recovery point is; one of the future is new."""
    return max(now - at, timedelta())


def _below(value: object) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a value, from outside in."""
    if isinstance(value, Mapping):
        yield value
        for each in value.values():
            yield from _below(each)
    elif isinstance(value, list):
        for each in value:
            yield from _below(each)


def _is_plain(value: Mapping[str, Any]) -> bool:
    return value.get(_SIGNATURE) == _SECRET and "ciphertext" not in value
