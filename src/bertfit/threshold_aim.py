"""The grammar of `threshold_aim`: what the threshold of a binary classifier is chosen for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from bertfit.errors import ConfigError, did_you_mean

AIM_FORMS = "f1, precision>=0.95, recall>=0.9 or cost:FP,FN"
"""The forms of an aim, with example numbers."""

_RATE = re.compile(r"(precision|recall)\s*>=\s*(\S+)")
_COST = re.compile(r"cost\s*:\s*([^,\s]+)\s*,\s*([^,\s]+)")


@dataclass(frozen=True, slots=True)
class ThresholdAim:
    """A parsed aim."""

    kind: Literal["f1", "precision", "recall", "cost"]
    rate: float = 0.0
    """The precision or recall to reach, in (0, 1]."""
    false_positive_cost: float = 1.0
    """Cost of predicting the second class for a row of the first, at least 0."""
    false_negative_cost: float = 1.0
    """Cost of predicting the first class for a row of the second, at least 0."""


def parse_threshold_aim(text: str) -> ThresholdAim:
    """Parse an aim; precision, recall and F1 are those of the second class.

    Raises:
        ConfigError: The text is none of `AIM_FORMS`, or a number in it is out of range.

    Example:
        >>> parse_threshold_aim("precision>=0.95").rate
        0.95
    """
    text = text.strip().lower()
    if text == "f1":
        return ThresholdAim("f1")
    if match := _RATE.fullmatch(text):
        rate = _parse_number(match[2])
        if not 0 < rate <= 1:
            message = f"expected a {match[1]} above 0 and at most 1, such as {match[1]}>=0.9"
            raise ConfigError(f"{message}, got {text!r}")
        return ThresholdAim("precision" if match[1] == "precision" else "recall", rate=rate)
    if match := _COST.fullmatch(text):
        costs = _parse_number(match[1]), _parse_number(match[2])
        if not all(0 <= cost < math.inf for cost in costs) or max(costs) == 0:
            message = (
                "expected the costs of a false positive and of a false negative, at least 0 and "
                f"not both 0, such as cost:1,5, got {text!r}"
            )
            raise ConfigError(message)
        return ThresholdAim("cost", false_positive_cost=costs[0], false_negative_cost=costs[1])
    near = did_you_mean(text, ("f1", "precision>=0.95", "recall>=0.9", "cost:1,5"))
    raise ConfigError(f"expected {AIM_FORMS}, got {text!r}.{near}")


def _parse_number(text: str) -> float:
    """Return the number, or NaN, which is outside every range."""
    try:
        return float(text)
    except ValueError:
        return math.nan
