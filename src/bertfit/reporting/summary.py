"""Sentences of the report and the model card: the score, the verdict, leaks and a collapse.

Owns the wording. Names come from users and are returned unescaped; callers must escape them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertfit.evaluation.interval import Interval, read_interval
from bertfit.reporting.control_characters import put_on_one_line
from bertfit.reporting.text import (
    MAX_CLASSES,
    format_percent,
    format_percent_and_ends,
)
from bertfit.wording import format_share, name_metric, shorten_name

_FEWEST_ROWS, _FAR_BELOW = 5, 0.25
"""Rows of a class, and by how much its recall is below the accuracy, if it is told of first."""
LEFT_OUT = {"test_without_leaks": "leaked", "test_without_groups": "leaked or grouped"}
"""Which test rows the further scores of a run leave out, in words; the second leaves out more."""
WITHOUT_THRESHOLD = (
    "Both predict the more probable class here; the model's threshold is not applied."
)
"""After a comparison with a baseline, if the model answers by a threshold."""


def describe_answer(facts: Mapping[str, Any]) -> str:
    """Return how good the model is, in one sentence with its interval."""
    judged = facts["judged"]
    if judged is None:
        return "How good this model is, is not known: the run holds no scores."
    share, sure = format_percent(judged["accuracy"]), ""
    interval = find_interval(judged, "accuracy")
    if interval is not None:
        share, ends = format_percent_and_ends(judged["accuracy"], interval)
        sure = f" (95 % interval {ends})"
    number = f"{judged['num_rows']:,} " if "num_rows" in judged else ""
    answer = f"The model classifies {share} of {number}{judged['part']} rows correctly{sure}"
    if judged["part"] == "test":
        return f"{answer}.{_tell_weak_class(judged)}"
    chosen = list_chosen(facts["record"], facts["history"])
    also = f"these rows also chose {chosen}, and " if chosen else ""
    return f"{answer}; {also}no test rows were scored.{_tell_weak_class(judged)}"


def _tell_weak_class(judged: Mapping[str, Any]) -> str:
    """Return a sentence on the class that is recognised worst, if far below the accuracy."""
    classes = judged.get("per_class") or {}
    recalls = {
        name: (one["recall"], one["support"])
        for name, one in classes.items()
        if one["support"] >= _FEWEST_ROWS
    }
    if not recalls or len(classes) > MAX_CLASSES:
        return ""
    name, (recall, support) = min(recalls.items(), key=lambda item: item[1][0])
    if judged["accuracy"] - recall <= _FAR_BELOW:
        return ""
    shown = shorten_name(put_on_one_line(name))
    known = format_share(recall) if recall else "none"
    return f" Of the {support:,} rows of {shown}, it recognises {known}."


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
        "Validation scores are those of the models as trained, before any calibration and "
        f"threshold. They chose {chosen}{_word_tie(seeds, chosen_by)}, so they make it look too "
        "good."
    )
    if seeds["test"]["mean"] is not None:
        told += " Test scores are those of the models as saved; they chose nothing."
    if any(run["interrupted"] for run in seeds["runs"]) and len(seeds["runs"]) > 1:
        told += " Mean and deviation leave out the interrupted seed."
    missing = describe_missing_seeds(seeds)
    return told if missing is None else f"{missing} {told}"


def describe_missing_seeds(seeds: Mapping[str, Any]) -> str | None:
    """Return how many of the seeds that were asked for were trained; None if all were.

    Args:
        seeds: The entry "seeds" of bertfit.json.
    """
    asked, trained = seeds.get("asked", 0), len(seeds["runs"])
    if trained >= asked:
        return None
    were = "was" if trained == 1 else "were"
    return f"Only {trained} of {asked} seeds {were} trained."


def is_cut_short(record: Mapping[str, Any]) -> bool:
    """Return whether the command that trained a run would now train longer, or more seeds."""
    seeds = record.get("seeds")
    if seeds is not None and describe_missing_seeds(seeds) is not None:
        return True
    trained = [record.get("training") or {}, *(seeds or {}).get("runs", ())]
    return any(one.get("interrupted") for one in trained)


def _word_tie(seeds: Mapping[str, Any], metric: str) -> str:
    """Return how the kept seed was chosen among seeds with the same score, if there are any."""
    whole = [run for run in seeds["runs"] if not run["interrupted"]] or seeds["runs"]
    kept = next((run for run in whole if run["seed"] == seeds.get("best_seed")), None)
    if kept is None or metric not in kept["validation"]:
        return ""
    equal = [run for run in whole if run["validation"][metric] == kept["validation"][metric]]
    if len(equal) == 1:
        return ""
    losses = {run["validation"].get("loss") for run in equal}
    return " (of equals, the first)" if len(losses) == 1 else " (of equals, the lowest loss)"


def format_seed_scores(*parts: Mapping[str, float] | None) -> list[str]:
    """Return accuracy and macro F1 of a seed on each part; a dash for parts without scores."""
    return [
        "–" if part is None else format_percent(part[name], least_decimals=2, most_decimals=4)
        for part in parts
        for name in ("accuracy", "macro_f1")
    ]


def describe_verdict(facts: Mapping[str, Any]) -> str | None:
    """Return how the model compares to the best baseline, on test rows if any were scored.

    Returns:
        None if no baseline was fitted, or nothing was scored.
    """
    comparison = _scores(facts["record"]).get("comparison")
    if comparison is not None:
        return str(comparison["verdict"])
    found, accuracy = facts["baselines"], facts["validation_accuracy"]
    if (facts["judged"] or {}).get("part") != "validation" or found is None or accuracy is None:
        return None
    best = next(one for one in found["baselines"] if one["name"] == found["best"])
    return word_validation(
        accuracy,
        best["validation"]["accuracy"],
        best["name"],
        chosen=list_chosen(facts["record"], facts["history"]),
        has_threshold=bool(facts["record"].get("threshold")),
    )


def word_validation(
    ours: float, theirs: float, name: str, *, chosen: str, has_threshold: bool
) -> str:
    """Return the shares of validation rows that the model and the best baseline have right.

    Args:
        ours: Share of the model's most probable classes, in [0, 1].
        theirs: Share of the baseline.
        name: Name of the baseline.
        chosen: What the rows chose (`list_chosen`).
        has_threshold: Whether the model answers by a threshold.
    """
    clause = f", which also chose {chosen}," if chosen else ""
    shares = [format_percent(share) for share in (ours, theirs)]
    note = f" {WITHOUT_THRESHOLD}" if has_threshold else ""
    return (
        f"On the validation rows{clause} the model classifies "
        f"{shares[0]} correctly, and the best baseline, {name}, {shares[1]}.{note}"
    )


def describe_collapse(record: Mapping[str, Any]) -> str | None:
    """Return that the model predicts one class for every validation row, if it does."""
    collapsed_to = (record.get("training") or {}).get("collapsed_to")
    if collapsed_to is None:
        return None
    name = record["label_names"][collapsed_to]
    # Others can change the most probable class.
    is_as_trained = name_calibration(record) in {"none", "temperature"}
    what = f"{name} is" if is_as_trained else f"before its calibration, {name} was"
    return f"The model has collapsed: {what} most probable for every validation row."


def list_warnings(record: Mapping[str, Any]) -> list[str]:
    """Return what makes a run's scores, or the run, less than they seem: leaks, or a collapse."""
    return [*list_leaks(record), *filter(None, [describe_collapse(record)])]


