"""Choose the scaling of a model's logits by its gain on held-out rows.

The rows of a fit have also chosen the epoch, so they make the model look a little too good.
Therefore, every fit needs enough rows and must show its gain on held-out rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.evaluation.scaling import (
    Scaling,
    ScalingKind,
    fit_cubic,
    fit_temperature,
    fit_vector,
    log_losses,
    no_scaling,
)
from bertfit.evaluation.units import number_units

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_ROWS = 100
"""With fewer rows nothing is fitted."""
MIN_MISTAKES = 5
"""With fewer mistakes nothing is fitted: without mistakes, the temperature would go to 0."""
MIN_CLASS_ROWS = 50
"""Rows that every class needs for a scaling per class."""
CLEAR_ERRORS = 2.0
"""Gain over a temperature, in standard errors (over groups if there are), that any other scaling
needs."""
MAX_LOGITS = 500_000
"""With more logits (rows times classes), rows are sampled: more would be slower but not better."""
NUM_FOLDS = 5

_REASONS: dict[ScalingKind, str] = {
    "none": "no scaling lowers the log loss of held-out validation rows",
    "temperature": "it lowers the log loss of held-out validation rows",
    "vector": "scaling each class is clearly better on held-out validation rows",
    "cubic": "bending the logits is clearly better on held-out validation rows",
}


@dataclass(frozen=True, slots=True)
class ScalingChoice:
    """The chosen scaling, and why."""

    scaling: Scaling
    reason: str
    """A short phrase."""
    num_rows: int
    """Number of rows of the fit."""
    held_out_log_losses: dict[str, float]
    """Mean log loss on held-out rows, in nats, by kind; empty if nothing was fitted."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows of a fit: logits (n, C), label ids (n,), and features (n, D) or None."""

    logits: NDArray[np.float64]
    label_ids: NDArray[np.int64]
    features: NDArray[np.floating] | None

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> _Sample:
        features = None if self.features is None else self.features[rows]
        return _Sample(self.logits[rows], self.label_ids[rows], features)


_Fit = Callable[[_Sample], Scaling]


