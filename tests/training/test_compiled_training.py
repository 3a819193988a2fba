"""Training with compiled operators learns the same as training in float32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from bertfit.config import TrainSettings
from bertfit.inference.scoring import score_texts
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.fast_path import is_compiled, plug_in
from bertfit.modeling.precision import choose_precision
from bertfit.training.loop import accumulate_gradients, train_steps
from bertfit.training.weights import TrainedWeights

FLOAT32, BFLOAT16 = (choose_precision("cpu", dtype) for dtype in ("float32", "bfloat16"))
NUM_ROWS = 48

pytestmark = pytest.mark.usefixtures("operators")


@pytest.fixture(scope="module")
def loaded(make_wider_model):
    """A BERT of width 64, wide enough for the operators, without dropout."""
    folder = make_wider_model(
        seed=1,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=128,
        initializer_range=0.08,
    )
    return load_classifier(str(folder), ["neg", "pos"], dropout=0.0)


@pytest.fixture(scope="module")
def data(loaded, make_reviews, encode_reviews):
    return encode_reviews(loaded, make_reviews(NUM_ROWS))


def follow(loaded, data, precision, *, num_steps=60):
    """Train on batches of 16; return the losses and the model."""
    model = copy.deepcopy(loaded.model)
    plug_in(model, precision.device)
    weights = TrainedWeights(model, TrainSettings(), precision)
    generator = np.random.default_rng(0)
    steps = [generator.choice(NUM_ROWS, 16, replace=False) for _ in range(num_steps)]
    taken = train_steps(
        weights, data, [steps], learning_rate=lambda _: 1e-3, precision=precision, max_tokens=500
    )
    losses = [step.read().loss for step in taken]
    weights.release()
    return np.array(losses), model


def test_the_losses_follow_those_of_float32(loaded, data):
    exact, exact_model = follow(loaded, data, FLOAT32)
    rounded, model = follow(loaded, data, BFLOAT16)
    assert is_compiled(model, BFLOAT16)
    np.testing.assert_allclose(rounded[:10], exact[:10], atol=0.03)
    assert rounded[-10:].mean() == pytest.approx(exact[-10:].mean(), abs=0.05)
    assert exact[-10:].mean() < exact[:5].mean() - 0.2  # it has learned
    found, expected = (
        score_texts(trained, data.encoded, precision=FLOAT32, pad_id=data.pad_id).argmax(axis=1)
        for trained in (model, exact_model)
    )
    assert (found == expected).mean() > 0.9
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_cut_into_micro_batches_changes_nothing(loaded, data):
    gradients = []
    for max_tokens in (10**6, 200):
        model = copy.deepcopy(loaded.model)
        plug_in(model, BFLOAT16.device)
        weights = TrainedWeights(model, TrainSettings(), BFLOAT16)
        accumulate_gradients(
            weights.working, data, np.arange(NUM_ROWS), precision=BFLOAT16, max_tokens=max_tokens
        )
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        assert {gradient.dtype for gradient in gradients[-1].values()} == {torch.float32}
    whole, cut = gradients
    assert len(whole) > 40
    assert whole.keys() == cut.keys()
    away = sum(float((whole[name] - cut[name]).square().sum()) for name in whole)
    assert (away / sum(float(of.square().sum()) for of in whole.values())) ** 0.5 < 0.01


def test_after_release_the_model_is_an_ordinary_one(loaded, data):
    _, model = follow(loaded, data, BFLOAT16, num_steps=2)
    accumulate_gradients(model, data, np.arange(16), precision=FLOAT32, max_tokens=10**6)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_step_that_is_not_finite_changes_no_weight(loaded, data):
    model = copy.deepcopy(loaded.model)
    plug_in(model, BFLOAT16.device)
    weights = TrainedWeights(model, TrainSettings(), BFLOAT16)
    accumulate_gradients(weights.working, data, np.arange(16), precision=BFLOAT16, max_tokens=10**6)
    weights.collect(torch.tensor(torch.nan))
    before = copy.deepcopy(model.state_dict())
    weights.update(0.1)
    weights.settle()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
