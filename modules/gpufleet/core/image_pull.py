"""The engine's image on every node of a group, before a replica is started there."""

from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.serving import PoolAtSite

PULLS: Final = f"{names.GROUP}/pulls"
"""Label of the pods: a pool's own label would make them replicas."""
_CPU: Final = "1m"
_MEMORY: Final = "16Mi"


def daemon_set(pool: PoolAtSite) -> dict[str, Any]:
    """The spec of a DaemonSet whose pods hold the engine's image and do nothing.

    A container that runs keeps its image from the kubelet's garbage collection, which a pulled
    image alone would not be. Weights cannot be had ahead in the same way: a pod's emptyDir ends
    with it, and the `restricted` Pod Security level allows no host path, so that each replica
    restores its own; `Prewarm.lead_s` has the time for it.
    """
    labels = {PULLS: pool.name}
    return {
        "selector": {"matchLabels": labels},
        # They serve nobody: all at once.
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
        "template": {
            "metadata": {
                "labels": {
                    **labels,
                    names.FLEET: pool.labels[names.FLEET],
                    names.CLASS: pool.class_.value,
                }
            },
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": 1,
                "nodeSelector": {names.NODE_GROUP: pool.group_name},
                "tolerations": [
                    {"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}
                ],
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": names.IMAGE_USER,
                    "runAsGroup": names.IMAGE_USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "image",
                        "image": pool.model.engine.image,
                        "command": ["sleep", "infinity"],
                        "resources": {
                            "requests": {"cpu": _CPU, "memory": _MEMORY},
                            "limits": {"memory": _MEMORY},
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            },
        },
    }
