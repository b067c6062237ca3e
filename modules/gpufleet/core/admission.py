"""What may run in our namespaces, as admission policies that the API server itself enforces.

Plain Kubernetes data. CEL cannot ask anybody: what a fleet file declares reaches the policies in a
ConfigMap (`parameters`), and a binding without its ConfigMap denies. Our namespaces are selected by
the name that the API server writes on them, which nobody can take off.
"""

from typing import Any, Final

from gpufleet.core import vocabulary as names
from gpufleet.core.admission_objects import Check, Object, bound, pod_policy, policy, rule
from gpufleet.core.weights import source_of
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.serving import ServingClass

SHARED: Final = "shared"
"""Stands for team or use case where a pool serves several; `core/serving` writes it."""


_GPU_PREFIX: Final = names.GPU_RESOURCE.split("/")[0] + "/"
_KUEUE_GATE: Final = "kueue.x-k8s.io/"

_CONTAINERS: Final = (
    "(t.spec.containers + (has(t.spec.initContainers) ? t.spec.initContainers : []) + "
    "(has(t.spec.ephemeralContainers) ? t.spec.ephemeralContainers : []))"
)
_IMAGES: Final = (
    f"variables.templates.map(t, {_CONTAINERS}.map(c, has(c.image) ? c.image : '') + "
    "(has(t.spec.volumes) ? t.spec.volumes.filter(v, has(v.image)).map(v, "
    "has(v.image.reference) ? v.image.reference : '') : []))"
)
_ASKS_FOR_GPUS: Final = (
    f"({_CONTAINERS}.exists(c, has(c.resources) && "
    f"((has(c.resources.limits) && c.resources.limits.exists(r, r.startsWith('{_GPU_PREFIX}'))) || "
    "(has(c.resources.requests) && "
    f"c.resources.requests.exists(r, r.startsWith('{_GPU_PREFIX}'))))) || "
    "(has(t.spec.resourceClaims) && t.spec.resourceClaims.size() > 0))"
)
_DIGEST: Final = "@sha256:[0-9a-f]{64}$"


def parameters(fleet: Fleet) -> Object:
    """The ConfigMap that every policy below reads: what this fleet declares, lines of text."""
    groups = {class_: set[str]() for class_ in ServingClass}
    for pool in fleet.pools.values():
        groups[pool.class_].update(pool.placements)
    own = (fleet.images.gpufleet, fleet.images.gateway)
    images = [
        *(image for image in own if image),
        *(model.engine.image for model in fleet.models.values()),
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names.ADMISSION, "namespace": names.SYSTEM_NAMESPACE},
        "data": {
            # A repository ends at the `@` of its digest, a folder of a registry at its `/`.
            "images": _lines(
                [
                    *(f"{image.split('@')[0]}@" for image in images),
                    *(
                        source if source.endswith("/") else f"{source}@"
                        for source in fleet.governance.image_sources
                    ),
                ]
            ),
            "artifacts": _lines(str(source_of(fleet, model)) for model in fleet.models),
            "digests": _lines(model.digest for model in fleet.models.values()),
            "teams": _lines([*fleet.teams, SHARED]),
            "use-cases": _lines([*fleet.use_cases, SHARED]),
            **{f"node-groups.{class_}": _lines(found) for class_, found in groups.items()},
        },
    }


def policies() -> list[Object]:
    """Every policy of what may run, each followed by its binding."""
    made = [
        *(_sources(), _artifacts(), _ownership(), _isolation(), _privileges(), _cache()),
        _volumes(),
    ]
    return [each for policy in made for each in (policy, bound(policy))]


def _sources() -> Object:
    bad_tag = f"!i.matches('{_DIGEST}')"
    bad_source = "!variables.allowed.exists(s, i.startsWith(s))"
    return pod_policy(
        "gpufleet-image-sources",
        {"images": _IMAGES, "allowed": _given("images")},
        [
            Check(
                f"variables.images.all(found, !found.exists(i, {bad_tag}))",
                f"'gpufleet: images by digest only (name@sha256:...), not ' + {_shown(bad_tag)}",
            ),
            Check(
                f"variables.images.all(found, !found.exists(i, {bad_source}))",
                "'gpufleet: not from a declared source (images and governance.image_sources of the "
                f"fleet file): ' + {_shown(bad_source)}",
            ),
        ],
    )


