"""The training loop: a step's gradient is that of the mean loss of its rows, however it is cut."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import types

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bertfit.config import TrainSettings
from bertfit.errors import TrainingError
from bertfit.inference import micro_batches
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import choose_precision
from bertfit.training import loop
from bertfit.training.loop import accumulate_gradients, train_steps
from bertfit.training.reports import NonFiniteLossError, advise_smaller_steps
from bertfit.training.weights import TrainedWeights

PRECISION = choose_precision("cpu", "float32")
INDICES = np.array([3, 0, 7, 5, 1, 9])


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"], dropout=0.0)
    with torch.no_grad():  # the gradients of a start are too small to tell apart
        for parameter in loaded.model.parameters():
            parameter.mul_(4)
    return loaded


@pytest.fixture
def model(loaded):
    return copy.deepcopy(loaded.model)


@pytest.fixture(scope="module")
def reviews(make_reviews):
    return make_reviews(24)


@pytest.fixture(scope="module")
def data(loaded, reviews, encode_reviews):
    return encode_reviews(loaded, reviews)


def gradients(model, data, *, max_tokens, indices=INDICES):
    model.zero_grad()
    made = accumulate_gradients(model, data, indices, precision=PRECISION, max_tokens=max_tokens)
    return {name: p.grad.clone() for name, p in model.named_parameters()}, made


def make_steps(model, data, epochs, *, max_grad_norm=1.0, **changes):
    options = {
        "learning_rate": lambda step: 0.01 / (step + 1),
        "precision": PRECISION,
        "max_tokens": 64,
    }
    weights = TrainedWeights(model, TrainSettings(max_grad_norm=max_grad_norm), PRECISION)
    return (step.read() for step in train_steps(weights, data, epochs, **(options | changes)))


@pytest.mark.parametrize("max_tokens", [1, 20, 40, 64])
def test_the_gradient_does_not_depend_on_the_token_budget(model, data, max_tokens):
    whole, _ = gradients(model, data, max_tokens=10**6)
    cut, _ = gradients(model, data, max_tokens=max_tokens)
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("max_tokens", [1, 10**6])
def test_the_gradient_is_that_of_transformers_own_loss(model, loaded, data, reviews, max_tokens):
    found, made = gradients(model, data, max_tokens=max_tokens)
    model.zero_grad()
    texts = [reviews[index]["text"] for index in INDICES]
    inputs = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    loss = model(**inputs, labels=torch.from_numpy(data.label_ids[INDICES])).loss
    loss.backward()
    assert float(made.loss) == pytest.approx(loss.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_gradients_are_not_all_zero(model, data):
    """Else the two tests above would compare nothing."""
    found, _ = gradients(model, data, max_tokens=64)
    assert sum(float(gradient.abs().max()) > 1e-4 for gradient in found.values()) > 20


def test_tokens_and_padding_are_counted(model, data):
    lengths = data.encoded.lengths[INDICES]
    _, made = gradients(model, data, max_tokens=10**6)
    assert made.num_tokens == lengths.sum()
    assert made.num_pad_tokens == len(lengths) * lengths.max() - lengths.sum()


@pytest.mark.parametrize(("max_tokens", "num_packs"), [(10**6, 1), (1, len(INDICES))])
def test_results_of_one_pack_are_taken_as_they_are_and_those_of_more_are_joined(
    model, data, max_tokens, num_packs
):
    passed = [(torch.tensor(2.0**i), torch.tensor([i]), 10) for i in range(num_packs)]
    left = iter(passed)
    recorded = types.SimpleNamespace(take=lambda *_, **__: next(left))
    made = accumulate_gradients(
        model, data, INDICES, precision=PRECISION, max_tokens=max_tokens, recorded=recorded
    )
    assert float(made.loss) == 2**num_packs - 1
    assert made.predicted_ids.tolist() == list(range(num_packs))
    is_same = made.loss is passed[0][0], made.predicted_ids is passed[0][1]
    assert is_same == (num_packs == 1,) * 2


def test_recorded_passes_are_told_the_rows_of_the_step_and_the_padding_token(model, data):
    told = []

    def take(pack, label_ids, **options):
        told.append(options)
        return torch.zeros(()), torch.from_numpy(label_ids), pack.num_tokens

    accumulate_gradients(
        model,
        dataclasses.replace(data, pad_id=3),
        INDICES,
        precision=PRECISION,
        max_tokens=1,
        recorded=types.SimpleNamespace(take=take),
    )
    assert told == [{"num_rows": len(INDICES), "pad_id": 3}] * len(INDICES)


def test_rows_are_padded_with_the_token_of_the_data(model, data, monkeypatch):
    real, padding = micro_batches.compute_logits, set()

    def compute_and_look(working, token_ids, mask, **options):
        padding.update(token_ids[mask == 0].tolist())
        return real(working, token_ids, mask, **options)

    monkeypatch.setattr(micro_batches, "compute_logits", compute_and_look)
    gradients(model, dataclasses.replace(data, pad_id=3), max_tokens=10**6)
    assert padding == {3}


def test_predicted_ids_belong_to_their_rows(model, data):
    rows = [data.encoded.gather(INDICES[i : i + 1]).astype(np.int64) for i in range(len(INDICES))]
    with torch.no_grad():  # else all rows are of one class
        logits = torch.cat([model(torch.from_numpy(row)[None]).logits for row in rows])
        model.classifier.bias[1] += (logits[:, 0] - logits[:, 1]).mean()
        logits = torch.cat([model(torch.from_numpy(row)[None]).logits for row in rows])
    (report,) = make_steps(model, data, [[INDICES]], max_tokens=20, learning_rate=lambda _: 0.0)
    assert sorted(report.indices.tolist()) == sorted(INDICES.tolist())
    expected = dict(zip(INDICES.tolist(), logits.argmax(dim=1).tolist(), strict=True))
    found = dict(zip(report.indices.tolist(), report.predicted_ids.tolist(), strict=True))
    assert found == expected
    assert set(found.values()) == {0, 1}


def test_reports_count_steps_epochs_and_rates(model, data):
    epochs = [[np.array([0, 1]), np.array([2])], [np.array([3, 4])]]
    reports = list(make_steps(model, data, epochs))
    assert [(report.step, report.epoch) for report in reports] == [(0, 0), (1, 0), (2, 1)]
    assert [report.learning_rate for report in reports] == [0.01, 0.005, 0.01 / 3]
    assert all(report.seconds > 0 for report in reports)


def test_the_loop_takes_a_step_only_when_asked(model, data):
    """It is a generator: who consumes it may stop after any step."""
    before = copy.deepcopy(model.state_dict())
    steps = make_steps(model, data, [[INDICES, INDICES]])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert next(steps).step == 0
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)


def test_a_step_is_taken_with_its_learning_rate(model, data):
    """A new AdamW moves a weight by its learning rate, but for decay."""
    steps = make_steps(model, data, [[INDICES]], learning_rate=lambda _: 1e-4)
    before = model.classifier.weight.detach().clone()
    next(steps)
    moved = (model.classifier.weight.detach() - before).abs().max()
    assert float(moved) == pytest.approx(1e-4, rel=0.05)


def test_the_reported_loss_is_from_before_the_step(model, data):
    logits = [
        model(torch.from_numpy(data.encoded.token_ids[a:b][None].astype(np.int64))).logits
        for a, b in zip(data.encoded.offsets, data.encoded.offsets[1:], strict=False)
    ]
    targets = torch.from_numpy(data.label_ids[INDICES])
    expected = cross_entropy(torch.cat(logits)[INDICES], targets)
    (report,) = make_steps(model, data, [[INDICES]])
    assert report.loss == pytest.approx(expected.item(), abs=1e-5)


def test_the_reported_norm_is_from_before_clipping(model, data):
    found, _ = gradients(model, data, max_tokens=64)
    expected = math.sqrt(sum(float(gradient.square().sum()) for gradient in found.values()))
    model.zero_grad()
    (report,) = make_steps(model, data, [[INDICES]], max_grad_norm=1e-3)
    assert report.grad_norm == pytest.approx(expected, rel=1e-4)


def test_no_gradient_is_left_for_the_next_step(model, data):
    list(make_steps(model, data, [[INDICES]]))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_step_is_taken_in_train_mode(model, data):
    """Validation between steps puts the model into eval mode."""
    steps = make_steps(model, data, [[INDICES, INDICES]])
    next(steps)
    model.eval()
    next(steps)
    assert model.training


def test_the_padding_token_is_brought_up_to_date_too(model, data, monkeypatch):
    """XLNet, for one, reads padding; its row is then as late as any other."""
    seen = []
    monkeypatch.setattr(TrainedWeights, "prepare", lambda _self, ids: seen.append(set(ids)))
    list(make_steps(model, data, [[INDICES]]))
    assert seen == [{*data.encoded.gather(INDICES), data.pad_id}]
    assert data.pad_id not in data.encoded.gather(INDICES)


def test_a_loss_that_is_not_finite_stops_with_the_steps_rows(model, data):
    with torch.no_grad():
        model.classifier.bias[0] = math.nan
    with pytest.raises(NonFiniteLossError) as caught:
        list(make_steps(model, data, [[INDICES]]))
    assert isinstance(caught.value, TrainingError)
    assert sorted(caught.value.indices) == sorted(INDICES)
    assert str(caught.value) == (
        "training stopped at step 1 (epoch 1): loss nan, gradient norm nan\n"
        "Lower learning_rate, and look at the rows named."
    )


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", "Lower learning_rate"),
        ("bfloat16", "Lower learning_rate, or train with --dtype float32"),
    ],
)
def test_float32_is_advised_where_it_is_another_type(dtype, expected):
    assert advise_smaller_steps(choose_precision("cpu", dtype)) == expected


def test_a_gradient_that_is_not_finite_leaves_the_weights_of_the_step_before(model, data):
    steps = make_steps(model, data, [[INDICES, INDICES]])
    next(steps)
    before = copy.deepcopy(model.state_dict())
    model.bert.pooler.dense.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match=r"step 2 \(epoch 1\)"):
        next(steps)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("max_tokens", [1, 20, 40, 10**6])
def test_packed_rows_give_the_gradient_of_padded_ones(model, data, max_tokens):
    padded, expected = gradients(model, data, max_tokens=10**6)
    packed_model = copy.deepcopy(model)
    set_up_packing(packed_model, PRECISION, "on")
    packed, made = gradients(packed_model, data, max_tokens=max_tokens)
    assert float(made.loss) == pytest.approx(float(expected.loss), abs=1e-6)
    assert (made.num_tokens, made.num_pad_tokens) == (data.encoded.lengths[INDICES].sum(), 0)
    for name, gradient in padded.items():
        torch.testing.assert_close(packed[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


CUDA_IS_FULL = torch.OutOfMemoryError("CUDA out of memory")
CUBLAS_IS_FULL = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")


def run_out_of_memory(monkeypatch, *, most_rows, error=CUDA_IS_FULL):
    """Let a micro-batch of more rows fail, as a GPU does whose memory has ended."""
    real, failures = micro_batches.compute_logits, []

    def compute_logits(model, token_ids, mask, **options):
        if len(token_ids) > most_rows:
            failures.append(len(token_ids))
            raise error
        return real(model, token_ids, mask, **options)

    monkeypatch.setattr(micro_batches, "compute_logits", compute_logits)
    return failures


def with_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    return model


@pytest.mark.parametrize("error", [CUDA_IS_FULL, CUBLAS_IS_FULL, MemoryError()])
def test_a_step_that_does_not_fit_is_taken_again_in_smaller_pieces(model, data, monkeypatch, error):
    """Dropout is on: the random numbers, too, are those of a run with the smaller budget."""
    model = with_dropout(model)
    epochs = [[INDICES, INDICES[::-1], INDICES]]
    torch.manual_seed(0)
    expected = list(make_steps(copy.deepcopy(model), data, epochs, max_tokens=18))
    failures = run_out_of_memory(monkeypatch, most_rows=2, error=error)
    torch.manual_seed(0)
    # Rows of 13 and 11 tokens go well, and leave a gradient and used random numbers; then 10, 10
    # and 7 do not fit.
    found = list(make_steps(model, data, epochs, max_tokens=36))
    assert failures == [3]  # once; then the rest fits
    assert [report.max_tokens for report in found] == [18] * 3
    assert [report.loss for report in found] == [report.loss for report in expected]
    assert [report.grad_norm for report in found] == [report.grad_norm for report in expected]


def test_a_step_is_computed_with_quick_arithmetic(model, data, monkeypatch):
    real, within = loop.accumulate_gradients, []

    @contextlib.contextmanager
    def be_quick(device):
        within.append(device)
        yield
        within.pop()

    def accumulate_and_look(*arguments, **options):
        assert within == [PRECISION.device]
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "quick_float32", be_quick)
    monkeypatch.setattr(loop, "accumulate_gradients", accumulate_and_look)
    list(make_steps(model, data, [[INDICES]]))
    assert not within


def test_a_step_that_fails_for_another_reason_is_not_taken_again(model, data, monkeypatch):
    error = RuntimeError("CUDA error: device-side assert triggered")
    failures = run_out_of_memory(monkeypatch, most_rows=2, error=error)
    with pytest.raises(RuntimeError, match="device-side assert"):
        list(make_steps(model, data, [[INDICES]], max_tokens=41))
    assert failures == [3]


def test_a_budget_may_shrink_below_the_longest_row_of_other_steps(model, data, monkeypatch):
    lengths = data.encoded.lengths
    run_out_of_memory(monkeypatch, most_rows=1)
    (report,) = make_steps(model, data, [[lengths.argsort()[:2]]], max_tokens=64)
    assert report.max_tokens < lengths.max()


def test_random_numbers_of_a_gpu_are_drawn_again_too(monkeypatch):
    gpu, set_back = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *those: set_back.append(those))
    for device in (torch.device("cpu"), gpu):
        loop.RandomNumbers.keep(device).set_back()
    assert set_back == [("state of cuda:0", gpu)]


def test_a_row_that_does_not_fit_alone_ends_the_training(model, data, monkeypatch):
    failures = run_out_of_memory(monkeypatch, most_rows=0)
    with pytest.raises(torch.OutOfMemoryError):
        list(make_steps(model, data, [[INDICES]], max_tokens=64))
    assert failures == [4, 2, 1, 1]  # at 64, 32 and 16 tokens, and at those of the longest row
