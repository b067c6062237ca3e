"""Which drivers, CUDA versions, kernels, GPUs, firmware and container toolkits go together."""

from functools import cache
from importlib import resources
from typing import Annotated

import yaml
from pydantic import Field, StringConstraints

from gpufleet.spec import forms
from gpufleet.spec.quantities import Date, Integer, Names, PackageVersion, Spec, Text

Version = Annotated[str, StringConstraints(pattern=forms.VERSION, strict=True)]


class DriverBranch(Spec):
    """What every driver of one branch needs, and what it carries."""

    cuda_major: Annotated[Integer, Field(ge=11, le=99)]
    """Highest major version of CUDA whose programs it runs."""
    kernel_min: Version
    """Oldest Linux kernel that it is built for."""
    container_toolkit_min: Version | None = None
    """Oldest container toolkit that is known to work with it."""
    designation: Text
    """`long term`, `production` or `new feature`."""
    ends: Date | None = None
    """The last day of its support; empty where nobody has said."""
    sources: Annotated[list[Text], Field(min_length=1)]
    """Where this was read."""


class Architecture(Spec):
    """Which drivers serve GPUs of one architecture."""

    products: Annotated[list[Text], Field(min_length=1)]
    """Words of a product name that tell it, such as `H100`."""
    driver_min: Version
    """First driver that serves it, or the branch of it."""
    branch_max: Version | None = None
    """Last branch that serves it; empty while new ones do."""
    sources: Annotated[list[Text], Field(min_length=1)]
    """Where this was read."""


class CompatibilityTable(Spec):
    """What is known. What is not in it is refused."""

    branches: dict[Version, DriverBranch]
    architectures: dict[str, Architecture]


class Requirement(Spec):
    """What a vendor demands beside the built-in table, such as a firmware for a driver."""

    driver: Version
    """A driver, or a whole branch such as `580`."""
    gpu_types: Names = Field(default_factory=list)
    """GPU types that it holds for; all where the list is empty."""
    vbios_min: Version | None = None
    """Oldest firmware of the GPUs."""
    bmc_min: Version | None = None
    """Oldest firmware of the baseboard management controller."""
    kernel_min: Version | None = None
    """Oldest kernel."""
    kernel_below: Version | None = None
    """First kernel that does not go with it."""
    container_toolkit_min: PackageVersion | None = None
    """Oldest container toolkit."""
    source: Text
    """Who says so, and where."""


class Assumption(Spec):
    """A driver that is taken as compatible, though the built-in table does not know it."""

    driver: Version
    """A driver, or a whole branch such as `640`."""
    node_groups: Names = Field(default_factory=list)
    """Node groups that it is taken for; all where the list is empty."""
    why: Text
    """What makes it believable, such as a vendor's letter or a test of one's own."""


class Compatibility(Spec):
    """What the company knows of drivers, beside the built-in table."""

    requirements: list[Requirement] = Field(default_factory=list)
    """Checked beside the built-in table."""
    assume: list[Assumption] = Field(default_factory=list)
    """In place of the built-in table; `requirements` hold all the same."""


@cache
def built_in_compatibility() -> CompatibilityTable:
    """The table that ships with gpufleet."""
    file = resources.files("gpufleet.spec").joinpath("compatibility.yaml")
    return CompatibilityTable.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
