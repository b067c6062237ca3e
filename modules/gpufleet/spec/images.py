"""What is told about images: plans, layers, digests."""

from gpufleet.spec.quantities import Spec


class LayerRow(Spec):
    """One layer of a built image."""

    layer: str
    """`debian`, `packages`, `engines` or `sources`."""
    inputs: str
    """Digest over everything that it was made from."""
    digest: str
    """Of the compressed layer."""
    size_bytes: int
    """Compressed."""


class ImageReport(Spec):
    """A built image."""

    image: str
    digest: str
    """Of the manifest: what `images.gpufleet` of a fleet file names after the `@`."""
    inputs: str
    """Digest over everything that it was made from."""
    architecture: str
    size_bytes: int
    """Of all layers, compressed."""
    layers: list[LayerRow]
    folder: str
    """The OCI image layout."""


class LayerPlan(Spec):
    """A layer that a build would make, or keep."""

    layer: str
    inputs: str
    """Digest over everything that it is made from."""
    action: str
    """`make` or `keep`."""


class BuildPlan(Spec):
    """What a build of one image would do."""

    image: str
    inputs: str
    """Digest over the inputs of all layers and how the image is started."""
    layers: list[LayerPlan]
    digest: str = ""
    """Of the image where it is built already, from exactly these inputs; else empty."""

    @property
    def is_built(self) -> bool:
        """Whether nothing is to be done."""
        return bool(self.digest)
