"""Where nobody has tried the kernels they are tried against transformers' layer."""

from __future__ import annotations

import copy

import pytest
import torch

from bertfit.modeling.kernels import trial
from bertfit.modeling.kernels.exchange import exchange_layers, find_parts
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision
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
    monkeypatch.setattr(trial, "is_known_good", lambda _device: False)
    # The interpreter takes its time; texts that long are shown right by test_attention.
    monkeypatch.setattr(trial, "_MIXES", ((12, 1, 4),))


def make_layer(family):
    model = make_classifier(family, dropout=0.1, width=128).to(DEVICE)
    exchange_layers(model)
    set_up_packing(model, Precision(DEVICE, DTYPE, "a test"), "on")
    return next(module for module in model.modules() if find_parts(module) is not None)


def find(layer):
    return trial.find_fault(layer, find_parts, device=DEVICE, dtype=DTYPE)


def test_right_kernels_are_found_right_in_scoring_too_and_no_random_number_is_used_up():
    layer = make_layer("bert")
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


@pytest.mark.parametrize("only_firsts", [False, True])
def test_a_wrong_gradient_is_found(monkeypatch, only_firsts):
    def pass_wrongly(hidden, *arguments, **options):
        output = right(hidden, *arguments, **options)
        if options["only_firsts"] is not only_firsts:
            return output
        return output.detach() + 2 * (output - output.detach())  # the output itself is right

    right = trial.pass_layer
    monkeypatch.setattr(trial, "pass_layer", pass_wrongly)
    fault = find(make_layer("bert"))
    assert "other gradients than transformers' layer (1 of their norm apart)" in fault


def test_numbers_that_are_none_are_found(monkeypatch):
    right = trial.pass_layer
    monkeypatch.setattr(trial, "pass_layer", lambda *a, **o: right(*a, **o) * float("nan"))
    assert "other gradients" in find(make_layer("bert"))


def test_a_failure_is_told_and_met_once(monkeypatch):
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise RuntimeError("no such instruction\nand much more")

    monkeypatch.setattr(trial, "pass_layer", fail)
    layer = make_layer("bert")
    assert find(layer) == find(layer) == "they fail here: no such instruction"
    assert len(calls) == 1


def test_what_was_tested_is_not_tried(monkeypatch):
    monkeypatch.setattr(trial, "is_known_good", lambda _device: True)
    monkeypatch.setattr(trial, "pass_layer", None)
    assert find(make_layer("bert")) is None
