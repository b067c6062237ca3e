"""Predict the speed of every row of a file: read, look names up, compute, and put it in order."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from gpufleet.core.capacity.efficiencies import BACKENDS
from gpufleet.core.capacity.predict import Point, PointDoesNotFit, predict
from gpufleet.core.capacity.shapes import UnknownModel, built_in_shape, shape_of
from gpufleet.edges.points_file import MOST, PointRow, PointsFile, read_points
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import BadInput
from gpufleet.spec.evidence import MeasuredPoint
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.load import built_in_gpus
from gpufleet.spec.shapes import ModelShape, built_in_shapes

Row = dict[str, str | int | float]
_NUMBERS: Final = (*MOST, "ep")
_SHOWN: Final = 80


def predict_points(points_file: Path, fleet_file: Path | None = None) -> list[Row]:
    """The rows of a file with `ttft_ms`, `tpot_ms`, `e2e_ms` and `tokens_per_s_per_gpu`.

    Args:
        points_file: CSV with model, gpu, precision, tp, pp, isl, osl and concurrency; backend,
            backend_version and ep count where they are there.
        fleet_file: names of its revisions and GPU types are understood too, and points that it
            has measured of a row's replica correct the row.

    Raises:
        BadInput: with file, line, column and field.
    """
    fleet = load_fleet(fleet_file) if fleet_file else None
    file = read_points(points_file)
    names = _Names(file, fleet)
    points = [names.point(row) for row in file.rows]
    try:
        found = predict(points)
    except PointDoesNotFit as error:
        where = file.place(file.rows[error.index], "tp")
        raise BadInput(str(error), where=where) from None
    answers = zip(
        (found.ttft_s * 1000).tolist(),
        (found.tpot_s * 1000).tolist(),
        (found.e2e_s * 1000).tolist(),
        found.tokens_per_s_per_gpu.tolist(),
        strict=True,
    )
    return [
        _given(file, row)
        | {
            "ttft_ms": round(ttft, 3),
            "tpot_ms": round(tpot, 4),
            "e2e_ms": round(e2e, 3),
            "tokens_per_s_per_gpu": round(rate, 3),
        }
        for row, (ttft, tpot, e2e, rate) in zip(file.rows, answers, strict=True)
    ]


def _given(file: PointsFile, row: PointRow) -> Row:
    """The cells of a row, numbers as numbers."""
    return {
        column: row.numbers.get(column, 0) if column in _NUMBERS and cell else cell
        for column, cell in zip(file.columns, row.cells, strict=True)
    }


class _Names:
    """Looks the names of rows up, each distinct one once."""

    def __init__(self, file: PointsFile, fleet: Fleet | None) -> None:
        self._file = file
        self._fleet = fleet
        self._gpus: Mapping[str, GpuType] = (
            fleet.gpus
            if fleet
            else {name: GpuType.model_validate(each) for name, each in built_in_gpus().items()}
        )
        self._revisions = fleet.models if fleet else {}
        self._shapes: dict[str, ModelShape] = {}

    def point(self, row: PointRow) -> Point:
        """A row with its names resolved."""
        gpu_name = row.gpu.replace("_", "-")
        if gpu_name not in self._gpus:
            raise self._unknown(row, "gpu", gpu_name, self._gpus)
        if row.backend and row.backend not in BACKENDS:
            raise self._unknown(row, "backend", row.backend, BACKENDS)
        return Point(
            shape=self._shape(row),
            name=row.model,
            gpu=self._gpus[gpu_name],
            precision=row.precision,
            tensor=row.numbers["tp"],
            pipeline=row.numbers["pp"],
            prompt_tokens=row.numbers["isl"],
            output_tokens=row.numbers["osl"],
            concurrency=row.numbers["concurrency"],
            backend=row.backend or None,
            expert_parallel=row.numbers.get("ep"),
            measured=self._measured(row, gpu_name),
        )

    def _shape(self, row: PointRow) -> ModelShape:
        if row.model not in self._shapes:
            revision = self._revisions.get(row.model)
            try:
                self._shapes[row.model] = (
                    shape_of(revision) if revision else built_in_shape(row.model)
                )
            except UnknownModel:
                known = [*self._revisions, *built_in_shapes()]
                raise self._unknown(row, "model", row.model, known) from None
        return self._shapes[row.model]

    def _measured(self, row: PointRow, gpu: str) -> tuple[MeasuredPoint, ...]:
        """Points that the fleet file has of just this replica."""
        if self._fleet is None:
            return ()
        wanted = (gpu, row.numbers["tp"], row.numbers["pp"])
        return tuple(
            point
            for each in self._fleet.measurements.values()
            if (each.gpu_type, each.gpus_per_node, each.nodes_per_replica) == wanted
            and row.model in {each.model, self._revisions[each.model].model}
            and self._revisions[each.model].precision is row.precision
            for point in each.points
        )

    def _unknown(self, row: PointRow, column: str, given: str, known: Iterable[str]) -> BadInput:
        names = sorted(known)
        near = difflib.get_close_matches(given, names, n=3, cutoff=0.4)
        mend = f"near are {', '.join(near)}" if near else f"valid here: {', '.join(names[:10])}"
        what = f"`{given:.{_SHOWN}}` is not a known {column}"
        return BadInput(what, where=self._file.place(row, column), mend=mend)
