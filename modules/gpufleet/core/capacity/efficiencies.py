"""The fitted efficiencies of engines and GPUs that ship with gpufleet, and what to do unfitted.

`efficiencies.csv` has one line for each number; `benchmarks/capacity_fit` writes it. A coefficient
is its pooled value times a correction for each group that it belongs to; a group that the fit has
not seen has none. What was measured of the same architecture on the same GPU moves the result.
"""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, NamedTuple, Self

import numpy as np

from gpufleet.core.capacity.requests import Floats
from gpufleet.core.capacity.roofline import (
    Candidate,
    Coefficients,
    Load,
    Replicas,
    Times,
    dense_precision,
    times,
)
from gpufleet.spec.hardware import GpuType

BACKENDS: Final = ("sglang", "trtllm", "vllm")
ENGINE: Final = "vllm"
"""What gpufleet's own pools run."""
PRIOR_ROWS: Final = 10
"""Rows that a wider group's mixture of engines counts for, beside a narrower group's own rows."""
SHRINK_ROWS: Final = 5
"""Rows at which half of what was measured of the same model and GPU is believed."""
FILE: Final = "efficiencies.csv"
_COLUMNS: Final = ("entry", "term", "group", "level", "value")


class Group(NamedTuple):
    """Rows of the fit that share architecture, GPU, precision and engine."""

    model: str
    gpu: str
    precision: str
    backend: str


class Residual(NamedTuple):
    """Median of the logarithm of measured over predicted, and how many rows it comes from."""

    rows: int
    ttft: float
    tpot: float

    @property
    def belief(self) -> float:
        """How much of it to apply, from 0 to 1."""
        return self.rows / (self.rows + SHRINK_ROWS)


class Case(NamedTuple):
    """A candidate with what decides its corrections."""

    candidate: Candidate
    model: str
    """Public name that its architecture goes by in the table; empty where it is not built in."""


def cores(gpu: GpuType) -> str:
    """The GPU's generation, by the narrowest format that its tensor cores multiply."""
    if gpu.fp4_flops_per_s:
        return "fp4"
    return "fp8" if gpu.fp8_flops_per_s else "bf16"


def levels(candidate: Candidate, backend: str) -> dict[str, str]:
    """The group of each kind that a candidate belongs to."""
    return {
        "backend": backend,
        "attention": candidate.model.kind.value,
        "precision": candidate.precision.value,
        "dense precision": dense_precision(candidate).value,
        "cores": cores(candidate.gpu),
        "cores and precision": f"{cores(candidate.gpu)} {candidate.precision.value}",
    }


