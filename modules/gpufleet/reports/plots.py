"""Plots as SVG inside a page: text stays text, and the same data gives the same bytes."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#1c2430"
QUIET: Final = "#6b7686"
BLUE: Final = "#1f6feb"
ORANGE: Final = "#c2540a"
GREEN: Final = "#1a7f4b"
RED: Final = "#c0362c"
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gpufleet",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e7ed",
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_NUMBERS: Final = "{x:,g}"
_SIZE_INCHES: Final = (4.4, 2.7)
"""Small, so that the text is still read on a phone, which shows the plot at about this width."""
_HEAD: Final = re.compile(r"^.*?(?=<svg )", re.DOTALL)
_COUNTED_ID: Final = re.compile(r' id="[a-z0-9.]+_[0-9]+"')
_FIXED_SIZE: Final = re.compile(r'(<svg [^>]*?) width="[^"]*"| height="[^"]*pt"')


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A value that the reader compares with: a limit, a budget, the chosen number."""

    name: str
    at: float
    color: str


def lines(  # noqa: PLR0913 - what a plot is made of
    title: str,
    x_label: str,
    y_label: str,
    drawn: Sequence[Line],
    *,
    limits: Sequence[Mark] = (),
    chosen: Mark | None = None,
) -> str:
    """Lines over a common axis, with horizontal limits and the chosen place on it.

    Returns:
        An `<svg>` element whose `<title>` is what a screen reader says.
    """
    with _figure(title) as (figure, axes):
        for line in drawn:
            style = "--" if line.dashed else "-"
            marker = "o" if len(line.xs) < 20 else ""  # noqa: PLR2004 - more would be a thick line
            axes.plot(
                line.xs, line.ys, style, marker=marker, ms=3, color=line.color, label=line.name
            )
        for limit in limits:
            axes.axhline(limit.at, color=limit.color, lw=1, ls=":", label=limit.name)
        if chosen:
            axes.axvline(chosen.at, color=chosen.color, lw=1, label=chosen.name)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_NUMBERS)
        axes.legend(loc="best")
        return _svg(figure, title)


def bars(title: str, y_label: str, parts: Sequence[tuple[str, float, str]], limit: Mark) -> str:
    """Amounts upon each other beside what they may come to.

    Args:
        title: of the plot.
        y_label: with the unit.
        parts: name, amount and colour of each, from below.
        limit: what they may come to together.
    """
    with _figure(title) as (figure, axes):
        below = 0.0
        for name, amount, color in parts:
            axes.barh([0], [amount], left=below, color=color, height=0.5, label=name)
            below += amount
        axes.axvline(limit.at, color=limit.color, lw=1.5, label=limit.name)
        axes.set_yticks([])
        axes.set_xlabel(y_label)
        axes.set_ylim(-0.5, 1.6)
        axes.xaxis.set_major_formatter(_NUMBERS)
        axes.legend(loc="upper left", ncols=2)
        return _svg(figure, title)


@contextmanager
def _figure(title: str) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=9, loc="left")
        yield figure, axes


def _svg(figure: Figure, title: str) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Title": title, "Creator": None})
    # A page scales it; a fixed size would run over a phone's edge.
    scaled = _FIXED_SIZE.sub(r"\1", _HEAD.sub("", sink.getvalue(), count=1), count=2)
    # These ids are the same in every plot, and nothing refers to them.
    return _COUNTED_ID.sub("", scaled)
