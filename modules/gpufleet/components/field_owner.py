"""Who owns the fields of our objects in the clusters: always the same name."""

from collections.abc import Mapping
from typing import Final

import pulumi

from gpufleet.core import vocabulary as names

_MANAGER: Final = "pulumi.com/patchFieldManager"


def own_fields() -> None:
    """Apply every Kubernetes object of this stack as one field manager.

    The provider would invent a name for each object. An update that was killed after it had made
    one would leave it to a name that nobody knows, and every later change would meet a conflict.
    """
    pulumi.runtime.register_stack_transformation(_owned)


def _owned(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
    about = args.props.get("metadata") if args.type_.startswith("kubernetes:") else None
    if not isinstance(about, Mapping):
        return None
    annotations = {**(about.get("annotations") or {}), _MANAGER: names.PRODUCT}
    props = {**args.props, "metadata": {**about, "annotations": annotations}}
    return pulumi.ResourceTransformationResult(props, args.opts)
