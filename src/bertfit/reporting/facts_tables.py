"""Rows of tables from the facts of a run, for the report and the model card.

Owns the choice of rows and the format of numbers; the layout is in the templates. Texts and names
are returned unescaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bertfit.assets import EMBEDDED
from bertfit.config import describe_settings, is_default
from bertfit.data.records import TABLE_NAMES
from bertfit.evaluation.metrics import count_predictions, list_confused
from bertfit.evaluation.slices import OWN_SLICES
from bertfit.reporting.summary import count_epochs, find_interval, format_seed_scores
from bertfit.reporting.text import (
    SCORE_NAMES,
    format_number_with_interval,
    format_percent_with_interval,
    format_rates,
    format_score,
    name_own_model,
)
from bertfit.wording import format_count, format_seconds, format_steps, list_some

_SCORES = SCORE_NAMES | {"log_loss": "Log loss (nats)", "loss": "Loss (nats)"}
_MOST_RESUMED = 5
"""Steps after which a training went on that are named."""
_CONFIDENCE = {
    "ece": "Calibration error (ECE)",
    "ece_noise": "ECE that chance alone explains",
    "brier": "Brier score",
    "log_loss": "Log loss (nats)",
    "aurc": "Area under the risk-coverage curve (AURC)",
}


def describe_task(facts: Mapping[str, Any], *, short: bool = False) -> str:
    """Return the task of the run, in a sentence or two."""
    record = facts["record"]
    training, settings = record.get("training") or {}, record.get("settings")
    if settings is None:
        return "The run was not trained by bertfit, so it does not know its settings."
    model = str(settings["model"]["value"])
    name = "the embedded MiniLM-L6" if model == EMBEDDED else model
    if short:
        name = facts["base_model"] or PurePath(name).name
    told = f"Fine-tune {name} to tell {len(facts['label_names'])} classes apart"
    asked_for = settings["epochs"]["value"]
    taken = count_epochs(record, facts["history"]) or asked_for
    told += f", in {format_count(taken, 'epoch')} over {record['data']['train']['num_rows']:,} rows"
    unfinished = training.get("unfinished_epoch")
    notes = [f"the last after {format_steps(*unfinished)}"] if unfinished else []
    if taken < asked_for:  # interrupted, or stopped for want of progress
        notes.append(f"{asked_for:,} were asked for")
    told += f" ({'; '.join(notes)})" if notes else ""
    if "best_epoch" in training:
        told += f"; epoch {training['best_epoch']} was kept"
    demo = " The rows are those of the demo: snippets of film reviews from Rotten Tomatoes."
    return f"{told}.{demo if is_of_demo(settings) else ''}"


def is_of_demo(settings: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a run's settings are those of `bertfit demo`."""
    return any(entry.get("origin") == "demo" for entry in settings.values())


def list_parts(facts: Mapping[str, Any], *, short: bool = False) -> list[dict[str, Any]]:
    """Return the rows of each part: train, validation, test.

    Args:
        facts: Facts of the run.
        short: Omit the folders of the sources.
    """
    data = facts["record"].get("data") or {}
    parts = [
        {"name": name, **data[name]} for name in ("train", "validation", "test") if data.get(name)
    ]
    for part in parts:
        if part["source"] in TABLE_NAMES:
            part["source"] = "in memory"
        elif short:
            part["source"] = PurePath(part["source"]).name
    return parts


