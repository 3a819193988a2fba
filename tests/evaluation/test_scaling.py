"""Scaling of logits: mends what is wrong, leaves alone what is right, and knows when not to try."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from bertfit.evaluation import scaling
from bertfit.evaluation.calibration import score_calibration
from bertfit.evaluation.scaling import (
    MIN_MISTAKES,
    MIN_ROWS,
    Scaling,
    choose_scaling,
    fit_temperature,
    fit_vector,
    no_scaling,
)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 8]), st.floats(0.4, 4.0))
def test_the_temperature_that_was_put_in_is_found(draw_logits, seed, num_labels, temperature):
    """Calibrated data stay calibrated (temperature 1); over-confident data are mended."""
    logits, label_ids = draw_logits(4000, num_labels, temperature=temperature, seed=seed)
    found = fit_temperature(logits, label_ids).temperature
    assert found == pytest.approx(temperature, rel=0.15)


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


def test_the_fit_minimises_the_log_loss(draw_logits):
    logits, label_ids = draw_logits(3000, 4, temperature=2)
    found = fit_temperature(logits, label_ids).weights[0]
    losses = [
        log_loss(label_ids, softmax(logits * weight, axis=1))
        for weight in (found * 0.97, found, found * 1.03)
    ]
    assert losses[1] == min(losses)


def test_the_gradient_of_the_vector_fit_is_right(draw_logits):
    """A wrong one would stop the search early: the result must beat its neighbours."""
    logits, label_ids = draw_logits(3000, 3)
    logits = logits * [1.0, 2.0, 4.0] + [0.0, 1.0, -1.0]
    found = fit_vector(logits, label_ids)
    best = log_loss(label_ids, softmax(found.apply(logits), axis=1))
    for place in range(3):
        for factor, shift in ((0.9, 0.0), (1.1, 0.0), (1.0, 0.1), (1.0, -0.1)):
            weights, biases = list(found.weights), list(found.biases)
            weights[place] *= factor
            biases[place] += shift
            other = Scaling("vector", tuple(weights), tuple(biases))
            assert best < log_loss(label_ids, softmax(other.apply(logits), axis=1))


def test_classes_that_are_wrong_apart_are_scaled_apart(draw_logits):
    logits, label_ids = draw_logits(3000, 3)
    logits = logits * [1.0, 1.0, 3.0] + [0.0, 0.0, 2.0]
    choice = choose_scaling(logits, label_ids)
    assert choice.scaling.kind == "vector"
    assert choice.reason == "scaling each class is clearly better on held-out validation rows"
    assert choice.held_out_log_losses["vector"] < choice.held_out_log_losses["temperature"]
    after = score_calibration(softmax(choice.scaling.apply(logits), axis=1), label_ids)
    assert after.ece < 2 * after.ece_noise


def test_without_biases_none_is_fitted(draw_logits):
    logits, label_ids = draw_logits(3000, 3)
    choice = choose_scaling(logits * [1, 1, 4], label_ids, with_bias=False)
    assert choice.scaling.kind == "vector"
    assert choice.scaling.biases == (0, 0, 0)


def test_classes_are_scaled_apart_only_where_asked_and_with_rows_enough(draw_logits):
    logits, label_ids = draw_logits(3000, 3)
    logits[:, 2] += 2
    assert "vector" not in choose_scaling(logits, label_ids, allow_vector=False).held_out_log_losses
    few = np.flatnonzero(label_ids == 2)[49:]
    kept = np.setdiff1d(np.arange(3000), few)
    assert "vector" not in choose_scaling(logits[kept], label_ids[kept]).held_out_log_losses


def test_a_temperature_never_changes_what_is_predicted(draw_logits):
    logits, label_ids = draw_logits(500, 5, temperature=2)
    scaled = fit_temperature(logits, label_ids).apply(logits)
    np.testing.assert_array_equal(scaled.argmax(axis=1), logits.argmax(axis=1))


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


def test_a_temperature_of_separable_rows_stays_in_bounds():
    """Without its prior the fit would run to the bound."""
    assert fit_temperature(np.eye(2)[[0, 1] * 10], [0, 1] * 10).temperature > 0.2


def test_what_does_not_help_is_not_taken(draw_logits, monkeypatch):
    logits, label_ids = draw_logits(400, 2)
    harmful = Scaling("temperature", (5.0, 5.0), (0.0, 0.0))
    monkeypatch.setattr(scaling, "fit_temperature", lambda *_: harmful)
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

    monkeypatch.setattr(scaling, "fit_temperature", fit)
    choose_scaling(logits, label_ids, allow_vector=False, groups=groups)
    *folds, everything = seen if len(seen) > 5 else [*seen, set(groups + 1.0)]
    held_out = [everything - fold for fold in folds]
    assert sum(map(len, held_out)) == 40


def test_of_many_logits_rows_are_drawn(draw_logits, monkeypatch):
    monkeypatch.setattr(scaling, "MAX_LOGITS", 1000)
    logits, label_ids = draw_logits(3000, 2, temperature=2)
    assert choose_scaling(logits, label_ids).num_rows == 500


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_undoing_gives_back_what_was_scaled(seed, num_labels):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, num_labels))
    weights = tuple(rng.uniform(0.1, 3, num_labels).tolist())
    chosen = Scaling("vector", weights, tuple(rng.normal(size=num_labels).tolist()))
    np.testing.assert_allclose(chosen.undo(chosen.apply(logits)), logits, atol=1e-9)
    assert chosen.temperature is None