def choose_scaling(
    logits: ArrayLike,
    label_ids: ArrayLike,
    *,
    features: ArrayLike | None = None,
    allow_vector: bool = True,
    with_bias: bool = True,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> ScalingChoice:
    """Choose a scaling by held-out log loss: none, a temperature, a vector or a cubic.

    All kinds are compared by five-fold cross-validation. A temperature is used if it lowers the
    held-out log loss. A vector (which needs `MIN_CLASS_ROWS` rows per class) and a cubic can change
    predictions, so they must gain `CLEAR_ERRORS` standard errors over the temperature. In addition,
    a vector must not lose held-out accuracy, and a cubic, which changes few predictions and those
    without aim, must not lose more than chance explains.

    Args:
        logits: (n, C) of rows that the model was not trained on.
        label_ids: (n,) integers in [0, C).
        features: (n, D) inputs of the linear layer that computed the logits; None excludes the
            cubic.
        allow_vector: False excludes the vector.
        with_bias: Whether that layer has a bias, so that it can shift logits.
        groups: (n,) group of each row, never on both sides of a fold; or None.
        seed: Seed of the sample and the folds.
    """
    logits, label_ids = np.asarray(logits, dtype=np.float64), np.asarray(label_ids)
    num_labels = logits.shape[1]
    shortage = _find_shortage(logits, label_ids)
    if shortage:
        return ScalingChoice(no_scaling(num_labels), shortage, len(logits), {})
    rows = _draw_rows(logits.shape, seed=seed)
    features = None if features is None else np.asarray(features)
    sample = _Sample(logits, label_ids, features).take(rows)
    fits = _list_fits(sample, allow_vector=allow_vector, with_bias=with_bias)
    groups = None if groups is None else np.asarray(groups, dtype=object)[rows]
    units = number_units(groups, len(rows))
    folds = _draw_folds(units, seed=seed)
    held_out = {kind: _scale_held_out(fit, sample, folds) for kind, fit in fits.items()}
    losses = {kind: log_losses(scaled, sample.label_ids) for kind, scaled in held_out.items()}
    kind = _choose_kind(losses, held_out, sample.label_ids, units=units)
    means = {str(name): float(values.mean()) for name, values in losses.items()}
    return ScalingChoice(fits[kind](sample), _REASONS[kind], len(rows), means)


def _find_shortage(logits: NDArray[np.float64], label_ids: NDArray[np.int64]) -> str:
    """Return why no scaling can be fitted on these rows, or an empty string."""
    num_mistakes = int((logits.argmax(axis=1) != label_ids).sum())
    if len(label_ids) < MIN_ROWS:
        return f"{len(label_ids):,} validation rows are too few, {MIN_ROWS} are needed"
    if num_mistakes < MIN_MISTAKES:
        return f"{num_mistakes} wrong validation rows are too few, {MIN_MISTAKES} are needed"
    return ""


def _list_fits(sample: _Sample, *, allow_vector: bool, with_bias: bool) -> dict[ScalingKind, _Fit]:
    num_labels = sample.logits.shape[1]
    fits: dict[ScalingKind, _Fit] = {
        "none": lambda _: no_scaling(num_labels),
        "temperature": lambda rows: fit_temperature(rows.logits, rows.label_ids),
    }
    class_rows = int(np.bincount(sample.label_ids, minlength=num_labels).min())
    if allow_vector and class_rows >= MIN_CLASS_ROWS:
        fits["vector"] = lambda rows: fit_vector(rows.logits, rows.label_ids, with_bias=with_bias)
    if sample.features is not None:
        fits["cubic"] = lambda rows: _fit_cubic(rows, with_bias=with_bias)
    return fits


def _fit_cubic(rows: _Sample, *, with_bias: bool) -> Scaling:
    assert rows.features is not None
    return fit_cubic(rows.logits, rows.label_ids, rows.features, with_bias=with_bias)


def _draw_rows(shape: tuple[int, ...], *, seed: int) -> NDArray[np.intp]:
    num_rows, num_labels = shape
    num_drawn = min(num_rows, max(MIN_ROWS, MAX_LOGITS // num_labels))
    return np.sort(np.random.default_rng(seed).choice(num_rows, num_drawn, replace=False))


def _draw_folds(units: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return (n,) the fold of each row, given its unit; units are not divided."""
    folds: NDArray[np.int64] = (
        np.random.default_rng(seed).permutation(int(units.max()) + 1)[units] % NUM_FOLDS
    )
    return folds


def _scale_held_out(fit: _Fit, sample: _Sample, folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n, C) logits, each scaled by a fit on the other folds."""
    scaled = np.empty_like(sample.logits)
    for fold in np.unique(folds):
        held_out = sample.take(folds == fold)
        scaling = fit(sample.take(folds != fold))
        scaled[folds == fold] = scaling.apply(held_out.logits, held_out.features)
    return scaled


def _choose_kind(
    losses: dict[ScalingKind, NDArray[np.float64]],
    held_out: dict[ScalingKind, NDArray[np.float64]],
    label_ids: NDArray[np.int64],
    *,
    units: NDArray[np.int64],
) -> ScalingKind:
    means = {kind: float(values.mean()) for kind, values in losses.items()}
    is_right = {kind: scaled.argmax(axis=1) == label_ids for kind, scaled in held_out.items()}
    further: list[ScalingKind] = []
    for kind, may_lose in (("vector", 0.0), ("cubic", CLEAR_ERRORS)):
        if kind in losses:
            gains = losses["temperature"] - losses[kind]
            error = _sum_error(gains - gains.mean(), units) / len(gains)
            change = is_right[kind].astype(int) - is_right["temperature"]
            is_clear = float(gains.mean()) > CLEAR_ERRORS * error and means[kind] < means["none"]
            if is_clear and change.sum() >= -may_lose * _sum_error(change, units):
                further.append(kind)
    if further:
        return min(further, key=means.__getitem__)
    return "temperature" if means["temperature"] < means["none"] else "none"


def _sum_error(values: NDArray[np.floating], units: NDArray[np.int64]) -> float:
    """Return the standard error of a sum of rows whose mean is 0, drawn by units."""
    sums = np.bincount(units, weights=values)
    return float(np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1)))