def list_scores(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the title and the value with interval of each headline score."""
    judged = facts["judged"]
    if judged is None:
        return []
    return [
        (title, format_score(name, judged[name], find_interval(judged, name)))
        for name, title in _SCORES.items()
        if judged.get(name) is not None
    ]


def list_classes(
    facts: Mapping[str, Any], *, worst: int | None = None
) -> list[tuple[int, str, dict[str, Any]]]:
    """Return (1-based number, name, scores) of all classes, or of the worst classes with rows.

    The scores have "cells": precision, recall and F1 in words.
    """
    judged = facts["judged"] or {}
    per_class = judged.get("per_class") or {}
    counts: Sequence[int | None] = find_predictions(judged) or [None] * len(per_class)
    classes = [
        (number, name, {**rates, "cells": _format_cells(rates, count)})
        for number, (name, rates), count in zip(
            range(1, len(per_class) + 1), per_class.items(), counts, strict=True
        )
    ]
    if worst is None:
        return classes
    present = [one for one in classes if one[2]["support"] > 0]
    return sorted(present, key=lambda one: (one[2]["f1"], -one[2]["support"]))[:worst]


def find_predictions(judged: Mapping[str, Any]) -> list[int] | None:
    """Return (C,) how often each class was predicted, or None if the record does not say.

    Args:
        judged: Scores of one part, as in the facts of a run.
    """
    confusion = judged.get("confusion") or []
    is_whole = len(confusion) == len(judged.get("per_class") or {}) > 0
    return count_predictions(confusion) if is_whole else None


def _format_cells(rates: Mapping[str, Any], num_predicted: int | None) -> list[str]:
    return [cell.replace(" ", "\u00a0") for cell in format_rates(rates, num_predicted)]


def list_confusions(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the confusion matrix row by row, each cell with its share of the true class."""
    rows = []
    confusion = facts["judged"]["confusion"]
    for at, (name, counts) in enumerate(zip(facts["label_names"], confusion, strict=True)):
        total = sum(counts)
        cells = [
            {
                "count": count,
                "share": count / total if total else None,
                "is_right": at == place,
                "shade": round(45 * count / max(total, 1)),  # pale enough for text on top of it
            }
            for place, count in enumerate(counts)
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def list_confused_pairs(facts: Mapping[str, Any], *, most: int) -> list[dict[str, Any]]:
    """Return the most confused pairs of classes."""
    names, confusion = facts["label_names"], facts["judged"]["confusion"]
    return [
        {
            "true": names[true],
            "answered": names[answered],
            "count": count,
            "share": count / sum(confusion[true]),
        }
        for count, true, answered in list_confused(confusion)[:most]
    ]


def list_confidence(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return title, value and value before calibration of each confidence score."""
    found = (facts["judged"] or {}).get("confidence")
    if found is None:
        return []
    before = found.get("uncalibrated") or {}
    return [
        (
            title,
            format_number_with_interval(found[name], find_interval(found, name)),
            f"{before[name]:.4f}" if name in before else "–",
        )
        for name, title in _CONFIDENCE.items()
    ]


def list_baselines(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of the model and each baseline; empty if no baseline was fitted.

    All predict the most probable class, whatever the model's threshold.
    """
    if facts["baselines"] is None:
        return []
    scores = facts["record"].get("scores") or {}
    has_threshold = facts["record"].get("threshold") is not None
    model = {"name": name_own_model(has_threshold=has_threshold), "note": None, **scores}
    compared = scores.get("comparison") or {}
    if "model_macro_f1" in compared:  # not in early runs
        model["test"] = {
            "accuracy": compared["model_accuracy"],
            "macro_f1": compared["model_macro_f1"],
            "intervals": compared["model_intervals"],
        }
    if facts["validation_accuracy"] is not None:  # of the saved model, not of the epoch
        model["validation"] = {"accuracy": facts["validation_accuracy"]}
    return [
        {"name": one["name"], "note": one.get("note"), "cells": _score_cells(one)}
        for one in (model, *facts["baselines"]["baselines"])
    ]


def list_seeds(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of each seed, their mean and their standard deviation."""
    seeds = facts["record"].get("seeds")
    if seeds is None:
        return []
    rows = []
    for run in seeds["runs"]:
        is_kept = run["seed"] == seeds["best_seed"]
        note = " (kept)" if is_kept else " (interrupted)" if run["interrupted"] else ""
        cells = format_seed_scores(run["validation"], run["test"])
        rows.append({"name": f"{run['seed']}{note}", "is_kept": is_kept, "cells": cells})
    for title, key in (("mean", "mean"), ("standard deviation", "standard_deviation")):
        cells = format_seed_scores(seeds["validation"][key], seeds["test"][key])
        rows.append({"name": title, "is_kept": False, "cells": cells})
    return rows


def group_slices(
    slices: Sequence[Mapping[str, Any]], *, most: int
) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Return the worst slices overall and by each requested column, as (title, slices) pairs.

    Columns whose slices are all among the worst overall have no list of their own.

    Args:
        slices: As in `SliceReport.to_json`, the worst first.
        most: Maximum number of slices per list.
    """
    if not slices:
        return []
    worst = slices[:most]
    title = "The slices, the worst first"
    if len(slices) > most:
        title = f"The worst {most} of {len(slices):,} slices"
    groups = [(title, worst)]
    for name in dict.fromkeys(one["by"] for one in slices if one["by"] not in OWN_SLICES):
        of_column = [one for one in slices if one["by"] == name]
        if any(one not in worst for one in of_column):
            which = "the worst first"
            if len(of_column) > most:
                which = f"the worst {most} of {len(of_column):,}"
            groups.append((f"By the column {name}, {which}", of_column[:most]))
    return groups


def list_settings(facts: Mapping[str, Any], *, changed: bool) -> list[dict[str, str]]:
    """Return the changed settings, or those at their defaults, with their meaning."""
    known = describe_settings()
    entries = facts["record"].get("settings") or {}
    return [
        {
            "name": name,
            "value": show_setting(entry["value"]),
            "origin": entry["origin"],
            "meaning": known[name][1] if name in known else "",
        }
        for name, entry in entries.items()
        if is_default(entry["origin"]) != changed
    ]


def list_environment(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return hardware, arithmetic, times and versions."""
    record = facts["record"]
    training = record.get("training") or {}
    rows = []
    hardware = record.get("hardware") or {}
    if hardware:
        rows.append(
            ("Processor", f"{hardware.get('processor')}, {hardware.get('num_cores')} cores")
        )
        rows.append(("System", f"{hardware.get('system')}, {hardware.get('machine')}"))
    if "dtype" in training:
        where = f" on {training['device']}" if "device" in training else ""
        rows.append(("Arithmetic", f"{training['dtype']}{where}"))
    for title, key in (("Training", "train_seconds"), ("All in all", "total_seconds")):
        if key in training:
            rows.append((title, format_seconds(training[key])))
    if training.get("resumed_after"):
        steps = list_some((f"{step:,}" for step in training["resumed_after"]), _MOST_RESUMED)
        rows.append(("Resumed", f"after step {steps} of {training['num_steps']:,}"))
    rows += [(name, str(version)) for name, version in (record.get("versions") or {}).items()]
    return rows


def _score_cells(one: Mapping[str, Any]) -> list[str]:
    """Return validation accuracy, and test accuracy and macro F1, with known intervals."""
    places = (("validation", "accuracy"), ("test", "accuracy"), ("test", "macro_f1"))
    return [
        format_percent_with_interval(one[part][name], find_interval(one[part], name))
        if one.get(part)
        else "–"
        for part, name in places
    ]


def show_setting(value: object) -> str:
    """Return a setting's value in words.

    Example:
        >>> show_setting(["a", "b"]), show_setting(None), show_setting(True), show_setting(0.1)
        ('a, b', 'none', 'true', '0.1')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
