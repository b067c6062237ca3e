"""What a request to the API server is about, in CEL: whose pool it is, and which kind of change."""

from typing import Final

from gpufleet.core import vocabulary as names
from gpufleet.core.freeze_state import ALL, NO_POOL
from gpufleet.spec.windows import ChangeKind

_WORKLOADS: Final = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "LeaderWorkerSet")
_LABELS: Final = "(has({0}.metadata) && has({0}.metadata.labels) ? {0}.metadata.labels : {{}})"
_TEMPLATES: Final = (
    f"variables.isScale || !(request.kind.kind in [{', '.join(map(repr, _WORKLOADS))}]) ? [] : "
    "request.kind.kind == 'LeaderWorkerSet' ? [o.spec.leaderWorkerTemplate.workerTemplate] + "
    "(has(o.spec.leaderWorkerTemplate.leaderTemplate) ? "
    "[o.spec.leaderWorkerTemplate.leaderTemplate] : []) : [o.spec.template]"
)
"""The pod templates of an object `o`."""
_REVISION: Final = f"'{names.REVISION_DIGEST}'"
_SERVED: Final = (
    "(t.spec.containers + (has(t.spec.initContainers) ? t.spec.initContainers : []))"
    ".map(c, has(c.image) ? c.image : '') + "
    f"(has(t.metadata) && has(t.metadata.annotations) && {_REVISION} in t.metadata.annotations ? "
    f"[t.metadata.annotations[{_REVISION}]] : [])"
)
"""What a pod template `t` serves: its images, and the digest of its revision."""
ANSWER: Final = (
    "(!has(params.data) ? 'frozen: the state of freezes cannot be read' : "
    "k + '.' + p in params.data ? params.data[k + '.' + p] : "
    "k in params.data ? params.data[k] : 'frozen: the state of freezes cannot be read')"
)
"""The answer for a kind `k` and a pool `p`; CEL has no clock and no calendar, but it has maps."""


def variables() -> dict[str, str]:
    """What a request is about: the pools that it touches, and the kinds of change that it is.

    A pool is told by its label on the object or on the pods that it makes, before or after; of a
    change of scale by the selector, else by the name. A workload of a pool whose images or revision
    change is released; if its size changes as well, it has to be open for both kinds.
    """
    return {
        "isScale": "has(request.subResource) && request.subResource == 'scale'",
        "states": "[object, oldObject].filter(o, o != null)",
        "templates": f"variables.states.map(o, {_TEMPLATES})",
        "labels": (
            f"variables.states.map(o, {_LABELS.format('o')}) + "
            "(variables.templates.size() > 0 ? variables.templates[0].map(t, "
            f"{_LABELS.format('t')}) : []) + (variables.templates.size() > 1 ? "
            f"variables.templates[1].map(t, {_LABELS.format('t')}) : [])"
        ),
        "named": (
            f"variables.labels.filter(l, '{names.POOL}' in l).map(l, string(l['{names.POOL}']))"
        ),
        "selected": (
            "variables.isScale && oldObject != null && has(oldObject.status) && "
            "has(oldObject.status.selector) ? oldObject.status.selector.split(',')"
            f".filter(s, s.startsWith('{names.POOL}=')).map(s, s.split('=')[1]) : []"
        ),
        "pools": (
            "variables.named.size() > 0 ? variables.named : "
            "variables.selected.size() > 0 ? variables.selected : "
            f"variables.isScale ? [request.name] : ['{NO_POOL}']"
        ),
        "images": f"variables.templates.map(ts, ts.map(t, {_SERVED}))",
        "isRelease": (
            "request.operation == 'UPDATE' && variables.named.size() > 0 && "
            "variables.images.size() == 2 && variables.images[0] != variables.images[1]"
        ),
        "isResized": (
            "object != null && oldObject != null && has(object.spec) && has(oldObject.spec) && "
            "(has(object.spec.replicas) ? object.spec.replicas : 1) != "
            "(has(oldObject.spec.replicas) ? oldObject.spec.replicas : 1)"
        ),
        "kinds": (
            f"request.resource.resource == 'namespaces' ? ['{ALL}'] : "
            f"!variables.isRelease ? ['{ChangeKind.STACKS}'] : variables.isResized ? "
            f"['{ChangeKind.RELEASE}', '{ChangeKind.STACKS}'] : ['{ChangeKind.RELEASE}']"
        ),
    }
