"""A few measured points correct the roofline where it is wrong, and nowhere further than that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from gpufleet.core.capacity.requests import Floats
from gpufleet.core.capacity.roofline import Coefficients, Load, Replicas, Times, times
from gpufleet.spec.evidence import MeasuredPoint

SCALES: Final[tuple[tuple[float, tuple[str, ...]], ...]] = (
    (
        0.4,
        ("dense_read", "expert_read", "step_s", "layer_s", "expert_layer_s", "collective_s"),
    ),
    (0.6, ("cache_read", "decode_compute", "activation", "dispatch", "collective_read")),
    (0.6, ("prefill_share", "prefill_fixed_share")),
    (0.6, ("own_prefill",)),
    (1.0, ("burst", "queue_s")),
    (1.0, ("first_token_s", "joined_steps")),
)
"""What is scaled together, and the standard deviation of the logarithm of its scale: a step, each
sequence of it, the prefills beside it, a request's own prefill, others before it, the rest."""

TTFT_NOISE: Final = 0.05
TPOT_NOISE: Final = 0.02
"""Relative differences of repeated runs of one configuration in the reference data, about."""
TTFT_STRAY: Final = 0.15
TPOT_STRAY: Final = 0.08
"""Standard deviations of what no scale explains, near a measured point."""
REACH: Final = np.array([1.5, 1.5, 2.0])
"""How far a point's error reaches, as logarithms of concurrency, prompt and answer."""
BEND: Final = 3.0
"""Standard deviations beyond which a point counts by its distance, no longer by its square."""


@dataclass(frozen=True)
class Calibration:
    """A replica's roofline, corrected by points that were measured on just this replica."""

    replica: Replicas
    coefficients: Coefficients
    places: Floats
    """Logarithms of concurrency, prompt and answer of each point."""
    ttft_pull: Floats
    """What each point pulls the logarithm of the time to the first token by, at its place."""
    tpot_pull: Floats

    @classmethod
    def of(
        cls, replica: Replicas, coefficients: Coefficients, points: Sequence[MeasuredPoint]
    ) -> Self:
        """Correct in two steps: one scale for each group of terms, then what is left nearby.

        Scales are shrunk to 1, so that three points settle what they can see and leave alone what
        they cannot; what they leave unexplained is interpolated as a Gaussian process (Rasmussen
        and Williams, "Gaussian Processes for Machine Learning", 2006, equation 2.25).

        Args:
            replica: one replica.
            coefficients: its coefficients from the fit, one element each.
            points: one or more.
        """
        load = _load(points)
        log_ttft = np.log([point.ttft_s for point in points])
        log_tpot = np.log([point.tpot_s for point in points])
        scaled = _scaled(coefficients, _scales(replica, coefficients, load, log_ttft, log_tpot))
        found = times(replica, scaled, load)
        places = _places(load)
        near = _nearness(places, places)
        return cls(
            replica,
            scaled,
            places,
            _pulls(near, log_ttft - np.log(found.ttft_s), TTFT_STRAY, TTFT_NOISE),
            _pulls(near, log_tpot - np.log(found.tpot_s), TPOT_STRAY, TPOT_NOISE),
        )

    def times(self, load: Load) -> Times:
        """Corrected means for some loads of this replica."""
        found = times(self.replica, self.coefficients, load)
        near = _nearness(_places(load), self.places)
        ttft_s = found.ttft_s * np.exp(near @ self.ttft_pull)
        return Times(ttft_s, found.tpot_s * self.tpot_factor(load))

    def tpot_factor(self, load: Load) -> Floats:
        """What moves the time per token beyond the scales, near the measured points."""
        factor: Floats = np.exp(_nearness(_places(load), self.places) @ self.tpot_pull)
        return factor


def _scales(
    replica: Replicas, coefficients: Coefficients, load: Load, log_ttft: Floats, log_tpot: Floats
) -> Floats:
    # Half of the time to import a plan, which only measured points need.
    from scipy.optimize import least_squares  # noqa: PLC0415

    spreads = np.array([spread for spread, _ in SCALES])

    def residuals(x: Floats) -> Floats:
        found = times(replica, _scaled(coefficients, x), load)
        ttft = (np.log(found.ttft_s) - log_ttft) / TTFT_NOISE
        tpot = (np.log(found.tpot_s) - log_tpot) / TPOT_NOISE
        return np.concatenate([_robust(ttft), _robust(tpot), x / spreads])

    scales: Floats = least_squares(residuals, np.zeros(len(SCALES))).x
    return scales


def _scaled(coefficients: Coefficients, logs: Floats) -> Coefficients:
    factors = {
        name: float(np.exp(log))
        for log, (_, names) in zip(logs, SCALES, strict=True)
        for name in names
    }
    return coefficients._replace(
        **{name: getattr(coefficients, name) * factor for name, factor in factors.items()}
    )


def _robust(errors: Floats) -> Floats:
    """Half its square is the soft-L1 loss."""
    scaled = errors / BEND
    softened: Floats = BEND * np.sign(scaled) * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1))
    return softened


def _load(points: Sequence[MeasuredPoint]) -> Load:
    return Load(
        np.array([float(point.prompt_tokens) for point in points]),
        np.array([float(point.output_tokens) for point in points]),
        np.array([float(point.concurrency) for point in points]),
    )


def _places(load: Load) -> Floats:
    return np.log(np.stack([load.concurrency, load.prompt_tokens, load.output_tokens], axis=1))


def _nearness(some: Floats, others: Floats) -> Floats:
    """1 at a point's own place, falling to 0 away from it."""
    apart = (some[:, None, :] - others[None, :, :]) / REACH
    near: Floats = np.exp(-0.5 * np.sum(apart**2, axis=2))
    return near


def _pulls(near: Floats, left: Floats, stray: float, noise: float) -> Floats:
    own = (noise / stray) ** 2 * np.eye(len(left))
    pulls: Floats = np.asarray(np.linalg.solve(near + own, left), dtype=np.float64)
    return pulls
