"""Render the report of a run as one self-contained page.

Owns the data for the template. The facts come from `workflow.report_facts`; the template escapes
all of them, because texts and names come from users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertfit.data.findings import NO_TEST_SET
from bertfit.data.records import TABLE_NAMES
from bertfit.reporting import facts_tables as tables
from bertfit.reporting.confidence import describe_calibration, describe_doubt, describe_threshold
from bertfit.reporting.figures import draw_figures
from bertfit.reporting.findings import group_findings
from bertfit.reporting.limits import WORSE_SIGN, describe_slices, list_limits
from bertfit.reporting.plots import MAX_COUNTED_CLASSES
from bertfit.reporting.summary import (
    describe_answer,
    describe_collapse,
    describe_seeds,
    describe_verdict,
    has_leaks,
    is_cut_short,
    list_findings,
    list_warnings,
)
from bertfit.reporting.templating import html_templates, read_template, replace_unseen
from bertfit.reporting.text import name_worst_classes
from bertfit.wording import quote_path

SECTIONS = (
    ("asked", "Training"),
    ("findings", "Data"),
    ("learning", "Learning curves"),
    ("scores", "Scores"),
    ("confidence", "Confidence"),
    ("lengths", "Lengths"),
    ("slices", "Slices"),
    ("errors", "Worst errors"),
    ("suspects", "Suspicious labels"),
    ("baselines", "Baselines"),
    ("model", "Model"),
    ("settings", "Settings"),
    ("environment", "Environment"),
    ("reproduce", "Train it again"),
)
"""Anchor and short title of each section, in order."""
_PARTS = ("train", "validation", "test")
_FEW_CLASSES = 4
_WORST_CLASSES = 15
_NUM_PAIRS = 15
_NUM_SLICES = 20
_MOST_NAMED = 12
"""Maximum number of classes named at the top of the page; the class table lists all of them."""


def render_report(facts: Mapping[str, Any], *, with_texts: bool = True) -> str:
    """Return the page.

    Args:
        facts: From `workflow.report_facts.gather_facts`.
        with_texts: False omits the texts of rows.
    """
    names, record = facts["label_names"], facts["record"]
    collapse = describe_collapse(record)
    view = {
        "name": facts["name"],
        "quoted_name": quote_path(facts["name"]),
        "label_names": names,
        "sections": SECTIONS,
        "css": read_template("report.css"),
        "no_texts": _explain_missing_texts(facts, with_texts=with_texts),
        "answer": describe_answer(facts).replace(" %", "\u00a0%"),
        "verdict": describe_verdict(facts),
        "warnings": list_warnings(record),
        "leaks": has_leaks(record),
        "is_of_demo": tables.is_of_demo(record.get("settings") or {}),
        "limits": list_limits(facts),
        "asked": tables.describe_task(facts),
        "parts": tables.list_parts(facts),
        "few_classes": len(names) <= _FEW_CLASSES,
        "named_classes": names if len(names) <= _MOST_NAMED else names[:_MOST_NAMED],
        "figures": draw_figures(facts),
        "judged": facts["judged"],
        "errors": facts["errors"],
        "error_lines": {row["line"] for row in (facts["errors"] or {"rows": []})["rows"]},
        "error_part": (facts["errors"] or {}).get("part"),
        "suspects": [] if collapse else _view_suspects(facts),
        "no_suspects": collapse
        or "Not in this run: predictions of rows that it was not trained on.",
        "table_names": TABLE_NAMES,
        "line_words": _name_lines(record),
        "model": facts["model"],
        "command": facts["command"],
        "was_interrupted": is_cut_short(record),
        "versions": record.get("versions") or {},
        "kept_reason": (record.get("training") or {}).get("reason"),
        "seeds": tables.list_seeds(facts),
        "seeds_note": describe_seeds(record["seeds"]) if record.get("seeds") else None,
        "score_rows": tables.list_scores(facts),
        "environment": tables.list_environment(facts),
        "changed_settings": tables.list_settings(facts, changed=True),
        "default_settings": tables.list_settings(facts, changed=False),
        **_view_findings(facts),
        **_view_classes(facts),
        **_view_confidence(facts),
        **_view_slices(facts),
        "worse_sign": WORSE_SIGN,
        **_view_baselines(facts),
    }
    return replace_unseen(html_templates().get_template("report.html.jinja").render(view))


def _explain_missing_texts(facts: Mapping[str, Any], *, with_texts: bool) -> str | None:
    """Return why the page has no texts, or None if it has."""
    if not with_texts:
        return "The texts were left out on request."
    return None if facts["has_texts"] else "The run keeps no texts."


def _view_suspects(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        part | {"doubt": describe_doubt(part["num_wrong"], part["num_rows"], part["num_expected"])}
        for part in facts["suspects"]
    ]


def _name_lines(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what the numbers of a part's rows count: lines of its file, or rows of a table."""
    parts = ((name, part) for name, part in (record.get("data") or {}).items() if name in _PARTS)
    return {
        name: "Row" if (part or {}).get("source") in TABLE_NAMES else "Line" for name, part in parts
    }


