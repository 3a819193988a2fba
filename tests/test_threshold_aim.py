"""Threshold aims: all forms are parsed, and malformed ones explained."""

from __future__ import annotations

import pytest

from bertfit.errors import ConfigError
from bertfit.threshold_aim import ThresholdAim, parse_threshold_aim


@pytest.mark.parametrize(
    ("text", "aim"),
    [
        ("f1", ThresholdAim("f1")),
        (" F1 ", ThresholdAim("f1")),
        ("precision>=0.95", ThresholdAim("precision", rate=0.95)),
        ("recall >= 1", ThresholdAim("recall", rate=1.0)),
        ("cost:1,5", ThresholdAim("cost", false_positive_cost=1, false_negative_cost=5)),
        ("cost: 0.5, 0", ThresholdAim("cost", false_positive_cost=0.5, false_negative_cost=0)),
    ],
)
def test_every_form_is_read(text, aim):
    assert parse_threshold_aim(text) == aim


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "precision>=95",
            (
                "expected a precision above 0 and at most 1, such as precision>=0.9, got "
                "'precision>=95'"
            ),
        ),
        (
            "recall>=x",
            "expected a recall above 0 and at most 1, such as recall>=0.9, got 'recall>=x'",
        ),
        (
            "cost:0,0",
            (
                "expected the costs of a false positive and of a false negative, at least 0 and "
                "not both 0, such as cost:1,5, got 'cost:0,0'"
            ),
        ),
        (
            "cost:-1,2",
            (
                "expected the costs of a false positive and of a false negative, at least 0 and "
                "not both 0, such as cost:1,5, got 'cost:-1,2'"
            ),
        ),
        (
            "cost:inf,2",
            (
                "expected the costs of a false positive and of a false negative, at least 0 and "
                "not both 0, such as cost:1,5, got 'cost:inf,2'"
            ),
        ),
        (
            "precision=0.9",
            (
                "expected f1, precision>=0.95, recall>=0.9 or cost:FP,FN, got 'precision=0.9'. "
                "Did you mean 'precision>=0.95'?"
            ),
        ),
        ("", "expected f1, precision>=0.95, recall>=0.9 or cost:FP,FN, got ''."),
        (
            "cost:5",
            (
                "expected f1, precision>=0.95, recall>=0.9 or cost:FP,FN, got 'cost:5'. "
                "Did you mean 'cost:1,5'?"
            ),
        ),
    ],
)
def test_a_malformed_aim_is_explained(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_threshold_aim(text)
    assert caught.value.message == message
