"""What drills and tests do to the simulated GPUs of an embedded site."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from gpufleet.spec.quantities import Integer, Spec
from gpufleet.spec.simulation import PodName


class GpuFaultKind(StrEnum):
    """What goes wrong with a GPU."""

    XID = "xid"
    """The driver reports an XID; it stays the last one until faults are cleared."""
    THERMAL = "thermal"
    """It is slowed down by heat."""
    POWER = "power"
    """It is braked by the power supply."""
    REMAP = "remap"
    """A row of its memory cannot be remapped."""


class GpuFault(Spec):
    """A fault, and which GPUs it hits: those that pods hold now, and later ones of the same pod."""

    kind: GpuFaultKind
    pod: PodName | None = None
    """That holds the GPUs; every pod where it is not given."""
    gpu: Annotated[Integer, Field(ge=0, le=15)] | None = None
    """Number on its node; each of the pod's where it is not given."""
    xid: Annotated[Integer, Field(ge=1, le=1000)] = 79
    """Number that an `xid` reports: 79 is a GPU that has fallen off the bus."""