def _view_findings(facts: Mapping[str, Any]) -> dict[str, Any]:
    record = facts["record"]
    data = record.get("data") or {}
    found = list_findings(record)
    clean = "No leak into the test set was found." if data.get("test") else NO_TEST_SET
    return {
        "findings": group_findings(found, _find_advice) if "findings" in data else None,
        "no_leak": None if has_leaks(record) else clean,
        "no_findings": f"{clean} The other checks found nothing.",
    }


def _find_advice(finding: Mapping[str, Any]) -> tuple[str, ...]:
    return finding["severity"], finding["kind"], finding["advice"]


def _view_classes(facts: Mapping[str, Any]) -> dict[str, Any]:
    judged, num_classes = facts["judged"] or {}, len(facts["label_names"])
    if not judged.get("confusion"):
        return {"confusion_rows": [], "pairs": [], "worst_classes": [], "more_classes": []}
    is_table = num_classes <= MAX_COUNTED_CLASSES
    rates = [(one["f1"], one["support"]) for one in judged["per_class"].values()]
    worst_title = name_worst_classes(rates, most=_WORST_CLASSES)
    return {
        "confusion_rows": tables.list_confusions(facts) if is_table else [],
        "pairs": tables.list_confused_pairs(facts, most=_NUM_PAIRS) if num_classes > 2 else [],
        "worst_classes": tables.list_classes(facts, worst=None if is_table else _WORST_CLASSES),
        "more_classes": tables.list_classes(facts) if not is_table else [],
        "classes_title": "Precision, recall and F1 of each class" if is_table else worst_title,
    }


def _view_confidence(facts: Mapping[str, Any]) -> dict[str, Any]:
    record, judged = facts["record"], facts["judged"] or {}
    notes = []
    if record.get("calibration"):
        notes.append(describe_calibration(record["calibration"]))
    if record.get("threshold"):
        threshold = record["threshold"]
        notes.append(describe_threshold(threshold["value"], facts["label_names"][1], threshold))
    return {
        "confidence_rows": tables.list_confidence(facts),
        "is_calibrated": bool((judged.get("confidence") or {}).get("uncalibrated")),
        "confidence_notes": notes,
    }


def _view_slices(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = (facts["judged"] or {}).get("slices")
    if found is None:
        return {"slices": None, "slices_note": ""}
    groups = tables.group_slices(found["slices"], most=_NUM_SLICES)
    return {
        "slices": groups,
        "slices_note": " ".join(describe_slices(found, groups)),
    }


def _view_baselines(facts: Mapping[str, Any]) -> dict[str, Any]:
    found, rows = facts["baselines"] or {}, tables.list_baselines(facts)
    return {
        "baseline_rows": rows,
        "baseline_notes": any(row["note"] for row in rows),
        "best_baseline": found.get("best"),
        "baselines_were_tested": any(one.get("test") for one in found.get("baselines") or []),
    }
