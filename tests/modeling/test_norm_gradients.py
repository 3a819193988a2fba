"""Norms in bfloat16 on a CPU: torch's outputs to the bit, and gradients summed in float32."""

from __future__ import annotations

import copy

import pytest
import torch

from bertfit.modeling.norm_gradients import pass_norm
from bertfit.modeling.operators.exchange import exchange_modules

WIDTH, NUM_TOKENS = 64, 4096


def make_norm(*, bias=True, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    norm = torch.nn.LayerNorm(WIDTH, bias=bias)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(WIDTH, generator=generator), alpha=0.3)
    return norm.to(dtype)


def make_values(*, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, NUM_TOKENS // 8, WIDTH, generator=generator).to(dtype)


def make_gradient():
    """Mostly of one sign, as that of a loss often is."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, NUM_TOKENS // 8, WIDTH, generator=generator).add(0.5).bfloat16()


def run(forward, norm, values):
    values = values.clone().requires_grad_()
    output = forward(norm, values)
    output.backward(make_gradient().to(output.dtype))
    return output, [values.grad, *(parameter.grad for parameter in norm.parameters())]


def error(found, expected):
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("bias", [True, False])
def test_sums_over_many_tokens_do_not_stop_growing(bias):
    norm = make_norm(bias=bias)
    values = make_values()
    exact = copy.deepcopy(norm).float()
    _, expected = run(torch.nn.LayerNorm.forward, exact, values.float())
    own, found = run(pass_norm, copy.deepcopy(norm), values)
    torchs, before = run(torch.nn.LayerNorm.forward, norm, values)
    assert torch.equal(own, torchs)
    assert torch.equal(found[0], before[0])
    assert [one.dtype for one in found] == [torch.bfloat16] * len(found)
    for gradient, right in zip(found[1:], expected[1:], strict=True):
        assert error(gradient, right) < 0.005


def test_frozen_weights_get_no_gradient():
    norm = make_norm()
    norm.weight.requires_grad = False
    _, (of_values, of_weight, of_bias) = run(pass_norm, norm, make_values())
    assert of_weight is None
    assert of_values is not None
    assert of_bias is not None
    norm.bias.requires_grad = False
    _, (of_values, _, _) = run(pass_norm, norm, make_values())
    assert of_values is not None


def test_values_that_need_no_gradient_get_none():
    norm = make_norm()
    pass_norm(norm, make_values()).sum().backward()
    assert (norm.bias.grad == NUM_TOKENS).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float32_and_scoring_are_left_to_torch(dtype, monkeypatch):
    norm, values = make_norm(dtype=dtype), make_values(dtype=dtype)
    seen = []
    forward = torch.nn.LayerNorm.forward
    monkeypatch.setattr(
        torch.nn.LayerNorm, "forward", lambda *given: seen.append(1) or forward(*given)
    )
    with torch.set_grad_enabled(dtype == torch.float32):
        pass_norm(norm, values)
    assert seen


def test_the_fast_path_uses_it_without_operators():
    norm = make_norm()
    exchange_modules(norm)
    _, expected = run(
        torch.nn.LayerNorm.forward, copy.deepcopy(norm).float(), make_values().float()
    )
    _, found = run(lambda norm, values: norm(values), norm, make_values())
    assert error(found[2], expected[2]) < 0.005
