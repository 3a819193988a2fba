"""Trainings whose token embeddings are updated by rows, as on a GPU, equal those with dense ones.

On a CPU, Triton's interpreter runs the kernels, and a recording is the Python code itself.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from bertfit.config import TrainSettings
from bertfit.modeling.plan import Plan
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.saving import save_model
from bertfit.training import pack_sizes
from bertfit.training import weights as module
from bertfit.training.embedding_rows import EmbeddingRows
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows
from bertfit.training.loop import TrainingData, accumulate_gradients, train_steps
from bertfit.training.measuring import measure_speed
from bertfit.training.reports import NonFiniteLossError
from bertfit.training.weights import TrainedWeights
from tests.modeling.flash_on_cpu import flash_on_cpu
from tests.modeling.kernels.on_device import DEVICE, needs_triton
from tests.modeling.test_packing import PACKED, make_encoded
from tests.training.test_recorded_passes import (
    MAX_TOKENS,
    ON_GPU,
    ROWS,
    gradients_of,
    make_data,
    make_model,
    make_model_on_gpu,
    on_a_gpu,
)

FLOAT32, BFLOAT16 = (choose_precision("cpu", dtype) for dtype in ("float32", "bfloat16"))
ON, OFF = Plan(is_on=True, reason="a test"), Plan(is_on=False, reason="a test")
interpreted = pytest.mark.skipif(DEVICE.type != "cpu", reason="kernels are compiled on a GPU")
WAYS = [pytest.param("written", marks=pytest.mark.slow), "recorded"]


class Replayer:
    """Does again, for a replay, what was to be recorded."""

    def __init__(self):
        self.num_recorded = self.num_replayed = 0

    def run(self, work):
        work()

    def record(self, work):
        self.num_recorded += 1

        def replay():
            self.num_replayed += 1
            work()

        return replay

    def forget(self):
        pass


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Give a function that makes `TrainedWeights` as on a GPU, with passes recorded or not."""
    take = module._take_embedding_rows
    monkeypatch.setattr(module, "can_launch", lambda pairs: True)
    monkeypatch.setattr(
        module, "_take_embedding_rows", lambda *those, on_gpu: take(*those[:3], Precision(
            torch.device("cuda"), torch.float32, "a test"), on_gpu=on_gpu)
    )  # fmt: skip
    monkeypatch.setattr(module, "find_step_fault", lambda *_, **__: None)  # has its own tests
    monkeypatch.setattr(pack_sizes, "TOKENS_STEP", 16)  # less padding for the interpreter

    def build(model, way, *, precision=FLOAT32, **options):
        replayer = Replayer()
        monkeypatch.setattr(module, "GraphRecorder", lambda _device: replayer)
        monkeypatch.setattr(module, "plan_passes", lambda *_: ON if way == "recorded" else OFF)
        weights = TrainedWeights(model, settle(**options), precision)
        assert isinstance(weights._rows, GpuEmbeddingRows)
        return weights, replayer

    with flash_on_cpu():
        yield build


@pytest.fixture(autouse=True)
def small_tables_count(monkeypatch):
    monkeypatch.setattr(module, "_LEAST_ON_GPU", 0)


def settle(*, fast_path="auto"):
    return TrainSettings(fast_path=fast_path, weight_decay=0.1, max_grad_norm=0.5)


def take_steps(weights, *, precision=FLOAT32, num_steps=5, max_tokens=MAX_TOKENS):
    """Return steps of 6 rows in several packs, with frequent and rare tokens."""
    generator = np.random.default_rng(0)
    encoded = make_encoded(generator.integers(2, 24, 24))
    rare = generator.random(len(encoded.token_ids)) < 0.2
    encoded.token_ids[~rare] = encoded.token_ids[~rare] % 7 + 5
    steps = [generator.permutation(24)[:6] for _ in range(num_steps)]
    return train_steps(
        weights,
        TrainingData(encoded, np.arange(24) % 3, pad_id=0),
        [steps],
        learning_rate=lambda step: 1e-3 * (1 + step % 3),
        precision=precision,
        max_tokens=max_tokens,
    )


