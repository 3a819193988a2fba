"""Format comparisons, slices, errors, suspects and seeds as tables for 80 columns.

Owns only the layout. Texts and names come from users; they are shortened to fit and never
interpreted as markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bertfit.evaluation.comparison import Difference, PairedComparison
from bertfit.evaluation.interval import LEVEL, Interval
from bertfit.evaluation.slices import SliceReport
from bertfit.reporting.facts_tables import group_slices
from bertfit.reporting.limits import WORSE_SIGN, describe_slices, describe_units
from bertfit.reporting.short_names import shorten_apart
from bertfit.reporting.summary import (
    describe_seeds,
    format_seed_scores,
)
from bertfit.reporting.text import (
    SCORE_NAMES,
    WIDTH,
    format_p_value,
    format_percent,
    format_percent_with_interval,
    make_table,
    shorten,
)

_SLICE_WIDTH = 22
"""Width of a slice's name in cells."""
_SPACED = 2
"""Indent of the text below a row's numbers, in cells."""


def paired_table(comparison: PairedComparison, name_a: str, name_b: str) -> RenderableType:
    """Return the scores of two models, their differences, and their agreement."""
    short_a, short_b = (shorten(name, 40) for name in (name_a, name_b))
    table = make_table("Score", right=("A", "B", "A minus B"))
    for name, difference in comparison.scores.items():
        table.add_row(SCORE_NAMES[name], *_format_difference(name, difference))
    drawn = describe_units(comparison.num_units, grouped=comparison.grouped)
    level = f"{100 * LEVEL:g} %"
    agreement = make_table("Rows", right=("B right", "B wrong"))
    counts = [
        ("A right", comparison.num_both_right, comparison.num_only_a_right),
        ("A wrong", comparison.num_only_b_right, comparison.num_both_wrong),
    ]
    for title, *cells in counts:
        agreement.add_row(title, *(f"{cell:,}" for cell in cells))
    return Group(
        Text(f"A: {short_a}\nB: {short_b}"),
        table,
        Text(f"Intervals: {level}, paired bootstrap over {drawn}. Lower log loss is better."),
        agreement,
        Text(f"Different answers: {comparison.num_disagreeing:,} of {comparison.num_rows:,} rows."),
    )


def disagreement_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return rows that two models predict differently, each with its text if known.

    Args:
        rows: With line, label, predicted_a, predicted_b, confidence_a, confidence_b and text.
    """
    parts: list[RenderableType] = [Text("Where they disagree, most confident first", style="bold")]
    shown = _shorten_names(rows, ("label", "predicted_a", "predicted_b"), 13)
    for row in rows:
        answers = [
            f"{side} {shown[str(row[f'predicted_{key}'])]} ({row[f'confidence_{key}']:.3f})"
            for side, key in (("A", "a"), ("B", "b"))
        ]
        label = shown[str(row["label"])]
        parts.append(Text(f"line {row['line']}: is {label}; {', '.join(answers)}"))
        parts += _text_below(row["text"])
    return Group(*parts)


def error_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return wrong rows with their texts.

    Args:
        rows: With line, label, predicted, confidence and text.
    """
    parts: list[RenderableType] = [Text("Wrong with the highest confidence", style="bold")]
    shown = _shorten_names(rows, ("label", "predicted"), 22)
    for row in rows:
        label, predicted = (shown[str(row[name])] for name in ("label", "predicted"))
        told = f"line {row['line']}: is {label}, predicted {predicted} ({row['confidence']:.3f})"
        parts.append(Text(told))
        parts += _text_below(row["text"])
    return Group(*parts)


def slice_table(report: SliceReport, *, num_shown: int = 10) -> RenderableType:
    """Return the worst slices, with notes on how to read them.

    Args:
        report: All slices.
        num_shown: Maximum number of slices per list.
    """
    found = report.to_json()
    groups = group_slices(found["slices"], most=num_shown)
    if not groups:
        return Text("No slices: the rows are too few, or all alike.")
    parts: list[RenderableType] = []
    for title, slices in groups:
        parts += [Text(shorten(title, WIDTH), style="bold"), _list_slices(slices)]
    notes = (textwrap.fill(note, WIDTH) for note in describe_slices(found, groups))
    return Group(*parts, Text("\n".join(notes)))


