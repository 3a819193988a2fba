"""Cheap dropout: its rate, its scale, and the independence of elements."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bertfit.modeling.attention import attend
from bertfit.modeling.dropout import (
    _ELEMENTS_PER_WORD,
    _LANES,
    CheapDropout,
    draw_mask,
    exchange_dropout,
)

RATES = (0.05, 0.1, 0.3, 0.5, 0.9)
MANY = 400_000
BLOCK = _LANES * _ELEMENTS_PER_WORD
"""Elements after which each random word is used again, shifted on."""
BELIEVABLE = 1e-4
"""p-value under which a test of chance fails; the seeds are fixed, so it fails always or never."""


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_met(rate, dtype):
    num_dropped = int((draw_mask(torch.empty(MANY, dtype=dtype), rate) == 0).sum())
    assert stats.binomtest(num_dropped, MANY, rate).pvalue > BELIEVABLE


@pytest.mark.parametrize("lane", range(4))
def test_each_quarter_of_a_word_meets_the_rate(lane):
    """The sign bit must be as random as the others."""
    mask = draw_mask(torch.empty(MANY), 0.1)[lane::4]
    assert stats.binomtest(int((mask == 0).sum()), len(mask), 0.1).pvalue > BELIEVABLE


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8, 64, 384, BLOCK])
def test_elements_do_not_depend_on_their_neighbours(distance):
    mask = draw_mask(torch.empty(MANY), 0.3)
    a, b = mask[:-distance] == 0, mask[distance:] == 0
    table = [[int((x & y).sum()) for y in (b, ~b)] for x in (a, ~a)]
    assert stats.chi2_contingency(table).pvalue > BELIEVABLE


def test_each_block_of_words_follows_from_the_one_before_by_the_shifts_of_marsaglia():
    mask = draw_mask(torch.empty(2 * BLOCK), 0.5)
    torch.manual_seed(11)
    words = torch.empty(_LANES, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    words = words.numpy().view(np.uint64)
    for block in mask.view(2, BLOCK).numpy():
        np.testing.assert_array_equal(block, words.view(np.int16) >= 0)
        words = words ^ (words << 13)
        words = words ^ (words >> 7)
        words = words ^ (words << 17)


def test_runs_of_kept_elements_have_the_lengths_of_chance():
    mask = (draw_mask(torch.empty(MANY), 0.5) == 0).int()
    changes = torch.nonzero(mask[1:] != mask[:-1]).flatten()
    lengths = (changes[1:] - changes[:-1]).tolist()
    observed = [lengths.count(k) for k in range(1, 8)] + [sum(k >= 8 for k in lengths)]
    shares = [0.5**k for k in range(1, 8)] + [0.5**7]
    expected = [share * len(lengths) for share in shares]
    assert stats.chisquare(observed, expected).pvalue > BELIEVABLE


def test_masks_follow_the_seed_and_differ_from_draw_to_draw():
    like = torch.empty(1001)
    torch.manual_seed(4)
    first, second = draw_mask(like, 0.5), draw_mask(like, 0.5)
    torch.manual_seed(4)
    assert torch.equal(draw_mask(like, 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_is_kept(dtype):
    """In bfloat16 a mask that held the scale would make it 0.15 % too small."""
    values = CheapDropout(0.1).train()(torch.ones(4 * MANY, dtype=dtype)).double()
    assert values.min() == 0.0
    error = values.mean() - 1.0
    assert abs(error) < 5 * math.sqrt(0.1 / 0.9 / (4 * MANY)) + (
        2e-3 if dtype != torch.float32 else 0
    )


def test_the_gradient_passes_where_the_value_passed():
    values = torch.randn(7, 13, requires_grad=True)
    out = CheapDropout(0.25).train()(values)
    out.backward(torch.full_like(out, 3.0))
    kept = out != 0
    torch.testing.assert_close(values.grad, torch.where(kept, 4.0, 0.0))
    torch.testing.assert_close(out, torch.where(kept, values / 0.75, 0.0))
    assert 0 < int(kept.sum()) < kept.numel()


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 5)])
def test_any_number_of_elements_gets_a_mask(shape):
    assert draw_mask(torch.empty(shape), 0.5).shape == shape


def test_scoring_and_a_rate_of_zero_drop_nothing():
    values = torch.randn(100)
    assert CheapDropout(0.5).eval()(values) is values
    assert CheapDropout(0.0).train()(values) is values


def test_every_dropout_of_a_model_is_exchanged_with_its_rate_and_mode():
    model = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Sequential(torch.nn.Dropout(0.4)))
    model[1].eval()
    assert exchange_dropout(model) == 2
    assert [type(m).__name__ for m in model.modules()].count("CheapDropout") == 2
    assert (model[0].p, model[0].training) == (0.2, True)
    assert (model[1][0].p, model[1][0].training) == (0.4, False)
    assert exchange_dropout(model) == 0


def test_attention_drops_weights_at_its_rate_and_keeps_their_mean():
    """With equal keys and values of one, a row's output is the share of its weights that stayed."""
    module = torch.nn.Module().train()
    queries = torch.randn(40, 4, 64, 8)
    keys, values = torch.zeros(40, 4, 64, 8), torch.ones(40, 4, 64, 1)
    out, _ = attend(module, queries.requires_grad_(), keys, values, None, dropout=0.1)
    assert out.shape == (40, 64, 4, 1)
    num_weights = 40 * 4 * 64 * 64
    assert abs(float(out.detach().mean()) - 1.0) < 5 * math.sqrt(0.1 / 0.9 / num_weights)
    spread = float(out.detach().var()) * 64
    assert spread == pytest.approx(0.1 / 0.9, rel=0.05)
    in_scoring, _ = attend(module.eval(), queries, keys, values, None, dropout=0.1)
    torch.testing.assert_close(in_scoring, torch.ones_like(in_scoring))
