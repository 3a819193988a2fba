"""Compiled layers and their gradients equal torch in float32, up to rounding."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch.nn.functional import gelu as plain_gelu

from bertfit.modeling.gradients import keep_master
from bertfit.modeling.operators.layers import gelu, multiply, normalize

ROUNDING = 2**-8
BELIEVABLE = 1e-4

pytestmark = pytest.mark.usefixtures("operators")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(2)


def draw(*shape):
    return torch.randn(*shape).to(torch.bfloat16).requires_grad_()


def copy_exactly(module):
    """Return the module in float32, with the same weights."""
    exact = type(module)(*_sizes(module))
    exact.load_state_dict(module.state_dict())
    return exact


def _sizes(module):
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    return module.normalized_shape, module.eps


def assert_near(found, expected, *, rounding=ROUNDING):
    assert found.shape == expected.shape
    found, expected = found.detach().float(), expected.detach().float()
    error = (found - expected).abs().max()
    assert float(error) <= rounding * float(expected.abs().max())


def backpropagate(found, expected):
    slopes = torch.randn(found.shape).to(torch.bfloat16)
    found.backward(slopes)
    expected.backward(slopes.float())


@pytest.mark.parametrize("activate", [False, True], ids=["linear", "gelu"])
@pytest.mark.parametrize(
    ("num_rows", "num_inputs", "num_outputs"),
    [(64, 32, 32), (65, 32, 96), (200, 96, 64), (300, 384, 1536), (300, 1536, 384), (1, 64, 32)],
)
def test_a_linear_layer_is_one(num_rows, num_inputs, num_outputs, activate):
    layer = torch.nn.Linear(num_inputs, num_outputs).to(torch.bfloat16)
    exact = copy_exactly(layer)
    values = draw(num_rows, num_inputs)
    exact_values = values.detach().float().requires_grad_()
    found = multiply(values, layer, activate=activate)
    expected = exact(exact_values)
    if activate:
        expected = plain_gelu(expected)
    assert_near(found, expected)
    backpropagate(found, expected)
    assert_near(values.grad, exact_values.grad, rounding=2 * ROUNDING)
    assert_near(layer.weight.grad, exact.weight.grad, rounding=2 * ROUNDING)
    assert_near(layer.bias.grad, exact.bias.grad, rounding=2 * ROUNDING)


@pytest.mark.parametrize("activate", [False, True], ids=["linear", "gelu"])
def test_an_output_may_be_changed_in_place(activate):
    """As Longformer does with its queries; torch refuses that for views."""
    layer = torch.nn.Linear(32, 64).to(torch.bfloat16)
    exact = copy_exactly(layer)
    values = draw(70, 32)
    exact_values = values.detach().float().requires_grad_()
    found = multiply(values, layer, activate=activate)
    found /= 2
    expected = exact(exact_values)
    expected = (plain_gelu(expected) if activate else expected) / 2
    assert_near(found, expected)
    backpropagate(found, expected)
    assert_near(values.grad, exact_values.grad, rounding=2 * ROUNDING)


def test_rows_may_have_any_number_of_dimensions():
    layer = torch.nn.Linear(64, 32).to(torch.bfloat16)
    values = draw(3, 5, 7, 64)
    assert_near(multiply(values, layer), layer(values))


def test_gradients_are_added_to_the_master_unrounded():
    """Two micro-batches, in float32; the copy that does the arithmetic gets none."""
    layer = torch.nn.Linear(64, 96).to(torch.bfloat16)
    master = copy_exactly(layer)
    keep_master(layer.weight, master.weight)
    keep_master(layer.bias, master.bias)
    exact = copy_exactly(layer)
    for num_rows in (70, 40):
        values = draw(num_rows, 64)
        slopes = torch.randn(num_rows, 96).to(torch.bfloat16)
        multiply(values, layer).backward(slopes)
        exact(values.detach().float()).backward(slopes.float())
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    torch.testing.assert_close(master.weight.grad, exact.weight.grad, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(master.bias.grad, exact.bias.grad, rtol=1e-5, atol=1e-4)


def test_frozen_weights_get_no_gradient():
    layer = torch.nn.Linear(64, 32).to(torch.bfloat16).requires_grad_(False)
    values = draw(70, 64)
    multiply(values, layer).sum().backward()
    assert values.grad.any()
    assert layer.weight.grad is None


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", [(1, 32), (70, 32), (3, 50, 384), (2, 768)], ids=str)
def test_a_norm_is_one(shape, with_residual):
    norm = torch.nn.LayerNorm(shape[-1], eps=1e-12).to(torch.bfloat16)
    with torch.no_grad():
        norm.weight += 0.2 * torch.randn_like(norm.weight)
        norm.bias += 0.2 * torch.randn_like(norm.bias)
    exact = copy_exactly(norm)
    values, residual = draw(*shape), draw(*shape)
    exact_values, exact_residual = (x.detach().float().requires_grad_() for x in (values, residual))
    found = normalize(values, residual if with_residual else None, norm, dropout=0.0)
    expected = exact(exact_values + exact_residual if with_residual else exact_values)
    assert_near(found, expected)
    backpropagate(found, expected)
    assert_near(values.grad, exact_values.grad, rounding=2 * ROUNDING)
    if with_residual:
        assert_near(residual.grad, exact_residual.grad, rounding=2 * ROUNDING)
    assert_near(norm.weight.grad, exact.weight.grad, rounding=2 * ROUNDING)
    assert_near(norm.bias.grad, exact.bias.grad, rounding=2 * ROUNDING)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_before_a_norm_is_dropout(rate):
    """Numbers that are kept stand above the mean of their row, dropped ones below."""
    norm = torch.nn.LayerNorm(384).to(torch.bfloat16)
    values = torch.full((500, 384), 8.0, dtype=torch.bfloat16, requires_grad=True)
    residual = torch.zeros_like(values, requires_grad=True)
    found = normalize(values, residual, norm, dropout=rate)
    dropped = found.detach() < 0
    assert stats.binomtest(int(dropped.sum()), dropped.numel(), rate).pvalue > BELIEVABLE
    for by in (1, 16, 32):
        table = [
            [int((x & y).sum()) for y in (dropped[:, by:], ~dropped[:, by:])]
            for x in (dropped[:, :-by], ~dropped[:, :-by])
        ]
        assert stats.chi2_contingency(table).pvalue > BELIEVABLE
    found.backward(torch.randn_like(found))
    assert torch.equal(values.grad == 0, dropped | (residual.grad == 0))
    kept = ~dropped & (residual.grad != 0)
    ratios = values.grad[kept].float() / residual.grad[kept].float()
    assert float((ratios - 1 / (1 - rate)).abs().max()) < 2 * ROUNDING / (1 - rate)


def test_gelu_and_its_slope_are_exact_to_a_rounding():
    values = torch.cat([torch.linspace(-12, 12, 4096), torch.tensor([0.0] * 32)])
    values = values.to(torch.bfloat16).requires_grad_()
    exact = values.detach().float().requires_grad_()
    found, expected = gelu(values), plain_gelu(exact)
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2e-6)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(values.grad.float(), exact.grad, rtol=2**-8, atol=2e-6)


def test_a_norm_may_lack_a_bias():
    norm = torch.nn.LayerNorm(64, bias=False).to(torch.bfloat16)
    values = draw(70, 64)
    exact = values.detach().float().requires_grad_()
    found = normalize(values, None, norm, dropout=0.0)
    expected = torch.nn.functional.layer_norm(exact, (64,), norm.weight.float())
    assert_near(found, expected)
    backpropagate(found, expected)
    assert_near(values.grad, exact.grad, rounding=2 * ROUNDING)


def test_what_is_not_a_number_is_not_lost():
    values = torch.zeros(64, 64, dtype=torch.bfloat16)
    values[3, 5] = math.nan
    layer = torch.nn.Linear(64, 32).to(torch.bfloat16)
    norm = torch.nn.LayerNorm(64).to(torch.bfloat16)
    assert gelu(values)[3, 5].isnan()
    for output in (multiply(values, layer), multiply(values, layer, activate=True)):
        assert output[3].isnan().all()
        assert not output[4].isnan().any()
    assert normalize(values, values, norm, dropout=0.0)[3].isnan().all()


def test_without_a_backward_pass_nothing_is_kept_for_one():
    layer = torch.nn.Linear(64, 32).to(torch.bfloat16)
    values = torch.ones(64, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert not multiply(values, layer, activate=True).requires_grad
    with torch.no_grad():
        assert multiply(values, layer).grad_fn is None
