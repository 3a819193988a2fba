"""Calibration by scaling logits: one temperature, or a weight and a bias for each class.

Owns the fits and the choice among them. Folding the result into a model is modeling's.

The rows that a fit sees have chosen the epoch too, so they flatter the model a little; that is why
every fit is pulled towards doing nothing, needs enough rows, and has to show its gain on rows that
it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bertfit.evaluation.intervals import number_units

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ScalingKind = Literal["none", "temperature", "vector"]

MIN_ROWS = 100
"""With fewer rows nothing is fitted."""
MIN_MISTAKES = 5
"""With fewer wrong rows nothing is fitted: they are what holds a temperature back from 0."""
MIN_CLASS_ROWS = 50
"""Rows that every class needs before classes are scaled apart."""
CLEAR_GAIN_ERRORS = 2.0
"""Scaling classes apart must win by this many standard errors on rows that it has not seen."""
MAX_LOGITS = 500_000
"""Of more logits (rows times classes) some rows are drawn: all would teach no more, but slowly."""
NUM_FOLDS = 5

_PRIOR_DEVIATION = 0.5
"""Of the normal prior that pulls weights to 1 (or to the temperature's) and biases to 0."""
_INVERSE_TEMPERATURES = (0.01, 20.0)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How logits are scaled: class c's become weights[c] · logit + biases[c]."""

    kind: ScalingKind
    weights: tuple[float, ...]
    """(C,), each above 0."""
    biases: tuple[float, ...]
    """(C,), 0 under a temperature."""

    @property
    def temperature(self) -> float | None:
        """What all logits are divided by; None where classes are scaled apart."""
        return None if self.kind == "vector" else 1 / self.weights[0]

    def apply(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return scaled logits (n, C)."""
        scaled: NDArray[np.float64] = logits * np.asarray(self.weights) + np.asarray(self.biases)
        return scaled

    def undo(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the logits (n, C) that `apply` made these of."""
        raw: NDArray[np.float64] = (logits - np.asarray(self.biases)) / np.asarray(self.weights)
        return raw


@dataclass(frozen=True, slots=True)
class ScalingChoice:
    """The scaling that was chosen, and why."""

    scaling: Scaling
    reason: str
    """In a few words."""
    num_rows: int
    """Rows of the fit."""
    held_out_log_losses: dict[str, float]
    """Mean log loss, in nats, of rows that the fit had not seen, by kind; empty where nothing was
    fitted."""


def no_scaling(num_labels: int) -> Scaling:
    """Return the scaling that changes nothing."""
    return Scaling("none", (1.0,) * num_labels, (0.0,) * num_labels)


def choose_scaling(
    logits: ArrayLike,
    label_ids: ArrayLike,
    *,
    allow_vector: bool = True,
    with_bias: bool = True,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> ScalingChoice:
    """Choose between no scaling, a temperature, and a scaling of each class, by held-out log loss.

    Every choice is fitted on four fifths of the rows and judged on the last fifth, five times
    over. A temperature is taken where it lowers that log loss. Classes are scaled apart, which
    can change what is predicted, only where each has `MIN_CLASS_ROWS` rows, the gain over the
    temperature is `CLEAR_GAIN_ERRORS` standard errors, and no held-out accuracy is lost.

    Args:
        logits: (n, C) of rows that the model was not trained on.
        label_ids: (n,) integers in [0, C).
        allow_vector: False leaves the last choice out.
        with_bias: Whether classes scaled apart may have biases.
        groups: (n,) group of each row, never on both sides of a fold; or None.
        seed: Of the folds.
    """
    logits, label_ids = np.asarray(logits, dtype=np.float64), np.asarray(label_ids)
    num_labels = logits.shape[1]
    shortage = _find_shortage(logits, label_ids)
    if shortage:
        return ScalingChoice(no_scaling(num_labels), shortage, len(logits), {})
    rows = _draw_rows(logits.shape, seed=seed)
    logits, label_ids = logits[rows], label_ids[rows]
    groups = None if groups is None else np.asarray(groups, dtype=object)[rows]
    fits: dict[str, _Fit] = {
        "none": lambda rows, _ids: no_scaling(rows.shape[1]),
        "temperature": fit_temperature,
    }
    class_rows = int(np.bincount(label_ids, minlength=num_labels).min())
    if allow_vector and class_rows >= MIN_CLASS_ROWS:
        fits["vector"] = lambda rows, ids: fit_vector(rows, ids, with_bias=with_bias)
    held_out = {
        kind: _scale_held_out(fit, logits, label_ids, groups=groups, seed=seed)
        for kind, fit in fits.items()
    }
    losses = {kind: _log_losses(scaled, label_ids) for kind, scaled in held_out.items()}
    kind, reason = _choose_kind(losses, held_out, label_ids)
    means = {name: float(values.mean()) for name, values in losses.items()}
    return ScalingChoice(fits[kind](logits, label_ids), reason, len(logits), means)


def fit_temperature(logits: ArrayLike, label_ids: ArrayLike) -> Scaling:
    """Fit one temperature by log loss, pulled gently towards 1.

    Args:
        logits: (n, C).
        label_ids: (n,) integers in [0, C).

    Source:
        Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    logits, label_ids = np.asarray(logits, dtype=np.float64), np.asarray(label_ids)

    def weigh(inverse: float) -> float:
        """Return the log posterior's negative; convex in the inverse temperature."""
        prior = (inverse - 1) ** 2 / (2 * _PRIOR_DEVIATION**2)
        return float(_log_losses(inverse * logits, label_ids).sum() + prior)

    found = minimize_scalar(
        weigh, bounds=_INVERSE_TEMPERATURES, method="bounded", options={"xatol": 1e-5}
    )
    num_labels = logits.shape[1]
    return Scaling("temperature", (float(found.x),) * num_labels, (0.0,) * num_labels)


def fit_vector(logits: ArrayLike, label_ids: ArrayLike, *, with_bias: bool = True) -> Scaling:
    """Fit a weight and a bias for each class by log loss, pulled towards the best temperature.

    Args:
        logits: (n, C).
        label_ids: (n,) integers in [0, C).
        with_bias: False keeps all biases at 0, for a layer that has none.

    Source:
        Guo et al. 2017, arXiv 1706.04599, section 4.2 (vector scaling).
    """
    from scipy.optimize import minimize

    logits, label_ids = np.asarray(logits, dtype=np.float64), np.asarray(label_ids)
    num_rows, num_labels = logits.shape
    start = np.asarray(fit_temperature(logits, label_ids).weights)
    start = np.concatenate([start, np.zeros(num_labels if with_bias else 0)])
    row_numbers = np.arange(num_rows)

    def weigh(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the log posterior's negative and its gradient; convex."""
        biases = parameters[num_labels:] if with_bias else 0.0
        log_shares = _log_softmax(logits * parameters[:num_labels] + biases)
        errors = np.exp(log_shares)
        errors[row_numbers, label_ids] -= 1
        gradient = np.einsum("nc,nc->c", errors, logits)
        if with_bias:
            gradient = np.concatenate([gradient, errors.sum(axis=0)])
        away = parameters - start
        prior = float(away @ away) / (2 * _PRIOR_DEVIATION**2)
        loss = prior - float(log_shares[row_numbers, label_ids].sum())
        return loss / num_rows, (gradient + away / _PRIOR_DEVIATION**2) / num_rows

    bounds = [_INVERSE_TEMPERATURES] * num_labels
    bounds += [(-20.0, 20.0)] * (len(start) - num_labels)
    options = {"ftol": 1e-8}  # a relative gain that no log loss shows
    result = minimize(weigh, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    found = result.x.tolist()
    biases = tuple(found[num_labels:]) if with_bias else (0.0,) * num_labels
    return Scaling("vector", tuple(found[:num_labels]), biases)


_Fit = Callable[["NDArray[np.float64]", "NDArray[np.int64]"], Scaling]


def _find_shortage(logits: NDArray[np.float64], label_ids: NDArray[np.int64]) -> str:
    """Return why these rows cannot teach a scaling, or nothing."""
    num_mistakes = int((logits.argmax(axis=1) != label_ids).sum())
    if len(label_ids) < MIN_ROWS:
        return f"{len(label_ids):,} validation rows are too few, {MIN_ROWS} are needed"
    if num_mistakes < MIN_MISTAKES:
        return f"{num_mistakes} wrong validation rows are too few, {MIN_MISTAKES} are needed"
    return ""


def _draw_rows(shape: tuple[int, ...], *, seed: int) -> NDArray[np.int64]:
    num_rows, num_labels = shape
    num_drawn = min(num_rows, max(MIN_ROWS, MAX_LOGITS // num_labels))
    return np.sort(np.random.default_rng(seed).choice(num_rows, num_drawn, replace=False))


def _scale_held_out(
    fit: _Fit,
    logits: NDArray[np.float64],
    label_ids: NDArray[np.int64],
    *,
    groups: ArrayLike | None,
    seed: int,
) -> NDArray[np.float64]:
    """Return (n, C) logits, each scaled by a fit on the other folds."""
    units = number_units(groups, len(label_ids))
    folds = np.random.default_rng(seed).permutation(int(units.max()) + 1)[units] % NUM_FOLDS
    scaled = np.empty_like(logits)
    for fold in np.unique(folds):
        is_held_out = folds == fold
        scaling = fit(logits[~is_held_out], label_ids[~is_held_out])
        scaled[is_held_out] = scaling.apply(logits[is_held_out])
    return scaled


def _choose_kind(
    losses: dict[str, NDArray[np.float64]],
    held_out: dict[str, NDArray[np.float64]],
    label_ids: NDArray[np.int64],
) -> tuple[ScalingKind, str]:
    none, temperature = (float(losses[kind].mean()) for kind in ("none", "temperature"))
    if "vector" in losses:
        gains = losses["temperature"] - losses["vector"]
        error = float(gains.std(ddof=1)) / len(gains) ** 0.5
        accuracies = [
            float((held_out[kind].argmax(axis=1) == label_ids).mean())
            for kind in ("temperature", "vector")
        ]
        is_clear = float(gains.mean()) > CLEAR_GAIN_ERRORS * error
        is_better = float(losses["vector"].mean()) < none and accuracies[1] >= accuracies[0]
        if is_clear and is_better:
            return "vector", "scaling each class is clearly better on held-out validation rows"
    if temperature < none:
        return "temperature", "it lowers the log loss of held-out validation rows"
    return "none", "no scaling lowers the log loss of held-out validation rows"


def _log_losses(logits: NDArray[np.float64], label_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n,) log losses in nats, without the floor that metrics put under probabilities."""
    losses: NDArray[np.float64] = -_log_softmax(logits)[np.arange(len(label_ids)), label_ids]
    return losses


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted: NDArray[np.float64] = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
