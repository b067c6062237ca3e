"""Custom resource definitions, from the artefact that `tools/crds` pins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pulumi
import pulumi_kubernetes as k8s
import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OPERATORS: Final = ("kueue", "keda", "gateway-api", "prometheus-operator", "lws")


class Definitions(pulumi.ComponentResource):
    """The CRDs of the named operators.

    Args:
        name: name of the component.
        folder: holds one folder of YAML files for each operator.
        operators: names of those folders.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        operators: tuple[str, ...] = OPERATORS,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("gpufleet:platform:Definitions", name, None, opts)
        self.resources: list[pulumi.Resource] = [
            k8s.apiextensions.v1.CustomResourceDefinition(
                definition["metadata"]["name"],
                metadata=_about(definition),
                spec=_without_prose(definition["spec"]),
                opts=pulumi.ResourceOptions(parent=self),
            )
            for operator in operators
            for definition in _read(folder / operator)
        ]
        self.register_outputs({"count": len(self.resources)})


def _read(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.yaml")):
        for document in yaml.load_all(file.read_bytes(), Loader=_Loader):  # noqa: S506 - a safe loader
            if document and document["kind"] == "CustomResourceDefinition":
                yield document


def _about(definition: dict[str, Any]) -> dict[str, Any]:
    given = definition["metadata"]
    return {key: given[key] for key in ("name", "labels", "annotations") if given.get(key)}


def _without_prose(value: Any) -> Any:  # noqa: ANN401 - a node of plain data
    """Leave out the schema's descriptions: nine tenths of a checkpoint that every step rewrites."""
    if isinstance(value, list):
        return [_without_prose(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_prose(item)
        for key, item in value.items()
        # A property may itself be called `description`; only the schema's own text is a string.
        if not (key == "description" and isinstance(item, str))
    }
