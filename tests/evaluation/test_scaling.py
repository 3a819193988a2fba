"""The fits of scalings recover known parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss

from bertfit.evaluation.scaling import (
    Readout,
    Scaling,
    _regress,
    fit_cubic,
    fit_temperature,
    fit_vector,
)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 8]), st.floats(0.4, 4.0))
def test_the_temperature_that_was_put_in_is_found(draw_logits, seed, num_labels, temperature):
    """Calibrated data stay calibrated (temperature 1); over-confident data are mended."""
    logits, label_ids = draw_logits(4000, num_labels, temperature=temperature, seed=seed)
    found = fit_temperature(logits, label_ids).temperature
    assert found == pytest.approx(temperature, rel=0.15)


def test_the_fit_minimises_the_log_loss(draw_logits):
    logits, label_ids = draw_logits(3000, 4, temperature=2)
    found = fit_temperature(logits, label_ids).weights[0]
    losses = [
        log_loss(label_ids, softmax(logits * weight, axis=1))
        for weight in (found * 0.97, found, found * 1.03)
    ]
    assert losses[1] == min(losses)


@pytest.mark.parametrize("num_rows", [60, 3000])
def test_the_gradient_of_the_vector_fit_is_right(draw_logits, num_rows):
    """A wrong one would stop the search early: the result must beat its neighbours.

    Of few rows the prior, of deviation 0.5 around the best temperature, decides a good part.
    """
    logits, label_ids = draw_logits(num_rows, 3)
    logits = logits * [1.0, 2.0, 4.0] + [0.0, 1.0, -1.0]
    inverse = fit_temperature(logits, label_ids).weights[0]

    def weigh(scaling):
        away = np.array([*scaling.weights, *scaling.biases]) - [*[inverse] * 3, 0, 0, 0]
        loss = log_loss(label_ids, softmax(scaling.apply(logits), axis=1))
        return loss + away @ away / (2 * 0.5**2) / num_rows

    found = fit_vector(logits, label_ids)
    for place in range(3):
        for factor, shift in ((0.9, 0.0), (1.1, 0.0), (1.0, 0.1), (1.0, -0.1)):
            weights, biases = list(found.weights), list(found.biases)
            weights[place] *= factor
            biases[place] += shift
            other = Scaling("vector", tuple(weights), tuple(biases))
            assert weigh(found) < weigh(other)


def test_a_temperature_never_changes_what_is_predicted(draw_logits):
    logits, label_ids = draw_logits(500, 5, temperature=2)
    found = fit_temperature(logits, label_ids)
    assert found.biases == (0, 0, 0, 0, 0)
    scaled = found.apply(logits)
    np.testing.assert_array_equal(scaled.argmax(axis=1), logits.argmax(axis=1))


def test_a_temperature_of_separable_rows_stays_in_bounds():
    """Without its prior the fit would run to the bound."""
    assert fit_temperature(np.eye(2)[[0, 1] * 10], [0, 1] * 10).temperature > 0.2


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_undoing_gives_back_what_was_scaled(seed, num_labels):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, num_labels))
    weights = tuple(rng.uniform(0.1, 3, num_labels).tolist())
    chosen = Scaling("vector", weights, tuple(rng.normal(size=num_labels).tolist()))
    np.testing.assert_allclose(chosen.undo(chosen.apply(logits)), logits, atol=1e-9)
    assert chosen.temperature is None


def test_the_cubic_that_was_put_in_is_found(draw_crowded):
    """Log odds of d / 2 + 0.1 d³ / 4 are logits times 0.5 and their cubes times 0.1."""
    logits, label_ids, features = draw_crowded(20_000)
    found = fit_cubic(logits, label_ids, features)
    assert found.weights == pytest.approx([0.5, 0.5], abs=0.05)
    assert found.cube == pytest.approx(0.1, rel=0.15)
    assert found.temperature is None


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_the_readout_stands_for_the_cubes(draw_crowded, slope):
    logits, label_ids, features = draw_crowded(3000, slope=slope)
    found = fit_cubic(logits, label_ids, features)
    exact = found.weights * logits + found.cube * logits**3
    scaled = found.apply(logits, features)
    np.testing.assert_allclose(scaled, exact, atol=0.02 * np.abs(exact).max())


def test_what_is_added_to_all_logits_of_a_row_changes_no_cubic(draw_crowded):
    logits, label_ids, features = draw_crowded(2000)
    added = 3 * np.random.default_rng(0).normal(size=(2000, 1))
    found, expected = (fit_cubic(each, label_ids, features) for each in (logits + added, logits))
    assert found.cube == pytest.approx(expected.cube, rel=1e-3)
    np.testing.assert_allclose(
        found.apply(logits, features), expected.apply(logits, features), atol=1e-3
    )


def test_logits_that_are_all_equal_have_no_cubes(draw_crowded):
    _, label_ids, features = draw_crowded(500)
    found = fit_cubic(np.ones((500, 2)), label_ids, features)
    assert found.cube == 0
    assert not found.readout.apply(features).any()


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_cubic_minimises_the_log_loss(draw_crowded, with_bias):
    logits, label_ids, features = draw_crowded(5000)
    found = fit_cubic(logits, label_ids, features, with_bias=with_bias)
    best = log_loss(label_ids, softmax(found.apply(logits, features), axis=1))
    for factor, share in ((0.9, 1.0), (1.1, 1.0), (1.0, 0.9), (1.0, 1.1)):
        readout = Readout(share * found.readout.weight, share * found.readout.bias)
        weights = tuple(factor * weight for weight in found.weights)
        other = Scaling("cubic", weights, found.biases, readout=readout)
        assert best < log_loss(label_ids, softmax(other.apply(logits, features), axis=1))


def test_a_layer_without_a_bias_gets_none(draw_crowded):
    found = fit_cubic(*draw_crowded(1000), with_bias=False)
    assert found.readout.bias.tolist() == [0, 0]


def test_confidence_never_falls_where_logits_grow(draw_crowded):
    logits, label_ids, features = draw_crowded(5000, cube=-0.02)
    found = fit_cubic(logits, label_ids, features)
    assert found.cube == 0
    assert not found.readout.apply(features).any()


def test_a_cubic_is_never_flat_where_classes_are_equally_probable(draw_crowded):
    """There the error of the regression would decide, not the logits."""
    logits, label_ids, features = draw_crowded(5000, slope=0.0)
    features = features + np.random.default_rng(1).normal(size=features.shape) / 5
    found = fit_cubic(logits, label_ids, features)
    least = fit_temperature(logits, label_ids).weights[0] / 4
    assert found.weights == pytest.approx([least, least])
    assert found.cube > 0
    changed = found.apply(logits, features).argmax(axis=1) != logits.argmax(axis=1)
    flat = found.readout.apply(features).argmax(axis=1) != logits.argmax(axis=1)
    assert changed.sum() < flat.sum() / 2


def test_features_that_are_all_alike_teach_no_cubes(draw_crowded):
    logits, label_ids, _ = draw_crowded(500)
    found = fit_cubic(logits, label_ids, np.ones((500, 3)))
    np.testing.assert_allclose(found.readout.weight, 0, atol=1e-6)


def test_features_far_from_zero_tell_as_much_as_others():
    """They are centred before the ridge, which would otherwise take them for large."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3)) + 300
    targets = features @ rng.normal(size=(3, 2)) + 7
    readout = _regress(features, targets, with_bias=True)
    np.testing.assert_allclose(readout.apply(features), targets, atol=1e-3)


def test_a_temperature_of_few_rows_stays_near_1():
    """The prior of deviation 0.5 around a weight of 1 decides where rows say little."""
    assert fit_temperature(np.zeros((3, 2)), [0, 1, 1]).temperature == pytest.approx(1, abs=1e-3)
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])

    def weigh(weight):
        return 2 * log_loss([0, 1], softmax(logits * weight, axis=1)) + (weight - 1) ** 2 / 0.5

    found = fit_temperature(logits, [0, 1]).weights[0]
    assert 1.02 < found < 1.5
    assert weigh(found) < min(weigh(found - 0.01), weigh(found + 0.01))
