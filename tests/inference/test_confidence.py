"""The confidence entries of a run are read back, or rejected if damaged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bertfit.errors import RunError
from bertfit.evaluation.scaling import Scaling
from bertfit.evaluation.selective import keep_curve
from bertfit.inference.confidence import ConfidenceRules, UncalibratedLayer, read_confidence

CURVE = keep_curve([0.6, 0.9], [False, True])
GOOD = {
    "calibration": {"kind": "vector", "weights": [0.5, 1.0], "biases": [0.0, 0.1]},
    "threshold": {"value": 0.4},
    "selective": CURVE.to_json(),
}


def read(record, num_labels=2, run=Path("run")):
    return read_confidence(record, num_labels=num_labels, run=run)


def test_what_was_recorded_is_read():
    scaling = Scaling("vector", (0.5, 1.0), (0.0, 0.1))
    assert read(GOOD) == ConfidenceRules(scaling, 0.4, CURVE)


@pytest.mark.parametrize(
    "record", [{}, {"calibration": None, "threshold": None, "selective": None}]
)
def test_a_run_without_them_has_none(record):
    assert read(record) == ConfidenceRules()


def test_a_calibration_that_changed_nothing_is_none():
    assert read({"calibration": {"kind": "none"}}).scaling is None


@pytest.mark.parametrize(
    "damage",
    [
        {"calibration": 3},
        {"calibration": {"kind": "vector", "weights": [1.0], "biases": [0.0]}},
        {"calibration": {"kind": "vector", "weights": [1.0, 1.0], "biases": [0.0]}},
        {"calibration": {"kind": "vector", "weights": [1.0, 0.0], "biases": [0.0, 0.0]}},
        {"calibration": {"kind": "vector", "weights": [1.0, math.inf], "biases": [0.0, 0.0]}},
        {"calibration": {"kind": "vector", "weights": [1.0, 1.0], "biases": [math.nan, 0.0]}},
        {"calibration": {"kind": "magic", "weights": [1.0, 1.0], "biases": [0.0, 0.0]}},
        {"threshold": {"value": 2}},
        {"threshold": {"value": "x"}},
        {"threshold": {}},
        {"selective": {**GOOD["selective"], "num_rows": 0}},
        {"selective": GOOD["selective"] | {"confidences": [0, *[0.9, 0.5] * 13]}},
        {"selective": GOOD["selective"] | {"confidences": [0.5] * 27}},
        {"selective": {**GOOD["selective"], "num_right": [1]}},
        {"selective": {**GOOD["selective"], "num_right": [3] * 27}},
        {"selective": {**GOOD["selective"], "num_right": [float("inf")] * 27}},
        {"selective": {**GOOD["selective"], "num_answered": [3] * 27}},
        {"selective": {**GOOD["selective"], "num_answered": [1], "num_right": [1]}},
    ],
)
def test_a_damaged_entry_is_refused(damage):
    with pytest.raises(RunError) as caught:
        read(GOOD | damage)
    assert caught.value.message.startswith(
        f"{Path('run') / 'bertfit.json'} is damaged: its calibration, threshold or selective curve "
        "cannot be read ("
    )


def test_a_threshold_for_three_classes_is_refused():
    with pytest.raises(RunError, match=r"threshold 0\.4 for 3 classes"):
        read({"threshold": {"value": 0.4}}, num_labels=3)


def make_layer(num_labels):
    weight = np.arange(num_labels * 8, dtype=np.float32).reshape(num_labels, 8)
    return UncalibratedLayer("classifier", weight, -np.arange(num_labels, dtype=np.float32))


@pytest.mark.parametrize(("kind", "is_read"), [("cubic", True), ("vector", False)])
def test_the_layer_before_calibration_is_read_if_that_was_cubic(tmp_path, kind, is_read):
    make_layer(2).save(tmp_path)
    record = {"calibration": {**GOOD["calibration"], "kind": kind, "layer": "classifier"}}
    found = read(record, run=tmp_path).uncalibrated
    assert (found is not None) is is_read
    if found is not None:
        np.testing.assert_array_equal(found.weight, make_layer(2).weight)
        np.testing.assert_array_equal(found.bias, make_layer(2).bias)


def test_a_layer_of_other_classes_is_refused(tmp_path):
    make_layer(3).save(tmp_path)
    record = {"calibration": {**GOOD["calibration"], "kind": "cubic", "layer": "classifier"}}
    with pytest.raises(RunError, match=r"it holds float32 \(3, 9\), for 2 classes"):
        read(record, run=tmp_path)
