"""Comparisons, slices, errors, suspects and seeds fit 80 columns whatever the names."""

from __future__ import annotations

import numpy as np
import pytest

from bertfit.evaluation.comparison import compare_predictions
from bertfit.evaluation.slices import score_slices
from bertfit.reporting.comparison import (
    disagreement_table,
    error_table,
    paired_table,
    seed_table,
    slice_table,
    suspect_table,
)
from tests.reporting.test_text import render, width_of

LONG = "a very long name [bold]with markup[/bold] that goes on and on " * 3
WIDE = "这部电影很好看" * 20


def compare(num_rows: int = 300, groups=None):
    rng = np.random.default_rng(0)
    label_ids = rng.integers(2, size=num_rows)
    models = rng.dirichlet([1, 1], size=(2, num_rows))
    return compare_predictions(*models, label_ids, groups=groups, num_resamples=100)


@pytest.mark.parametrize("name", [LONG, WIDE])
def test_a_comparison_fits(name: str) -> None:
    text = render(paired_table(compare(), name, name))
    assert width_of(text) <= 80
    for part in ("Accuracy", "Macro F1", "Log loss", "A minus B", "over rows", "of 300 rows"):
        assert part in text


def test_a_comparison_says_what_was_resampled() -> None:
    groups = np.arange(300) // 5
    assert "bootstrap over 60 groups." in render(paired_table(compare(groups=groups), "a", "b"))


@pytest.mark.parametrize("text", [LONG, WIDE, "two\nlines"])
def test_rows_with_their_texts_fit(text: str) -> None:
    row = {"line": 123_456, "label": text, "confidence": 0.9, "text": text}
    tables = (
        error_table([{**row, "predicted": text}]),
        suspect_table([{**row, "suggested_label": text, "looks_wrong": True}]),
        disagreement_table(
            [
                {
                    **row,
                    "predicted_a": text,
                    "predicted_b": text,
                    "confidence_a": 0.5,
                    "confidence_b": 0.6,
                }
            ]
        ),
    )
    for table in tables:
        shown = render(table)
        assert width_of(shown) <= 80
        assert "line 123456" in shown
        assert len(shown.splitlines()) == 3


def test_a_row_without_a_text_is_one_line() -> None:
    row = {"line": 1, "label": "x", "confidence": 0.9, "text": None, "predicted": "y"}
    assert render(error_table([row])).splitlines()[1:] == ["line 1: is x, predicted y (0.900)"]


def test_answers_that_differ_are_shown_differently() -> None:
    """Two classes were both shown as getting_…card, as if the models agreed."""
    spare, virtual = (f"getting_and_activating_a_{kind}_new_card" for kind in ("spare", "virtual"))
    row = {"line": 1, "label": spare, "confidence": 0.5, "text": None}
    answers = {"predicted_a": spare, "predicted_b": virtual}
    confidences = {"confidence_a": 0.5, "confidence_b": 0.6}
    shown = render(disagreement_table([{**row, **answers, **confidences}]))
    assert "is ge…spare…card; A ge…spare…card (0.500), B ge…virtu…card (" in shown
    shown = render(error_table([{**row, "predicted": virtual}]))
    assert "is getting…spare_new_card, predicted getti…virtual_new_card (" in shown
    shown = render(suspect_table([{**row, "suggested_label": virtual, "looks_wrong": True}]))
    assert "getting_a…spare_new_card → getting…virtual_new_card?" in shown


def test_labels_that_are_merely_predicted_differently_are_not_said_to_look_wrong() -> None:
    row = {"line": 1, "label": "x", "suggested_label": "y", "confidence": 0.9, "text": "t"}
    rows = [{**row, "looks_wrong": looks_wrong} for looks_wrong in (True, True, False, False)]
    shown = [line.split(",")[0] for line in render(suspect_table(rows)).splitlines()]
    assert [at for at, line in enumerate(shown) if line == "Labels that look wrong"] == [0]
    assert [at for at, line in enumerate(shown) if line == "Merely predicted differently"] == [5]
    assert "look wrong" not in render(suspect_table(rows[2:]))


def test_slices_that_differ_are_shown_differently() -> None:
    values = [f"top_up_by_{kind}_transfer" for kind in ("bank", "card") for _ in range(60)]
    shown = render(slice_table(score_slices([True] * 100 + [False] * 20, {"label": values})))
    assert "bank_transfer " in shown
    assert "card_transfer " in shown


def test_markup_is_shown_as_it_is() -> None:
    row = {"line": 1, "label": "[red]x", "confidence": 0.9, "text": "[b]y[/b]", "predicted": "z"}
    shown = render(error_table([row]))
    assert "[red]x" in shown
    assert "[b]y[/b]" in shown


