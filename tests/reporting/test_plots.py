"""Plots show the given numbers, on separate figures, without warnings."""

from __future__ import annotations

import io
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from bertfit.errors import DataError
from bertfit.reporting import figures
from bertfit.reporting.figures import draw_figures
from bertfit.reporting.plots import plot_confusion, plot_history, plot_token_lengths
from bertfit.wording import format_share

HISTORY = {
    "train_losses": [0.5, 0.25],
    "val_losses": [0.4, 0.3],
    "val_acc": [0.75, 0.85],
    "val_f1": [0.74, None],
}


def draw(figure: Figure) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


def test_history_shows_each_list_and_marks_the_best_epoch() -> None:
    figure = plot_history(HISTORY, best_epoch=2)
    loss_ax, score_ax = figure.axes
    assert loss_ax.lines[0].get_ydata().tolist() == [0.5, 0.25]
    assert score_ax.lines[0].get_ydata().tolist() == [75.0, 85.0]
    labels = [text.get_text() for text in score_ax.get_legend().get_texts()]
    assert labels == ["validation accuracy", "validation macro F1", "best epoch (2)"]
    draw(figure)


@pytest.mark.parametrize("history", [{}, {"train_losses": [0.7]}, {"val_f1": [None]}])
def test_short_histories_are_drawn(history: dict[str, list[float | None]]) -> None:
    draw(plot_history(history))


def test_plots_go_onto_the_axes_they_are_given() -> None:
    figure = Figure()
    axes = figure.subplots(2, 2)
    assert plot_history(HISTORY, axes=(axes[0, 0], axes[0, 1])) is figure
    assert plot_confusion([[1, 0], [0, 1]], ["a", "b"], ax=axes[1, 0]) is figure
    assert plot_token_lengths([1, 2], 4, ax=axes[1, 1]) is figure
    draw(figure)


def test_confusion_writes_counts_and_shares() -> None:
    figure = plot_confusion([[1500, 500], [0, 0]], ["neg", "pos"])
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["1,500\n75.0 %", "500\n25.0 %", "0\n–", "0\n–"]
    draw(figure)


def test_a_confusion_of_77_classes_is_shaded_alone() -> None:
    figure = plot_confusion(np.eye(77, dtype=int), [f"class {number}" for number in range(77)])
    assert not figure.axes[0].texts
    draw(figure)


def test_dollar_signs_in_names_are_no_formulas() -> None:
    draw(plot_confusion([[1, 0], [0, 1]], [r"$\frac", "$5_$"]))


def test_a_confusion_must_be_of_its_names() -> None:
    with pytest.raises(DataError, match=r"a square of 3 named classes, got shape \(2, 2\)"):
        plot_confusion([[1, 0], [0, 1]], ["a", "b", "c"])


@pytest.mark.parametrize("max_length", [1, 3, 64, 128, 512, 5000])
def test_lengths_are_all_counted_and_coloured_by_what_is_read(max_length: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1, size=2000).astype(int) + 2
    figure = plot_token_lengths(lengths, max_length)
    bars = figure.axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 2000
    read_color = bars[0].get_facecolor()
    cut = sum(bar.get_height() for bar in bars if bar.get_facecolor() != read_color)
    assert cut == (lengths > max_length).sum()
    share = f"{format_share(cut, 2000)} of 2,000 texts are longer"
    title = figure.axes[0].get_title()
    assert title.startswith(share if cut else "None of 2,000 texts is longer")


def test_a_single_long_text_of_many_is_not_none() -> None:
    figure = plot_token_lengths([*[5] * 3999, 600], 512)
    assert figure.axes[0].get_title().startswith("Under 0.1 % of 4,000 texts are longer than 512")


def test_a_text_of_just_the_longest_length_is_not_coloured_as_cut() -> None:
    bars = plot_token_lengths([2, 3, 4, 4, 5], 4).axes[0].patches  # of width 1
    read_color = bars[0].get_facecolor()
    assert sum(bar.get_height() for bar in bars if bar.get_facecolor() != read_color) == 1


def test_a_limit_far_beyond_all_texts_leaves_the_room_to_the_bars() -> None:
    ax = plot_token_lengths([3, 4, 4, 5], 8192).axes[0]
    assert ax.get_title() == "None of 4 texts is longer than 8,192 tokens"
    assert ax.get_xlim()[1] < 10


