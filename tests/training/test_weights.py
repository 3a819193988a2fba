"""Master weights, working copies and their update: the same training on any backend."""

from __future__ import annotations

import copy
import gc
import types
import weakref

import numpy as np
import pytest
import torch

from bertfit.config import TrainSettings
from bertfit.inference.scoring import score_texts
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.precision import choose_precision
from bertfit.training import weights as weights_module
from bertfit.training.loop import accumulate_gradients, train_steps
from bertfit.training.weights import TrainedWeights, updates_read_rows

FLOAT32, BFLOAT16 = (choose_precision("cpu", dtype) for dtype in ("float32", "bfloat16"))
ALL = np.arange(24)


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"], dropout=0.0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(4)
    return loaded


@pytest.fixture(scope="module")
def data(loaded, make_reviews, encode_reviews):
    return encode_reviews(loaded, make_reviews(24))


def follow(loaded, data, *, fast, precision=FLOAT32, num_steps=40, rate=1e-2):
    """Train on batches of 6; return the losses and the model."""
    model = copy.deepcopy(loaded.model)
    if fast:
        plug_in(model, precision.device)
    settings = TrainSettings(fast_path="auto" if fast else "off")
    weights = TrainedWeights(model, settings, precision)
    generator = np.random.default_rng(0)
    steps = [generator.choice(24, 6, replace=False) for _ in range(num_steps)]
    steps_taken = train_steps(
        weights, data, [steps], learning_rate=lambda _: rate, precision=precision, max_tokens=40
    )
    losses = [step.read().loss for step in steps_taken]
    weights.release()
    return np.array(losses), model


@pytest.mark.parametrize(
    ("of_step", "of_batches", "told"),
    [
        (None, None, []),
        ("they fail", None, ["AdamW: torch's own, not the kernels; they fail."]),
        (None, "no", ["Weight gradients: of one layer at a time, not of several at once; no."]),
    ],
)
def test_kernels_that_are_not_used_are_named(loaded, of_step, of_batches, told):
    weights = TrainedWeights(copy.deepcopy(loaded.model), TrainSettings(), FLOAT32)
    assert weights.tell_faults() == []
    weights.kernel_fault = of_step
    weights.recorded = types.SimpleNamespace(batch_fault=of_batches)
    assert weights.tell_faults() == told


@pytest.fixture(scope="module")
def followed(loaded, data):
    return follow(loaded, data, fast=True)


