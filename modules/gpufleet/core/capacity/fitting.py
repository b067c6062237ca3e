"""How the efficiencies are fitted: robust least squares on relative errors, shrunk to physics."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from gpufleet.core.capacity.efficiencies import (
    Case,
    Efficiencies,
    Group,
    Residual,
    levels,
)
from gpufleet.core.capacity.predict import architecture, layout_of
from gpufleet.core.capacity.requests import Floats, Integers
from gpufleet.core.capacity.roofline import Candidate, Coefficients, Load, Replicas, Times, times
from gpufleet.core.capacity.shapes import built_in_shape, size_of
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.serving import Precision

PRIORS: Final[dict[str, tuple[float, float]]] = {
    "dense_read": (1 / 0.75, 0.2),
    "expert_read": (1 / 0.65, 0.2),
    "expert_spread": (0.8, 0.2),
    "cache_read": (1.5, 0.3),
    "decode_compute": (1.8, 0.3),
    "dense_compute": (1.6, 0.25),
    "expert_compute": (2.2, 0.3),
    "attention_compute": (2.5, 0.4),
    "step_s": (1e-3, 0.7),
    "layer_s": (12e-6, 0.5),
    "expert_layer_s": (20e-6, 0.5),
    "prompt_layer_s": (50e-6, 0.7),
    "activation": (20.0, 0.7),
    "dispatch": (6.0, 0.7),
    "collective_s": (8e-6, 0.4),
    "collective_read": (1.5, 0.3),
    "prefill_share": (0.9, 0.15),
    "prefill_fixed_share": (0.3, 0.5),
    "first_token_s": (0.02, 0.7),
    "own_prefill": (1.2, 0.3),
    "burst": (0.06, 0.5),
    "joined_steps": (1.0, 0.5),
    "queue_s": (1e-3, 1.0),
    "full_wait": (0.7, 0.3),
}
"""What each coefficient is expected to be, and the standard deviation of its logarithm.

Data sheets are reached to 60-80 % in reading and 40-60 % in multiplying (roofline studies of vLLM
and TensorRT-LLM); kernels start in microseconds; the rest are wide guesses that data move.
"""

GROUPS: Final = (
    ("first_token_s", "backend", 0.4),
    ("prompt_layer_s", "backend", 0.7),
    ("prompt_layer_s", "attention", 0.5),
    ("own_prefill", "backend", 0.3),
    ("burst", "backend", 0.7),
    ("layer_s", "backend", 0.3),
    ("layer_s", "attention", 0.4),
    ("expert_read", "cores and precision", 0.15),
    ("dense_compute", "dense precision", 0.2),
    ("dense_compute", "cores", 0.2),
    ("expert_compute", "precision", 0.2),
    ("expert_compute", "cores", 0.2),
    ("activation", "cores", 0.3),
    ("activation", "attention", 0.3),
    ("dispatch", "cores", 0.3),
)
"""Corrections: of which coefficient, by which kind of group, and how far a group may stray."""

PRIOR_WEIGHT: Final = 3.0
TTFT_SCALE: Final = 0.25
TPOT_SCALE: Final = 0.08
"""Relative errors beyond which a row counts by its distance, and no longer by its square."""
EVALUATIONS: Final = 60
IDEAL: Final = frozenset(
    {
        "dense_read",
        "expert_read",
        "cache_read",
        "decode_compute",
        "dense_compute",
        "expert_compute",
        "attention_compute",
    }
)
"""Terms that are times the data sheet's ideal, and so are at least 1."""
MOST_CORRECTION: Final = 1.6
"""No group's coefficient is more than five times, or less than a fifth of, the pooled one."""


SOURCE: Final = (
    "What separates real engines from data sheets; written by benchmarks/capacity_fit.",
    "Fitted on silicon_sample.csv of ai-dynamo/aiconfigurator (commit 095f58a), Apache-2.0;",
    "rows kept aside there are not in it. `term`: pooled value; `correction`: factor of a group;",
    "`measured`: rows of a model, GPU, precision and engine, and the median of measured over",
    "predicted. Times in seconds, the rest are factors of what data sheets promise.",
)


