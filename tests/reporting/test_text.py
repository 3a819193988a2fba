"""Tables fit 80 columns whatever the class names, and state what they omit."""

from __future__ import annotations

import dataclasses
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from bertfit.data.dataset import ReadColumn
from bertfit.evaluation.baseline import BaselineResult, BaselineResults
from bertfit.evaluation.comparison import compare_with_baseline
from bertfit.evaluation.interval import Interval
from bertfit.evaluation.intervals import bootstrap_intervals
from bertfit.evaluation.metrics import Scores, score
from bertfit.reporting.text import (
    comparison_table,
    confusion_table,
    describe_columns,
    epoch_table,
    format_percent,
    format_percent_with_interval,
    format_rates,
    name_worst_classes,
    note_columns,
    scores_table,
    shorten,
)

HISTORY = {
    "train_losses": [0.5, 0.25],
    "val_losses": [0.4, 0.3],
    "train_acc": [0.8, 0.9],
    "val_acc": [0.75, 0.85],
    "train_f1": [0.79, 0.89],
    "val_f1": [0.74, 0.84],
}


def render(renderable: RenderableType) -> str:
    """Return the text on a terminal wide enough to show what would not fit 80 columns."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def width_of(text: str) -> int:
    return max(map(cell_len, text.splitlines()))


def draw_scores(label_names: list[str], *, num_rows: int = 400, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    label_ids = rng.integers(len(label_names), size=num_rows)
    logits = rng.normal(size=(num_rows, len(label_names)))
    logits[np.arange(num_rows), label_ids] += 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return score(probabilities, label_ids, label_names)


def test_a_percentage_names_its_interval() -> None:
    interval = Interval(0.93, 0.9366)
    assert format_percent_with_interval(0.9334, interval) == "93.3 % (93.0 to 93.7)"
    assert format_percent(0.5) == "50.0 %"


def test_scores_stand_beside_their_intervals() -> None:
    probabilities, label_ids = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0]
    scores = score(probabilities, label_ids, ["neg", "pos"])
    intervals = bootstrap_intervals(probabilities, label_ids, num_resamples=50)
    text = render(scores_table(scores, intervals))
    assert "4 rows" in text
    assert "Value (95 % interval)" in text
    assert "75.0 % (" in text
    assert "AUROC" in text
    assert [line.split() for line in text.splitlines() if line.startswith(" neg")] == [
        ["neg", "66.7", "%", "100.0", "%", "80.0", "%", "2"]
    ]


def test_scores_without_intervals_say_nothing_of_them() -> None:
    text = render(scores_table(draw_scores(["a", "b", "c"])))
    assert "interval" not in text
    assert "AUROC" not in text


def test_of_77_classes_the_worst_ten_are_shown() -> None:
    scores = draw_scores([f"class_{number}" for number in range(77)], num_rows=2000)
    text = render(scores_table(scores))
    assert "The 10 classes of lowest F1, of 77" in text
    worst = min(scores.per_class, key=lambda name: scores.per_class[name].f1)
    assert worst in text
    assert text.count("class_") == 10


def test_classes_without_rows_are_counted_and_not_ranked() -> None:
    scores = score(np.eye(30)[:20] * 0.9 + 0.1 / 30, range(20), [str(n) for n in range(30)])
    assert "of 30 (10 without rows)" in render(scores_table(scores))


def test_a_class_without_rows_is_not_among_the_worst() -> None:
    """Its F1 is 0, the lowest, but says nothing."""
    names = [f"class{number:02}" for number in range(14)]
    label_ids = np.repeat(np.arange(3, 14), 2)
    probabilities = np.full((22, 14), 0.01)
    predicted_ids = np.where(np.arange(22) % 2, label_ids, 3)
    probabilities[np.arange(22), predicted_ids] = 0.87
    text = render(scores_table(score(probabilities, label_ids, names)))
    assert "The 10 classes of lowest F1, of 14 (3 without rows)" in text
    assert not any(name in text for name in names[:3])


def test_the_largest_of_the_worst_classes_come_first_and_all_with_f1_0_are_counted() -> None:
    """Of 150 classes, 99 had an F1 of 0, and ten of them stood for all, in the order of names."""
    names = [f"class{number:02}" for number in range(16)]
    num_rows = [2, 1, 5, *[3] * 11, 1, 0]
    label_ids = np.repeat(np.arange(16), num_rows)
    predicted_ids = np.where(label_ids < 13, 14, label_ids)
    scores = score(np.eye(16)[predicted_ids], label_ids, names)
    lines = render(scores_table(scores)).splitlines()
    title = "The 10 classes of lowest F1, of 16 (1 without rows, 13 others with F1 0)"
    shown = [line.split() for line in lines[lines.index(title) :] if "class" in line][1:]
    assert [line[-1] for line in shown] == ["5", *["3"] * 9]
    assert [line[0] for line in shown][:3] == ["class02", "class03", "class04"]


def test_the_worst_of_two_classes_is_told_in_the_singular() -> None:
    assert name_worst_classes([(0.5, 3), (0.0, 0)], most=10) == (
        "The class of lowest F1, of 2 (1 without rows)"
    )
    assert name_worst_classes([(0.5, 3), (0.0, 1)], most=10) == (
        "The 2 classes of lowest F1, of 2 (1 with F1 0)"
    )
    assert name_worst_classes([(0.0, 0), (0.0, 1)], most=10).endswith("1 other with F1 0)")


def test_what_a_class_without_rows_has_not_is_a_dash() -> None:
    """A recall of 0.0 % looked like a failure."""
    predicted_ids, label_ids = [0, 0, 1, 0], [0, 0, 0, 3]
    scores = score(np.eye(4)[predicted_ids], label_ids, ["seen", "taken", "unseen", "missed"])
    lines = [line.split() for line in render(scores_table(scores)).splitlines()]
    shown = {line[0]: line[1:] for line in lines if line}
    assert shown["taken"] == ["0.0", "%", "–", "0.0", "%", "0"]
    assert shown["unseen"] == ["–", "–", "–", "0"]
    assert shown["missed"] == ["0.0", "%", "0.0", "%", "0.0", "%", "1"]


def test_an_older_record_may_not_say_what_was_predicted() -> None:
    rates = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert format_rates(rates, None) == ["–", "–", "–"]


@pytest.mark.parametrize("num_classes", [4, 8, 16])
def test_classes_with_alike_names_can_be_told_apart(num_classes: int) -> None:
    """In one table two classes had the same name, as the part that differs was left out."""
    kinds = "abcdefghijklmnop"[:num_classes]
    scores = draw_scores([f"balance not updated after {kind} or card, by shift" for kind in kinds])
    for table in (scores_table(scores), confusion_table(scores)):
        text = render(table)
        assert "after b or" not in text
        told = [line for line in text.splitlines() if "…" in line]
        assert len(told) == min(num_classes, 10)
        assert all(re.search(r"…[a-p] or", line) for line in told)
        assert width_of(text) <= 80


def test_a_small_confusion_tells_alike_names_apart() -> None:
    names = [f"not updated after {kind} or card, by shift" for kind in "ab"]
    text = render(confusion_table(draw_scores(names)))
    for shown in ("not…a or c…shift", "not…b or c…shift"):
        assert text.count(shown) == 2  # as a row and as a column


def test_a_small_confusion_names_rows_and_columns() -> None:
    text = render(confusion_table(draw_scores(["neg", "pos"])))
    assert len([line for line in text.splitlines() if "neg" in line]) == 2


def test_right_answers_are_bold_in_a_small_confusion() -> None:
    scores = draw_scores(["neg", "pos", "so so"])
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(confusion_table(scores))
    bold = re.findall(r"\x1b\[1m *([\d,]+) *\x1b", console.file.getvalue())
    assert bold == [str(scores.confusion[at][at]) for at in range(3)]


def test_long_names_are_numbered_in_the_columns() -> None:
    names = [f"a rather long class name {number}" for number in range(10)]
    scores = draw_scores(names, num_rows=9000)
    text = render(confusion_table(scores))
    assert " 10" in text.splitlines()[2]
    assert str(scores.confusion[9][0]) in text
    assert width_of(text) <= 80


def test_many_classes_show_the_pairs_that_are_confused_most() -> None:
    confused = np.asarray([1, 1, *range(1, 12)])
    scores = score(np.eye(12)[confused], [0, 0, *range(1, 12)], [f"c{n}" for n in range(12)])
    text = render(confusion_table(scores))
    assert "The 1 pairs confused most" not in text
    assert "The pair confused most" in text
    assert text.splitlines()[-1].split() == ["c0", "c1", "2", "100.0", "%"]


def test_no_mistake_among_many_classes_is_said() -> None:
    scores = score(np.eye(12), range(12), [f"c{n}" for n in range(12)])
    assert render(confusion_table(scores)) == "No class was taken for another."


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["C", "M"]), min_size=1, max_size=60),
        min_size=2,
        max_size=14,
        unique=True,
    ),
    num_rows=st.sampled_from([1, 50, 20_000]),
)
def test_no_table_is_wider_than_80_columns(names: list[str], num_rows: int) -> None:
    scores = draw_scores(names, num_rows=num_rows)
    assert width_of(render(scores_table(scores, {"accuracy": Interval(0.0, 1.0)}))) <= 80
    assert width_of(render(confusion_table(scores))) <= 80


def test_a_million_rows_fit() -> None:
    names = [f"class {number}" for number in range(10)]
    scores = draw_scores(names)
    scores.confusion[:] = (np.asarray(scores.confusion) * 1_234_567).tolist()
    text = render(confusion_table(scores))
    assert width_of(text) <= 80
    assert "M" in text


def test_markup_in_names_is_shown_as_it_is() -> None:
    assert "[bold]x[/bold]" in render(scores_table(draw_scores(["[bold]x[/bold]", "[red]"])))


def test_the_best_epoch_is_marked_once() -> None:
    text = render(epoch_table(HISTORY, best_epoch=2))
    lines = text.splitlines()
    assert [line for line in lines if "best" in line] == [lines[-1]]
    assert lines[-1].split()[:4] == ["best", "2", "0.2500", "0.3000"]
    assert width_of(text) <= 80


def test_epochs_fit_into_80_columns_also_if_all_rows_are_right() -> None:
    losses, shares = [0.6821] * 20, [1.0] * 20
    names = ("train_acc", "val_acc", "train_f1", "val_f1")
    history = {"train_losses": losses, "val_losses": losses, **dict.fromkeys(names, shares)}
    assert width_of(render(epoch_table(history, best_epoch=20))) <= 80


def test_missing_columns_and_values_are_left_out() -> None:
    text = render(epoch_table({"val_losses": [0.4, None], "seconds": [1.0, 2.0]}))
    assert "Train" not in text
    assert "seconds" not in text
    assert text.splitlines()[-1].split() == ["2", "–"]


def test_an_empty_history_has_no_rows() -> None:
    assert "Epoch" in render(epoch_table({}))


def test_accuracies_of_model_and_baselines_have_their_intervals_and_a_verdict() -> None:
    probabilities, label_ids = np.tile([0.2, 0.8], (10, 1)), [1] * 9 + [0]
    comparison = compare_with_baseline(
        probabilities, probabilities, label_ids, baseline_name="NB-SVM", num_resamples=10
    )
    comparison = dataclasses.replace(comparison, model_intervals={"accuracy": Interval(0.7, 0.99)})
    scores = score(probabilities, label_ids, ["neg", "pos"])
    results = tuple(
        BaselineResult(
            name=name,
            settings={},
            note=None,
            seconds=0.0,
            validation=scores,
            test=scores,
            test_probabilities=None,
            test_intervals={"accuracy": interval},
        )
        for name, interval in (
            ("NB-SVM", Interval(0.71, 0.98)),
            ("majority class", Interval(0.72, 0.97)),
        )
    )
    text = render(comparison_table(comparison, BaselineResults(results, seconds=0.0)))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "this model 90.0 % (70.0 to 99.0) 47.4 %" in lines
    assert "NB-SVM 90.0 % (71.0 to 98.0) 47.4 %" in lines
    assert "majority class 90.0 % (72.0 to 97.0) 47.4 %" in lines
    assert " ".join(text.split()).endswith(comparison.verdict)
    text = render(comparison_table(comparison, BaselineResults((), 0.0), has_threshold=True))
    assert "this model, without its threshold  " in text


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("short", 10, "short"),
        ("two\nlines  here", 20, "two lines here"),
        ("abcdefghij", 7, "abcd…ij"),
        ("这部电影很好看", 7, "这部…看"),
    ],
)
def test_long_names_lose_their_middle(name: str, width: int, expected: str) -> None:
    assert shorten(name, width) == expected
    assert cell_len(shorten(name, width)) <= width


def columns(text, label, *, is_given=False, others=((), ())):
    return {
        "text": ReadColumn(name=text, is_given=is_given, others=others[0]),
        "label": ReadColumn(name=label, is_given=is_given, others=others[1]),
    }


def test_columns_that_were_found_are_told_in_a_line():
    usual, odd = columns("text", "label"), columns("review", "label")
    several = columns("text", "label", others=(("review", "content"), ("a\nclass",)))
    named = columns("a", "b", is_given=True)
    assert describe_columns({"train": named, "test": named}) is None
    assert describe_columns({"train": usual, "test": usual}) == "Columns: text and label."
    told = describe_columns({"train": usual, "validation": usual, "test": odd})
    assert told == "Columns: text and label; test: review and label."
    told = describe_columns({"rows": several})
    assert told == "Columns: text (not review, content) and label (not a class)."


def test_parts_that_are_read_from_different_columns_needlessly_are_warned_of():
    both = columns("text", "label", others=(("review",), ()))
    one = columns("review", "label")
    heard = []
    note_columns({"train": both, "test": one}, SimpleNamespace(note=heard.append))
    assert heard[1] == (
        "WARNING: the text of train was not read from the column review, as in another part, "
        "though it is there. --text-column names one for all."
    )
    heard.clear()
    for part in (both, columns("body", "label")):
        note_columns({"train": both, "test": part}, SimpleNamespace(note=heard.append))
    assert not [told for told in heard if told.startswith("WARNING")]
