"""Render the model card of a run: README.md with metadata for the Hugging Face hub.

Owns the content of the card. It contains no text of a row, and nothing unknown: no language, no
licence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from bertfit.data.records import TABLE_NAMES
from bertfit.reporting import facts_tables as tables
from bertfit.reporting.limits import list_limits
from bertfit.reporting.summary import (
    describe_answer,
    describe_missing_seeds,
    describe_verdict,
    find_clean_scores,
    format_seed_scores,
    format_share_with_interval,
    is_all_leaked,
    list_warnings,
)
from bertfit.reporting.templating import (
    markdown_templates,
    replace_directions,
    replace_unseen,
)
from bertfit.run_files import seal_card
from bertfit.wording import format_count

_METRICS = {"accuracy": ("accuracy", "Accuracy"), "macro_f1": ("f1", "Macro F1")}
_MOST_CLASSES = 100


def render_card(facts: Mapping[str, Any]) -> str:
    """Return the card.

    Args:
        facts: From `workflow.report_facts.gather_facts`.
    """
    record, judged = facts["record"], facts["judged"] or {}
    classes = tables.list_classes(facts)
    is_long = len(classes) > _MOST_CLASSES
    model = facts["model"] or {}
    view = {
        "metadata": _describe_metadata(facts),
        "name": facts["name"],
        "label_names": facts["label_names"],
        "answer": describe_answer(facts),
        "warnings": list_warnings(record),
        "verdict": describe_verdict(facts),
        "architecture": (model.get("tree") or {}).get("name"),
        "num_parameters": model.get("num_parameters"),
        "version": (record.get("versions") or {}).get("bertfit"),
        "limits": list_limits(facts),
        "asked": tables.describe_task(facts, short=True),
        "seeds_told": _describe_seeds(record.get("seeds")),
        "parts": tables.list_parts(facts, short=True),
        "settings": [
            one for one in tables.list_settings(facts, changed=True) if one["name"] != "model"
        ],
        "part_name": judged.get("part"),
        "source": _name_source(facts),
        "score_rows": tables.list_scores(facts),
        "classes": [] if is_long else classes,
        # The page lists classes only beside their confusion.
        "num_unlisted": len(classes) if is_long and judged.get("confusion") else 0,
        "baseline_rows": tables.list_baselines(facts),
    }
    card = markdown_templates().get_template("model_card.md.jinja").render(view)
    return seal_card(replace_directions(replace_unseen(card)))


def _describe_metadata(facts: Mapping[str, Any]) -> str:
    """Return the card's YAML, without its fences."""
    from huggingface_hub import EvalResult, ModelCardData

    judged, scores, where = facts["judged"] or {}, facts["judged"] or {}, ""
    source = _name_source(facts)
    if (found := find_clean_scores(facts["record"])) is not None:
        what, scores = found
        where = f" without {format_count(scores['num_leaked'], f'{what} row')}"
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=_slug(source or "rows"),
            dataset_name=source or "rows",
            dataset_split=judged["part"],
            metric_type=kind,
            metric_value=scores[name],
            metric_name=f"{title}{where}: {format_share_with_interval(scores, name)}",
        )
        for name, (kind, title) in _METRICS.items()
        if scores.get(name) is not None
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["bertfit", "text-classification"],
        base_model=facts["base_model"],
        model_name=facts["name"],
        # Whoever reads only the metadata takes the score for one on new text.
        eval_results=None if is_all_leaked(facts["record"]) else results or None,
    )
    return str(data.to_yaml()).strip()


def _describe_seeds(seeds: Mapping[str, Any] | None) -> str | None:
    """Return which of several seeds this is, and how they did on average; None if there was one."""
    if seeds is None or len(seeds["runs"]) < 2:
        return None if seeds is None else describe_missing_seeds(seeds)
    told = f"Seed {seeds['best_seed']}, the best of {len(seeds['runs'])} on the validation rows."
    missing = describe_missing_seeds(seeds)
    told = told if missing is None else f"{told} {missing}"
    mean, deviation = (seeds["test"][key] for key in ("mean", "standard_deviation"))
    if mean is None or deviation is None:
        return told
    accuracy, _, spread, _ = format_seed_scores(mean, deviation)
    return f"{told} Test accuracy of all seeds: {accuracy} with a standard deviation of {spread}."


def _name_source(facts: Mapping[str, Any]) -> str | None:
    """Return the file name of the evaluated rows, without folders; None for rows in memory."""
    data = facts["record"].get("data") or {}
    source = (data.get((facts["judged"] or {}).get("part", "")) or {}).get("source")
    return None if source is None or source in TABLE_NAMES else PurePath(source).name


def _slug(name: str) -> str:
    """Return a name of letters, digits, dots and hyphens, as the hub allows: not at its ends.

    Example:
        >>> _slug("my test.csv"), _slug("日本.csv")
        ('my-test.csv', 'csv')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:96] or "rows"