class Sample(NamedTuple):
    """A measured row."""

    case: Case
    backend: str
    prompt_tokens: float
    output_tokens: float
    concurrency: float
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Design:
    """Rows of the fit as arrays, each row's weight, and the groups that they belong to."""

    replicas: Replicas
    load: Load
    log_ttft: Floats
    log_tpot: Floats
    weights: Floats
    names: tuple[tuple[str, str, str], ...]
    """Every correction: term, kind of group, group."""
    spreads: Floats
    codes: tuple[tuple[str, Integers], ...]
    """Of each entry of `GROUPS`: its term, and the index into `names` for each row."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Design":
        """Arrays of some rows; each model, GPU and engine counts as much as any other."""
        marks = [levels(sample.case.candidate, sample.backend) for sample in samples]
        names: list[tuple[str, str, str]] = []
        spreads: list[float] = []
        codes = []
        for term, kind, spread in GROUPS:
            known = sorted({mark[kind] for mark in marks})
            first = len(names)
            names += [(term, kind, level) for level in known]
            spreads += [spread] * len(known)
            codes.append((term, np.array([first + known.index(mark[kind]) for mark in marks])))
        owners = [(s.case.model, s.case.candidate.gpu.product, s.backend) for s in samples]
        counts = Counter(owners)
        weights = np.array([counts[owner] ** -0.5 for owner in owners])
        return cls(
            replicas=Replicas.of([sample.case.candidate for sample in samples]),
            load=load_of(samples),
            log_ttft=np.log([sample.ttft_s for sample in samples]),
            log_tpot=np.log([sample.tpot_s for sample in samples]),
            weights=weights / np.sqrt(np.mean(weights**2)),
            names=tuple(names),
            spreads=np.array(spreads),
            codes=tuple(codes),
        )

    def coefficients(self, x: Floats) -> Coefficients:
        """The coefficients of each row for the logarithms of terms and corrections."""
        logs = {
            term: np.full(len(self.weights), x[index])
            for index, term in enumerate(Coefficients._fields)
        }
        corrections = x[len(logs) :]
        for term, code in self.codes:
            logs[term] = logs[term] + corrections[code]
        return Coefficients(**{term: np.exp(values) for term, values in logs.items()})

    def bounds(self) -> tuple[Floats, Floats]:
        """Least and most of each logarithm: nothing is faster than its data sheet."""
        lower = np.full(len(PRIORS) + len(self.names), -np.inf)
        upper = -lower
        for index, term in enumerate(Coefficients._fields):
            if term in IDEAL:
                lower[index] = 0.0
        lower[len(PRIORS) :] = -MOST_CORRECTION
        upper[len(PRIORS) :] = MOST_CORRECTION
        return lower, upper

    def residuals(self, x: Floats) -> Floats:
        """What least squares makes small: softened errors of all rows, and distance to priors."""
        found = times(self.replicas, self.coefficients(x), self.load)
        ttft = _softened((np.log(found.ttft_s) - self.log_ttft) / TTFT_SCALE)
        tpot = _softened((np.log(found.tpot_s) - self.log_tpot) / TPOT_SCALE)
        terms = (x[: len(PRIORS)] - _starts()) / _deviations()
        return np.concatenate(
            [
                ttft * self.weights,
                tpot * self.weights,
                PRIOR_WEIGHT * terms,
                x[len(PRIORS) :] / self.spreads,
            ]
        )


def samples_of(rows: Iterable[Mapping[str, str]], gpus: Mapping[str, GpuType]) -> dict[Sample, str]:
    """Every distinct row of a file like `serving_measurements.csv`, with the engine's version.

    Rows that only differ in the version or in which name of an architecture they carry are one:
    the source repeats them.
    """
    found: dict[Sample, str] = {}
    for row in rows:
        shape, gpu = built_in_shape(row["model"]), gpus[row["gpu"].replace("_", "-")]
        precision = Precision(row["precision"])
        spread = [int(row[name]) for name in ("tp", "pp", "ep")]
        layout = layout_of(gpu, size_of(shape), precision, *spread)
        sample = Sample(
            case=Case(Candidate(size_of(shape), precision, gpu, layout), architecture(shape)),
            backend=row["backend"],
            prompt_tokens=float(row["isl"]),
            output_tokens=float(row["osl"]),
            concurrency=float(row["concurrency"]),
            ttft_s=float(row["ttft_ms"]) / 1000,
            tpot_s=float(row["tpot_ms"]) / 1000,
        )
        found.setdefault(sample, row["backend_version"])
    return found


def fitted(samples: Sequence[Sample], start: Efficiencies | None = None) -> Efficiencies:
    """The efficiencies that explain some rows, with what was seen of each group.

    Args:
        samples: measured rows; the order does not matter.
        start: where the search begins; another fit of nearly the same rows saves time.
    """
    design = Design.of(samples)
    begin = np.concatenate([_starts(), np.zeros(len(design.names))])
    if start:
        known = [np.log(start.terms[term]) for term in Coefficients._fields]
        begin = np.array([*known, *(start.corrections.get(name, 0.0) for name in design.names)])
    lower, upper = design.bounds()
    begin = np.clip(begin, lower + 1e-6, upper - 1e-6)
    found = least_squares(
        design.residuals,
        begin,
        bounds=(lower, upper),
        x_scale="jac",
        max_nfev=EVALUATIONS,
        ftol=1e-5,
    ).x
    terms = dict(zip(Coefficients._fields, np.exp(found[: len(PRIORS)]).tolist(), strict=True))
    corrections = dict(zip(design.names, found[len(PRIORS) :].tolist(), strict=True))
    plain = Efficiencies(terms, corrections, {})
    return Efficiencies(terms, corrections, _seen(plain, samples))


def table(samples: Sequence[Sample]) -> str:
    """The shipped table: the fit of some rows, with where they come from."""
    return fitted(sorted(samples, key=repr)).write(SOURCE)


def load_of(samples: Sequence[Sample]) -> Load:
    """The loads of some rows."""
    return Load(
        np.array([sample.prompt_tokens for sample in samples]),
        np.array([sample.output_tokens for sample in samples]),
        np.array([sample.concurrency for sample in samples]),
    )


def predicted(
    efficiencies: Efficiencies, samples: Sequence[Sample], *, backend_known: bool
) -> Times:
    """What the efficiencies say of some rows."""
    keys = [(sample.case, sample.backend if backend_known else None) for sample in samples]
    distinct = list(dict.fromkeys(keys))
    place = {key: index for index, key in enumerate(distinct)}
    return efficiencies.predict(
        [case for case, _ in distinct],
        [place[key] for key in keys],
        load_of(samples),
        [backend for _, backend in distinct],
    )


def _seen(plain: Efficiencies, samples: Sequence[Sample]) -> dict[Group, Residual]:
    found = predicted(plain, samples, backend_known=True)
    ttft = np.log([sample.ttft_s for sample in samples]) - np.log(found.ttft_s)
    tpot = np.log([sample.tpot_s for sample in samples]) - np.log(found.tpot_s)
    rows: dict[Group, list[int]] = {}
    for index, sample in enumerate(samples):
        candidate = sample.case.candidate
        group = Group(
            sample.case.model, candidate.gpu.product, candidate.precision.value, sample.backend
        )
        rows.setdefault(group, []).append(index)
    return {
        group: Residual(len(mine), float(np.median(ttft[mine])), float(np.median(tpot[mine])))
        for group, mine in rows.items()
    }


def _softened(errors: Floats) -> Floats:
    """Half its square is the soft-L1 loss: near zero the square, far away the distance."""
    softened: Floats = np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1))
    return softened


def _starts() -> Floats:
    return np.log([PRIORS[term][0] for term in Coefficients._fields])


def _deviations() -> Floats:
    return np.array([PRIORS[term][1] for term in Coefficients._fields])
