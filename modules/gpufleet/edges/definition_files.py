"""Custom resource definitions as compact text, without the prose of their schemas.

The prose is nine tenths of a definition, and Pulumi writes a stack's whole state after each step.
"""

import json
from typing import Any

import yaml


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain data; a lone `=`, which YAML 1.1 gives a tag of its own, is text as in YAML 1.2."""


_Loader.add_constructor("tag:yaml.org,2002:value", _Loader.construct_yaml_str)


def compact_definitions(text: str) -> str:
    """The definitions of a YAML text, a JSON document each (which is YAML too)."""
    documents = yaml.load_all(text, Loader=_Loader)
    definitions = [
        document
        for document in documents
        if document and document.get("kind") == "CustomResourceDefinition"
    ]
    for definition in definitions:
        definition.pop("status", None)
        definition["metadata"].pop("creationTimestamp", None)
    return "".join(
        f"---\n{json.dumps(_without_prose(definition), separators=(',', ':'))}\n"
        for definition in definitions
    )


def _without_prose(value: Any) -> Any:  # noqa: ANN401 - a node of plain data
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
