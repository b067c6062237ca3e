"""Measured rows of the reference data, as the fit takes them."""

import csv
import gzip
import io
from pathlib import Path

from gpufleet.core.capacity.efficiencies import Case
from gpufleet.core.capacity.fitting import Sample
from gpufleet.core.capacity.predict import architecture, layout_of
from gpufleet.core.capacity.roofline import Candidate
from gpufleet.core.capacity.shapes import built_in_shape, size_of
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.load import built_in_gpus
from gpufleet.spec.serving import Precision

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT.parent / "shared" / "data" / "serving_measurements.csv.gz"
Row = dict[str, str]


def rows(file: Path = FILE) -> list[Row]:
    """The rows as they stand in the file."""
    with gzip.open(file) as opened:
        return list(csv.DictReader(io.TextIOWrapper(opened, "utf-8")))


def read(file: Path = FILE) -> list[Sample]:
    """Every distinct row, once: names of one architecture share rows in the source."""
    return [sample for sample, _ in read_versions(file)]


def read_versions(file: Path = FILE) -> list[tuple[Sample, str]]:
    """The same, each with the engine's version."""
    gpus = {name: GpuType.model_validate(fields) for name, fields in built_in_gpus().items()}
    found: dict[Sample, str] = {}
    for row in rows(file):
        found.setdefault(_sample(row, gpus), row["backend_version"])
    return list(found.items())


def _sample(row: Row, gpus: dict[str, GpuType]) -> Sample:
    shape = built_in_shape(row["model"])
    gpu = gpus[row["gpu"].replace("_", "-")]
    precision = Precision(row["precision"])
    tensor, pipeline, experts = (int(row[key]) for key in ("tp", "pp", "ep"))
    layout = layout_of(gpu, size_of(shape), precision, tensor, pipeline, experts)
    return Sample(
        case=Case(Candidate(size_of(shape), precision, gpu, layout), architecture(shape)),
        backend=row["backend"],
        prompt_tokens=float(row["isl"]),
        output_tokens=float(row["osl"]),
        concurrency=float(row["concurrency"]),
        ttft_s=float(row["ttft_ms"]) / 1000,
        tpot_s=float(row["tpot_ms"]) / 1000,
    )
