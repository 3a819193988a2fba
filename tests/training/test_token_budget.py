"""The token budget: doubled while that is faster, halved if memory runs out."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bertfit.config import TrainSettings
from bertfit.data.encoding import EncodedTexts
from bertfit.inference.micro_batches import TokenBudget
from bertfit.inference.scoring import TOKENS_ON_GPU
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import choose_precision
from bertfit.training import measuring
from bertfit.training.loop import TrainingData
from bertfit.training.measuring import measure_token_budget
from bertfit.training.token_budget import (
    DEFAULT_TOKENS,
    default_tokens,
    find_fastest_budget,
    scoring_budget,
    starting_budget,
)


@pytest.mark.parametrize(
    ("hidden_size", "tokens"), [(8, 8192), (384, 8192), (768, 4096), (1024, 3072), (4096, 2048)]
)
def test_operators_take_more_tokens_of_narrow_models(hidden_size, tokens):
    assert default_tokens(hidden_size, is_compiled=True) == tokens
    assert default_tokens(hidden_size, is_compiled=False) == DEFAULT_TOKENS


@pytest.mark.parametrize(("asked", "tokens"), [(None, 2048), ("auto", 2048), (512, 512)])
def test_steps_start_with_the_tokens_asked_for_or_the_usual_ones(asked, tokens):
    assert starting_budget(asked) == tokens


@pytest.mark.parametrize(
    ("tokens", "longest", "lowered", "left"),
    [(2048, 100, True, 1024), (130, 100, True, 100), (100, 100, False, 100), (50, 100, False, 50)],
)
def test_a_budget_is_halved_down_to_the_longest_row(tokens, longest, lowered, left):
    budget = TokenBudget(tokens)
    assert budget.halve(longest) is lowered
    assert budget.tokens == left


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


def measure(rates, *, enough=10**6, error=OUT_OF_MEMORY):
    """Find the budget where rates[budget] is the speed; a budget without one does not fit."""
    tried = []

    def rate_of(tokens):
        tried.append(tokens)
        if tokens not in rates:
            raise error
        return rates[tokens]

    return find_fastest_budget(rate_of, enough=enough), tried


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, MemoryError()], ids=["torch's", "Python's"])
def test_a_budget_that_does_not_fit_is_not_taken(error):
    assert measure({2048: 1.0}, error=error) == (2048, [2048, 4096])


def test_a_measurement_that_fails_for_another_reason_is_an_error():
    def fail(_):
        raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match="no kernel image"):
        find_fastest_budget(fail, enough=4096)


def test_doubling_ends_where_it_gains_little():
    rates = {2048: 100.0, 4096: 150.0, 8192: 151.0, 16384: 500.0}
    assert measure(rates) == (4096, [2048, 4096, 8192])


def test_doubling_ends_where_memory_does():
    assert measure({2048: 100.0, 4096: 150.0}) == (4096, [2048, 4096, 8192])


def test_doubling_ends_where_a_step_is_whole():
    rates = {2048: 1.0, 4096: 2.0, 8192: 3.0, 16384: 4.0}
    assert measure(rates, enough=5000) == (8192, [2048, 4096, 8192])
    assert measure(rates, enough=1000) == (2048, [2048])


def test_where_nothing_fits_the_loop_is_left_to_halve():
    assert measure({}) == (2048, [2048])


def test_there_is_a_bound():
    rates = {2**power: float(2**power) for power in range(11, 40)}
    assert measure(rates, enough=2**40)[0] == 2**18


def test_measuring_takes_the_largest_step_and_leaves_the_model_as_it_was(
    tiny_model_dir, monkeypatch
):
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lengths = np.array([60] * 50 + [5] * 50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    encoded = EncodedTexts(np.full(offsets[-1], 7, dtype=np.int32), offsets, lengths)
    data = TrainingData(encoded, np.arange(100) % 2, pad_id=0)
    cuts, arithmetic = [], ["exact"]
    real = measuring.accumulate_gradients

    @contextlib.contextmanager
    def be_quick(_device):
        arithmetic.append("as in training")
        yield
        arithmetic.pop()

    def accumulate_gradients(working, train, indices, *, precision, max_tokens):
        assert arithmetic[-1] == "as in training"
        cuts.append((int(lengths[indices].sum()), max_tokens))
        return real(working, train, indices, precision=precision, max_tokens=max_tokens)

    monkeypatch.setattr(measuring, "accumulate_gradients", accumulate_gradients)
    monkeypatch.setattr(measuring, "quick_float32", be_quick)
    precision = choose_precision("cpu", "float32")
    settings = TrainSettings(batch_size=50)
    tokens = measure_token_budget(model, data, settings=settings, precision=precision)
    assert tokens in {2048, 4096}
    assert cuts == [(3000, 2048)] * 3 + [(3000, 4096)] * 3
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_rate_is_that_of_the_quicker_of_two_steps_after_the_first(tiny_model_dir, monkeypatch):
    moments = iter([0, 1, 10, 15, 20, 22])  # steps of 1, 5 and 2 seconds
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    monkeypatch.setattr(measuring, "accumulate_gradients", lambda *_, **__: None)
    monkeypatch.setattr(measuring, "find_fastest_budget", lambda rate_of, *, enough: rate_of(2048))
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    encoded = EncodedTexts(np.full(2560, 7, np.int32), np.arange(0, 2561, 64), np.full(40, 64))
    data = TrainingData(encoded, np.arange(40) % 2, pad_id=0)
    options = {"settings": TrainSettings(batch_size=40)}
    options["precision"] = choose_precision("cpu", "float32")
    assert measure_token_budget(model, data, **options) == 2560 / 2


def test_padding_counts_where_texts_are_padded(tiny_model_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(
        measuring, "find_fastest_budget", lambda _, *, enough: asked.append(enough) or 4096
    )
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    lengths = np.array([3] * 63 + [64])
    encoded = EncodedTexts(
        np.full(lengths.sum(), 7, np.int32), np.append(0, lengths.cumsum()), lengths
    )
    data = TrainingData(encoded, np.arange(64) % 2, pad_id=0)
    options = {"settings": TrainSettings(batch_size=64)}
    options["precision"] = choose_precision("cpu", "float32")
    assert measure_token_budget(model, data, **options) == 4096
    assert asked == [64 * 64]
    set_up_packing(model, options["precision"], "on")
    assert measure_token_budget(model, data, **options) is None


def test_nothing_is_measured_if_the_default_holds_every_step(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(measuring, "TrainedWeights", None)
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    encoded = EncodedTexts(np.full(640, 7, np.int32), np.arange(0, 641, 64), np.full(10, 64))
    data = TrainingData(encoded, np.arange(10) % 2, pad_id=0)
    precision = choose_precision("cpu", "float32")
    settings = TrainSettings(batch_size=10)
    assert measure_token_budget(model, data, settings=settings, precision=precision) is None


@pytest.mark.parametrize(
    ("on_gpu", "asked", "of_steps", "expected"),
    [
        (False, 2048, 2048, 2048),
        (True, 2048, 2048, TOKENS_ON_GPU),
        (True, None, 2048, TOKENS_ON_GPU),
        (True, 2**15, 2**15, 2**15),
        (True, 2048, 1024, 1024),
        (False, 2048, 1024, 1024),
    ],
    ids=["a CPU", "a GPU", "not asked", "large steps", "memory ran out", "on a CPU, too"],
)
def test_a_gpu_is_not_left_idle_in_validation(on_gpu, asked, of_steps, expected):
    assert TOKENS_ON_GPU == 2**14
    assert scoring_budget(of_steps, asked, on_gpu=on_gpu) == expected