def _artifacts() -> Object:
    """A pool's pods serve a declared revision, restored from its declared place by its digest."""
    digest = f"t.metadata.annotations['{names.REVISION_DIGEST}']"
    declared = (
        "has(t.metadata.annotations) && "
        f"'{names.REVISION_DIGEST}' in t.metadata.annotations && {digest} in variables.digests"
    )
    arguments = f"{_CONTAINERS}.exists(c, has(c.args) && c.args.exists(a, "
    restores = f"{arguments}a.startsWith('--source=')))"
    elsewhere = (
        f"{arguments}a.startsWith('--source=') && "
        "!variables.artifacts.exists(s, a == '--source=' + s)))"
    )
    by_digest = f"{arguments}a == '--digest=' + {digest}))"
    return pod_policy(
        "gpufleet-artifact-sources",
        {"digests": _given("digests"), "artifacts": _given("artifacts")},
        [
            Check(
                f"variables.templates.all(t, !{_is_of_pool('t')} || ({declared}))",
                "'gpufleet: a pod of a pool serves a revision that the fleet file declares, by its "
                f"digest in the annotation {names.REVISION_DIGEST}'",
            ),
            Check(
                f"variables.templates.all(t, !{_is_of_pool('t')} || !{restores} || "
                f"(!{elsewhere} && {by_digest}))",
                "'gpufleet: weights are restored from the declared source of their revision, by "
                "its digest'",
            ),
        ],
    )


def _ownership() -> Object:
    def labelled(label: str, known: str) -> str:
        return (
            f"(has(t.metadata.labels) && '{label}' in t.metadata.labels && "
            f"t.metadata.labels['{label}'] in variables.{known})"
        )

    owned = f"{labelled(names.TEAM, 'teams')} && {labelled(names.USE_CASE, 'useCases')}"
    return pod_policy(
        "gpufleet-gpu-ownership",
        {"teams": _given("teams"), "useCases": _given("use-cases")},
        [
            Check(
                f"variables.templates.all(t, !{_ASKS_FOR_GPUS} || ({owned}))",
                f"'gpufleet: who asks for GPUs names a declared team and use case in the labels "
                f"{names.TEAM} and {names.USE_CASE}'",
            )
        ],
    )


def _isolation() -> Object:
    """Batch and interactive work never meet: not in a namespace, and not on a node."""
    group = f"t.spec.nodeSelector['{names.NODE_GROUP}']"
    names_group = f"has(t.spec.nodeSelector) && '{names.NODE_GROUP}' in t.spec.nodeSelector"
    gated = (
        "has(t.spec.schedulingGates) && "
        f"t.spec.schedulingGates.exists(g, g.name.startsWith('{_KUEUE_GATE}'))"
    )
    queued = f"has(object.metadata.labels) && '{names.QUEUE}' in object.metadata.labels"
    has_owner = "has(object.metadata.ownerReferences) && object.metadata.ownerReferences.size() > 0"
    class_label = f"has(t.metadata.labels) && '{names.CLASS}' in t.metadata.labels"
    return pod_policy(
        "gpufleet-class-isolation",
        {
            "class": (
                f"request.namespace == '{names.BATCH_NAMESPACE}' ? "
                f"'{ServingClass.BATCH}' : '{ServingClass.INTERACTIVE}'"
            ),
            "groups": (
                "variables.class == 'batch' ? "
                f"{_given('node-groups.batch')} : {_given('node-groups.interactive')}"
            ),
        },
        [
            Check(
                f"variables.templates.all(t, ({class_label}) ? "
                f"t.metadata.labels['{names.CLASS}'] == variables.class : !{_ASKS_FOR_GPUS})",
                "'gpufleet: only ' + variables.class + ' work runs in ' + request.namespace + "
                f"', and says so in the label {names.CLASS}'",
            ),
            Check(
                f"variables.templates.all(t, ({names_group}) ? {group} in variables.groups : "
                f"(!{_ASKS_FOR_GPUS} || (variables.class == 'batch' && "
                f"(request.kind.kind != 'Pod' || ({gated})))))",
                "'gpufleet: ' + variables.class + ' work stands on the node groups of its own "
                f"class (node selector {names.NODE_GROUP}): ' + variables.groups.join(', ')",
            ),
            Check(
                "variables.templates.all(t, request.operation != 'CREATE' || "
                "!has(t.spec.nodeName) || t.spec.nodeName == '')",
                "'gpufleet: the scheduler alone chooses nodes (spec.nodeName)'",
            ),
            Check(
                f"variables.class == 'batch' || !({queued})",
                "'gpufleet: interactive work does not wait in a queue of Kueue'",
            ),
            Check(
                f"variables.class != 'batch' || ({queued}) || ({has_owner}) || "
                f"!variables.templates.exists(t, {_ASKS_FOR_GPUS})",
                f"'gpufleet: batch work waits in a queue of Kueue (label {names.QUEUE})'",
            ),
        ],
        namespaces=(names.INTERACTIVE_NAMESPACE, names.BATCH_NAMESPACE),
    )


