"""Plot the curves of a classifier: ROC, precision-recall, reliability, risk-coverage.

Owns only their appearance, like plots.py for the history of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertfit.reporting.plots import GRID_COLOR, TRAIN_COLOR, VALIDATION_COLOR, figure_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE_SIZE = (4.2, 3.1)
"""Width and height in inches; the text is legible on a phone."""


def plot_roc(
    points: Sequence[Sequence[float]], *, operating: tuple[float, float] | None = None
) -> Figure:
    """Plot a ROC curve.

    Args:
        points: (false positive rate, true positive rate).
        operating: The operating point of the model, to mark.
    """
    ax = _make_square("false positive rate", "true positive rate")
    ax.plot([0, 1], [0, 1], linestyle=":", color=TRAIN_COLOR, label="chance")
    ax.plot(*_split(points), color=VALIDATION_COLOR, label="model")
    _mark(ax, operating)
    return _finish(ax)


def plot_precision_recall(
    points: Sequence[Sequence[float]],
    *,
    positive_share: float,
    operating: tuple[float, float] | None = None,
) -> Figure:
    """Plot a precision-recall curve.

    Args:
        points: (recall, precision).
        positive_share: Share of rows of the class, which is the precision of chance.
        operating: The operating point of the model, to mark.
    """
    ax = _make_square("recall", "precision")
    ax.axhline(positive_share, linestyle=":", color=TRAIN_COLOR, label="chance")
    ax.plot(*_split(points), color=VALIDATION_COLOR, label="model")
    _mark(ax, operating)
    return _finish(ax)


def plot_reliability(
    points: Sequence[Sequence[float]], *, before: Sequence[Sequence[float]] | None = None
) -> Figure:
    """Plot accuracy against mean confidence, in bins of equally many rows.

    Args:
        points: (mean confidence, accuracy) of each bin.
        before: The same before calibration.
    """
    ax = _make_square("mean confidence", "accuracy")
    ax.plot([0, 1], [0, 1], linestyle=":", color=TRAIN_COLOR, label="true confidence")
    if before is not None:
        ax.plot(
            *_split(before), "--s", color=TRAIN_COLOR, markersize=3.5, label="before calibration"
        )
    label = "model" if before is None else "after calibration"
    ax.plot(*_split(points), "-o", color=VALIDATION_COLOR, markersize=4, label=label)
    low = min(value for pair in [*points, *(before or [])] for value in pair)
    low = max(0.0, np.floor(10 * low - 0.5) / 10)
    ax.set(xlim=(low, 1.02), ylim=(low, 1.02))
    return _finish(ax)


def plot_risk_coverage(points: Sequence[Sequence[float]]) -> Figure:
    """Plot the error rate of the answered rows against their share.

    Args:
        points: (coverage, error rate), by increasing coverage up to 1.
    """
    (ax,) = new_axes(1, size=CURVE_SIZE)
    coverages, risks = _split(points)
    ax.plot(100 * coverages, 100 * risks, color=VALIDATION_COLOR, label="model")
    ax.axhline(100 * risks[-1], linestyle=":", color=TRAIN_COLOR, label="random confidence")
    ax.set(xlabel="answered rows, most confident first (%)", ylabel="wrong among them (%)")
    # The few most confident rows may all be wrong, so they do not determine the scale.
    highest = risks[coverages >= min(0.05, coverages[-1])].max()
    top = max(110 * highest, 1.0)
    ax.set(xlim=(0, 102), ylim=(-0.02 * top, top))  # a line at 0 is seen
    ax.grid(axis="y", color=GRID_COLOR)
    return _finish(ax)


def _make_square(x_name: str, y_name: str) -> Axes:
    (ax,) = new_axes(1, size=CURVE_SIZE)
    ax.set(xlabel=x_name, ylabel=y_name, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.grid(color=GRID_COLOR)
    ax.set_axisbelow(True)
    return ax


def _mark(ax: Axes, operating: tuple[float, float] | None) -> None:
    if operating is not None:
        ax.plot(*operating, "o", color=VALIDATION_COLOR, markersize=7, label="as it answers")


def _split(points: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    columns = np.asarray(points, dtype=np.float64).T
    return columns[0], columns[1]


def _finish(ax: Axes) -> Figure:
    ax.legend(frameon=False, fontsize=8, loc="best")
    return figure_of(ax)
