"""Creations that a killed update left half done, as its stack's state tells them.

Pulumi writes down that it begins to create something, then creates it, then writes that it stands.
Of an object whose creation was cut short it knows no more, and keeps saying so: it would make it
again, but no longer remove it where it is no longer declared. So what came to stand is written into
the state as its creation would have written it, and what did not is forgotten.
"""

from collections.abc import Mapping
from typing import Any, Final

Resource = dict[str, Any]
_CREATING: Final = "creating"


def pending_creations(latest: Mapping[str, Any]) -> list[Resource]:
    """The resources whose creation was begun and not seen to end.

    Args:
        latest: `checkpoint.latest` of a state file.
    """
    return [
        operation["resource"]
        for operation in latest.get("pending_operations") or []
        if operation["type"] == _CREATING
    ]


def settled(latest: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The same state with no creation pending.

    Args:
        latest: as above.
        found: by URN, each Kubernetes object that the cluster has.
    """
    resources = list(latest.get("resources") or [])
    known = {resource["urn"] for resource in resources}
    resources += [
        _created(resource, found[resource["urn"]])
        for resource in pending_creations(latest)
        if resource["urn"] in found and resource["urn"] not in known
    ]
    others = [
        operation
        for operation in latest.get("pending_operations") or []
        if operation["type"] != _CREATING
    ]
    return {**latest, "resources": resources, "pending_operations": others}


def _created(resource: Resource, thing: Mapping[str, Any]) -> Resource:
    """As the Kubernetes provider records an object that it has made."""
    about, inputs = thing["metadata"], resource["inputs"]
    namespace = about.get("namespace")
    return {
        **resource,
        "id": f"{namespace}/{about['name']}" if namespace else about["name"],
        "outputs": {
            **thing,
            "__inputs": inputs,
            "__initialApiVersion": inputs["apiVersion"],
            "__fieldManager": _manager(inputs),
        },
    }


def _manager(inputs: Mapping[str, Any]) -> str:
    """The field manager that an object's annotation names."""
    annotations = (inputs.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get("pulumi.com/patchFieldManager", ""))
