"""Sentences of the report and the model card: the score, leaks, and limits.

Owns the wording. Names come from users and are returned unescaped; callers must escape them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bertfit.data.records import TABLE_NAMES
from bertfit.evaluation.interval import Interval
from bertfit.evaluation.slices import SMALL_ROWS
from bertfit.reporting.confidence import describe_threshold
from bertfit.reporting.text import format_percent_with_interval
from bertfit.wording import format_count, format_steps, name_metric

_FEW_GROUPS = 10
"""With fewer groups, little is known about how much groups differ."""
OF_ONE_GROUP = "All rows are of one group: the intervals do not say how much groups differ."
_FEW_ROWS = 5
"""With 3 rows per class, intervals of macro averages covered the truth in 86 of 100 draws, and with
2 in 80 (docs/judging.md)."""
_RULES = {
    "head": "only their beginning",
    "tail": "only their end",
    "head+tail": "only their beginning and their end",
}


def describe_answer(facts: Mapping[str, Any]) -> str:
    """Return how good the model is, in one sentence with its interval."""
    judged = facts["judged"]
    if judged is None:
        return "How good this model is, is not known: the run holds no scores."
    share, _, interval = format_share_with_interval(judged, "accuracy").partition(" (")
    sure = f" ({interval}" if interval else ""
    number = f"{judged['num_rows']:,} " if "num_rows" in judged else ""
    answer = f"The model classifies {share} of {number}{judged['part']} rows correctly{sure}"
    if judged["part"] == "test":
        return f"{answer}."
    chosen = _list_chosen(facts["record"])
    also = f"these rows also chose {chosen}, and " if chosen else ""
    return f"{answer}; {also}no test rows were scored."


def describe_seeds(seeds: Mapping[str, Any]) -> str:
    """Return which models the scores of the seeds belong to, and what they chose.

    Args:
        seeds: The entry "seeds" of bertfit.json.
    """
    chosen_by = seeds["chosen_by"].removeprefix("validation").strip() or "score"
    best = "lowest" if chosen_by == "loss" else "highest"
    chosen = (
        f"the seed with the {best} {name_metric(chosen_by)}"
        if len(seeds["runs"]) > 1
        else "the epoch"
    )
    told = (
        "Validation scores are those of the models as trained, before calibration and threshold. "
        f"They chose {chosen}, so they make it look too good."
    )
    if seeds["test"]["mean"] is not None:
        told += " Test scores are those of the models as saved, after both; they chose nothing."
    if any(run["interrupted"] for run in seeds["runs"]) and len(seeds["runs"]) > 1:
        told += " Mean and deviation leave out the interrupted seed."
    return told


def format_seed_scores(*parts: Mapping[str, float] | None) -> list[str]:
    """Return accuracy and macro F1 of a seed on each part; a dash for parts without scores."""
    return [
        "–" if part is None else f"{100 * part[name]:.2f} %"
        for part in parts
        for name in ("accuracy", "macro_f1")
    ]


def describe_verdict(facts: Mapping[str, Any]) -> str | None:
    """Return how the model compares to the best baseline, on test rows if any were scored.

    Returns:
        None if no baseline was fitted, or nothing was scored.
    """
    comparison = _scores(facts).get("comparison")
    if comparison is not None:
        return str(comparison["verdict"])
    found, accuracy = facts["baselines"], facts["validation_accuracy"]
    if (facts["judged"] or {}).get("part") != "validation" or found is None or accuracy is None:
        return None
    best = next(one for one in found["baselines"] if one["name"] == found["best"])
    ours, theirs = map(format_percent_with_interval, (accuracy, best["validation"]["accuracy"]))
    return word_validation(ours, theirs, best["name"])


def word_validation(ours: str, theirs: str, name: str) -> str:
    """Return the shares of validation rows that the model and the best baseline have right."""
    return (
        "On the validation rows, which were used to choose, the model classifies "
        f"{ours} correctly, and the best baseline, {name}, {theirs}."
    )


def describe_collapse(facts: Mapping[str, Any]) -> str | None:
    """Return that the model predicts one class for every validation row, if it does."""
    collapsed_to = (facts["record"].get("training") or {}).get("collapsed_to")
    if collapsed_to is None:
        return None
    name = facts["label_names"][collapsed_to]
    # Others can change the most probable class.
    is_as_trained = _kind_of_calibration(facts["record"]) in {"none", "temperature"}
    what = f"{name} is" if is_as_trained else f"before its calibration, {name} was"
    return f"The model has collapsed: {what} most probable for every validation row."


def list_warnings(record: Mapping[str, Any]) -> list[str]:
    """Return what makes a run's scores, or the run, less than they seem: leaks, or a collapse."""
    facts = {"record": record, "label_names": record.get("label_names", [])}
    return [*list_leaks(facts), *filter(None, [describe_collapse(facts)])]