def train_densely(model, *, precision=FLOAT32, **options):
    weights = TrainedWeights(model, settle(fast_path="off"), precision)
    reports = [step.read() for step in take_steps(weights, precision=precision, **options)]
    weights.release()
    return reports


def assert_same(model, expected, **tolerance):
    for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, msg=name, **tolerance)


@pytest.mark.slow
@interpreted
@needs_triton
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_a_training_comes_to_the_same_weights(as_on_gpu, family, way):
    model = make_model(family)
    expected, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    weights, replayer = as_on_gpu(model, way)
    found = [step.read() for step in take_steps(weights)]
    assert (replayer.num_replayed > 2) == (way == "recorded")
    for ours, theirs in zip(found, train_densely(expected), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    norms = [report.grad_norm for report in found]
    assert min(norms) < 0.5 < max(norms)  # some are clipped
    table = model.get_input_embeddings().weight
    late = (weights._rows._last < weights._rows._step).sum()
    assert 0 < int(late) < len(table)
    weights.settle()
    assert_same(model, expected, atol=1e-4, rtol=1e-4)
    moved = [state for name, state in before.items() if name.endswith("word_embeddings.weight")]
    assert float((table - moved[0]).detach().abs().max()) > 5e-3


@pytest.mark.slow
@interpreted
@needs_triton
def test_a_training_in_bfloat16_follows_the_dense_one(as_on_gpu):
    model = make_model()
    expected, before = copy.deepcopy(model), copy.deepcopy(model.get_input_embeddings().weight)
    weights, _ = as_on_gpu(model, "recorded", precision=BFLOAT16)
    found = [step.read().loss for step in take_steps(weights, precision=BFLOAT16)]
    dense = [report.loss for report in train_densely(expected, precision=BFLOAT16)]
    assert found == pytest.approx(dense, abs=0.02)
    weights.release()
    ours, theirs = (
        each.get_input_embeddings().weight.detach() - before.detach() for each in (model, expected)
    )
    assert float((ours - theirs).norm() / theirs.norm()) < 0.2


@interpreted
@needs_triton
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "family",
    [
        "bert",
        *(pytest.param(name, marks=pytest.mark.slow) for name in PACKED if name != "bert"),
    ],
)
def test_the_dense_gradient_can_be_read_before_the_update(as_on_gpu, family, way):
    written = make_model(family)
    model = copy.deepcopy(written)
    weights, _ = as_on_gpu(model, way)
    for seed in range(3):
        data, options = make_data(seed), {"precision": FLOAT32, "max_tokens": MAX_TOKENS}
        weights.drop_gradients()
        weights.prepare(np.append(data.encoded.token_ids, data.pad_id))
        made = accumulate_gradients(model, data, ROWS, recorded=weights.recorded, **options)
        written.zero_grad()
        accumulate_gradients(written, data, ROWS, **options)
        wanted = gradients_of(written)
        assert gradients_of(model).keys() == wanted.keys()
        for name, gradient in gradients_of(model).items():
            torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-5, msg=name)
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in wanted.values()))
        expected = (norm, float(made.loss))
        assert weights.collect(made.loss).tolist() == pytest.approx(expected, rel=1e-5)


