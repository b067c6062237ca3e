"""The way of a pool's pods to their node's cache, as plain Kubernetes data.

Pod Security `restricted` allows no host path, but a claim. One volume for all nodes: on each it is
that node's own folder, with what was restored there. That is meant: pods verify what they find, and
fetch what is not there.
"""

from typing import Any, Final

from gpufleet.core import vocabulary as names

# Nobody provisions it and nothing measures it, but both have to name a size.
_SIZE: Final = {"storage": "1Gi"}
_MODES: Final = ("ReadOnlyMany",)


def volume(namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    """The PersistentVolume for the claim of a namespace."""
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": _name(namespace), "labels": labels},
        "spec": {
            "capacity": dict(_SIZE),
            "accessModes": [*_MODES],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": names.CACHE_FOLDER, "type": "DirectoryOrCreate"},
            "claimRef": {**claim, "namespace": namespace, "name": names.NODE_CACHE},
        },
    }


def claim(namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    """The claim of a namespace, which its pods name."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": names.NODE_CACHE, "namespace": namespace, "labels": labels},
        "spec": {
            "accessModes": [*_MODES],
            "storageClassName": "",
            "volumeName": _name(namespace),
            "resources": {"requests": dict(_SIZE)},
        },
    }


def _name(namespace: str) -> str:
    return f"{namespace}-{names.NODE_CACHE}"