def test_the_fast_path_follows_the_trajectory_of_the_plain_one(loaded, data, followed):
    plain, plain_model = follow(loaded, data, fast=False)
    fast, fast_model = followed
    np.testing.assert_allclose(fast, plain, atol=2e-4)
    assert plain[-5:].mean() < plain[:5].mean() - 0.2  # it has learned
    expected, found = (
        score_texts(model, data.encoded, precision=FLOAT32, pad_id=data.pad_id)
        for model in (plain_model, fast_model)
    )
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_bfloat16_follows_float32(loaded, data, followed):
    exact, _ = followed
    rounded, model = follow(loaded, data, fast=True, precision=BFLOAT16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    np.testing.assert_allclose(rounded[:10], exact[:10], atol=0.03)
    assert rounded[-10:].mean() == pytest.approx(exact[-10:].mean(), abs=0.05)


def test_small_updates_are_not_lost_to_bfloat16(loaded, data):
    """Steps below bfloat16's resolution add up in the masters."""
    model = copy.deepcopy(loaded.model)
    weights = TrainedWeights(model, TrainSettings(weight_decay=0.0), BFLOAT16)
    bias = model.classifier.bias
    before, rate = bias.detach().clone(), 1e-6
    with torch.no_grad():
        bias += 1.0
        weights.working.classifier.bias += 1.0
    steps = train_steps(
        weights,
        data,
        [[ALL] * 20],
        learning_rate=lambda _: rate,
        precision=BFLOAT16,
        max_tokens=10**6,
    )
    list(steps)
    moved = (bias.detach() - before - 1.0).abs()
    assert float(moved.max()) > 10 * rate


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("fast_path", ["auto", "off"])
def test_the_global_norm_is_that_before_clipping(loaded, data, fast_path, precision):
    model = copy.deepcopy(loaded.model)
    settings = TrainSettings(fast_path=fast_path, max_grad_norm=1e-2)
    weights = TrainedWeights(model, settings, precision)

    def gradient_norm():
        options = {"precision": precision, "max_tokens": 64}
        made = accumulate_gradients(weights.working, data, ALL, **options)
        norm, loss = weights.collect(made.loss).tolist()
        assert loss == float(made.loss)
        return norm

    before = gradient_norm()
    assert before > 0.05
    weights.drop_gradients()
    assert all(p.grad is None for p in (*model.parameters(), *weights.working.parameters()))
    assert gradient_norm() == pytest.approx(before, rel=1e-6)


def test_the_norm_counts_embedding_rows_too(loaded, data):
    norms = []
    for fast_path in ("auto", "off"):
        model = copy.deepcopy(loaded.model)
        weights = TrainedWeights(model, TrainSettings(fast_path=fast_path), FLOAT32)
        options = {"precision": FLOAT32, "max_tokens": 64}
        made = accumulate_gradients(weights.working, data, ALL, **options)
        norms.append(float(weights.collect(made.loss)[0]))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize("fast_path", ["auto", "off"])
def test_after_a_loss_that_is_not_finite_no_step_changes_a_weight(loaded, data, fast_path):
    """Also if its gradient is finite, as is that of the next step."""
    model = copy.deepcopy(loaded.model)
    weights = TrainedWeights(model, TrainSettings(fast_path=fast_path), FLOAT32)
    before = copy.deepcopy(model.state_dict())
    for loss in (torch.tensor(torch.inf), None):
        made = accumulate_gradients(weights.working, data, ALL, precision=FLOAT32, max_tokens=64)
        assert weights.collect(made.loss if loss is None else loss)[0].isfinite()
        weights.update(0.1)
    weights.release()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_frozen_weights_stay(loaded, data):
    model = copy.deepcopy(loaded.model)
    model.bert.embeddings.requires_grad_(False)
    before = copy.deepcopy(model.bert.embeddings.state_dict())
    weights = TrainedWeights(model, TrainSettings(weight_decay=0.5), BFLOAT16)
    steps = train_steps(
        weights, data, [[ALL]], learning_rate=lambda _: 0.1, precision=BFLOAT16, max_tokens=64
    )
    list(steps)
    weights.release()
    after = model.bert.embeddings.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_after_release_the_model_is_an_ordinary_one(loaded, data):
    model = copy.deepcopy(loaded.model)
    weights = TrainedWeights(model, TrainSettings(), FLOAT32)
    weights.release()
    accumulate_gradients(model, data, ALL, precision=FLOAT32, max_tokens=64)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.is_sparse for gradient in gradients)


def test_autograd_knows_after_release_that_the_weights_have_changed(loaded):
    """Some steps write through raw pointers, which it does not see."""
    model = copy.deepcopy(loaded.model)
    earlier = model.classifier.weight.square().sum()
    TrainedWeights(model, TrainSettings(), FLOAT32).release()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        earlier.backward()


def test_rows_that_a_step_reads_are_updated_on_a_cpu_and_of_large_tables_on_a_gpu(monkeypatch):
    """`inspect --runtime` said on a GPU that all rows are."""
    cpu, gpu, mps = map(torch.device, ("cpu", "cuda", "mps"))
    monkeypatch.setattr(weights_module, "find_kernel_obstacle", lambda _device: None)
    sizes = (30_522 * 768, 30_522 * 384)
    assert [updates_read_rows(size, gpu) for size in sizes] == [True, False]
    assert (updates_read_rows(sizes[1], cpu), updates_read_rows(sizes[0], mps)) == (True, False)
    monkeypatch.setattr(weights_module, "find_kernel_obstacle", lambda _device: "no Triton")
    assert not updates_read_rows(sizes[0], gpu)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_working_copy_is_freed_without_a_search_for_garbage(device, loaded):
    """A GPU whose memory runs out starts none."""
    model = copy.deepcopy(loaded.model)
    plug_in(model, torch.device(device))
    gc.collect()
    gc.disable()
    try:
        weights = TrainedWeights(model, TrainSettings(), BFLOAT16)
        copies = [weakref.ref(parameter) for parameter in weights.working.parameters()]
        weights.release()
        del weights
        assert not any(copy_() is not None for copy_ in copies)
    finally:
        gc.enable()
