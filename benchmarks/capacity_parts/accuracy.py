"""How near predictions of TTFT, TPOT and E2E are, on groups that the fit has not seen.

Leaves out one model and GPU at a time. Peers, in the same run: a plain roofline of nine terms that
is fitted in the same way, and the data's own repeatability, which nobody can beat.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import measurements
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from gpufleet.core.capacity.calibration import Calibration
from gpufleet.core.capacity.efficiencies import ENGINE, Efficiencies
from gpufleet.core.capacity.fitting import Sample, fitted, load_of, predicted
from gpufleet.core.capacity.roofline import Replicas, Times
from gpufleet.core.capacity.shapes import experts_hit
from gpufleet.spec.evidence import MeasuredPoint

Floats = NDArray[np.float64]
LEAST_ROWS = 10
"""Rows from which a model and GPU counts among the medians of groups."""
LEAST_TESTED = 3
"""Rows that a calibrated group is tested on, at least."""


class Row(NamedTuple):
    """Median absolute relative errors: over rows, and the median of the groups' medians."""

    what: str
    rows: int
    ttft: float
    tpot: float
    e2e: float
    groups: tuple[float, ...] = ()
    """The same of TTFT, TPOT and E2E over groups; empty where there are none."""


def rows(*, quick: bool = False) -> list[Row]:  # noqa: ARG001 - fewer groups say nothing
    """The accuracy table."""
    versions = measurements.read()
    samples = sorted(versions, key=repr)
    owners = np.array([f"{s.case.model} {s.case.candidate.gpu.product}" for s in samples])
    whole = fitted(samples)
    left_out = {
        str(owner): fitted([samples[i] for i in np.flatnonzero(owners != owner)], whole)
        for owner in np.unique(owners)
    }
    table = [
        _summary(
            "the plain roofline of nine terms, engine not told", _plain(samples, owners), owners
        )
    ]
    for told in (False, True):
        errors = _left_out(samples, owners, left_out, told=told)
        name = f"ours, engine {'told' if told else 'not told'}"
        table.append(_summary(name, errors, owners))
        own = np.array([sample.backend == ENGINE for sample in samples])
        table.append(_summary(f"{name}, rows of vLLM", errors[:, own], owners[own]))
    for count, chosen in ((3, three_points), (5, five_points)):
        table.append(
            _calibrated(
                f"ours, calibrated on {count} points of the replica",
                versions,
                left_out,
                count,
                chosen,
            )
        )
    return [*table, *_repeatability()]


def main(*, quick: bool = False) -> None:
    """Print the table."""
    print(f"{'':58} {'rows':>5}   median of rows        median of groups")
    print(f"{'':58} {'':>5}   TTFT   TPOT   E2E     TTFT   TPOT   E2E")
    for row in rows(quick=quick):
        shown = " ".join(f"{100 * value:5.1f}%" for value in row[2:5])
        groups = " ".join(f"{100 * value:5.1f}%" for value in row.groups)
        print(f"{row.what:58} {row.rows:5}  {shown}   {groups}")


