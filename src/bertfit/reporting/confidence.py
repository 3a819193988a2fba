"""Describe calibration, thresholds, abstention and doubt in words and tables of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from bertfit.evaluation.calibration import ConfidenceScores
from bertfit.evaluation.interval import read_interval
from bertfit.evaluation.selective import Expectation
from bertfit.reporting.text import format_number_with_interval, format_percent_and_ends, make_table
from bertfit.threshold_aim import parse_threshold_aim
from bertfit.wording import format_share

_MANY_WRONG = 0.2
"""In the test sets of ten well-known data sets, 0.15 to 10 % of the labels are wrong (Northcutt,
Athalye & Mueller 2021, arXiv 2103.14749)."""
_LEAST_WRONG = 10
"""Fewer rows are read faster than a warning about them."""


def confidence_table(scores: ConfidenceScores) -> RenderableType:
    """Return the confidence scores, with those before calibration if the model is calibrated."""
    now, before = scores.calibration, scores.uncalibrated
    further = [] if before is None else ["Uncalibrated"]
    table = make_table("Confidence", "Value (95 % interval)", right=further)
    rows = {
        "Calibration error (ECE)": (f"{now.ece:.4f}", before and before.ece),
        "Brier score": (
            format_number_with_interval(now.brier, scores.intervals["brier"]),
            before and before.brier,
        ),
        "Log loss": (f"{now.log_loss:.4f}", before and before.log_loss),
        "Risk-coverage area (AURC)": (
            format_number_with_interval(scores.aurc, scores.intervals["aurc"]),
            None,
        ),
    }
    for name, (value, old) in rows.items():
        cells = [name, value]
        if before is not None:
            cells.append("–" if old is None else f"{old:.4f}")
        table.add_row(*cells)
    return Group(table, Text(_explain(scores)))


def describe_doubt(num_wrong: int, num_rows: int, num_expected: float | None) -> str:
    """Return how many labels would look wrong if none were, and what that says of those that do.

    Args:
        num_wrong: Labels that look wrong.
        num_rows: Rows that were judged.
        num_expected: `SuspiciousLabels.num_expected`.

    Example:
        >>> describe_doubt(0, 40, 0.2)
        'With every label right, a model as unsure as this one would doubt hardly any.'
    """
    if num_expected is None:
        return _describe_unknown_doubt(num_wrong, num_rows)
    doubted, others = "hardly any", "So these"
    if num_expected >= 0.5:
        doubted = f"some {num_expected:,.0f}" if num_expected >= 1.5 else "about one"
        others = "Those beyond that number"
    told = f"With every label right, a model as unsure as this one would doubt {doubted}."
    if not num_wrong:
        return told
    if not _exceeds_chance(num_wrong, num_expected):
        return f"{told} So their number is no sign of wrong labels; the first may be wrong still."
    if _are_many(num_wrong, num_rows):
        return (
            f"{told} But so many labels are rarely wrong: most of these rows are more likely "
            "errors of the model, which is surer than it should be."
        )
    return f"{told} {others} are wrong labels, or the model is surer than it should be."


def _exceeds_chance(num_found: int, num_expected: float) -> bool:
    """Return whether chance gives so many or more in under 2.5 % of cases, as rare events come."""
    from scipy.stats import poisson

    return bool(poisson.sf(num_found - 1, num_expected) < 0.025)


def _describe_unknown_doubt(num_wrong: int, num_rows: int) -> str:
    if not num_wrong:
        return "Wrong labels that the model agrees with are not found."
    if _are_many(num_wrong, num_rows):
        return (
            "So many labels are rarely wrong: most of these rows are more likely errors of the "
            "model."
        )
    return "Errors of the model look the same; how many there are among these is not known."


def _are_many(num_wrong: int, num_rows: int) -> bool:
    return num_wrong >= max(_LEAST_WRONG, _MANY_WRONG * num_rows)


def describe_expectation(abstain_below: float, expectation: Expectation | None) -> str:
    """Return what to expect of abstaining, according to the validation rows."""
    start = f"Texts with a confidence below {abstain_below:g} get no label."
    if expectation is None:
        return f"{start} This model has no validation figures that say what to expect."
    at = ""
    if expectation.confidence != abstain_below:
        at = f" at {expectation.confidence:g} (no more at {abstain_below:g} itself)"
    share = format_share(expectation.coverage)
    told = f"{start} Of the {expectation.num_rows:,} validation rows, {share} got one{at}"
    if expectation.accuracy is None or expectation.interval is None:
        return f"{told}: expect no answers."
    percent, interval = format_percent_and_ends(expectation.accuracy, expectation.interval)
    return (
        f"{told}, and {percent} of these the right one (95 % interval {interval} if rows are "
        "independent). The same rows may have chosen the epoch, seed, calibration and threshold: "
        "expect a little less."
    )


def describe_calibration(entry: Mapping[str, Any]) -> str:
    """Return the calibration recorded in bertfit.json, in words."""
    if entry["kind"] == "none":
        return f"Calibration: none ({entry['reason']})"
    losses = entry["held_out_log_losses"]
    what = name_scaling(entry["kind"], entry["weights"])
    return (
        f"Calibration: {what}, in the weights; {entry['num_rows']:,} validation rows, held-out "
        f"log loss {losses['none']:.4f} → {losses[entry['kind']]:.4f}"
    )


def name_scaling(kind: str, weights: Sequence[float]) -> str:
    """Return a short phrase for what is done to the logits."""
    return {
        "temperature": f"temperature {1 / weights[0]:.3f}",
        "vector": "a weight and a bias for each class",
        "cubic": f"logits times {weights[0]:.3f}, and bent by their cubes",
    }[kind]


def describe_threshold(value: float, positive: str, entry: Mapping[str, Any] | None = None) -> str:
    """Return how labels are decided, in whole sentences.

    Args:
        value: The threshold.
        positive: Name of the second class.
        entry: The entry "threshold" of bertfit.json, to say what the threshold was chosen for.
    """
    start = f"Threshold: {positive!r} is predicted at a probability of {value:.4f} or more"
    end = "(transformers.pipeline does not apply it)"
    if entry is None:
        return f"{start} {end}."
    chosen, rates = f"{start}, chosen for {entry['aim']} {end}", entry.get("validation")
    if rates is None:
        return f"{chosen}."
    told = [
        _show_rate(name, rates[name], rates[f"{name}_interval"]) for name in ("precision", "recall")
    ]
    rates = " and ".join(told)
    hope = describe_hope(entry["aim"])
    return f"{chosen}. On the validation rows that chose it: {rates}. {hope}"


def describe_hope(aim: str) -> str:
    """Return how far the validation rows that chose a threshold can be believed.

    A rate that is reached with hardly a row to spare is missed on about half of all other rows: in
    simulations of 200 to 5,000 validation rows, by 43 to 56 % of 500 thresholds.

    Example:
        >>> describe_hope("f1"), describe_hope("recall>=0.9").partition(":")[0]
        ('That looks better than it is.', 'That looks better than it is')
    """
    told = "That looks better than it is"
    kind = parse_threshold_aim(aim).kind
    if kind not in {"precision", "recall"}:
        return f"{told}."
    return (
        f"{told}: on other rows about half of such thresholds fall short of the {kind} asked for."
    )


def _show_rate(name: str, value: float, ends: Mapping[str, float] | None) -> str:
    interval = read_interval(ends)
    sure = "" if interval is None else f" (95 % interval {interval.low:.4f} to {interval.high:.4f})"
    return f"{name} {value:.4f}{sure}"


def _explain(scores: ConfidenceScores) -> str:
    now = scores.calibration
    verdict = "is within that" if now.ece <= now.ece_noise else "is more"
    told = (
        f"With this many rows, chance alone explains an ECE of up to {now.ece_noise:.4f}: this one "
        f"{verdict}."
    )
    if not scores.error_rate:
        return told
    return f"{told} AURC would be {scores.error_rate:.4f} if confidence meant nothing; 0 is best."
