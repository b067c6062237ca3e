"""Which snapshots are taken by themselves, how often, and how old the newest may be."""

from typing import Annotated

from pydantic import Field

from gpufleet.spec import forms
from gpufleet.spec.quantities import Name, RevisionName, Seconds, Spec

AbsolutePath = Annotated[str, Field(pattern=forms.ABSOLUTE_PATH, max_length=300)]

DAY_S = 86_400.0
SOONEST_S = 60.0
"""A schedule of a cluster counts in minutes."""
Cadence = Annotated[Seconds, Field(ge=SOONEST_S)]


class ScheduledRevision(Spec):
    """The files of a model revision, of which a snapshot is taken again and again."""

    source: AbsolutePath
    """Folder of the files: on the worker's machine, or in the volume of `claim`."""
    claim: Name | None = None
    """PersistentVolumeClaim in `gpufleet-system` that holds them, where the worker runs on a
    cluster; `source` is a path in it."""
    site: Name | None = None
    """Site whose object store keeps the snapshots; may be left out where only one has a store."""
    every_s: Cadence = DAY_S
    """Longest time between two snapshots."""
    rpo_s: Cadence | None = None
    """Age of the newest good snapshot above which an alert is raised; twice `every_s` where it is
    not given."""

    @property
    def limit_s(self) -> float:
        """Age above which the newest good snapshot is too old, s."""
        return self.rpo_s or 2 * self.every_s


class SnapshotSchedule(Spec):
    """Snapshots that are taken by themselves."""

    revisions: dict[RevisionName, ScheduledRevision] = Field(default_factory=dict)
    """What is taken, by the name of the revision."""
    protect_every_s: Cadence | None = None
    """Longest time between two protected sets; half of the use cases' shortest `rpo_s` where it
    is not given, at least a minute."""