def list_leaks(facts: Mapping[str, Any]) -> list[str]:
    """Return which test rows leaked, and the scores without them."""
    told = [finding["message"] for finding in list_findings(facts) if finding["severity"] == "leak"]
    for key, what in (
        ("test_without_leaks", "leaked"),
        ("test_without_groups", "leaked or grouped"),
    ):
        clean = _scores(facts).get(key)
        if _leaves_nothing(facts, key):
            told.append(f"Without the {what} rows nothing is left to score.")
        elif clean is not None:
            share = format_share_with_interval(clean, "accuracy")
            noun = "row" if clean["num_leaked"] == 1 else "rows"
            told.append(
                f"Without {clean['num_leaked']:,} {what} {noun}, on {clean['num_rows']:,}: "
                f"accuracy {share}."
            )
    return told


def has_leaks(facts: Mapping[str, Any]) -> bool:
    """Return whether test rows leaked, or their groups did."""
    return any(finding["severity"] == "leak" for finding in list_findings(facts))


def find_clean_scores(facts: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return what was left out, and the scores without it; None if nothing is known to have leaked.

    Groups count if any row is left without them.
    """
    for key, what in (
        ("test_without_groups", "leaked or grouped"),
        ("test_without_leaks", "leaked"),
    ):
        clean = _scores(facts).get(key)
        if clean is not None and clean["accuracy"] is not None:
            return what, clean
    return None


def is_all_leaked(facts: Mapping[str, Any]) -> bool:
    """Return whether no test row is left to score without those whose text leaked."""
    return _leaves_nothing(facts, "test_without_leaks")


def _leaves_nothing(facts: Mapping[str, Any], key: str) -> bool:
    clean = _scores(facts).get(key)
    return clean is not None and clean["accuracy"] is None


def list_findings(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the findings about the data, by severity; empty if the data was not checked."""
    return list((facts["record"].get("data") or {}).get("findings") or [])


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


def format_share_with_interval(scores: Mapping[str, Any], name: str) -> str:
    """Return a share with its 95 % interval, in words.

    Example:
        >>> scores = {"accuracy": 0.9, "intervals": {"accuracy": {"low": 0.88, "high": 0.92}}}
        >>> format_share_with_interval(scores, "accuracy")
        '90.0 % (95 % interval 88.0 to 92.0)'
    """
    ends = (scores.get("intervals") or {}).get(name)
    if ends is None:
        return format_percent_with_interval(scores[name])
    shown = format_percent_with_interval(scores[name], Interval(ends["low"], ends["high"]))
    return shown.replace("(", "(95 % interval ", 1)


def _scores(facts: Mapping[str, Any]) -> dict[str, Any]:
    return facts["record"].get("scores") or {}


def _limit_test(facts: Mapping[str, Any]) -> list[str]:
    judged, data = facts["judged"], facts["record"].get("data") or {}
    if judged is None:
        return ["The run holds no scores: score it on labelled rows with bertfit evaluate."]
    if judged["part"] != "test":
        why = "There was no test set."
        if data.get("test"):
            why = "Interrupted before the test rows were scored, which bertfit evaluate does."
        told = f"{why} The scores are those of the validation rows"
        chosen = _list_chosen(facts["record"])
        if chosen:
            told += f", which chose {chosen}, so they make the model look better than it is"
        told += "."
    else:
        source = PurePath((data.get("test") or {}).get("source", "the test rows")).name
        what = "was given in memory" if source in TABLE_NAMES else f"is {source}"
        told = f"The test set {what}, {judged['num_rows']:,} rows, scored after training"
        if is_all_leaked(facts):
            told += ". None of them is new to the model: the scores say nothing about new text."
        elif _leaves_nothing(facts, "test_without_groups"):
            told += ". None of their groups is new to the model: the scores hold for these alone."
        elif has_leaks(facts):
            told += (
                ". Some of them are not new to the model: the score without them, given above, is "
                "the one that holds for text like it."
            )
        else:
            told += "; it chose nothing. The scores hold for text like it."
    supports = [rates["support"] for rates in (judged.get("per_class") or {}).values()]
    notes = (told, _describe_resampling(judged), describe_small_classes(supports))
    return [" ".join(filter(None, notes))]


def _list_chosen(record: Mapping[str, Any]) -> str:
    """Return what the validation rows of a run chose, which makes scores on them too good.

    Empty if they chose nothing: one epoch is no choice.
    """
    seeds = record.get("seeds")
    epochs = ((record.get("settings") or {}).get("epochs") or {}).get("value")
    chosen = ["the epoch"] if epochs != 1 else []
    chosen += ["the seed"] if seeds and len(seeds["runs"]) > 1 else []
    chosen += ["the calibration"] if _kind_of_calibration(record) != "none" else []
    chosen += ["the threshold"] if record.get("threshold") else []
    if not chosen:
        return ""
    *others, last = chosen
    return f"{', '.join(others)} and {last}" if others else last


def _kind_of_calibration(record: Mapping[str, Any]) -> str:
    kind: str = (record.get("calibration") or {}).get("kind", "none")
    return kind


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


def describe_small_classes(supports: Sequence[int]) -> str:
    """Return a warning if any class has too few rows, or an empty string.

    Args:
        supports: (C,) rows of each class.

    Example:
        >>> describe_small_classes([40, 3, 0]).partition(":")[0]
        '2 of 3 classes have fewer than 5 rows'
    """
    num_small = sum(support < _FEW_ROWS for support in supports)
    if not num_small:
        return ""
    has = "has" if num_small == 1 else "have"
    return (
        f"{num_small:,} of {len(supports):,} classes {has} fewer than {_FEW_ROWS} rows: their "
        "scores, and macro averages, are less certain than the intervals say."
    )


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
    are, were = ("is" if num_worse == 1 else "are"), ("was" if num_small == 1 else "were")
    told = f"{num_worse:,} of {format_count(len(found['slices']), 'slice')} {are} worse than the "
    told += "rest of the rows (in bold)"
    told += f"; {num_small:,} {were} too small to judge." if num_small else "."
    grouped = found.get("unit") == "group"
    test = "Fisher's exact test"
    if grouped:
        test = f"the larger of {test} and a t-test of groups"
    notes = [
        told,
        f"p: {test}, adjusted for all slices (Benjamini-Hochberg).",
        "The 95 % intervals are not adjusted: the worst of many looks worse than it is.",
    ]
    if grouped:
        notes.append(
            "p and intervals allow for rows of one group being right or wrong together. Slices by "
            "group are about that group alone: tested by its rows, and adjusted among groups."
        )
    if any(one["is_small"] for _, slices in groups for one in slices):
        notes.append(f"* fewer than {SMALL_ROWS} rows, which say little.")
    return notes


def _limit_data(facts: Mapping[str, Any]) -> list[str]:
    found = list_findings(facts)
    return [finding["message"] for finding in found if finding["severity"] == "serious"]


def _limit_training(facts: Mapping[str, Any]) -> list[str]:
    training = facts["record"].get("training") or {}
    told = []
    if training.get("imported_from"):
        told.append(f"It was imported from a {training['imported_from']}, not trained by bertfit.")
    if training.get("interrupted"):
        unfinished = training.get("unfinished_epoch")
        where = f" after {format_steps(*unfinished)} of its last epoch" if unfinished else ""
        told.append(f"The training was interrupted{where}.")
    return told


def _limit_length(facts: Mapping[str, Any]) -> list[str]:
    encoding, judged = facts["record"].get("encoding") or {}, facts["judged"] or {}
    limit = encoding.get("max_length")
    if limit is None:
        return []
    rule = _RULES.get(encoding.get("truncation", ""), "only a part of them")
    told = f"Of texts longer than {limit:,} tokens the model reads {rule}"
    if judged.get("num_truncated") is not None:
        num_cut, num_rows, part = judged["num_truncated"], judged["num_rows"], judged["part"]
        share = format_percent_with_interval(num_cut / num_rows)
        told += f": {num_cut:,} of {num_rows:,} {part} rows ({share})"
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
        kind = _kind_of_calibration(record)
        how = "not calibrated" if kind == "none" else f"calibrated on validation rows ({kind})"
        told.append(
            f"Confidence is {how}. Its calibration error of {confidence['ece']:.4f} {verdict} "
            f"(chance alone gives up to {confidence['ece_noise']:.4f})."
        )
    if record.get("threshold"):
        threshold = record["threshold"]
        positive = facts["label_names"][1]
        told.append(f"{describe_threshold(threshold['value'], positive, threshold)}.")
    return told
