"""Which rows the report shows, and the curves before calibration, from kept predictions alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from bertfit.evaluation.calibration import take_best
from bertfit.evaluation.curves import reliability_points
from bertfit.evaluation.predictions import KeptPredictions
from bertfit.evaluation.scaling import Scaling
from bertfit.workflow import report_facts
from bertfit.workflow.report_facts import KeptPart, choose_shown_rows, keeps_texts

NAMES = ["no", "yes"]
NUM_ROWS = 21
ODD = 20
"""The row whose label looks wrong: labelled no, with 0.95 for yes."""


def make_part(name: str, *, wrong: tuple[int, ...] = ()) -> KeptPart:
    """Return ten sure rows of each class and `ODD`; `wrong` are predicted as the other class."""
    label_ids = np.arange(NUM_ROWS) % 2
    label_ids[ODD] = 0
    sure = np.where(label_ids == 1, 0.9, 0.1)
    sure[ODD] = 0.95
    rows = KeptPredictions(
        lines=range(2, NUM_ROWS + 2),
        groups=[None] * NUM_ROWS,
        label_ids=label_ids,
        probabilities=np.column_stack([1 - sure, sure]),
        num_tokens=np.full(NUM_ROWS, 5),
        is_truncated=np.zeros(NUM_ROWS, dtype=bool),
    )
    predicted = label_ids.copy()
    predicted[list(wrong)] = 1 - predicted[list(wrong)]
    return KeptPart(name, rows, predicted)


def test_only_labels_that_look_wrong_are_suspects_whatever_the_threshold_answers() -> None:
    found = report_facts._list_suspects(make_part("test"), NAMES, {"texts": {"test": {"22": "t"}}})
    assert found["num_wrong"] == 1
    (row,) = found["rows"]
    assert (row["line"], row["text"]) == (22, "t")
    assert (row["label"], row["suggested_label"]) == ("no", "yes")
    assert row["confidence"] == pytest.approx(0.95)  # of the suggestion, not of the answer


def test_texts_are_kept_of_errors_of_the_judged_part_and_of_suspects() -> None:
    parts = {name: make_part(name, wrong=(3, 4)) for name in ("test", "validation")}
    assert choose_shown_rows(parts) == {"test": [3, 4, ODD], "validation": [ODD]}


def test_the_surest_errors_are_listed_with_what_was_answered() -> None:
    part = make_part("test", wrong=(4, ODD))
    found = report_facts._list_errors(part, NAMES, {})
    assert found["num_wrong"] == 2
    told = [(row["line"], row["label"], row["predicted"]) for row in found["rows"]]
    assert told == [(22, "no", "yes"), (6, "no", "yes")]
    assert [row["confidence"] for row in found["rows"]] == pytest.approx([0.95, 0.1])


def test_a_temperature_is_undone_for_the_curve_before() -> None:
    part = make_part("test")
    logits = np.log(part.rows.probabilities)
    scaling = Scaling("temperature", (0.5, 0.5), (0.0, 0.0))
    found = report_facts._draw_uncalibrated(part, scaling, {})
    expected = reliability_points(*take_best(softmax(2 * logits, axis=1), part.rows.label_ids))
    assert found is not None
    assert found["part"] == "test"
    assert np.asarray(found["points"]) == pytest.approx(np.asarray(expected))


@pytest.mark.parametrize(
    ("settings", "is_kept"),
    [
        (None, True),
        ({}, True),  # of before the setting
        ({"keep_texts": {"value": True}}, True),
        ({"keep_texts": {"value": False}}, False),
    ],
)
def test_whether_texts_are_kept_is_that_of_the_setting(settings, *, is_kept: bool) -> None:
    assert keeps_texts({"settings": settings}) == is_kept