def test_only_the_longest_texts_share_the_last_bar_and_it_says_so() -> None:
    lengths = np.arange(1, 1001)
    ax = plot_token_lengths([*lengths, 9000], None).axes[0]
    last = ax.patches[-1]
    assert last.get_height() == sum(lengths > last.get_x()) + 1
    assert 995 < last.get_x() + last.get_width() < 1100
    assert ax.get_xlabel().endswith("(the last bar: this many or more)")
    assert plot_token_lengths([3, 4], None).axes[0].get_xlabel() == "tokens per text"


def test_lengths_without_a_limit_are_drawn() -> None:
    figure = plot_token_lengths([7], None)
    assert figure.axes[0].get_title() == "Tokens per text, 1 text"
    draw(figure)


def test_no_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="expected the length of at least one text"):
        plot_token_lengths([], 128)


def test_plots_keep_out_of_global_state() -> None:
    draw(plot_history(HISTORY))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_a_single_text_that_is_cut_is_told_in_the_singular() -> None:
    lengths = {"part": "train", "max_length": 8, "counts": [[4, 2], [9, 1]]}
    facts = {"history": None, "judged": None, "curves": None, "label_names": [], "lengths": lengths}
    drawn = draw_figures(facts)["lengths"]
    assert drawn is not None
    assert drawn.caption.endswith("The model reads 8; 1 row is longer, and cut.")


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([0.5], "Loss: training 0.5000 after epoch 1. Epoch 1 was kept."),
        (
            [0.5, 0.25],
            "Loss: training 0.5000 after epoch 1, 0.2500 after epoch 2. Epoch 1 was kept.",
        ),
    ],
)
def test_the_caption_of_a_history_tells_its_ends(losses: list[float], told: str) -> None:
    record = {"training": {"best_epoch": 1}}
    facts = {"history": {"train_losses": losses}, "record": record, "judged": None, "curves": None}
    drawn = draw_figures({**facts, "label_names": [], "lengths": None})["history_loss"]
    assert drawn is not None
    assert drawn.caption == told


CURVES = {
    "roc": [(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)],
    "precision_recall": [(0.0, 1.0), (0.5, 0.6), (1.0, 0.3)],
    "positive_share": 0.3,
    "reliability": [(0.6, 0.5), (0.9, 0.8)],
    "reliability_before": None,
    "risk_coverage": [(0.01, 1.0), (0.2, 0.0), (0.79, 0.1), (1.0, 0.25)],
}
JUDGED = {
    "part": "test",
    "confusion": [[60, 10], [6, 24]],
    "per_class": {"yes": {"precision": 24 / 34, "recall": 0.8}},
    "auroc": 0.9,
    "confidence": {"ece": 0.1, "ece_noise": 0.2, "aurc": 0.05},
}


def draw_curves(
    monkeypatch: pytest.MonkeyPatch, *, threshold: float | None = None, **curves: Any
) -> tuple[dict[str, Any], Any]:
    """Return the axes and the captions of the figures of curves, by name."""
    drawn, record = {}, {"threshold": None if threshold is None else {"value": threshold}}

    def keep(figure: Figure, *, name: str, title: str, description: str) -> str:
        assert title
        drawn[name.removeprefix("fig-")] = figure.axes[0]
        return description

    monkeypatch.setattr(figures, "to_svg", keep)
    facts = {"history": None, "lengths": None, "label_names": ["no", "yes"], "record": record}
    found = draw_figures({**facts, "judged": JUDGED, "curves": {**CURVES, **curves}})
    return drawn, {name: one.caption for name, one in found.items() if one is not None}


def test_figures_of_a_report_do_not_depend_on_what_a_user_has_set() -> None:
    facts = {"history": HISTORY, "lengths": None, "label_names": ["no", "yes"], "record": {}}
    facts |= {"judged": None, "curves": None}
    expected = draw_figures(facts)["history_loss"]
    with mpl.rc_context({"lines.linewidth": 20, "axes.grid": True, "font.size": 30}):
        assert draw_figures(facts)["history_loss"] == expected
        assert mpl.rcParams["lines.linewidth"] == 20


def test_the_operating_point_of_two_classes_is_marked_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    axes, captions = draw_curves(monkeypatch)
    marks = {name: axes[name].lines[-1].get_xydata()[0] for name in ("roc", "precision-recall")}
    assert marks["roc"] == pytest.approx([10 / 70, 0.8])
    assert marks["precision-recall"] == pytest.approx([0.8, 24 / 34])
    chance = axes["precision-recall"].lines[0]
    assert chance.get_label() == "chance"
    assert list(chance.get_ydata()) == [0.3, 0.3]
    assert "finds 80.0 % of the rows of yes and mistakes 14.3 % of the other" in captions["roc"]
    told = "precision 70.6 % at recall 80.0 %; 30.0 % of the rows are yes."
    assert captions["precision_recall"].endswith(told)


