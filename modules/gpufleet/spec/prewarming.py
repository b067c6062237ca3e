"""Declared peaks as dates: when replicas are started ahead of them, and whether they are warm."""

from gpufleet.spec.quantities import Spec


class PrewarmWindow(Spec):
    """One occurrence of a peak at one placement of a pool; times are ISO 8601 in UTC."""

    pool: str
    site: str
    node_group: str
    peak: str
    time_zone: str
    """Of the peak's rule."""
    replicas: int
    """That have to be warm when the window opens."""
    starts_at: str | None
    """When the autoscaler is told to start them; none where it does not, as the warnings say."""
    restored_at: str | None
    """When their weights are expected on node-local storage."""
    warm_at: str | None
    """When they are expected to have produced a token, by the measured load time."""
    verify_at: str
    """From when on each is asked for a token."""
    opens_at: str
    closes_at: str
    lead_s: float
    """Wanted between start and opening."""
    short_s: float
    """How much a change of the clocks takes from it."""


class WeightsPull(Spec):
    """Weights that are on the nodes of a window's group before its replicas start."""

    begins_at: str
    """From when on they are pulled."""
    revision: str
    nodes: int
    """Of the group; those that are cordoned or not ready then are left out."""
    snapshot: str | None
    """The newest of the revision now; null where nobody could say."""


class ScheduledWindow(PrewarmWindow):
    """A window, with what is pulled ahead of it."""

    weights: WeightsPull | None
    """None where no more replicas start for it, or the site has no snapshot of the revision."""


class PrewarmSchedule(Spec):
    """The outcome of `prewarm.schedule`."""

    fleet: str
    environment: str
    begin: str
    end: str
    windows: list[ScheduledWindow]
    """In the order in which they open."""
    images: list[str]
    """Engine images that stand on every node of their group ahead of any start."""
    warnings: list[str]


class ReplicaProof(Spec):
    """Whether one replica has produced a token when it was asked."""

    pod: str
    warm: bool
    seconds: float | None
    """Until its token; none without one."""
    why_not: str


class NodesFilled(Spec):
    """What the Job says that pulls weights to the nodes of a window's group."""

    job: str
    snapshot: str
    done: list[str]
    """Nodes that have the whole snapshot, every byte verified."""
    missing: list[str]
    """Nodes that have failed, or were not done when the Job ended."""
    waiting: int
    """Nodes that are neither; 0 once it has ended."""


class WindowProof(Spec):
    """Whether the replicas of one window are warm."""

    window: PrewarmWindow
    ready: int
    """Replicas that Kubernetes calls ready, of the declared revision."""
    warm: int
    """Of them, those that gave a token."""
    missing: int
    replicas: list[ReplicaProof]
    problem: str
    """Why the site could not be looked at; then all are missing."""
    weights: NodesFilled | None = None
    """None where no Job tells of them."""


class PrewarmVerification(Spec):
    """The outcome of `prewarm.verify`."""

    fleet: str
    environment: str
    at: str
    """The time whose windows were looked at."""
    proofs: list[WindowProof]
    next: PrewarmWindow | None
    """The next window that is not yet to be verified."""

    @property
    def missing(self) -> int:
        """Replicas that are not warm, over all windows."""
        return sum(proof.missing for proof in self.proofs)