def _list_slices(slices: Sequence[Mapping[str, Any]]) -> Table:
    table = make_table("Slice", right=("Rows", "Accuracy (95 %)", "Rest", "p"))
    names = [f"{one['by']}: {one['value']}" for one in slices]
    shown = shorten_apart(names, _SLICE_WIDTH)
    for name, one in zip(names, slices, strict=True):
        accuracy = format_percent_with_interval(  # there is no room for more decimals
            one["accuracy"], Interval(**one["interval"]), most_decimals=1
        )
        rest = format_percent(one["rest_accuracy"], most_decimals=1)
        p_value = format_p_value(one["p_value"])
        num_rows = f"{one['num_rows']:,}{'*' if one['is_small'] else ' '}"
        style = "bold" if one["is_worse"] else None
        sign = f"{WORSE_SIGN} " if one["is_worse"] else ""
        table.add_row(Text(sign + shown[name]), num_rows, accuracy, rest, p_value, style=style)
    return table


def suspect_table(suspects: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the rows whose labels are probably wrong, with their texts.

    Args:
        suspects: The suspects to show, with line, label, suggested_label, looks_wrong, confidence
            and text; those that look wrong come first.
    """
    parts: list[RenderableType] = []
    shown, title = _shorten_names(suspects, ("label", "suggested_label"), 24), ""
    for one in suspects:
        kind = "Labels that look wrong" if one["looks_wrong"] else "Merely predicted differently"
        if kind != title:
            title = kind
            parts.append(Text(f"{title}, the worst first", style="bold"))
        label, suggested = (shown[str(one[name])] for name in ("label", "suggested_label"))
        parts.append(Text(f"line {one['line']}: {label} → {suggested}? ({one['confidence']:.3f})"))
        parts += _text_below(one["text"])
    return Group(*parts)


def seed_table(seeds: Mapping[str, Any]) -> RenderableType:
    """Return the scores of each seed, their mean and their standard deviation.

    Args:
        seeds: The entry "seeds" of bertfit.json.
    """
    table = make_table("Seed", right=("Validation acc.", "Macro F1", "Test acc.", "Macro F1"))
    table.add_column("", no_wrap=True)
    for entry in seeds["runs"]:
        cells = format_seed_scores(entry["validation"], entry["test"])
        is_best = entry["seed"] == seeds["best_seed"]
        note = "kept" if is_best else ("interrupted" if entry["interrupted"] else "")
        table.add_row(str(entry["seed"]), *cells, note, style="bold" if is_best else None)
    for title, key in (("mean", "mean"), ("sd", "standard_deviation")):
        table.add_row(title, *format_seed_scores(seeds["validation"][key], seeds["test"][key]), "")
    return Group(
        Text("By seed", style="bold"), table, Text(textwrap.fill(describe_seeds(seeds), WIDTH))
    )


def _shorten_names(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str], width: int
) -> dict[str, str]:
    """Return the shortened names of all classes in the rows, under any of the keys."""
    return shorten_apart((str(row[key]) for row in rows for key in keys), width)


def _format_difference(name: str, difference: Difference) -> list[str]:
    low, high = difference.interval.low, difference.interval.high
    if name == "log_loss":
        span = f"{difference.difference:+z.4f} ({low:+z.4f} to {high:+z.4f})"
        return [f"{difference.a:.4f}", f"{difference.b:.4f}", span]
    span = f"{100 * difference.difference:+z.1f} points ({100 * low:+z.1f} to {100 * high:+z.1f})"
    return [*map(format_percent, (difference.a, difference.b)), span]


def _text_below(text: str | None) -> list[Text]:
    """Return a text on one indented line; the middle of a long text is elided."""
    if text is None:
        return []
    shown = shorten(text, WIDTH - _SPACED)
    assert cell_len(shown) <= WIDTH - _SPACED
    return [Text(" " * _SPACED + shown, style="dim")]
