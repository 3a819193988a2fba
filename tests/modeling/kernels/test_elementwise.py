"""Each kernel computes the same as torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from bertfit.modeling.kernels import launching
from bertfit.modeling.kernels.elementwise import (
    Dropout,
    Fold,
    Sums,
    activate,
    activate_backward,
    add_and_norm,
    add_and_norm_backward,
    fold_together,
)
from bertfit.modeling.kernels.launching import count_programs
from tests.modeling.kernels.on_device import DEVICE, TOLERANCE, needs_triton

pytestmark = needs_triton
SIZES = [(11, 48), (1, 4), (8, 64), (3, 100)]


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE)


def make_norm(width):
    norm = torch.nn.LayerNorm(width, eps=1e-12, device=DEVICE)
    with torch.no_grad():
        norm.weight.copy_(draw(width, seed=1))
        norm.bias.copy_(draw(width, seed=2))
    return norm


def poisoned(*shape):
    return torch.full(shape, float("nan"), device=DEVICE)


def make_sums(num_columns, *, poison=True):
    sums = Sums.make(num_columns, 7, DEVICE)
    if poison:
        sums.partials.fill_(float("nan"))
    return sums


def fold(sums, *, there=None):
    """Return the sums of the columns, next to those of queries and values."""
    row = poisoned(3 * 16 + sums.partials.shape[1])
    if there is not None:
        row = torch.cat([torch.zeros(3 * 16, device=DEVICE), there])
    of_states = torch.ones(2, 16, device=DEVICE)
    fold_together([Fold(row, sums.partials, of_states, of_states)], adds=there is not None)
    states, of_others = row.split([3 * 16, sums.partials.shape[1]])
    assert states.view(3, 16).unique(dim=1).flatten().tolist() == [2.0, 0.0, 2.0]
    return of_others


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_dropout_residual_and_norm_with_all_their_gradients(size, rate):
    width = size[1]
    hidden, residual = (draw(*size, seed=seed).requires_grad_() for seed in (3, 4))
    norm = make_norm(width)
    dropout = Dropout(rate, torch.tensor([5, 7], device=DEVICE), 1)
    with torch.no_grad():
        found, kept = add_and_norm(hidden, residual, norm, dropout, keeps=True)
    is_kept = ((kept.total - residual).abs() > 1e-6).float().detach()
    expected = norm(hidden * is_kept / (1.0 - rate) + residual)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    gradient = draw(*size, seed=5)
    expected.backward(gradient)
    before = 5
    sums = make_sums(before + 3 * width)
    with torch.no_grad():
        of_residual, of_hidden = add_and_norm_backward(
            gradient, kept, norm.weight, dropout, sums, at=before
        )
    torch.testing.assert_close(of_residual, residual.grad, **TOLERANCE)
    torch.testing.assert_close(of_hidden, hidden.grad, **TOLERANCE)
    row = fold(sums)
    assert row[:before].isnan().all()  # somebody else's columns
    expected_sums = torch.cat([norm.weight.grad, norm.bias.grad, hidden.grad.sum(dim=0)])
    torch.testing.assert_close(row[before:], expected_sums, **TOLERANCE)


def test_what_is_not_kept_changes_no_output():
    hidden, residual = draw(5, 32, seed=1), draw(5, 32, seed=2)
    dropout = Dropout(0.5, torch.tensor([1], device=DEVICE), 0)
    norm = make_norm(32)
    with torch.no_grad():
        kept, lean = (
            add_and_norm(hidden, residual, norm, dropout, keeps=keeps)[0] for keeps in (True, False)
        )
    assert torch.equal(kept, lean)


def test_dropout_keeps_its_share_anew_for_each_seed_and_alike_for_one():
    hidden = torch.ones(64, 256, device=DEVICE)
    nothing = torch.zeros_like(hidden)
    norm = make_norm(256)

    def drop(seed, which):
        seeds = torch.tensor([seed, 2**62 + seed], device=DEVICE)
        with torch.no_grad():
            dropout = Dropout(0.25, seeds, which)
            total = add_and_norm(hidden, nothing, norm, dropout, keeps=True)[1].total
        return total > 0

    first, again, other, second = drop(1, 0), drop(1, 0), drop(2, 0), drop(1, 1)
    assert torch.equal(first, again)
    for mask in (first, other, second):
        assert abs(float(mask.float().mean()) - 0.75) < 0.02
        # No row or column is dropped more than chance drops it.
        assert float(mask.float().mean(dim=1).sub(0.75).abs().max()) < 0.15
        assert float(mask.float().mean(dim=0).sub(0.75).abs().max()) < 0.3
    for mask in (other, second):
        agreement = float((mask == first).float().mean())
        assert abs(agreement - (0.75**2 + 0.25**2)) < 0.02


@pytest.mark.parametrize("size", [(7, 40), (1, 300), (9, 256)])
def test_gelu_its_gradient_and_the_sums_of_it(size):
    values = draw(*size, seed=1).mul(3).requires_grad_()
    expected = gelu(values)
    gradient = draw(*size, seed=2)
    expected.backward(gradient)
    with torch.no_grad():
        torch.testing.assert_close(activate(values), expected, **TOLERANCE)
        sums = make_sums(size[1])
        found = activate_backward(gradient, values, sums, at=0)
    torch.testing.assert_close(found, values.grad, **TOLERANCE)
    torch.testing.assert_close(fold(sums), values.grad.sum(dim=0), **TOLERANCE)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("width", [64, 96])
def test_sums_of_queries_and_values_come_before_the_others(width, adds):
    sums = make_sums(70, poison=False)
    sums.partials.copy_(draw(*sums.partials.shape, seed=1))
    of_states = draw(3, width, seed=2), draw(130, width, seed=3)  # one and two rounds
    there = draw(3 * width + 70, seed=4) if adds else poisoned(3 * width + 70)
    zeros = torch.zeros(width, device=DEVICE)
    found = [of_states[0].sum(dim=0), zeros, of_states[1].sum(dim=0), sums.partials.sum(dim=0)]
    expected = torch.cat(found) + (there if adds else 0.0)
    fold_together([Fold(there, sums.partials, *of_states)], adds=adds)
    torch.testing.assert_close(there, expected, **TOLERANCE)


def test_sums_of_several_layers_are_computed_at_once():
    width, columns, num_layers = 64, 96, 3
    shapes = [(4, columns), (3, width), (2, width)]
    partials = [draw(5, *shape, seed=seed)[::2] for seed, shape in enumerate(shapes)]
    there = poisoned(num_layers, 3 * width + columns)
    fold_together([Fold(*tensors) for tensors in zip(there, *partials, strict=True)])
    others, queries, values = (each.sum(dim=1) for each in partials)
    expected = torch.cat([queries, torch.zeros_like(queries), values, others], dim=1)
    torch.testing.assert_close(there, expected, **TOLERANCE)


def test_sums_are_added_to_what_is_there_where_that_is_asked_for():
    sums = make_sums(70, poison=False)
    sums.partials.copy_(draw(*sums.partials.shape, seed=1))
    there = draw(70, seed=2)
    expected = there + sums.partials.sum(dim=0)
    torch.testing.assert_close(fold(sums, there=there), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("processors", "few", "many"), [(132, 256, 512), (108, 216, 432), (114, 228, 456)]
)
def test_programs_fill_the_gpu_and_few_are_left_for_a_last_round(
    processors, few, many, monkeypatch
):
    monkeypatch.setattr(launching, "_count_processors", lambda _device: processors)
    counts = [count_programs(torch.device("cuda"), num_rows) for num_rows in (2048, 16384)]
    assert counts == [few, many]