@dataclass(frozen=True)
class Efficiencies:
    """Pooled values, logarithms of their corrections, and what was seen."""

    terms: Mapping[str, float]
    corrections: Mapping[tuple[str, str, str], float]
    """By term, kind of group, and group."""
    seen: Mapping[Group, Residual]

    @classmethod
    def read(cls, text: str) -> Self:
        """From the lines that `write` gives; `#` begins a comment."""
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        terms: dict[str, float] = {}
        corrections: dict[tuple[str, str, str], float] = {}
        seen: dict[Group, dict[str, float]] = {}
        for row in csv.DictReader(lines):
            value = float(row["value"])
            if row["entry"] == "term":
                terms[row["term"]] = value
            elif row["entry"] == "correction":
                corrections[row["term"], row["group"], row["level"]] = math.log(value)
            else:
                group = Group(*row["level"].split(" "))
                seen.setdefault(group, {})[row["term"]] = value
        residuals = {
            group: Residual(int(each["rows"]), math.log(each["ttft"]), math.log(each["tpot"]))
            for group, each in seen.items()
        }
        return cls(terms, corrections, residuals)

    def write(self, comment: Sequence[str] = ()) -> str:
        """The table as text: sorted, four significant digits, so that equal fits are equal."""
        rows = [("term", term, "", "", value) for term, value in self.terms.items()]
        rows += [("correction", *key, math.exp(value)) for key, value in self.corrections.items()]
        for group, residual in self.seen.items():
            level = " ".join(group)
            rows.append(("measured", "rows", "group", level, residual.rows))
            rows.append(("measured", "ttft", "group", level, math.exp(residual.ttft)))
            rows.append(("measured", "tpot", "group", level, math.exp(residual.tpot)))
        order = {"term": 0, "correction": 1, "measured": 2}
        rows.sort(key=lambda row: (order[row[0]], row[3] if row[0] == "measured" else "", row[:4]))
        lines = [f"# {line}".rstrip() for line in comment] + [",".join(_COLUMNS)]
        lines += [",".join((*row[:4], f"{row[4]:.4g}")) for row in rows]
        return "\n".join(lines) + "\n"

    def coefficients(self, candidates: Sequence[Candidate], backend: str) -> Coefficients:
        """One column of each coefficient, with an element for each candidate."""
        made: dict[tuple[str, ...], list[float]] = {}
        rows = []
        for candidate in candidates:
            groups = levels(candidate, backend)
            key = tuple(groups.values())
            if key not in made:
                made[key] = [
                    value * math.exp(self._correction(term, groups))
                    for term, value in ((term, self.terms[term]) for term in Coefficients._fields)
                ]
            rows.append(made[key])
        return Coefficients(*np.array(rows, dtype=np.float64).T)

    def mixture(self, case: Case) -> dict[str, float]:
        """How probable each engine is when it is not told: what such models are measured with."""
        shares = dict.fromkeys(BACKENDS, 1 / len(BACKENDS))
        gpu, precision = case.candidate.gpu.product, case.candidate.precision.value
        nested = [
            self.seen,
            {group: each for group, each in self.seen.items() if group.model == case.model},
            {
                group: each
                for group, each in self.seen.items()
                if group[:3] == (case.model, gpu, precision)
            },
        ]
        for groups in nested:
            rows: Counter[str] = Counter()
            for group, residual in groups.items():
                rows[group.backend] += residual.rows
            all_rows = rows.total() + PRIOR_ROWS
            shares = {
                name: (rows[name] + PRIOR_ROWS * shares[name]) / all_rows for name in BACKENDS
            }
        return shares

    def residual(self, case: Case, backend: str) -> Residual:
        """What was measured of the same architecture, GPU, precision and engine."""
        gpu, precision = case.candidate.gpu.product, case.candidate.precision.value
        return self.seen.get(Group(case.model, gpu, precision, backend), Residual(0, 0.0, 0.0))

    def predict(
        self, cases: Sequence[Case], rows: Sequence[int], load: Load, backends: Sequence[str | None]
    ) -> Times:
        """Mean TTFT and TPOT of some loads.

        Args:
            cases: distinct candidates.
            rows: index into `cases` for each load.
            load: one element for each load.
            backends: the engine of each case; where it is None, the geometric mean over the
                engines weighted by `mixture`, which has the least expected error on a log scale.
        """
        index = np.asarray(rows)
        replicas = Replicas.of([case.candidate for case in cases]).at(index)
        weights = [
            self.mixture(case) if backend is None else {backend: 1.0}
            for case, backend in zip(cases, backends, strict=True)
        ]
        log_ttft = np.zeros(len(index))
        log_tpot = np.zeros(len(index))
        for name in sorted({name for each in weights for name in each}):
            share = np.array([each.get(name, 0.0) for each in weights])[index]
            columns = self.coefficients([case.candidate for case in cases], name)
            found = times(replicas, Coefficients(*(column[index] for column in columns)), load)
            moved = [self.residual(case, name) for case in cases]
            log_ttft += share * (np.log(found.ttft_s) + _moves(moved, "ttft")[index])
            log_tpot += share * (np.log(found.tpot_s) + _moves(moved, "tpot")[index])
        return Times(np.exp(log_ttft), np.exp(log_tpot))

    def _correction(self, term: str, groups: Mapping[str, str]) -> float:
        return sum(self.corrections.get((term, kind, level), 0.0) for kind, level in groups.items())


def _moves(residuals: Sequence[Residual], which: str) -> Floats:
    return np.array([each.belief * getattr(each, which) for each in residuals], dtype=np.float64)


@cache
def shipped() -> Efficiencies:
    """The table that ships with gpufleet."""
    text = resources.files("gpufleet.core.capacity").joinpath(FILE).read_text(encoding="utf-8")
    return Efficiencies.read(text)
