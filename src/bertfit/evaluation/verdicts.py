"""What a comparison says, in words: which model is better, or that it could be chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertfit.evaluation.interval import LEVEL, Interval
from bertfit.wording import choose_decimals

if TYPE_CHECKING:
    from bertfit.evaluation.comparison import Comparison, PairedComparison

_CLEAR_F1 = 0.01
"""Least difference of macro F1 that is worth a word."""
_INTERVAL = f"{100 * LEVEL:g} % interval"


def describe_difference(comparison: PairedComparison, name_a: str, name_b: str) -> str:
    """Return one sentence on whether the models differ in accuracy or it could be chance."""
    accuracy = comparison.scores["accuracy"]
    difference, interval, p_value = accuracy.difference, accuracy.interval, comparison.p_value
    if comparison.num_disagreeing == 0:
        return f"{name_a} and {name_b} predict the same class for every row."
    if comparison.could_be_chance:
        doubt = _word_doubt(difference, interval, p_value, grouped=comparison.grouped)
        return f"The difference in accuracy could be chance: {name_a} minus {name_b} is {doubt}"
    better, worse = (name_a, name_b) if difference > 0 else (name_b, name_a)
    points, span = _format_points(difference, interval)
    test = _word_test(p_value, grouped=comparison.grouped)
    return f"{better} is better than {worse} by {points} ({span}, {test}): hardly chance."


def describe_against_baseline(
    found: Comparison, *, grouped: bool, recall: Interval, num_labels: int
) -> str:
    """Return the verdict on accuracy, with both macro F1 if those say the opposite.

    Args:
        found: The comparison; its own `verdict` is not read.
        grouped: Whether whole groups were resampled.
        recall: Interval of the model's macro recall.
        num_labels: Labels that have rows.
    """
    verdict = _word_verdict(found, grouped=grouped)
    if num_labels == 1 or recall.low > 1 / num_labels:
        return verdict
    return (
        f"{verdict} These rows do not show that the model is better than guessing, whose macro "
        f"recall is {100 / num_labels:.3g} %: the model's is {100 * recall.low:.1f} to "
        f"{100 * recall.high:.1f} %."
    )


def _word_verdict(found: Comparison, *, grouped: bool) -> str:
    name, interval = found.baseline_name, found.interval
    if not (interval.excludes_zero and found.p_value < 1 - LEVEL):
        doubt = _word_doubt(found.difference, interval, found.p_value, grouped=grouped)
        return f"The model and {name} cannot be told apart on these rows: the difference is {doubt}"
    points, span = _format_points(found.difference, interval)
    lead = f"{name} by {points} ({span})"
    gap = found.model_macro_f1 - found.baseline_macro_f1
    f1s = f"{100 * found.model_macro_f1:.1f} % against {100 * found.baseline_macro_f1:.1f} %"
    is_opposite = gap * found.difference < 0 and abs(gap) >= _CLEAR_F1
    if found.difference > 0:
        told = f", but has the lower macro F1, {f1s}" if is_opposite else ""
        return f"The model beats {lead}{told}."
    if is_opposite:
        return (
            f"The model loses to {lead}, but has the higher macro F1, {f1s}, in which rare classes "
            "count as much as common ones."
        )
    return (
        f"The model LOSES to {lead}. More data or epochs, another model or, where texts are cut, a "
        "longer max length may help; if not, such a baseline does, as scikit-learn has it."
    )


def _word_doubt(difference: float, interval: Interval, p_value: float, *, grouped: bool) -> str:
    """Return a difference that could be chance, and which of interval and test says so."""
    told = (
        f"{100 * difference:+z.1f} points ({_INTERVAL} {100 * interval.low:z.1f} to "
        f"{100 * interval.high:z.1f}, {_word_test(p_value, grouped=grouped)})."
    )
    rejects = p_value < 1 - LEVEL
    if interval.excludes_zero and not rejects:
        told += " The interval leaves out 0, but McNemar's test does not exclude chance."
    if rejects and not interval.excludes_zero:
        told += (
            " McNemar's test, which takes rows as independent, excludes chance, but the interval "
            "includes 0."
        )
    return told


def _word_test(p_value: float, *, grouped: bool) -> str:
    """Return the p-value, and that it takes rows as independent where the interval does not."""
    return f"McNemar p = {p_value:.2g}" + (" for single rows" if grouped else "")


def _format_points(difference: float, interval: Interval) -> tuple[str, str]:
    """Return a difference that is hardly chance, and its interval, both without their sign."""
    ends = [100 * end for end in (difference, interval.low, interval.high)]
    if difference < 0:
        ends = [-ends[0], -ends[2], -ends[1]]
    size, low, high = (f"{end:z.{choose_decimals(*ends)}f}" for end in ends)
    return f"{size} points of accuracy", f"{_INTERVAL} {low} to {high}"