@pytest.mark.parametrize("name", [LONG, WIDE, "kind"])
def test_slices_fit_and_say_what_is_small(name: str) -> None:
    is_right = [True] * 100_000 + [False] * 40 + [True] * 10_000
    values = ["common"] * 100_000 + [f"rare {name}"] * 40 + ["other"] * 10_000
    shown = render(slice_table(score_slices(is_right, {name: values})))
    assert width_of(shown) <= 80
    assert "40*" in shown
    assert "* fewer than 50 rows" in shown
    assert "1 of 3 slices is worse" in shown


def test_slices_by_a_column_that_was_asked_for_are_shown_though_others_are_worse() -> None:
    is_right = [True] * 110 + [False] * 10
    values = {"label": [f"l{at // 10}" for at in range(120)], "source": ["press", "web"] * 60}
    shown = render(slice_table(score_slices(is_right, values), num_shown=1))
    worst, _, by_source = shown.partition("By the column source, the worst 1 of 2")
    assert "source: " not in worst
    assert by_source.count("source: ") == 1
    assert "By the column" not in render(slice_table(score_slices(is_right, values)))
    assert width_of(shown) <= 80


def test_a_column_without_slices_is_named() -> None:
    values = {"half": ["a"] * 30 + ["b"] * 30, "ticket\nid": [str(row) for row in range(60)]}
    shown = render(slice_table(score_slices([True] * 60, values)))
    assert "By ticket id: no value has the 10 rows that a slice needs." in shown


def test_what_holds_for_slices_by_group_is_told_if_there_are_some() -> None:
    groups = [str(row // 20) for row in range(120)]
    values = {"half": ["a", "b"] * 60}
    note = "Slices by group are about that group alone"
    for column, is_told in ({}, False), ({"group": groups}, True):
        report = score_slices([True, False, True] * 40, values | column, groups=groups)
        shown = " ".join(render(slice_table(report)).split())
        assert "rows of one group being right or wrong together" in shown
        assert (note in shown) == is_told


def test_slices_that_were_left_out_are_counted() -> None:
    values = ["a"] * 60 + ["b"] * 57 + ["c"] * 3
    report = score_slices([True] * 120, {"by": values})
    assert "1 was too small to judge" in " ".join(render(slice_table(report)).split())
    assert "Fisher's exact test, adjusted" in render(slice_table(report))
    assert "No slices" in render(slice_table(score_slices([True], {})))


def test_the_test_of_groups_is_told_if_there_are_groups() -> None:
    groups = [f"g{at // 4}" for at in range(120)]
    shown = render(slice_table(score_slices([True] * 120, {"by": ["a", "b"] * 60}, groups=groups)))
    assert "the larger of Fisher's exact test and a t-test of groups" in " ".join(shown.split())
    assert width_of(shown) <= 80


@pytest.mark.parametrize("with_test", [True, False])
def test_seeds_are_shown_with_mean_and_deviation(with_test: bool) -> None:
    scores = {"accuracy": 0.9, "macro_f1": 0.89}
    test = scores if with_test else None
    runs = [
        {"seed": seed, "interrupted": seed == 4294967290, "validation": scores, "test": test}
        for seed in (4294967289, 4294967290)
    ]
    part = {"mean": scores, "standard_deviation": scores}
    nothing = {"mean": None, "standard_deviation": None}
    seeds = {"runs": runs, "best_seed": 4294967289, "validation": part}
    seeds["chosen_by"] = "validation macro_f1"
    shown = render(seed_table({**seeds, "test": part if with_test else nothing}))
    assert width_of(shown) <= 80
    assert ("–" in shown) is not with_test
    for word in ("kept", "interrupted", "mean", "sd", "90.00 %"):
        assert word in shown
    flat = " ".join(shown.split())
    assert (
        "before any calibration and threshold. They chose the seed with the highest macro F1"
        in flat
    )
    assert ("as saved; they chose nothing" in flat) is with_test
    assert "leave out the interrupted seed" in flat


def test_mean_and_deviation_of_seeds_stand_under_their_own_part() -> None:
    def scores(accuracy, macro_f1):
        return {"accuracy": accuracy, "macro_f1": macro_f1}

    of_run = {"validation": scores(0.91, 0.92), "test": scores(0.81, 0.82)}
    seeds = {
        "runs": [{"seed": seed, "interrupted": False, **of_run} for seed in (3, 4)],
        "best_seed": 4,
        "chosen_by": "validation accuracy",
        "validation": {"mean": scores(0.93, 0.94), "standard_deviation": scores(0.01, 0.02)},
        "test": {"mean": scores(0.83, 0.84), "standard_deviation": scores(0.03, 0.04)},
    }
    lines = [line.split() for line in render(seed_table(seeds)).splitlines()]
    shown = {line[0]: line[1:9:2] for line in lines if line and line[0] in {"3", "mean", "sd"}}
    assert shown == {
        "3": ["91.00", "92.00", "81.00", "82.00"],
        "mean": ["93.00", "94.00", "83.00", "84.00"],
        "sd": ["1.00", "2.00", "3.00", "4.00"],
    }
