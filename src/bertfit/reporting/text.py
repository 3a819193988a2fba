"""Format results as tables for a terminal of 80 columns.

Owns the layout of scores, confusion matrices, histories and comparisons. Class names come from
users; they are shortened to fit and never interpreted as markup.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bertfit.data.dataset import ReadColumn
from bertfit.evaluation.baseline import BaselineResults
from bertfit.evaluation.comparison import Comparison
from bertfit.evaluation.interval import Interval
from bertfit.evaluation.metrics import Scores, count_predictions, list_confused
from bertfit.progress import Listener
from bertfit.reporting.control_characters import put_on_one_line
from bertfit.reporting.short_names import cut_middle, shorten_apart
from bertfit.wording import choose_decimals, format_count

WIDTH = 80
"""Maximum width of all tables, in columns."""
MAX_CLASSES = 10
"""With more classes, only the worst classes and the most confused pairs are shown."""

SCORE_NAMES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "auroc": "AUROC",
    "log_loss": "Log loss",
}
_COLUMN_WIDTH = 24
_PLAIN_SCORES = {"auroc", "log_loss", "loss"}
_HISTORY_COLUMNS = {
    "train_losses": "Train loss",
    "val_losses": "Val loss",
    "train_acc": "Train acc",
    "val_acc": "Val acc",
    "train_f1": "Train F1",
    "val_f1": "Val F1",
}


def format_number_with_interval(value: float, interval: Interval | None = None) -> str:
    """Return a number with four decimals, with its interval if there is one.

    Example:
        >>> format_number_with_interval(0.5), format_number_with_interval(0.5, Interval(0.4, 0.6))
        ('0.5000', '0.5000 (0.4000 to 0.6000)')
    """
    span = "" if interval is None else f" ({interval.low:.4f} to {interval.high:.4f})"
    return f"{value:.4f}{span}"


def format_percent(value: float, *, least_decimals: int = 1, most_decimals: int = 3) -> str:
    """Return a share in [0, 1] as a percentage.

    It has the least decimals, or as many more as keep it from looking like 0 or 100.

    Example:
        >>> format_percent(0.9334), format_percent(0.99968), format_percent(1.0)
        ('93.3 %', '99.97 %', '100.0 %')
    """
    decimals = min(most_decimals, max(least_decimals, choose_decimals(100 * value)))
    return f"{100 * value:.{decimals}f} %"


def format_percent_with_interval(
    value: float, interval: Interval | None, *, most_decimals: int = 3
) -> str:
    """Return a share in [0, 1] as a percentage, with its interval if there is one.

    Example:
        >>> format_percent_with_interval(0.9334, Interval(0.9303, 0.9365))
        '93.3 % (93.0 to 93.7)'
        >>> format_percent_with_interval(0.99968, Interval(0.99937, 0.99984))
        '99.97 % (99.94 to 99.98)'
    """
    if interval is None:
        return format_percent(value, most_decimals=most_decimals)
    percent, ends = format_percent_and_ends(value, interval, most_decimals=most_decimals)
    return f"{percent} ({ends})"


def format_percent_and_ends(
    value: float, interval: Interval, *, most_decimals: int = 3
) -> tuple[str, str]:
    """Return a share in [0, 1] as a percentage, and the ends of its interval.

    Example:
        >>> format_percent_and_ends(0.9334, Interval(0.9303, 0.9365))
        ('93.3 %', '93.0 to 93.7')
    """
    told = [value]
    if value in {0.0, 1.0}:
        told.append(interval.low if value else interval.high)
    decimals = min(most_decimals, choose_decimals(*(100 * one for one in told)))
    ends = f"{100 * interval.low:.{decimals}f} to {100 * interval.high:.{decimals}f}"
    return f"{100 * value:.{decimals}f} %", ends


def format_p_value(p_value: float) -> str:
    """Return a p-value with three decimals.

    Example:
        >>> format_p_value(0.0312), format_p_value(1e-9)
        ('0.031', '<.001')
    """
    return f"{p_value:.3f}" if p_value >= 0.001 else "<.001"


def format_rates(rates: Mapping[str, float], num_predicted: int | None) -> list[str]:
    """Return precision, recall and F1 of a class as percentages; a dash if undefined.

    Without rows there is no recall, and without predictions either there is nothing to rate. If
    it was predicted all the same, its F1 is the 0 that macro averages count.

    Args:
        rates: With precision, recall, f1 and support.
        num_predicted: How often the class was predicted; None if unknown.

    Example:
        >>> format_rates({"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}, 4)
        ['0.0 %', '–', '0.0 %']
    """
    precision, recall, f1 = (format_percent(rates[name]) for name in ("precision", "recall", "f1"))
    if rates["support"]:
        return [precision, recall, f1]
    return [precision, "–", f1] if num_predicted else ["–"] * 3


def name_worst_classes(rates: Sequence[tuple[float, int]], *, most: int) -> str:
    """Return the title of a table of the classes of lowest F1, with what it leaves out.

    Args:
        rates: (C,) F1 and number of rows of each class.
        most: Maximum number of classes in the table; those without rows are not in it.

    Example:
        >>> name_worst_classes([(0.0, 0), (0.0, 3), (0.0, 2), (0.9, 4)], most=1)
        'The class of lowest F1, of 4 (1 without rows, 2 others with F1 0)'
    """
    present = [f1 for f1, num_rows in rates if num_rows]
    num_absent, num_zero = len(rates) - len(present), sum(f1 == 0 for f1 in present)
    num_shown = min(most, len(present))
    title = f"The {f'{num_shown} classes' if num_shown > 1 else 'class'} of lowest F1"
    notes = [f"{num_absent:,} without rows"] if num_absent else []
    if num_zero:
        which = "" if not num_absent else " other" if num_zero == 1 else " others"
        notes.append(f"{num_zero:,}{which} with F1 0")
    return f"{title}, of {len(rates):,}" + (f" ({', '.join(notes)})" if notes else "")


def scores_table(scores: Scores, intervals: Mapping[str, Interval] | None = None) -> RenderableType:
    """Return the scores with their intervals, followed by those of each class.

    Args:
        scores: Scores of one set of rows.
        intervals: 95 % intervals by score name, as returned by `bootstrap_intervals`.
    """
    intervals = intervals or {}
    heading = "Value (95 % interval)" if intervals else "Value"
    summary = make_table("Score", heading)
    for name, title in SCORE_NAMES.items():
        value = getattr(scores, name)
        if value is not None:
            summary.add_row(title, format_score(name, value, intervals.get(name)))
    return Group(put_title(format_count(scores.num_rows, "row"), summary), _class_table(scores))


def confusion_table(scores: Scores) -> RenderableType:
    """Return the confusion matrix, or for many classes the most confused pairs."""
    if len(scores.label_names) > MAX_CLASSES:
        return _confused_pairs_table(scores)
    title = "Rows by true class (down) and predicted class (across)"
    return put_title(title, _confusion_matrix(scores))


def epoch_table(
    history: Mapping[str, Sequence[float | None]], *, best_epoch: int | None = None
) -> RenderableType:
    """Return one line per epoch.

    Args:
        history: Lists with one number per epoch, under any of train_losses, val_losses (nats),
            train_acc, val_acc, train_f1, val_f1 (shares in [0, 1]); other keys are not shown.
        best_epoch: The 1-based epoch to mark.
    """
    shown = {key: title for key, title in _HISTORY_COLUMNS.items() if history.get(key)}
    table = make_table(right=("Epoch", *shown.values()))
    for epoch, values in enumerate(zip_longest(*(history[key] for key in shown)), start=1):
        cells = [_format_epoch(key, value) for key, value in zip(shown, values, strict=True)]
        is_best = epoch == best_epoch
        name = f"best {epoch}" if is_best else str(epoch)
        table.add_row(name, *cells, style="bold" if is_best else None)
    return table


def name_own_model(*, has_threshold: bool) -> str:
    """Return what the model is called beside baselines, which all answer the most probable class.

    Args:
        has_threshold: Whether the model otherwise answers by a threshold.
    """
    return "this model, without its threshold" if has_threshold else "this model"


def comparison_table(
    comparison: Comparison, baselines: BaselineResults, *, has_threshold: bool = False
) -> RenderableType:
    """Return the test scores of the model and of all baselines, followed by the verdict.

    Args:
        comparison: With the best baseline.
        baselines: All of them.
        has_threshold: Whether the model otherwise answers by a threshold.
    """
    table = make_table("Model", right=("Accuracy (95 %)", "Macro F1"))
    own = format_percent_with_interval(
        comparison.model_accuracy, comparison.model_intervals["accuracy"]
    )
    name = name_own_model(has_threshold=has_threshold)
    table.add_row(name, own, format_percent(comparison.model_macro_f1))
    for one in baselines.results:
        if one.test is not None:
            accuracy, interval = one.test.accuracy, one.test_intervals["accuracy"]
            table.add_row(
                one.name,
                format_percent_with_interval(accuracy, interval),
                format_percent(one.test.macro_f1),
            )
    return Group(put_title("Scores on the same rows", table), Text(comparison.verdict))


def shorten(name: str, width: int) -> str:
    """Return the name on one line, with its middle elided if it is wider than `width` cells.

    The end is kept because it often distinguishes long names. Control characters are escaped before
    the width is measured.

    Example:
        >>> shorten("card payment not recognised", 12)
        'card pay…sed'
    """
    return cut_middle(put_on_one_line(name), width)


def describe_columns(of_parts: Mapping[str, Mapping[str, ReadColumn]]) -> str | None:
    """Return which columns were read without being named, and the alternatives to them.

    Args:
        of_parts: The columns of each part by "text" and "label", by part name.

    Returns:
        One line; None if all columns were named.
    """
    columns = [column for of_part in of_parts.values() for column in of_part.values()]
    if all(column.is_given for column in columns):
        return None
    told = {part: " and ".join(map(_name_column, one.values())) for part, one in of_parts.items()}
    first = next(iter(told.values()))
    differing = [f"{part}: {one}" for part, one in told.items() if one != first]
    return f"Columns: {'; '.join([first, *differing])}."


def note_columns(of_parts: Mapping[str, Mapping[str, ReadColumn]], listener: Listener) -> None:
    """Note which columns were read, unless all were named; warn if parts differ needlessly."""
    told = describe_columns(of_parts)
    if told is not None:
        listener.note(told)
    for role in ("text", "label"):
        read = {part: of[role] for part, of in of_parts.items() if role in of}
        for name in dict.fromkeys(column.name for column in read.values()):
            without = [part for part, column in read.items() if name in column.others]
            if without:
                listener.note(
                    f"WARNING: the {role} of {' and '.join(without)} was not read from the column "
                    f"{shorten(name, _COLUMN_WIDTH)}, as in another part, though it is there. "
                    f"--{role}-column names one for all."
                )


def _name_column(column: ReadColumn) -> str:
    others = ", ".join(shorten(name, _COLUMN_WIDTH) for name in column.others)
    return shorten(column.name, _COLUMN_WIDTH) + (f" (not {others})" if others else "")


def make_table(*left: str, right: Iterable[str | Text] = ()) -> Table:
    """Return an empty table with columns aligned left, and after them columns aligned right."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for title in right:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def put_title(title: str, table: Table) -> Group:
    """Return the table below its title; rich would wrap its own titles to the table's width."""
    return Group(Text(title, style="bold"), table)


def _class_table(scores: Scores) -> Group:
    counts = count_predictions(scores.confusion)
    classes = [(*item, count) for item, count in zip(scores.per_class.items(), counts, strict=True)]
    title = "By class"
    if len(classes) > MAX_CLASSES:
        rates = [(one.f1, one.support) for _, one, _ in classes]
        title = name_worst_classes(rates, most=MAX_CLASSES)
        classes = [item for item in classes if item[1].support > 0]
        classes.sort(key=lambda item: (item[1].f1, -item[1].support))
    shown = shorten_apart(scores.per_class, 32)
    table = make_table("Class", right=("Precision", "Recall", "F1", "Rows"))
    for name, one, num_predicted in classes[:MAX_CLASSES]:
        cells = format_rates(dataclasses.asdict(one), num_predicted)
        table.add_row(Text(shown[name]), *cells, f"{one.support:,}")
    return put_title(title, table)


def _confusion_matrix(scores: Scores) -> Table:
    names = list(shorten_apart(scores.label_names, 16).values())
    cells = [[_format_count(count) for count in row] for row in scores.confusion]
    # Each column has two cells of padding and one for the line.
    width = sum(max(cell_len(name), 6) + 3 for name in names) + max(map(cell_len, names)) + 3
    headers = list(names)
    if width > WIDTH:  # number the classes; only rows have their names
        headers = [str(number) for number in range(1, len(names) + 1)]
        room = WIDTH - sum(max(map(len, column)) + 1 for column in zip(*cells, strict=True)) - 3
        room = min(room, 30) - len(headers[-1]) - 1
        short = shorten_apart(scores.label_names, room)
        names = [f"{number} {short[name]}" for number, name in enumerate(scores.label_names, 1)]
    table = make_table("True", right=map(Text, headers))
    if width > WIDTH:
        table.padding = 0
    for number, (name, row) in enumerate(zip(names, cells, strict=True)):
        shown = [Text(cell, style="bold" if number == at else "") for at, cell in enumerate(row)]
        table.add_row(Text(name), *shown)
    return table


def _confused_pairs_table(scores: Scores) -> RenderableType:
    pairs = list_confused(scores.confusion)
    if not pairs:
        return Text("No class was taken for another.")
    num_shown = min(len(pairs), MAX_CLASSES)
    title = f"The {f'{num_shown} pairs' if num_shown > 1 else 'pair'} confused most"
    table = make_table("True class", "Predicted as", right=("Rows", "Of class"))
    shown = shorten_apart(scores.label_names, 26)
    for count, true, predicted in pairs[:MAX_CLASSES]:
        names = [Text(shown[scores.label_names[label_id]]) for label_id in (true, predicted)]
        share = count / sum(scores.confusion[true])
        table.add_row(*names, _format_count(count), format_percent(share))
    return put_title(title, table)


def format_score(name: str, value: float, interval: Interval | None) -> str:
    """Return a score with its interval: a share as a percentage, others with four decimals."""
    if name not in _PLAIN_SCORES:
        return format_percent_with_interval(value, interval)
    return format_number_with_interval(value, interval)


def _format_epoch(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if key.endswith("losses") else format_percent(value)


def _format_count(count: int) -> str:
    """Format a count in at most six characters."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1000:,.0f}k" if count < 9_999_500 else f"{count / 1e6:,.0f}M"
