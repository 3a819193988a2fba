"""Calibration by scaling logits: with a temperature, a weight per class, or a cubic.

Owns the scalings and their fits. The choice of a scaling is in scaling_choice.py; folding it into a
model is in modeling. All fits are regularised towards no change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ScalingKind = Literal["none", "temperature", "vector", "cubic"]

_PRIOR_DEVIATION = 0.5
"""Standard deviation of the normal prior, with mean 1 (or the temperature's) for weights and 0 for
biases."""
_INVERSE_TEMPERATURES = (0.01, 20.0)
_LOGIT_FACTORS = (0.25, 20.0)
"""Of a cubic, relative to the temperature's weight. Cubes alone are flat where classes are equally
probable, so the error of their regression would decide there."""
_CUBE_FACTORS = (0.0, 20.0)
"""Not below 0: confidence must not decrease as logits increase."""
_RIDGE = 1e-4
"""Ridge penalty of the regression of cubes on features, relative to the features' mean variance."""
_LEAST_RIDGE = 1e-9
"""Minimum ridge penalty, so that the solution is unique even if all features are equal."""


@dataclass(frozen=True, slots=True)
class Readout:
    """A linear function of the last layer's inputs that is added to its logits."""

    weight: NDArray[np.float64]
    """(C, D)."""
    bias: NDArray[np.float64]
    """(C,), 0 if the layer has none."""

    def apply(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the values (n, C) for features (n, D)."""
        added: NDArray[np.float64] = features @ self.weight.T + self.bias
        return added


@dataclass(frozen=True, slots=True)
class Scaling:
    """A scaling of logits: weights[c] · logit + biases[c] for class c, plus the readout."""

    kind: ScalingKind
    weights: tuple[float, ...]
    """(C,), each above 0."""
    biases: tuple[float, ...]
    """(C,), 0 unless the kind is "vector"."""
    cube: float = 0.0
    """Factor, at least 0, of the cubes of the row-centred logits that the readout approximates; 0
    unless the kind is "cubic"."""
    readout: Readout | None = field(default=None, compare=False)
    """None unless the kind is "cubic"; also None for a cubic read from a run, whose weights already
    contain it."""

    @property
    def temperature(self) -> float | None:
        """The temperature; None if the scaling is more than a temperature."""
        return 1 / self.weights[0] if self.kind in {"none", "temperature"} else None

    def apply(
        self, logits: NDArray[np.floating], features: NDArray[np.floating] | None = None
    ) -> NDArray[np.float64]:
        """Return scaled logits (n, C).

        Args:
            logits: (n, C).
            features: (n, D) inputs of the layer that computed the logits; only a cubic needs them.
        """
        scaled: NDArray[np.float64] = logits * np.asarray(self.weights) + np.asarray(self.biases)
        if self.readout is not None:
            assert features is not None, "a cubic reads features"
            scaled = scaled + self.readout.apply(features)
        return scaled

    def undo(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Invert `apply` for logits (n, C); not possible for a cubic."""
        assert self.kind != "cubic", "scaled logits do not tell the features"
        raw: NDArray[np.float64] = (logits - np.asarray(self.biases)) / np.asarray(self.weights)
        return raw


def no_scaling(num_labels: int) -> Scaling:
    """Return the identity scaling."""
    return Scaling("none", (1.0,) * num_labels, (0.0,) * num_labels)


def fit_temperature(logits: ArrayLike, label_ids: ArrayLike) -> Scaling:
    """Fit a temperature by log loss, weakly regularised towards 1.

    Args:
        logits: (n, C).
        label_ids: (n,) integers in [0, C).

    Source:
        Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    logits, label_ids = np.asarray(logits, dtype=np.float64), np.asarray(label_ids)

    def weigh(inverse: float) -> float:
        """Return the negative log posterior; convex in the inverse temperature."""
        prior = (inverse - 1) ** 2 / (2 * _PRIOR_DEVIATION**2)
        return float(log_losses(inverse * logits, label_ids).sum() + prior)

    found = minimize_scalar(
        weigh, bounds=_INVERSE_TEMPERATURES, method="bounded", options={"xatol": 1e-5}
    )
    num_labels = logits.shape[1]
    return Scaling("temperature", (float(found.x),) * num_labels, (0.0,) * num_labels)


def fit_vector(logits: ArrayLike, label_ids: ArrayLike, *, with_bias: bool = True) -> Scaling:
    """Fit a weight and a bias per class by log loss, regularised towards the best temperature.

    Args:
        logits: (n, C).
        label_ids: (n,) integers in [0, C).
        with_bias: False keeps all biases at 0, for a layer without bias.

    Source:
        Guo et al. 2017, arXiv 1706.04599, section 4.2 (vector scaling).
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logits, label_ids = np.asarray(logits, dtype=np.float64), np.asarray(label_ids)
    num_rows, num_labels = logits.shape
    start = np.asarray(fit_temperature(logits, label_ids).weights)
    start = np.concatenate([start, np.zeros(num_labels if with_bias else 0)])
    row_numbers = np.arange(num_rows)

    def weigh(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the log posterior's negative and its gradient; convex."""
        biases = parameters[num_labels:] if with_bias else 0.0
        log_shares = log_softmax(logits * parameters[:num_labels] + biases, axis=1)
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
    options = {"ftol": 1e-8}  # a relative gain too small to show in a log loss
    result = minimize(weigh, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    found = result.x.tolist()
    biases = tuple(found[num_labels:]) if with_bias else (0.0,) * num_labels
    return Scaling("vector", tuple(found[:num_labels]), biases)


def fit_cubic(
    logits: ArrayLike, label_ids: ArrayLike, features: ArrayLike, *, with_bias: bool = True
) -> Scaling:
    """Fit a weight of the logits and one of their cubes, shared by all classes, by log loss.

    An encoder's last norm keeps its features on a sphere, which compresses the logits of confident
    texts: any temperature then makes these underconfident or uncertain texts overconfident. A cube
    spreads them again. A linear layer cannot cube its outputs, but the features move along a curve
    as confidence grows, so a linear function of them approximates the cubes nearly exactly
    (docs/decisions/0010-cubic-calibration.md). That function is regressed without labels; only two
    numbers are fitted with labels.

    Args:
        logits: (n, C).
        label_ids: (n,) integers in [0, C).
        features: (n, D) inputs of the linear layer that computed the logits.
        with_bias: False for a layer without bias.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logits, label_ids = np.asarray(logits, dtype=np.float64), np.asarray(label_ids)
    features = np.asarray(features, dtype=np.float64)
    inverse = fit_temperature(logits, label_ids).weights[0]
    tempered = inverse * (logits - logits.mean(axis=1, keepdims=True))
    spread = float(np.square(tempered).mean()) or 1.0
    readout = _regress(features, tempered**3 / spread, with_bias=with_bias)
    cubes, row_numbers = readout.apply(features), np.arange(len(logits))

    def weigh(factors: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the log posterior's negative and its gradient; convex."""
        log_shares = log_softmax(factors[0] * tempered + factors[1] * cubes, axis=1)
        errors = np.exp(log_shares)
        errors[row_numbers, label_ids] -= 1
        away = factors - [1, 0]
        gradient = [np.vdot(errors, tempered), np.vdot(errors, cubes)] + away / _PRIOR_DEVIATION**2
        prior = float(away @ away) / (2 * _PRIOR_DEVIATION**2)
        loss = prior - float(log_shares[row_numbers, label_ids].sum())
        return loss / len(logits), gradient / len(logits)

    bounds, options = [_LOGIT_FACTORS, _CUBE_FACTORS], {"ftol": 1e-10}
    found = minimize(
        weigh, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x.tolist()
    num_labels = logits.shape[1]
    return Scaling(
        "cubic",
        (found[0] * inverse,) * num_labels,
        (0.0,) * num_labels,
        cube=found[1] * inverse**3 / spread,
        readout=Readout(found[1] * readout.weight, found[1] * readout.bias),
    )


def _regress(
    features: NDArray[np.float64], targets: NDArray[np.float64], *, with_bias: bool
) -> Readout:
    """Return the ridge regression of targets (n, C) on features (n, D)."""
    zeros = np.zeros(features.shape[1]), np.zeros(targets.shape[1])
    feature_means, target_means = (
        (features.mean(axis=0), targets.mean(axis=0)) if with_bias else zeros
    )
    centred = features - feature_means
    products = centred.T @ centred
    ridge = max(_RIDGE * float(np.trace(products)) / len(products), _LEAST_RIDGE)
    products[np.diag_indices_from(products)] += ridge
    weight = np.linalg.solve(products, centred.T @ (targets - target_means)).T
    return Readout(weight, target_means - weight @ feature_means)


def log_losses(logits: NDArray[np.float64], label_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n,) log losses in nats, without the floor on probabilities in metrics.py."""
    from scipy.special import log_softmax

    log_shares = log_softmax(logits, axis=1)
    losses: NDArray[np.float64] = -log_shares[np.arange(len(label_ids)), label_ids]
    return losses
