"""Severity from a CVSS 3 vector. Source: first.org/cvss/v3-1/specification-document, section 7."""

import math
from typing import Final

_WEIGHTS: Final = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES: Final = {
    "U": {"N": 0.85, "L": 0.62, "H": 0.27},
    "C": {"N": 0.85, "L": 0.68, "H": 0.5},
}
"""By scope."""
_SEVERITIES: Final = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low"))


def severity(score: float) -> str:
    """The word for a base score; empty for 0."""
    return next((word for least, word in _SEVERITIES if score >= least), "")


def base_score(vector: str) -> float | None:
    """The base score of a vector of CVSS 3.0 or 3.1; None of anything else."""
    head, *parts = vector.strip().split("/")
    if head not in {"CVSS:3.0", "CVSS:3.1"}:
        return None
    given = dict(part.partition(":")[::2] for part in parts)
    try:
        weight = {name: known[given[name]] for name, known in _WEIGHTS.items()}
        privileges = _PRIVILEGES[given["S"]][given["PR"]]
    except KeyError:
        return None
    lost = 1 - (1 - weight["C"]) * (1 - weight["I"]) * (1 - weight["A"])
    changed = given["S"] == "C"
    impact = 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15 if changed else 6.42 * lost
    if impact <= 0:
        return 0.0
    ease = 8.22 * weight["AV"] * weight["AC"] * privileges * weight["UI"]
    return _rounded_up(min(10.0, (1.08 if changed else 1.0) * (impact + ease)))


def _rounded_up(score: float) -> float:
    """To one decimal, as the specification does it to be the same on every machine."""
    whole = round(score * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (math.floor(whole / 10_000) + 1) / 10