def list_leaks(record: Mapping[str, Any]) -> list[str]:
    """Return which test rows leaked, and the scores without them."""
    told = [
        finding["message"] for finding in list_findings(record) if finding["severity"] == "leak"
    ]
    for key, what in LEFT_OUT.items():
        clean = _scores(record).get(key)
        if leaves_nothing(record, key):
            told.append(f"Without the {what} rows nothing is left to score.")
        elif clean is not None:
            share = format_share_with_interval(clean, "accuracy")
            noun = "row" if clean["num_leaked"] == 1 else "rows"
            others = f"on the other {clean['num_rows']:,}"
            told.append(
                f"Without {clean['num_leaked']:,} {what} {noun}, {others}: accuracy {share}."
            )
    return told


def has_leaks(record: Mapping[str, Any]) -> bool:
    """Return whether test rows leaked, or their groups did."""
    return any(finding["severity"] == "leak" for finding in list_findings(record))


def find_clean_scores(record: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return what was left out, and the scores without it; None if nothing is known to have leaked.

    Groups count if any row is left without them.
    """
    for key, what in reversed(LEFT_OUT.items()):
        clean = _scores(record).get(key)
        if clean is not None and clean["accuracy"] is not None:
            return what, clean
    return None


def is_all_leaked(record: Mapping[str, Any]) -> bool:
    """Return whether no test row is left to score without those whose text leaked."""
    return leaves_nothing(record, "test_without_leaks")


def leaves_nothing(record: Mapping[str, Any], key: str) -> bool:
    """Return whether no test row is left in these scores, which leave some out."""
    clean = _scores(record).get(key)
    return clean is not None and clean["accuracy"] is None


def list_findings(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the findings about the data, by severity; empty if the data was not checked."""
    return list((record.get("data") or {}).get("findings") or [])


def format_share_with_interval(scores: Mapping[str, Any], name: str) -> str:
    """Return a share with its 95 % interval, in words.

    Example:
        >>> scores = {"accuracy": 0.9, "intervals": {"accuracy": {"low": 0.88, "high": 0.92}}}
        >>> format_share_with_interval(scores, "accuracy")
        '90.0 % (95 % interval 88.0 to 92.0)'
    """
    interval = find_interval(scores, name)
    if interval is None:
        return format_percent(scores[name])
    percent, ends = format_percent_and_ends(scores[name], interval)
    return f"{percent} (95 % interval {ends})"


def find_interval(scores: Mapping[str, Any], name: str) -> Interval | None:
    """Return the interval of a score, if it has one."""
    return read_interval((scores.get("intervals") or {}).get(name))


def _scores(record: Mapping[str, Any]) -> dict[str, Any]:
    return record.get("scores") or {}


def list_chosen(record: Mapping[str, Any], history: Mapping[str, Any] | None) -> str:
    """Return what the validation rows of a run chose, which makes scores on them too good.

    Empty if they chose nothing: one epoch is no choice.

    Args:
        record: Content of bertfit.json.
        history: Content of history.json, if it is known.
    """
    seeds = record.get("seeds")
    chosen = ["the epoch"] if count_epochs(record, history) != 1 else []
    chosen += ["the seed"] if seeds and len(seeds["runs"]) > 1 else []
    chosen += ["the calibration"] if name_calibration(record) != "none" else []
    chosen += ["the threshold"] if record.get("threshold") else []
    if not chosen:
        return ""
    *others, last = chosen
    return f"{', '.join(others)} and {last}" if others else last


def find_validation_accuracy(record: Mapping[str, Any]) -> float:
    """Return the accuracy of the most probable classes on the validation rows of a new run.

    It is that of the model as saved: a calibration can change which class is the most probable.
    """
    after = ((record["calibration"] or {}).get("validation") or {}).get("after")
    accuracy: float = (after or record["scores"]["validation"])["accuracy"]
    return accuracy


def count_epochs(record: Mapping[str, Any], history: Mapping[str, Any] | None) -> int | None:
    """Return how many epochs a training took, the last perhaps in part; None if unknown."""
    losses = (history or {}).get("val_losses")
    if losses:
        return len(losses)
    of_settings = ((record.get("settings") or {}).get("epochs") or {}).get("value")
    epochs: int | None = (record.get("training") or {}).get("num_epochs", of_settings)
    return epochs


def name_calibration(record: Mapping[str, Any]) -> str:
    """Return the kind of calibration that a run has."""
    kind: str = (record.get("calibration") or {}).get("kind", "none")
    return kind
