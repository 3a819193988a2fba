"""Confidence in words: what is shown, what is omitted, within 80 columns."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from bertfit.evaluation.calibration import score_confidence
from bertfit.evaluation.selective import expect, keep_curve
from bertfit.reporting.confidence import (
    confidence_table,
    describe_calibration,
    describe_doubt,
    describe_expectation,
    describe_threshold,
)

BOLD = np.column_stack([np.full(200, 0.02), np.full(200, 0.98)])
MODEST = np.column_stack([np.full(200, 0.2), np.full(200, 0.8)])
LABEL_IDS = (np.arange(200) % 5 > 0).astype(int)


def render(renderable) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


def test_scores_stand_beside_those_before_calibration():
    scores = score_confidence(MODEST, LABEL_IDS, uncalibrated=BOLD, num_resamples=50)
    text = render(confidence_table(scores))
    (line,) = [line.split() for line in text.splitlines() if "ECE)" in line]
    assert line == ["Calibration", "error", "(ECE)", "0.0000", "0.1800"]
    assert "Uncalibrated" in text
    assert "this one is within that" in flat(text)
    assert "AURC would be 0.2000 if confidence meant nothing" in flat(text)
    assert max(map(len, text.splitlines())) <= 80


def test_without_calibration_there_is_no_column_for_it():
    text = render(confidence_table(score_confidence(BOLD, LABEL_IDS, num_resamples=50)))
    assert "Uncalibrated" not in text
    assert "this one is more" in flat(text)


def test_what_to_expect_has_its_interval_and_number_of_rows():
    curve = keep_curve([0.95] * 80 + [0.6] * 20, [True] * 76 + [False] * 24)
    assert describe_expectation(0.9, expect(curve, 0.9)) == (
        "Texts with a confidence below 0.9 get no label. Of the 100 validation rows, 80.0 % got "
        "one, and 95.0 % of these the right one (95 % interval 87.7 to 98.6 if rows are "
        "independent). The same rows may have chosen the epoch, seed, calibration and threshold: "
        "expect a little less."
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (0.87, "Of the 100 validation rows, 100 % got one at 0.85 (no more at 0.87"),
        (0.99, "rows, 0 % got one: expect no answers."),
    ],
)
def test_what_is_not_known_exactly_is_said(asked, told):
    curve = keep_curve([0.95] * 100, [True] * 100)
    assert told in describe_expectation(asked, expect(curve, asked))


def test_a_model_without_figures_says_so():
    assert describe_expectation(0.9, None).endswith(
        "This model has no validation figures that say what to expect."
    )


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"kind": "none", "reason": "asked for"}, "Calibration: none (asked for)"),
        (
            {
                "kind": "temperature",
                "weights": [0.5, 0.5],
                "num_rows": 2500,
                "held_out_log_losses": {"none": 0.25, "temperature": 0.19},
            },
            (
                "Calibration: temperature 2.000, in the weights; 2,500 validation rows, held-out "
                "log loss 0.2500 → 0.1900"
            ),
        ),
    ],
)
def test_the_recorded_calibration_is_told(entry, told):
    assert describe_calibration(entry) == told


def test_a_threshold_is_told_with_what_it_is_for():
    start = "Threshold: 'pos' is predicted at a probability of 0.2500 or more"
    end = "(transformers.pipeline does not apply it)"
    assert describe_threshold(0.25, "pos") == f"{start} {end}."
    rates = {
        "precision": 1.0,
        "precision_interval": {"low": 0.75, "high": 1.0},
        "recall": 0.0,
        "recall_interval": None,
    }
    assert describe_threshold(0.25, "pos", {"aim": "precision>=0.9", "validation": rates}) == (
        f"{start}, chosen for precision>=0.9 {end}. On the validation rows that chose it: "
        "precision 1.0000 (95 % interval 0.7500 to 1.0000) and recall 0.0000. That looks better "
        "than it is: on other rows about half of such thresholds fall short of the precision asked "
        "for."
    )


@pytest.mark.parametrize(
    ("num_wrong", "num_rows", "num_expected", "told"),
    [
        (21, 200, 17.4, "would doubt some 17. So their number is no sign of wrong labels"),
        (26, 200, 17.4, "So their number is no sign of wrong labels"),
        (27, 200, 17.4, "Those beyond that number are wrong labels, or the model is surer than it"),
        (2, 200, 0.3, "would doubt hardly any. So their number is no sign of wrong labels"),
        (3, 200, 0.3, "would doubt hardly any. So these are wrong labels, or the model is surer"),
        (39, 200, 0.2, "would doubt hardly any. So these are wrong labels, or the model is surer"),
        (40, 200, 0.2, "would doubt hardly any. But so many labels are rarely wrong"),
        (9, 20, 0.2, "would doubt hardly any. So these"),  # read faster than a doubt
        (10, 20, 0.2, "But so many labels are rarely wrong"),
        (
            0,
            20,
            1.2,
            "With every label right, a model as unsure as this one would doubt about one.",
        ),
        (0, 20, 1.6, "would doubt some 2."),
        (0, 20, 0.6, "would doubt about one."),
        (0, 20, None, "Wrong labels that the model agrees with are not found."),
        (9, 20, None, "Errors of the model look the same; how many there are among these is not"),
        (10, 20, None, "So many labels are rarely wrong"),
    ],
)
def test_labels_that_look_wrong_stand_beside_those_that_would_anyway(
    num_wrong: int, num_rows: int, num_expected: float | None, told: str
) -> None:
    assert told in describe_doubt(num_wrong, num_rows, num_expected)