def _raised() -> list[Check]:
    """Checks that hold in every namespace of ours."""
    host = " || ".join(
        f"(has(t.spec.{field}) && t.spec.{field})"
        for field in ("hostNetwork", "hostPID", "hostIPC")
    )
    context = "has(c.securityContext) && has(c.securityContext"
    raised = (
        f"({context}.privileged) && c.securityContext.privileged) || "
        f"({context}.allowPrivilegeEscalation) && c.securityContext.allowPrivilegeEscalation) || "
        f"({context}.capabilities) && has(c.securityContext.capabilities.add) && "
        "c.securityContext.capabilities.add.size() > 0)"
    )
    return [
        Check(
            f"variables.templates.all(t, !({host}))",
            "'gpufleet: no pod shares the network, processes or memory of its node'",
        ),
        Check(
            f"variables.templates.all(t, !{_CONTAINERS}.exists(c, {raised}))",
            "'gpufleet: no privilege, no escalation, no further capability'",
        ),
    ]


def _privileges() -> Object:
    return pod_policy(
        "gpufleet-no-privilege",
        {},
        [
            *_raised(),
            Check(
                "variables.templates.all(t, !has(t.spec.volumes) || "
                "!t.spec.volumes.exists(v, has(v.hostPath)))",
                "'gpufleet: no host path; the cache of a node comes by the claim node-cache'",
            ),
            Check(
                "variables.templates.all(t, !has(t.spec.volumes) || t.spec.volumes.all(v, "
                "!has(v.persistentVolumeClaim) || "
                f"v.persistentVolumeClaim.claimName != '{names.NODE_CACHE}' || "
                "(has(v.persistentVolumeClaim.readOnly) && v.persistentVolumeClaim.readOnly)))",
                f"'gpufleet: the claim {names.NODE_CACHE} is only read'",
            ),
        ],
        namespaces=[each for each in names.GOVERNED_NAMESPACES if each != names.CACHE_NAMESPACE],
    )


def _cache() -> Object:
    """Jobs that fill nodes' caches: one folder of the node, and every capability dropped."""
    context = "has(c.securityContext) && has(c.securityContext"
    dropped = f"{context}.capabilities) && has(c.securityContext.capabilities.drop) && "
    return pod_policy(
        "gpufleet-node-cache",
        {},
        [
            *_raised(),
            Check(
                "variables.templates.all(t, !has(t.spec.volumes) || t.spec.volumes.all(v, "
                f"!has(v.hostPath) || v.hostPath.path == '{names.CACHE_FOLDER}'))",
                f"'gpufleet: of a node only its folder {names.CACHE_FOLDER} is used'",
            ),
            Check(
                "variables.templates.all(t, !has(t.spec.volumes) || "
                "!t.spec.volumes.exists(v, has(v.persistentVolumeClaim)))",
                "'gpufleet: no claim: what fills a cache has the folder of its node'",
            ),
            Check(
                f"variables.templates.all(t, {_CONTAINERS}.all(c, {dropped}"
                "'ALL' in c.securityContext.capabilities.drop))",
                "'gpufleet: every capability is dropped'",
            ),
        ],
        namespaces=(names.CACHE_NAMESPACE,),
    )


def _volumes() -> Object:
    """A volume that is ours, or that an account of ours makes, is the cache of the nodes alone.

    A volume may be any folder of a node. Whoever may make some could have all of each node.
    """
    accounts = f"system:serviceaccount:{names.SYSTEM_NAMESPACE}:"
    claim = "has(object.spec.claimRef) && object.spec.claimRef"
    namespaces = ", ".join(f"'{each}'" for each in names.POOL_NAMESPACES)
    folder = f"has(object.spec.hostPath) && object.spec.hostPath.path == '{names.CACHE_FOLDER}'"
    return policy(
        "gpufleet-node-volumes",
        {"resourceRules": [rule("", "v1", ("persistentvolumes",))]},
        [
            {
                "name": "ours",
                "expression": (
                    f"request.userInfo.username.startsWith('{accounts}') || "
                    "(has(object.metadata.labels) && "
                    f"'{names.MANAGED}' in object.metadata.labels)"
                ),
            }
        ],
        {},
        [
            Check(
                f"{folder} && object.spec.accessModes == ['ReadOnlyMany'] && "
                f"{claim}.name == '{names.NODE_CACHE}' && "
                f"object.spec.claimRef.namespace in [{namespaces}]",
                f"'gpufleet: of a node only {names.CACHE_FOLDER} is a volume, which is only read, "
                f"for the claim {names.NODE_CACHE} of pools'",
            )
        ],
    )


def _is_of_pool(template: str) -> str:
    """Whether a pod runs a pool's engine: a replica, or one that answers a batch."""
    labels = f"{template}.metadata.labels"
    return f"(has({labels}) && ('{names.POOL}' in {labels} || '{names.BATCH_JOB}' in {labels}))"


def _given(key: str) -> str:
    return f"params.data['{key}'].split('\\n')"


def _shown(bad: str) -> str:
    """The images that a validation refuses, in one line."""
    return f"variables.images.map(found, found.filter(i, {bad}).join(', ')).join(' ')"


def _lines(values: Any) -> str:  # noqa: ANN401 - any iterable of text
    return "\n".join(sorted(set(values)))