def three_points(group: Sequence[Sample]) -> list[Sample]:
    """What we would measure: shortest prompts at a low and a high load, longest in between."""
    shortest, longest = (
        _by_load([s for s in group if s.prompt_tokens == pick(s.prompt_tokens for s in group)])
        for pick in (min, max)
    )
    picked = (
        shortest[len(shortest) // 4],
        longest[len(longest) // 2],
        shortest[3 * len(shortest) // 4],
    )
    return list(dict.fromkeys(picked))


def five_points(group: Sequence[Sample]) -> list[Sample]:
    """Evenly through the rows by prompt, load and answer."""
    ordered = sorted(group, key=lambda s: (s.prompt_tokens, s.concurrency, s.output_tokens))
    return list(dict.fromkeys(ordered[int((i + 0.5) * len(ordered) / 5)] for i in range(5)))


def _by_load(group: Sequence[Sample]) -> list[Sample]:
    return sorted(group, key=lambda s: (s.concurrency, s.output_tokens))


def _errors(found: Times, samples: Sequence[Sample]) -> Floats:
    """Absolute relative errors of TTFT, TPOT and E2E: one line each."""
    ttft = np.array([s.ttft_s for s in samples])
    tpot = np.array([s.tpot_s for s in samples])
    output = np.array([s.output_tokens for s in samples])
    e2e = Times(ttft, tpot).e2e_s(output)
    pairs = ((found.ttft_s, ttft), (found.tpot_s, tpot), (found.e2e_s(output), e2e))
    return np.array([np.abs(said / was - 1) for said, was in pairs])


def _summary(what: str, errors: Floats, groups: NDArray[np.str_]) -> Row:
    counted = [name for name in np.unique(groups) if np.sum(groups == name) >= LEAST_ROWS]
    of_groups = [np.median(errors[:, groups == name], axis=1) for name in counted]
    by_row, by_group = np.median(errors, axis=1), np.median(of_groups, axis=0)
    return Row(what, errors.shape[1], *by_row.tolist(), tuple(by_group.tolist()))


def _left_out(
    samples: Sequence[Sample],
    owners: NDArray[np.str_],
    fits: dict[str, Efficiencies],
    *,
    told: bool,
) -> Floats:
    errors = np.zeros((3, len(samples)))
    for owner, efficiencies in fits.items():
        mine = np.flatnonzero(owners == owner)
        tested = [samples[i] for i in mine]
        errors[:, mine] = _errors(predicted(efficiencies, tested, backend_known=told), tested)
    return errors


def _calibrated(
    what: str,
    versions: dict[Sample, str],
    fits: dict[str, Efficiencies],
    count: int,
    choose: Callable[[Sequence[Sample]], list[Sample]],
) -> Row:
    """Groups are replicas: one model, GPU, precision, engine, version and layout."""
    groups: dict[tuple[object, ...], list[Sample]] = defaultdict(list)
    for sample in sorted(versions, key=repr):
        groups[sample.case, sample.backend, versions[sample]].append(sample)
    errors, names = [], []
    for (case, backend, version), group in groups.items():
        if len(group) < count + LEAST_TESTED:
            continue
        points = choose(group)
        rest = [sample for sample in group if sample not in points]
        candidate = group[0].case.candidate
        efficiencies = fits[f"{group[0].case.model} {candidate.gpu.product}"]
        coefficients = efficiencies.coefficients([candidate], group[0].backend)
        calibration = Calibration.of(
            Replicas.of([candidate]), coefficients, [_point(sample) for sample in points]
        )
        errors.append(_errors(calibration.times(load_of(rest)), rest))
        names += [f"{case}{backend}{version}"] * len(rest)
    return _summary(what, np.hstack(errors), np.array(names))


def _point(sample: Sample) -> MeasuredPoint:
    return MeasuredPoint(
        prompt_tokens=int(sample.prompt_tokens),
        output_tokens=int(sample.output_tokens),
        concurrency=int(sample.concurrency),
        ttft_s=sample.ttft_s,
        tpot_s=sample.tpot_s,
    )


def _repeatability() -> list[Row]:
    """Each measurement as a prediction of every other one of the same configuration."""
    configuration = ("model", "gpu", "precision", "tp", "pp", "ep", "isl", "osl", "concurrency")
    kinds = {
        "the data: same version measured again": (*configuration, "backend", "backend_version"),
        "the data: same engine, any version": (*configuration, "backend"),
        "the data: any engine": configuration,
    }
    found = []
    for what, columns in kinds.items():
        groups: dict[tuple[str, ...], set[tuple[float, float, float]]] = defaultdict(set)
        for row in measurements.rows():
            ttft, tpot = float(row["ttft_ms"]), float(row["tpot_ms"])
            e2e = ttft + tpot * (int(row["osl"]) - 1)
            groups[tuple(row[name] for name in columns)].add((ttft, tpot, e2e))
        errors = np.array(
            [
                [abs(one[k] / other[k] - 1) for k in range(3)]
                for runs in groups.values()
                for one in sorted(runs)
                for other in sorted(runs)
                if one != other
            ]
        )
        medians = np.median(errors, axis=0).tolist()
        found.append(Row(what, len(errors), *medians))
    return found


def _plain(samples: Sequence[Sample], owners: NDArray[np.str_]) -> Floats:
    """Nine terms, one efficiency each: what a sketch on a whiteboard gives, left out likewise."""
    r = Replicas.of([sample.case.candidate for sample in samples])
    load = load_of(samples)
    n = load.concurrency
    hit = experts_hit(n, r.experts, r.experts_per_token)
    flop_s = r.dense_flop_s + r.expert_flop_s
    parallel = r.tensor > 1
    moved = 2 * r.layers * r.hidden_size * 2 / r.link * parallel
    context = load.prompt_tokens + load.output_tokens / 2
    prompt_s = load.prompt_tokens * flop_s
    tpot_terms = [
        (r.dense_bytes + hit * r.expert_bytes) / r.bandwidth,
        n * context * r.cache_bytes / r.bandwidth,
        n * flop_s,
        n * moved + 2 * r.layers * parallel * 1e-5,
        r.layers * 1e-5,
        n * prompt_s / load.output_tokens,
    ]
    ttft_terms = [prompt_s, n * prompt_s, np.full(len(samples), 0.02)]
    ttft = np.log([sample.ttft_s for sample in samples])
    tpot = np.log([sample.tpot_s for sample in samples])

    def said(x: Floats) -> tuple[Floats, Floats]:
        factors = np.exp(x)
        steps = sum(f * term for f, term in zip(factors[:6], tpot_terms, strict=True))
        first = sum(f * term for f, term in zip(factors[6:], ttft_terms, strict=True))
        return np.asarray(first), np.asarray(steps)

    errors = np.zeros((3, len(samples)))
    for owner in np.unique(owners):
        mine, others = owners == owner, owners != owner

        def residuals(x: Floats, others: NDArray[np.bool_] = others) -> Floats:
            first, steps = said(x)
            return np.concatenate([(np.log(first) - ttft)[others], (np.log(steps) - tpot)[others]])

        x = least_squares(residuals, np.zeros(9), loss="soft_l1", f_scale=0.2).x
        first, steps = said(x)
        tested = [samples[i] for i in np.flatnonzero(mine)]
        errors[:, mine] = _errors(Times(first[mine], steps[mine]), tested)
    return errors


if __name__ == "__main__":
    main()