@interpreted
@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_taken_again_is_the_same_step(as_on_gpu, way):
    model = make_model()
    expected = copy.deepcopy(model)
    weights, _ = as_on_gpu(model, way)
    steps, calls = take_steps(weights), []
    reports = [next(steps).read() for _ in range(2)]

    def run_out(*_):
        calls.append(1)
        if len(calls) == 2:  # after the first pack has left its gradient
            raise torch.OutOfMemoryError

    hook = model.register_forward_pre_hook(run_out)
    reports.append(next(steps).read())
    hook.remove()
    reports += [step.read() for step in steps]
    assert len(calls) > 2
    assert reports[-1].max_tokens == (MAX_TOKENS if way == "recorded" else 23)  # the longest row's
    train_densely(expected)
    weights.release()
    assert_same(model, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@interpreted
@needs_triton
@pytest.mark.parametrize("way", WAYS)
def test_after_a_step_that_is_not_finite_no_step_changes_a_weight(as_on_gpu, way):
    models = make_model(), make_model()
    shorter, longer = (as_on_gpu(model, way)[0] for model in models)
    for weights in (shorter, longer):
        steps = take_steps(weights)
        for _ in range(2):
            next(steps).read()
    shorter.release()
    hook = models[1].classifier.register_forward_hook(lambda *those: those[-1] * math.nan)
    spoilt = next(steps)
    hook.remove()
    later = [next(steps) for _ in range(2)]
    with pytest.raises(NonFiniteLossError):
        spoilt.read()
    assert all(math.isfinite(step.read().grad_norm) for step in later)
    longer.release()
    assert_same(*models, atol=0.0, rtol=0.0)


@interpreted
@needs_triton
def test_what_is_read_between_trainings_is_an_ordinary_model(as_on_gpu, tmp_path):
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    as_on_gpu(model, "written")[0].release()
    speed = measure_speed(model, make_data(0), settings=settle(), precision=FLOAT32)
    assert speed.tokens_per_second > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "forward" not in vars(model.get_input_embeddings())
    accumulate_gradients(model, make_data(0), ROWS, precision=FLOAT32, max_tokens=64)
    assert not model.get_input_embeddings().weight.grad.is_sparse
    save_model(model, tmp_path / "model")


@pytest.mark.parametrize(
    ("device", "fits", "kind"),
    [("cpu", False, EmbeddingRows), ("cuda", True, GpuEmbeddingRows), ("cuda", False, None)],
)
@needs_triton
def test_rows_are_chosen_by_device_and_kernels(monkeypatch, device, fits, kind):
    precision = Precision(torch.device(device), torch.float32, "a test")

    def choose(model, fast_path="auto"):
        settings = settle(fast_path=fast_path)
        rows = module._take_embedding_rows(model, model, settings, precision, on_gpu=fits)
        return None if rows is None else type(rows)

    assert choose(make_model()) is kind
    assert choose(make_model(), fast_path="off") is None
    with monkeypatch.context() as patch:
        patch.setattr(module, "_LEAST_ON_GPU", 10**6)
        assert choose(make_model()) is (kind if device == "cpu" else None)
    scaled, frozen, limited = make_model(), make_model(), make_model()
    scaled.get_input_embeddings().scale_grad_by_freq = True
    frozen.get_input_embeddings().requires_grad_(False)
    limited.get_input_embeddings().max_norm = 1.0
    tied = make_model()
    tied.other = torch.nn.Linear(16, 60)
    tied.other.weight = tied.get_input_embeddings().weight
    assert {choose(each) for each in (scaled, frozen, limited, tied)} == {None}


def train_on_gpu(model, *, num_steps=8):
    """Train for a few steps; return the losses, and how far the token embeddings moved."""
    before = model.get_input_embeddings().weight.detach().clone()
    weights = TrainedWeights(model, settle(), ON_GPU)
    steps = take_steps(weights, precision=ON_GPU, num_steps=num_steps)
    losses = [step.read().loss for step in steps]
    assert weights.recording.is_on, weights.recording
    assert any(place.replay is not None for place in weights.recorded._places.values())
    weights.release()
    return weights, losses, model.get_input_embeddings().weight.detach() - before


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_recorded_training_on_a_gpu_follows_the_dense_one(monkeypatch, family):
    model = make_model_on_gpu(family)
    rows, losses, moved = train_on_gpu(copy.deepcopy(model))
    assert isinstance(rows._rows, GpuEmbeddingRows)
    monkeypatch.setattr(module, "_take_embedding_rows", lambda *_, on_gpu: None)
    dense, expected_losses, expected = train_on_gpu(copy.deepcopy(model))
    assert dense._rows is None
    assert losses == pytest.approx(expected_losses, abs=0.05)
    assert float((moved - expected).norm() / expected.norm()) < 0.2
    never = (rows._rows._first.abs().sum(dim=1) == 0.0).nonzero().flatten()
    assert len(never) > 0
    torch.testing.assert_close(moved[never], expected[never], atol=1e-6, rtol=1e-4)


@pytest.mark.gpu
@on_a_gpu
def test_measuring_the_speed_on_a_gpu_changes_no_weight():
    model = make_model_on_gpu()
    before = copy.deepcopy(model.state_dict())
    measure_speed(model, make_data(0), settings=settle(), precision=ON_GPU)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
