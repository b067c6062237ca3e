"""How a pod that restores snapshots reaches the object store, as plain Kubernetes data."""

from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.weights import StoreAccess

_FILES: Final = "/run/secrets/artifacts"
_VOLUME: Final = "artifact-files"
_VARIABLES: Final = {
    names.SNAPSHOT_KEY: names.SNAPSHOT_KEY_VARIABLE,
    names.SIGNING_KEY: names.SIGNING_KEY_VARIABLE,
    names.STORE_AUTHORITY: "AWS_CA_BUNDLE",
}


def arguments(store: StoreAccess | None) -> list[str]:
    """Where the store is; nothing where none is declared: then AWS's variables say it."""
    if store is None:
        return []
    return [
        f"--endpoint={store.endpoint}",
        f"--region={store.region}",
        f"--style={store.style.value}",
    ]


def environment(files: tuple[str, ...]) -> dict[str, Any]:
    """`env` and `envFrom` of the container.

    Args:
        files: keys of the Secret that it needs as files.
    """
    home = {"name": "HOME", "value": "/tmp"}  # noqa: S108 - the pod's own folder
    return {
        "env": [home, *variables(files)],
        "envFrom": [{"secretRef": {"name": names.ARTIFACT_STORE, "optional": True}}],
    }


def variables(files: tuple[str, ...]) -> list[dict[str, str]]:
    """Which of these files is what."""
    return [{"name": _VARIABLES[each], "value": f"{_FILES}/{each}"} for each in files]


def mounts(files: tuple[str, ...]) -> list[dict[str, Any]]:
    """The container's mounts of these files."""
    return [{"name": _VOLUME, "mountPath": _FILES, "readOnly": True}] if files else []


def volumes(files: tuple[str, ...]) -> list[dict[str, Any]]:
    """The pod's volumes for them."""
    if not files:
        return []
    items = [{"key": each, "path": each, "mode": 0o400} for each in files]
    secret = {"secretName": names.ARTIFACT_FILES, "optional": True, "items": items}
    return [{"name": _VOLUME, "secret": secret}]
