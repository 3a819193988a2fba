"""The choice of a scaling: fixes miscalibrated models, and leaves calibrated ones unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from bertfit.evaluation import scaling_choice
from bertfit.evaluation.calibration import score_calibration
from bertfit.evaluation.scaling import Readout, Scaling, fit_cubic, no_scaling
from bertfit.evaluation.scaling_choice import (
    MIN_CLASS_ROWS,
    MIN_MISTAKES,
    MIN_ROWS,
    choose_scaling,
)
from bertfit.evaluation.units import number_units


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_over_confident_data_are_mended(draw_logits, seed):
    logits, label_ids = draw_logits(3000, 3, temperature=3, seed=seed)
    choice = choose_scaling(logits[:1500], label_ids[:1500])
    before, after = (
        score_calibration(softmax(values, axis=1), label_ids[1500:])
        for values in (logits[1500:], choice.scaling.apply(logits[1500:]))
    )
    assert after.ece < before.ece / 2
    assert after.log_loss < before.log_loss


@pytest.mark.parametrize("seed", range(5))
def test_calibrated_data_stay_calibrated(draw_logits, seed):
    logits, label_ids = draw_logits(2000, 2, seed=seed)
    choice = choose_scaling(logits, label_ids)
    assert choice.scaling.kind in {"none", "temperature"}
    assert choice.scaling.temperature == pytest.approx(1, abs=0.12)


def test_classes_that_are_wrong_apart_are_scaled_apart(draw_logits):
    logits, label_ids = draw_logits(3000, 3)
    logits = logits * [1.0, 1.0, 3.0] + [0.0, 0.0, 2.0]
    choice = choose_scaling(logits, label_ids)
    assert choice.scaling.kind == "vector"
    assert choice.reason == "scaling each class is clearly better on held-out validation rows"
    assert choice.held_out_log_losses["vector"] < choice.held_out_log_losses["temperature"]
    after = score_calibration(softmax(choice.scaling.apply(logits), axis=1), label_ids)
    assert after.ece < 2 * after.ece_noise


def test_without_biases_none_is_fitted(draw_logits, draw_crowded):
    logits, label_ids = draw_logits(3000, 3)
    choice = choose_scaling(logits * [1, 1, 4], label_ids, with_bias=False)
    assert choice.scaling.kind == "vector"
    assert choice.scaling.biases == (0, 0, 0)
    logits, label_ids, features = draw_crowded(2000)
    choice = choose_scaling(logits, label_ids, features=features, with_bias=False)
    assert choice.scaling.kind == "cubic"
    assert choice.scaling.readout.bias.tolist() == [0, 0]


def test_classes_are_scaled_apart_only_where_asked_and_with_rows_enough(draw_logits):
    logits, label_ids = draw_logits(3000, 3)
    logits[:, 2] += 2
    assert "vector" not in choose_scaling(logits, label_ids, allow_vector=False).held_out_log_losses
    few = np.flatnonzero(label_ids == 2)[49:]
    kept = np.setdiff1d(np.arange(3000), few)
    assert "vector" not in choose_scaling(logits[kept], label_ids[kept]).held_out_log_losses


def test_a_class_without_rows_is_not_scaled_apart(draw_logits):
    logits, label_ids = draw_logits(3000, 2)
    logits = np.column_stack([logits, np.full(3000, -9.0)])
    assert "vector" not in choose_scaling(logits, label_ids).held_out_log_losses


def test_too_few_rows_teach_nothing(draw_logits):
    logits, label_ids = draw_logits(MIN_ROWS - 1, 2, temperature=5)
    choice = choose_scaling(logits, label_ids)
    assert choice.scaling == no_scaling(2)
    assert choice.reason == "99 validation rows are too few, 100 are needed"


def test_rows_that_are_all_right_teach_nothing():
    """The best temperature for them is 0: certainty, learned from rows that chose the model."""
    label_ids = np.arange(400) % 2
    logits = np.eye(2)[label_ids] * 2
    label_ids[: MIN_MISTAKES - 1] ^= 1
    choice = choose_scaling(logits, label_ids)
    assert choice.scaling.kind == "none"
    assert choice.reason == "4 wrong validation rows are too few, 5 are needed"


def test_just_enough_rows_and_mistakes_are_enough():
    label_ids = np.arange(2 * MIN_CLASS_ROWS) % 2
    logits = np.eye(2)[label_ids] * 2
    logits[:MIN_MISTAKES] = logits[:MIN_MISTAKES, ::-1]
    assert len(label_ids) == MIN_ROWS
    assert set(choose_scaling(logits, label_ids).held_out_log_losses) == {
        "none",
        "temperature",
        "vector",
    }


@pytest.mark.parametrize(
    ("kind", "num_lost", "of_none", "expected"),
    [
        ("vector", 0, 2.0, "vector"),
        ("vector", 1, 2.0, "temperature"),
        ("cubic", 1, 2.0, "cubic"),
        ("cubic", 4, 2.0, "cubic"),  # two standard errors of four changes
        ("cubic", 5, 2.0, "temperature"),
        ("vector", 0, 0.5, "none"),
        ("cubic", 0, 0.5, "none"),
    ],
)
def test_a_clear_gain_must_not_cost_accuracy_nor_be_a_loss(kind, num_lost, of_none, expected):
    """All of 100 rows are right with a temperature; the other kind turns some round."""
    label_ids, right = np.zeros(100, dtype=np.int64), np.tile([1.0, 0.0], (100, 1))
    turned = right.copy()
    turned[:num_lost] = [0.0, 1.0]
    values = {"none": of_none, "temperature": 1.0, kind: 0.9}
    chosen = scaling_choice._choose_kind(
        {name: np.full(100, value) for name, value in values.items()},
        {"none": right, "temperature": right, kind: turned},
        label_ids,
        units=np.arange(100),
    )
    assert chosen == expected


@pytest.mark.parametrize(
    ("of_vector", "of_cubic", "expected"), [(0.8, 0.9, "vector"), (0.9, 0.8, "cubic")]
)
def test_of_two_clear_gains_the_larger_is_taken(of_vector, of_cubic, expected):
    """They are the same in all groups, of which there are only three."""
    values = {"none": 2.0, "temperature": 1.0, "vector": of_vector, "cubic": of_cubic}
    chosen = scaling_choice._choose_kind(
        {name: np.full(99, value) for name, value in values.items()},
        dict.fromkeys(values, np.tile([1.0, 0.0], (99, 1))),
        np.zeros(99, dtype=np.int64),
        units=np.arange(99) // 33,
    )
    assert chosen == expected


def test_what_does_not_help_is_not_taken(draw_logits, monkeypatch):
    logits, label_ids = draw_logits(400, 2)
    harmful = Scaling("temperature", (5.0, 5.0), (0.0, 0.0))
    monkeypatch.setattr(scaling_choice, "fit_temperature", lambda *_: harmful)
    choice = choose_scaling(logits, label_ids, allow_vector=False)
    assert choice.scaling.kind == "none"
    assert choice.reason == "no scaling lowers the log loss of held-out validation rows"


def test_a_group_is_never_on_both_sides_of_a_fold(monkeypatch):
    """Each group's logits hold its number: a fit must not see those that it is judged on."""
    groups = np.repeat(np.arange(40), 5)
    logits = np.column_stack([np.zeros(200), groups + 1.0])
    label_ids = np.arange(200) % 2
    seen = []

    def fit(rows, _label_ids):
        seen.append(set(rows[:, 1]))
        return no_scaling(2)

    monkeypatch.setattr(scaling_choice, "fit_temperature", fit)
    choose_scaling(logits, label_ids, allow_vector=False, groups=groups)
    *folds, everything = seen if len(seen) > 5 else [*seen, set(groups + 1.0)]
    held_out = [everything - fold for fold in folds]
    assert sum(map(len, held_out)) == 40


