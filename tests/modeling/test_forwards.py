"""A module whose forward is replaced is copied, pickled and freed like any other."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import weakref

import pytest
import torch

from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.forwards import (
    bind_forwards,
    find_replacement,
    replace_forward,
    restore_forwards,
)
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import choose_precision
from tests.limits import without_collection
from tests.modeling.test_fast_path import CPU, FAMILIES, make_classifier

IDS = torch.arange(24).view(2, 12) + 5


def double(module: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
    return 2 * torch.nn.Linear.forward(module, values)


def test_a_forward_is_replaced_and_restored():
    module, values = torch.nn.Linear(3, 2), torch.ones(1, 3)
    expected = module(values)
    replace_forward(module, double)
    assert find_replacement(module) is double
    assert torch.equal(module(values), 2 * expected)
    restore_forwards([module])
    assert find_replacement(module) is None
    assert torch.equal(module(values), expected)


def test_a_forward_may_be_bound_for_the_compiler():
    module, values = torch.nn.Linear(3, 2), torch.ones(1, 3)
    replace_forward(module, double)
    expected = module(values)
    bind_forwards([module, torch.nn.Linear(1, 1)])
    assert module.forward.__self__ is module
    assert find_replacement(module) is double
    assert torch.equal(module(values), expected)


def test_a_copy_computes_with_its_own_weights():
    module, values = torch.nn.Linear(3, 2), torch.ones(1, 3)
    replace_forward(module, double)
    for other in (copy.deepcopy(module), torch.load(save(module), weights_only=False)):
        assert torch.equal(other(values), module(values))
        torch.nn.init.zeros_(other.weight)
        torch.nn.init.ones_(other.bias)
        assert torch.equal(other(values), torch.full((1, 2), 2.0))


def save(module):
    written = io.BytesIO()
    torch.save(module, written)
    written.seek(0)
    return written


LOAD = """
import sys, torch
model = torch.load(sys.argv[1], weights_only=False)
torch.save(model(input_ids=torch.arange(24).view(2, 12) + 5).logits, sys.argv[2])
"""


@pytest.mark.parametrize("packs", [False, True])
def test_a_saved_model_is_loaded_in_another_process(tmp_path, packs):
    """The notebook saves whole models."""
    model = make_classifier("bert").eval()
    plug_in(model, CPU)
    if packs:
        set_up_packing(model, choose_precision("cpu", "float32"), "on")
    torch.save(model, tmp_path / "model.pth")
    command = [sys.executable, "-W", "ignore", "-c", LOAD]
    subprocess.run([*command, tmp_path / "model.pth", tmp_path / "logits"], check=True, timeout=100)
    torch.testing.assert_close(torch.load(tmp_path / "logits"), model(input_ids=IDS).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dropped_model_is_freed_without_a_search_for_garbage(family):
    model = make_classifier(family)
    plug_in(model, CPU)
    weights = [weakref.ref(weight) for weight in model.parameters()]
    with without_collection():
        del model
        assert [weight() for weight in weights] == [None] * len(weights)


def test_a_part_of_a_dropped_model_computes():
    model = make_classifier("bert").eval()
    plug_in(model, CPU)
    part, expected = model.base_model, model.base_model(input_ids=IDS).last_hidden_state
    assert find_replacement(part.encoder.layer[-1]) is not None
    del model
    assert find_replacement(part.encoder.layer[-1]) is None
    torch.testing.assert_close(part(input_ids=IDS).last_hidden_state, expected)
