"""Sentences of the report and the model card: what limits the scores, and how to read slices.

Owns the wording. Names come from users and are returned unescaped; callers must escape them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bertfit.data.records import TABLE_NAMES
from bertfit.evaluation.slices import MIN_ROWS, SMALL_ROWS
from bertfit.reporting.confidence import describe_threshold
from bertfit.reporting.control_characters import put_on_one_line
from bertfit.reporting.facts_tables import find_predictions
from bertfit.reporting.summary import (
    has_leaks,
    is_all_leaked,
    leaves_nothing,
    list_chosen,
    list_findings,
    name_calibration,
)
from bertfit.reporting.text import format_percent
from bertfit.wording import format_count, format_steps, list_some, shorten_name

_MOST_LEFT_OUT = 10
_FEW_GROUPS = 10
"""With fewer groups, little is known about how much groups differ."""
OF_ONE_GROUP = "All rows are of one group: the intervals do not say how much groups differ."
_FEW_ROWS = 5
"""With 3 rows per class, intervals of macro averages covered the truth in 86 of 100 draws, and with
2 in 80 (docs/judging.md)."""
WORSE_SIGN = "▼"
"""Before the name of a slice that is worse than the rest of the rows."""
_RULES = {
    "head": "only their beginning",
    "tail": "only their end",
    "head+tail": "only their beginning and their end",
}


def list_limits(facts: Mapping[str, Any]) -> list[str]:
    """Return what a user must know before trusting the model, a sentence or two each.

    Leaks, a collapse and the comparison with baselines are reported next to the score, not here.
    """
    return [
        *_limit_test(facts),
        *_limit_data(facts),
        *_limit_training(facts),
        *_limit_length(facts),
        *_limit_confidence(facts),
    ]


def _limit_test(facts: Mapping[str, Any]) -> list[str]:
    judged, record = facts["judged"], facts["record"]
    data = record.get("data") or {}
    if judged is None:
        return ["The run holds no scores: score it on labelled rows with bertfit evaluate."]
    if judged["part"] != "test":
        why = "There was no test set."
        if data.get("test"):
            why = "Interrupted before the test rows were scored, which bertfit evaluate does."
        told = f"{why} The scores are those of the validation rows"
        chosen = list_chosen(record, facts["history"])
        if chosen:
            told += f", which chose {chosen}, so they make the model look better than it is"
        told += "."
    else:
        source = PurePath((data.get("test") or {}).get("source", "the test rows")).name
        what = "was given in memory" if source in TABLE_NAMES else f"is {source}"
        told = f"The test set {what}, {judged['num_rows']:,} rows, scored after training"
        if is_all_leaked(record):
            told += ". None of them is new to the model: the scores say nothing about new text."
        elif leaves_nothing(record, "test_without_groups"):
            told += ". None of their groups is new to the model: the scores hold for these alone."
        elif has_leaks(record):
            told += (
                ". Some of them are not new to the model: the score without them, given above, is "
                "the one that holds for text like it."
            )
        else:
            told += "; it chose nothing. The scores hold for text like it."
    supports = [rates["support"] for rates in (judged.get("per_class") or {}).values()]
    small = describe_small_classes(supports, find_predictions(judged))
    notes = (told, _describe_resampling(judged), small)
    return [" ".join(filter(None, notes))]


def _describe_resampling(judged: Mapping[str, Any]) -> str:
    """Return what the intervals take as independent, or an empty string without intervals."""
    if not judged.get("intervals"):
        return ""
    how = "rows are taken as independent"
    if judged.get("interval_unit", "row") == "group":
        drawn = describe_units(judged.get("num_interval_units"), grouped=True)
        how = f"whole groups were resampled, {drawn}"
    note = f" {OF_ONE_GROUP}" if judged.get("of_one_group") else ""
    return f"Intervals: {how}.{note}"


def describe_units(num_units: int | None, *, grouped: bool) -> str:
    """Return what was resampled: rows, or groups with their number if known.

    Example:
        >>> describe_units(25, grouped=True), describe_units(3, grouped=True)
        ('25 groups', '3 groups, too few to be sure of much')
    """
    if not grouped or num_units is None:
        return "groups" if grouped else "rows"
    few = ", too few to be sure of much" if num_units < _FEW_GROUPS else ""
    return f"{num_units:,} groups{few}"


def describe_small_classes(
    supports: Sequence[int], num_predicted: Sequence[int] | None = None
) -> str:
    """Return a warning if any class has no rows or too few, or an empty string.

    Args:
        supports: (C,) rows of each class.
        num_predicted: (C,) how often each class was predicted; None if unknown.

    Example:
        >>> describe_small_classes([40, 3, 0]).partition(":")[0]
        '1 of 3 classes has no rows here. 1 of the 2 others has fewer than 5 rows'
    """
    absent = [at for at, support in enumerate(supports) if not support]
    num_small = sum(0 < support < _FEW_ROWS for support in supports)
    told = []
    if absent:
        has = "has" if len(absent) == 1 else "have"
        told.append(f"{len(absent):,} of {len(supports):,} classes {has} no rows here")
        if num_predicted is not None:
            told[0] += _describe_absent([num_predicted[at] > 0 for at in absent])
        told[0] += "."
    if num_small:
        num_others = len(supports) - len(absent)
        others = f"of the {num_others:,} others" if absent else f"of {num_others:,} classes"
        who = f"{num_small:,} {others}"
        if absent and num_small == num_others:
            who = "The other" if num_others == 1 else f"All {num_others:,} others"
        has, their = ("has", "its") if num_small == 1 else ("have", "their")
        told.append(
            f"{who} {has} fewer than {_FEW_ROWS} rows: {their} scores, and macro averages, are "
            "less certain than the intervals say."
        )
    return " ".join(told)


def _describe_absent(are_predicted: Sequence[bool]) -> str:
    """Return what classes without rows do to macro averages, as the end of a sentence."""
    num = sum(are_predicted)
    if len(are_predicted) == 1:
        told = "was predicted, and counts as 0 in macro averages"
        return f"; it {told}" if num else "; it was not predicted, so macro averages leave it out"
    if not num:
        return "; none of them was predicted, so macro averages leave them out"
    were, count = ("was", "counts") if num == 1 else ("were", "count")
    return f"; {num:,} of them {were} predicted, and {count} as 0 in macro averages"


def describe_slices(
    found: Mapping[str, Any],
    groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
) -> list[str]:
    """Return notes on how to read the slices, in sentences.

    Args:
        found: From `SliceReport.to_json`.
        groups: The slices that are shown, from `facts_tables.group_slices`.
    """
    num_worse, num_small = sum(one["is_worse"] for one in found["slices"]), found["num_too_small"]
    is_one = num_worse == 1 or len(found["slices"]) == 1
    are, were = ("is" if is_one else "are"), ("was" if num_small == 1 else "were")
    told = f"{num_worse:,} of {format_count(len(found['slices']), 'slice')} {are} worse than the "
    told += "rest of the rows" + (f" ({WORSE_SIGN})" if num_worse else "")
    told += f"; {num_small:,} {were} too small to judge." if num_small else "."
    grouped = found.get("unit") == "group"
    test = "Fisher's exact test"
    if grouped:
        test = f"the larger of {test} and a t-test of groups"
    notes = [
        told,
        f"p: {test}, adjusted for all slices (Benjamini-Hochberg).",
        *(["Of the slices marked as worse, some 5 % may be chance."] if num_worse else []),
        "Ordered by the upper end of the interval; slices better than the rest come last.",
        "The 95 % intervals are not adjusted: the worst of many looks worse than it is.",
    ]
    shown = [one for _, slices in groups for one in slices]
    if grouped:
        told = "p and intervals allow for rows of one group being right or wrong together."
        if any(one["by"] == "group" for one in shown):
            told += " Slices by group are about that group alone: tested by its rows, and adjusted "
            told += "among groups."
        notes.append(told)
    for name in found.get("columns_too_small", ()):  # runs of before have no such entry
        shown_name = put_on_one_line(name)
        notes.append(f"By {shown_name}: no value has the {MIN_ROWS} rows that a slice needs.")
    if any(one["is_small"] for one in shown):
        notes.append(f"* fewer than {SMALL_ROWS} rows, which say little.")
    return notes


def _limit_data(facts: Mapping[str, Any]) -> list[str]:
    found = list_findings(facts["record"])
    serious = [finding["message"] for finding in found if finding["severity"] == "serious"]
    return [*_limit_labels(facts), *serious]


def _limit_labels(facts: Mapping[str, Any]) -> list[str]:
    left_out = (facts["record"].get("data") or {}).get("left_out") or {}
    labels, rows = left_out.get("labels") or [], left_out.get("rows") or {}
    if not labels:
        return []
    named = list_some((shorten_name(put_on_one_line(name)) for name in labels), _MOST_LEFT_OUT)
    told = f"Labels with few training rows were left out: {named}. Texts of these get another one."
    parts = ("validation", "test")
    judged = [format_count(rows[part], f"{part} row") for part in parts if rows.get(part)]
    return [f"{told} So the scores are without {' and '.join(judged)}." if judged else told]


def _limit_training(facts: Mapping[str, Any]) -> list[str]:
    training = facts["record"].get("training") or {}
    told = []
    if training.get("imported_from"):
        told.append(f"It was imported from a {training['imported_from']}, not trained by bertfit.")
    if training.get("interrupted"):
        told.append(describe_interruption(training))
    if training.get("reads_padding"):
        told.append(
            "The model reads padding: a program that pads texts of different lengths, as a "
            "pipeline with a batch_size does, gets other answers. bertfit computes only texts of "
            "equal length together."
        )
    return told


def describe_interruption(training: Mapping[str, Any]) -> str:
    """Return where an interrupted training ended, in a sentence."""
    unfinished = training.get("unfinished_epoch")
    where = f" after {format_steps(*unfinished)} of its last epoch" if unfinished else ""
    return f"The training was interrupted{where}."


def _limit_length(facts: Mapping[str, Any]) -> list[str]:
    encoding, judged = facts["record"].get("encoding") or {}, facts["judged"] or {}
    limit = encoding.get("max_length")
    if limit is None:
        return []
    rule = _RULES.get(encoding.get("truncation", ""), "only a part of them")
    told = f"Of texts longer than {limit:,} tokens the model reads {rule}"
    if judged.get("num_truncated") is not None:
        num_cut, num_rows, part = judged["num_truncated"], judged["num_rows"], judged["part"]
        if num_cut:
            share = format_percent(num_cut / num_rows)
            told += f": {num_cut:,} of {num_rows:,} {part} rows ({share})"
        else:
            told += f"; no {part} row is longer"
    told += "."
    if encoding.get("truncation") == "head+tail":
        told += (
            " Only bertfit cuts texts this way: transformers.pipeline with truncation=True reads "
            "only their beginning, so its answers to such texts differ from those scored here."
        )
    return [told]


def _limit_confidence(facts: Mapping[str, Any]) -> list[str]:
    record, confidence = facts["record"], (facts["judged"] or {}).get("confidence")
    told = []
    if confidence is not None:
        is_fair = confidence["ece"] <= confidence["ece_noise"]
        verdict = "is within chance" if is_fair else "is more than chance explains"
        kind = name_calibration(record)
        how = "not calibrated" if kind == "none" else f"calibrated on validation rows ({kind})"
        told.append(
            f"Confidence is {how}. Its calibration error of {confidence['ece']:.4f} {verdict} "
            f"(chance alone gives up to {confidence['ece_noise']:.4f})."
        )
    if record.get("threshold"):
        threshold = record["threshold"]
        positive = facts["label_names"][1]
        told.append(describe_threshold(threshold["value"], positive, threshold))
    return told
