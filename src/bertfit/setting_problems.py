"""What is wrong with the values of settings: their types, their ranges, the aim of a threshold."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bertfit.errors import ConfigError, did_you_mean
from bertfit.setting_types import list_kinds, list_words
from bertfit.text_encoding import find_encoding_problem
from bertfit.threshold_aim import parse_threshold_aim

LEAST_LENGTH = 4
"""Least `max_length`, in tokens."""


def find_problems(settings: object, hints: Mapping[str, Any]) -> list[str]:
    """Return a line for each problem: the setting, a colon, and what is wrong with its value.

    Args:
        settings: A dataclass with the fields of `hints`, whose values may be of any type.
        hints: Types of the settings by name.
    """
    return [
        *_type_problems(settings, hints),
        *_range_problems(settings),
        *_aim_problems(settings),
        *_encoding_problems(settings),
    ]


def _type_problems(settings: object, hints: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, hint in hints.items():
        value = getattr(settings, name)
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            if not _is_one_of(value, choices):
                near = did_you_mean(str(value), choices)
                problems.append(
                    f"{name}: expected one of {', '.join(choices)}, got {value!r}.{near}"
                )
        elif typing.get_origin(hint) is tuple:
            if not isinstance(value, tuple) or not all(isinstance(one, str) for one in value):
                problems.append(f"{name}: expected a list of names, got {value!r}")
        elif _is_one_of(value, list_words(hint)):
            continue
        elif not isinstance(value, list_kinds(hint)) or (
            isinstance(value, bool) and hint is not bool
        ):
            shown = {types.NoneType: "none", bool: "true or false"}
            kinds = [shown.get(kind, kind.__name__) for kind in list_kinds(hint)]
            expected = " or ".join([*kinds, *list_words(hint)])
            problems.append(f"{name}: expected {expected}, got {value!r}")
    return problems


def _is_one_of(value: object, words: Sequence[str]) -> bool:
    return isinstance(value, str) and value in words  # an array compared with one has many answers


def _aim_problems(settings: object) -> list[str]:
    aim = getattr(settings, "threshold_aim", None)
    if isinstance(aim, str):
        try:
            parse_threshold_aim(aim)
        except ConfigError as error:
            return [f"threshold_aim: {error.message}"]
    return []


def _encoding_problems(settings: object) -> list[str]:
    encoding = getattr(settings, "encoding", None)
    problem = find_encoding_problem(encoding) if isinstance(encoding, str) else None
    return [] if problem is None else [f"encoding: {problem}"]


def _range_problems(settings: object) -> list[str]:
    rules: list[tuple[str, str, Any]] = [
        ("epochs", "at least 1", lambda v: v >= 1),
        ("epochs", "of at most a million", lambda v: v <= 1_000_000),
        ("batch_size", "at least 1", lambda v: v >= 1),
        ("learning_rate", "above 0 and below 1", lambda v: 0 < v < 1),
        ("warmup_fraction", "in [0, 1)", lambda v: 0 <= v < 1),
        ("weight_decay", "in [0, 1)", lambda v: 0 <= v < 1),
        ("max_grad_norm", "above 0 and finite", lambda v: 0 < v < math.inf),
        ("dropout", "in [0, 1)", lambda v: 0 <= v < 1),
        ("max_length", f"at least {LEAST_LENGTH}", lambda v: v >= LEAST_LENGTH),
        ("head_fraction", "in (0, 1)", lambda v: 0 < v < 1),
        ("seed", "at least 0 and below 2**32", lambda v: 0 <= v < 2**32),
        ("validation_fraction", "in (0, 0.5]", lambda v: 0 < v <= 0.5),
        ("patience", "at least 1", lambda v: v >= 1),
        ("min_label_rows", "at least 1", lambda v: v >= 1),
        ("micro_batch_tokens", "at least 1", lambda v: v >= 1),
        ("checkpoint_minutes", "above 0 and finite", lambda v: 0 < v < math.inf),
    ]
    problems = []
    for name, expected, is_legal in rules:
        value = getattr(settings, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not is_legal(value):
            problems.append(f"{name}: expected a number {expected}, got {value!r}")
    return problems
