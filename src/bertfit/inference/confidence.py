"""A run's confidence rules: the scaling in its weights, a threshold, and what to expect.

Reads them from bertfit.json. They are fitted in evaluation and workflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertfit.errors import RunError
from bertfit.evaluation.scaling import Scaling
from bertfit.evaluation.selective import SelectiveCurve
from bertfit.files import read_array, write_array
from bertfit.run_files import RECORD_NAME, UNCALIBRATED_NAME

WITHOUT_UNCALIBRATED = "the scores before calibration are then left out"
"""What removing it costs."""
_DAMAGE = (TypeError, ValueError, KeyError, AttributeError, OverflowError)
"""What reading a damaged entry raises."""


@dataclass(frozen=True, slots=True, eq=False)
class UncalibratedLayer:
    """The layer that computes the logits, before the calibration was folded into it."""

    name: str
    """Module name in the model."""
    weight: np.ndarray
    """(C, D)."""
    bias: np.ndarray
    """(C,)."""

    def save(self, folder: Path) -> None:
        """Write it into the folder of a run: (C, D + 1), the bias in the last column.

        Raises:
            OSError: The disk is full, or the folder cannot be written.
        """
        write_array(folder / UNCALIBRATED_NAME, np.column_stack((self.weight, self.bias)))


@dataclass(frozen=True, slots=True)
class ConfidenceRules:
    """What belongs to a model besides its weights."""

    scaling: Scaling | None = None
    """Already folded into the weights; None if there is none."""
    threshold: float | None = None
    """The second class is predicted if its probability is at least this; None predicts the most
    probable class."""
    curve: SelectiveCurve | None = None
    """Coverage and accuracy on the validation rows; None for a model that bertfit did not train."""
    uncalibrated: UncalibratedLayer | None = field(default=None, compare=False)
    """Only for a cubic scaling, which cannot be undone; None if the run has no such layer."""


def read_confidence(record: Mapping[str, Any], *, num_labels: int, run: Path) -> ConfidenceRules:
    """Read the rules from a run's record; missing ones are None.

    Raises:
        RunError: The rules, or the file of the uncalibrated layer, are damaged.
    """
    try:
        return ConfidenceRules(
            scaling=_read_scaling(record.get("calibration"), num_labels),
            threshold=_read_threshold(record.get("threshold"), num_labels),
            curve=_read_curve(record.get("selective")),
            uncalibrated=_read_uncalibrated(record.get("calibration"), num_labels, run),
        )
    except RunError:  # a ValueError, too
        raise
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(
            f"{run / RECORD_NAME} is damaged: its calibration, threshold or selective curve "
            f"cannot be read ({reason})",
            hint="Train again, or remove these three entries from the file.",
        ) from None


def _read_scaling(entry: Any, num_labels: int) -> Scaling | None:  # noqa: ANN401 (JSON)
    if entry is None or entry["kind"] == "none":
        return None
    weights, biases = (tuple(map(float, entry[name])) for name in ("weights", "biases"))
    cube = float(entry.get("cube") or 0)
    is_known = entry["kind"] in {"temperature", "vector", "cubic"}
    if not (is_known and min(weights) > 0 and all(map(math.isfinite, (*weights, *biases, cube)))):
        raise ValueError(f"kind {entry['kind']!r}, weights {weights}, biases {biases}, cube {cube}")
    if not len(weights) == len(biases) == num_labels:
        raise ValueError(f"{len(weights)} weights for {num_labels} classes")
    return Scaling(entry["kind"], weights, biases, cube=cube)


def _read_uncalibrated(entry: Any, num_labels: int, run: Path) -> UncalibratedLayer | None:  # noqa: ANN401 (JSON)
    path = run / UNCALIBRATED_NAME
    if entry is None or entry["kind"] != "cubic" or not path.is_file():
        return None
    name = str(entry["layer"])
    try:
        layer = np.array(read_array(path))  # not of the file, which may be changed
        if (
            layer.dtype != np.float32
            or layer.ndim != 2
            or not (len(layer) == num_labels and layer.shape[1] > 1)
        ):
            raise ValueError(f"it holds {layer.dtype} {layer.shape}, for {num_labels} classes")
    except _DAMAGE as error:
        raise RunError(
            f"{path} is damaged: {type(error).__name__}: {error}",
            hint=f"Remove that file; {WITHOUT_UNCALIBRATED}.",
        ) from None
    return UncalibratedLayer(name, layer[:, :-1], layer[:, -1])


def _read_threshold(entry: Any, num_labels: int) -> float | None:  # noqa: ANN401 (JSON)
    if entry is None:
        return None
    value = float(entry["value"])
    if not 0 <= value <= 1 or num_labels != 2:
        raise ValueError(f"threshold {value} for {num_labels} classes")
    return value


def _read_curve(entry: Any) -> SelectiveCurve | None:  # noqa: ANN401 (JSON)
    if entry is None:
        return None
    confidences = tuple(map(float, entry["confidences"]))
    counts = [tuple(map(int, entry[name])) for name in ("num_answered", "num_right")]
    num_rows = int(entry["num_rows"])
    is_in_order = list(confidences) == sorted(confidences) and confidences[:1] == (0,)
    if num_rows < 1 or not is_in_order:
        raise ValueError(f"{num_rows} rows, confidences {confidences}")
    for answered, right in zip(*counts, strict=True):
        if not 0 <= right <= answered <= num_rows:
            raise ValueError(f"{right} right of {answered} answered of {num_rows}")
    if len(counts[0]) != len(confidences):
        raise ValueError(f"{len(counts[0])} counts for {len(confidences)} confidences")
    return SelectiveCurve(num_rows, confidences, *counts)