def test_risk_is_drawn_over_coverage_and_not_scaled_by_the_first_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ax = draw_curves(monkeypatch)[0]["risk-coverage"]
    assert ax.lines[0].get_xydata()[-1].tolist() == [100.0, 25.0]
    low, high = ax.get_ylim()
    assert high == pytest.approx(27.5)  # of the 1 % most confident, all are wrong
    assert -1 < low < 0  # so that a line at 0 is seen


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_what_the_reliability_is_of_is_told_where_a_threshold_decides(
    monkeypatch: pytest.MonkeyPatch, threshold: float | None
) -> None:
    _, captions = draw_curves(monkeypatch, threshold=threshold)
    told = "It is of the most probable class, whatever the threshold."
    assert (told in captions["reliability"]) is (threshold is not None)
    assert told not in captions["risk_coverage"]


@pytest.mark.parametrize(
    ("lowest", "expected"), [(0.62, 0.5), (0.29, 0.2), (0.01, 0.0)], ids=["high", "low", "zero"]
)
def test_reliability_shows_all_its_points(
    monkeypatch: pytest.MonkeyPatch, lowest: float, expected: float
) -> None:
    points = [(lowest + 0.05, lowest), (0.95, 0.97)]
    ax = draw_curves(monkeypatch, reliability=points)[0]["reliability"]
    assert ax.get_xlim()[0] == ax.get_ylim()[0] == pytest.approx(expected)


@pytest.mark.parametrize(("part", "is_told"), [("test", False), ("validation", True)])
def test_a_curve_of_other_rows_is_told(
    monkeypatch: pytest.MonkeyPatch, part: str, *, is_told: bool
) -> None:
    before = {"part": part, "points": [(0.6, 0.5)]}
    _, captions = draw_curves(monkeypatch, reliability_before=before)
    told = "The curve before calibration is that of the validation rows."
    assert (told in captions["reliability"]) == is_told


@pytest.mark.parametrize(("num_classes", "is_drawn"), [(12, False), (13, True)])
def test_a_confusion_is_drawn_if_it_is_too_large_for_a_table(
    monkeypatch: pytest.MonkeyPatch, num_classes: int, *, is_drawn: bool
) -> None:
    kept = []
    monkeypatch.setattr(figures, "to_svg", lambda figure, **_: kept.append(figure) or "")
    names = [f"class {number}" for number in range(num_classes)]
    judged = {"confusion": np.eye(num_classes, dtype=int).tolist()}
    facts = {"history": None, "lengths": None, "curves": None, "label_names": names}
    drawn = draw_figures({**facts, "judged": judged})["confusion"]
    assert (drawn is not None) == is_drawn
    for figure in kept:
        shown = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
        assert shown == [str(number) for number in range(1, 14)]


def test_a_drawn_confusion_has_true_classes_down_and_errors_in_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of class 1, 3 of 4 rows are right and 1 is predicted as 2; of class 2, all are right."""
    kept, confusion = [], 5 * np.eye(13, dtype=int)
    confusion[0, :2] = 3, 1
    confusion[12] = 0  # a class without rows
    monkeypatch.setattr(figures, "to_svg", lambda figure, **_: kept.append(figure) or "")
    facts = {"history": None, "lengths": None, "curves": None, "label_names": ["a"] * 13}
    draw_figures({**facts, "judged": {"confusion": confusion.tolist()}})
    (ax,) = kept[0].axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    colors = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(colors[0, :3, 3], [0.75**0.5, 0.5, 0])
    np.testing.assert_allclose(colors[[1, 1, 12], [0, 1, 12], 3], [0, 1, 0])
    red, _, blue = np.moveaxis(colors[..., :3], -1, 0)
    np.testing.assert_array_equal(blue > red, np.eye(13, dtype=bool))


def test_risk_is_told_of_the_most_confident_four_fifths() -> None:
    judged = {"part": "test", "confidence": {"ece": 0.1, "ece_noise": 0.2, "aurc": 0.05}}
    curves = {
        "roc": None,
        "reliability": [(0.6, 0.5), (0.9, 0.8)],
        "reliability_before": None,
        "risk_coverage": [(0.2, 0.0), (0.79, 0.1), (1.0, 0.25)],
    }
    facts = {
        "history": None,
        "judged": judged,
        "curves": curves,
        "label_names": [],
        "lengths": None,
        "record": {},
    }
    drawn = draw_figures(facts)["risk_coverage"]
    assert drawn is not None
    told = "of all rows, 25.0 % are wrong; of the most confident 79 %, 10.0 %."
    assert told in drawn.caption
