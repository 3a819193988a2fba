"""The kernels are first checked against transformers' layer."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch

from bertfit.errors import ModelError
from bertfit.modeling.forwards import find_replacement
from bertfit.modeling.gradients import find_gradients_in_a_row
from bertfit.modeling.kernels import launching, trial
from bertfit.modeling.kernels import layer as layer_module
from bertfit.modeling.kernels.exchange import exchange_layers
from bertfit.modeling.kernels.parts import find_parts
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision
from tests.limits import without_collection
from tests.modeling.kernels.on_device import DEVICE, needs_triton
from tests.modeling.test_fast_path import make_classifier

pytestmark = [
    needs_triton,
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),  # as in test_attention
]
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    monkeypatch.setattr(trial, "_found", {})
    # The interpreter takes its time; texts that long are shown right by test_attention.
    monkeypatch.setattr(trial, "_MIXES", ((9, 1),))


def make_layer(family, *, dropout=0.0):
    model = make_classifier(family, dropout=dropout, width=64, num_heads=2).to(DEVICE)
    exchange_layers(model)
    set_up_packing(model, Precision(DEVICE, DTYPE, "a test"), "on")
    return next(module for module in model.modules() if find_parts(module) is not None)


def find(layer, *, trains=True):
    return trial.find_fault(layer, device=DEVICE, dtype=DTYPE, trains=trains)


@pytest.mark.slow
def test_right_kernels_are_found_right_in_scoring_too_and_no_random_number_is_used_up():
    layer = make_layer("bert", dropout=0.1)
    weights = copy.deepcopy(layer.state_dict())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert find(layer) is None
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in layer.parameters())
    for name, weight in layer.state_dict().items():
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_the_layer_that_is_tried_leaves_memory_without_a_search_for_garbage(monkeypatch, apart):
    tried = []

    def compare(work, *_arguments, **_options):
        tried.append(weakref.ref(work))
        return apart

    monkeypatch.setattr(trial, "_compare", compare)
    layer = make_layer("bert")
    with without_collection():
        find(layer)
        assert [one() for one in tried] == [None] * len(tried)
    assert tried
    assert find_replacement(layer) is not None  # only the copy's was taken away


@pytest.mark.parametrize("only_firsts", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_wrong_gradient_is_found(monkeypatch, only_firsts):
    def pass_wrongly(hidden, *arguments, **options):
        output = right(hidden, *arguments, **options)
        if options["only_firsts"] is not only_firsts:
            return output
        return output.detach() + 2 * (output - output.detach())  # the output itself is right

    right = trial.pass_layer
    monkeypatch.setattr(trial, "pass_layer", pass_wrongly)
    fault = find(make_layer("bert"))
    assert "other numbers than transformers' layer (1 of their norm apart)" in fault


@pytest.mark.parametrize("is_scoring", [True, False])
def test_what_is_wrong_in_scoring_or_training_alone_is_found(monkeypatch, is_scoring):
    right = trial.pass_layer
    monkeypatch.setattr(
        *(trial, "pass_layer"),
        lambda *a, **o: right(*a, **o) * (1 + (o["trains"] is not is_scoring)),
    )
    assert "other numbers" in find(make_layer("bert"))


def test_a_layer_that_is_only_to_score_is_not_tried_in_training(monkeypatch):
    monkeypatch.setattr(trial, "_train_twice", None)
    layer, right = make_layer("bert", dropout=0.1), trial.pass_layer
    assert find(layer, trains=False) is None
    trial._found.clear()
    monkeypatch.setattr(trial, "pass_layer", lambda *a, **o: 2 * right(*a, **o))
    assert "other numbers" in find(layer, trains=False)
    monkeypatch.setattr(trial, "pass_layer", None)
    assert "they fail here" in find(layer)  # what was found in scoring does not hold for training


def test_what_was_right_in_training_is_not_tried_again_to_score(monkeypatch):
    layer = make_layer("bert")
    assert find(layer) is None
    monkeypatch.setattr(trial, "pass_layer", None)
    assert find(layer, trains=False) is None


def test_the_code_for_dropout_is_tried_where_it_will_run_and_drops_hardly_a_number(monkeypatch):
    tried = []

    def fail(_hidden, parts, *_, **__):
        tried.append(parts.rates)
        raise RuntimeError("enough")

    monkeypatch.setattr(trial, "pass_layer", fail)
    for dropout in (0.1, 0.0, 0.2):  # the last as the first
        find(make_layer("bert", dropout=dropout))
    assert tried == [(1e-9, 1e-9, 1e-9), (0.0, 0.0, 0.0)]


def test_gradients_that_are_not_added_up_are_found(monkeypatch):
    monkeypatch.setattr(layer_module, "find_gradients_in_a_row", forget_what_is_there)
    assert "other numbers" in find(make_layer("bert"))


def forget_what_is_there(weights):
    row, _ = find_gradients_in_a_row(weights)
    return row, False


def test_numbers_that_are_none_are_found_in_kernels_and_in_weights(monkeypatch):
    right = trial.pass_layer
    layer = make_layer("bert")
    with monkeypatch.context() as patched:
        patched.setattr(trial, "pass_layer", lambda *a, **o: right(*a, **o) * float("nan"))
        assert "other numbers" in find(layer)
    trial._found.clear()
    with torch.no_grad():
        layer.output.LayerNorm.weight[0] = float("nan")
    assert "(inf of their norm apart)" in find(layer)


class CompilationError(Exception):
    """As Triton's, which is no RuntimeError."""


@pytest.mark.parametrize("kind", [RuntimeError, CompilationError])
def test_a_failure_is_told_and_met_once(monkeypatch, kind):
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise kind("no such instruction\nand much more")

    monkeypatch.setattr(trial, "pass_layer", fail)
    layer = make_layer("bert")
    expected = f"they fail here: {kind.__name__}: no such instruction"
    assert find(layer) == find(layer) == expected
    assert len(calls) == 1


def test_a_failure_after_which_the_gpu_does_nothing_more_ends_the_command(monkeypatch):
    """So it is after a kernel has read wrong memory."""

    def fail(*_, **__):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(trial, "pass_layer", fail)
    monkeypatch.setattr(launching, "_still_works", lambda device: False)
    expected = "unusable for this process .RuntimeError: an illegal memory access was encountered"
    with pytest.raises(ModelError, match=expected) as caught:
        find(make_layer("bert"))
    assert "fast_path=off" in caught.value.hint


def test_whether_a_device_still_works_is_seen_by_using_it(monkeypatch):
    assert launching._still_works(torch.device("cpu"))

    def fail(*_, **__):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch, "ones", fail)
    assert not launching._still_works(torch.device("cpu"))


@pytest.mark.slow
def test_memory_that_ran_out_says_nothing_of_the_kernels(monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("for now")

    layer = make_layer("bert")
    with monkeypatch.context() as patched:
        patched.setattr(trial, "pass_layer", run_out)
        with pytest.raises(torch.OutOfMemoryError):
            find(layer)
    assert find(layer) is None


def test_weights_that_are_not_trained_are_tried_as_others(monkeypatch):
    layer = make_layer("bert")
    layer.attention.requires_grad_(requires_grad=False)
    assert find(layer) is None
    assert not layer.attention.self.query.weight.requires_grad