def test_of_many_logits_rows_are_drawn(draw_logits, monkeypatch):
    monkeypatch.setattr(scaling_choice, "MAX_LOGITS", 1000)
    logits, label_ids = draw_logits(3000, 2, temperature=2)
    assert choose_scaling(logits, label_ids).num_rows == 500


def test_of_many_classes_enough_rows_are_drawn(monkeypatch):
    monkeypatch.setattr(scaling_choice, "MAX_LOGITS", 1000)
    assert len(scaling_choice._draw_rows((300, 50), seed=0)) == MIN_ROWS


def test_drawn_rows_keep_their_groups(draw_logits, monkeypatch):
    monkeypatch.setattr(scaling_choice, "MAX_LOGITS", 400)
    seen, rows = [], scaling_choice._draw_rows((300, 2), seed=0)

    def draw_folds(units, *, seed):
        seen.extend(units)
        return np.arange(len(units) + seed) % 5

    monkeypatch.setattr(scaling_choice, "_draw_folds", draw_folds)
    choose_scaling(*draw_logits(300, 2), allow_vector=False, groups=np.arange(300) // 3)
    assert seen == number_units(rows // 3, 200).tolist()


def test_crowded_logits_are_bent(draw_crowded):
    logits, label_ids, features = draw_crowded(4000)
    choice = choose_scaling(logits[:2000], label_ids[:2000], features=features[:2000])
    assert choice.scaling.kind == "cubic"
    assert choice.reason == "bending the logits is clearly better on held-out validation rows"
    assert choice.held_out_log_losses["cubic"] < choice.held_out_log_losses["temperature"]
    tempered = choose_scaling(logits[:2000], label_ids[:2000], allow_vector=False)
    bent, straight = (
        score_calibration(softmax(scaled, axis=1), label_ids[2000:])
        for scaled in (
            choice.scaling.apply(logits[2000:], features[2000:]),
            tempered.scaling.apply(logits[2000:]),
        )
    )
    assert bent.ece < bent.ece_noise < straight.ece
    assert bent.log_loss < straight.log_loss


def test_features_that_do_not_tell_the_cubes_bend_nothing(draw_crowded):
    logits, label_ids, _ = draw_crowded(2000)
    choice = choose_scaling(logits, label_ids, features=logits)
    assert choice.scaling.kind in {"temperature", "vector"}


@pytest.mark.parametrize("seed", range(5))
def test_logits_that_are_right_are_not_bent(draw_crowded, seed):
    logits, label_ids, features = draw_crowded(2000, cube=0, seed=seed)
    assert choose_scaling(logits, label_ids, features=features).scaling.kind == "temperature"


def test_a_bend_that_costs_accuracy_is_not_taken(draw_crowded, monkeypatch):
    """It may turn round a few predictions near the boundary, as many to the better as not."""
    logits, label_ids, features = draw_crowded(8000, cube=0.2)
    assert choose_scaling(logits, label_ids, features=features).scaling.kind == "cubic"

    def fit_askew(*arguments, **options):
        found = fit_cubic(*arguments, **options)
        readout = Readout(found.readout.weight, found.readout.bias + np.array([-0.1, 0.1]))
        return dataclasses.replace(found, readout=readout)

    monkeypatch.setattr(scaling_choice, "fit_cubic", fit_askew)
    choice = choose_scaling(logits, label_ids, features=features)
    assert choice.held_out_log_losses["cubic"] < choice.held_out_log_losses["temperature"]
    assert choice.scaling.kind != "cubic"


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_a_row_in_a_group_do_not_make_a_gain_clear(draw_logits, seed):
    """Six of each: over rows, an error is less than half of what it is over groups."""
    logits, label_ids = draw_logits(600, 2, seed=seed)
    logits[:, 1] += 0.4
    copies = np.repeat(logits, 6, axis=0), np.repeat(label_ids, 6)
    choice = choose_scaling(*copies, groups=np.repeat(np.arange(600), 6))
    assert choice.scaling.kind != "vector"


def test_the_error_of_a_sum_is_that_over_units():
    values = np.random.default_rng(0).normal(size=50)
    values -= values.mean()
    alone = scaling_choice._sum_error(values, np.arange(50))
    assert alone == pytest.approx(values.std(ddof=1) * 50**0.5)
    copies = scaling_choice._sum_error(np.repeat(values, 6), np.repeat(np.arange(50), 6))
    assert copies == pytest.approx(6 * alone)
