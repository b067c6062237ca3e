"""API paths of Kubernetes objects: from a kind, a namespace and a name to a path."""

from collections.abc import Mapping
from typing import Any


def plural(kind: str) -> str:
    """The resource name of a kind: `NetworkPolicy` is served at `networkpolicies`."""
    lower = kind.lower()
    if lower.endswith("y") and not lower.endswith("ay"):
        return f"{lower[:-1]}ies"
    return f"{lower}es" if lower.endswith("s") else f"{lower}s"


def collection_path(api_version: str, kind: str, namespace: str | None) -> str:
    """Path of the collection that objects of a kind are in."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    place = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{place}/{plural(kind)}"


def object_path(thing: Mapping[str, Any]) -> str:
    """Path of an object that names its kind and itself."""
    about = thing["metadata"]
    where = collection_path(thing["apiVersion"], thing["kind"], about.get("namespace"))
    return f"{where}/{about['name']}"
