"""Measured rows of the reference data, as the fit takes them."""

import csv
import gzip
import io
from pathlib import Path

from gpufleet.core.capacity.fitting import Sample, samples_of
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.load import built_in_gpus

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT.parent / "shared" / "data" / "serving_measurements.csv.gz"


def rows() -> list[dict[str, str]]:
    """The rows as they stand in the file."""
    with gzip.open(FILE) as opened:
        return list(csv.DictReader(io.TextIOWrapper(opened, "utf-8")))


def read() -> dict[Sample, str]:
    """Every distinct row with its engine's version."""
    gpus = {name: GpuType.model_validate(fields) for name, fields in built_in_gpus().items()}
    return samples_of(rows(), gpus)
