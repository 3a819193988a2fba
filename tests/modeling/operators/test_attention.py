"""Compiled attention: outputs and gradients, any length, and correct dropout."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from bertfit.modeling.operators.attention import attend

BELIEVABLE = 1e-4
"""p-value under which a test of chance fails; the seeds are fixed, so it fails always or never."""
ROUNDING = 2**-8
"""A result may be off by this share of the largest: one rounding to bfloat16 on the way to it."""

pytestmark = pytest.mark.usefixtures("operators")


def make_states(num_texts, num_heads, num_queries, num_keys, width, *, seed=0):
    """Return query, key and value in bfloat16 as transformers hands them over."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(num_texts, length, num_heads * width, generator=generator)
        .to(torch.bfloat16)
        .view(num_texts, length, num_heads, width)
        .transpose(1, 2)
        .requires_grad_()
        for length in (num_queries, num_keys, num_keys)
    ]


def attend_plainly(query, key, value, mask, scaling):
    """Attention by torch in float32, on the same numbers."""
    query, key, value = (x.detach().float().requires_grad_() for x in (query, key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    output = (scores.softmax(-1) @ value).transpose(1, 2)
    return output, (query, key, value)


def assert_near(found, expected):
    assert found.shape == expected.shape
    error = (found.float() - expected).abs().max()
    assert float(error) <= ROUNDING * float(expected.abs().max()) * 1.5


def make_padding(num_texts, num_keys):
    lengths = torch.linspace(1, num_keys, num_texts).long()
    hidden = torch.arange(num_keys)[None] >= lengths[:, None]
    lowest = torch.finfo(torch.bfloat16).min / 2
    return torch.zeros(num_texts, 1, 1, num_keys).masked_fill_(hidden[:, None, None], lowest)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("width", [8, 32, 48, 64, 80])
@pytest.mark.parametrize(
    "lengths", [(1, 1), (7, 7), (32, 32), (33, 33), (1, 70), (160, 160), (200, 200)], ids=str
)
def test_outputs_and_gradients_are_those_of_attention(lengths, width, masked):
    states = make_states(3, 2, *lengths, width)
    mask = make_padding(3, lengths[1]) if masked else None
    found = attend(*states, mask, scaling=width**-0.5, dropout=0.0)
    expected, exact = attend_plainly(*states, mask, width**-0.5)
    assert_near(found.detach(), expected.detach())
    slopes = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    slopes = slopes.to(torch.bfloat16)
    found.backward(slopes)
    expected.backward(slopes.float())
    assert_near(states[2].grad, exact[2].grad)
    if lengths[1] > 1:  # one key has weight 1, whatever query and key are
        assert_near(states[0].grad, exact[0].grad)
        assert_near(states[1].grad, exact[1].grad)


def test_a_mask_of_every_pair_is_taken_too():
    """As ModernBERT's sliding window has it: (B, 1, T, T)."""
    states = make_states(2, 2, 50, 50, 32)
    distance = (torch.arange(50)[:, None] - torch.arange(50)[None]).abs()
    mask = torch.zeros(2, 1, 50, 50).masked_fill_(distance > 8, -1e30)
    found = attend(*states, mask, scaling=0.2, dropout=0.0)
    assert_near(found.detach(), attend_plainly(*states, mask, 0.2)[0].detach())


def test_hidden_keys_have_no_weight_and_no_gradient():
    states = make_states(2, 2, 40, 40, 32)
    mask = make_padding(2, 40)  # the first text has one token
    attend(*states, mask, scaling=0.2, dropout=0.0).sum().backward()
    assert not states[1].grad[0, :, 1:].any()
    assert not states[2].grad[0, :, 1:].any()


def test_what_is_not_a_number_is_not_lost():
    states = make_states(1, 1, 40, 40, 32)
    with torch.no_grad():
        states[0][0, 0, 3] = math.nan
    output = attend(*states, None, scaling=0.2, dropout=0.0)
    assert output[0, 3].isnan().all()
    assert not output[0, 4].isnan().any()


def test_the_number_of_threads_changes_nothing():
    results = []
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            torch.manual_seed(3)
            states = make_states(4, 3, 70, 70, 32)
            output = attend(*states, None, scaling=0.2, dropout=0.3)
            output.sum().backward()
            results.append([output.detach(), *(state.grad for state in states)])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


def read_mask(*, num_texts=4, num_heads=4, num_tokens=64, rate=0.3):
    """Return the weights that dropout leaves, (B, H, Q, T), forward and backward.

    All scores are 0, so all weights are the same; with the identity as values the output shows
    them, and the gradient of the values shows them where that of the output is the identity.
    """
    shape = (num_texts, num_heads, num_tokens, num_tokens)
    query, key = (torch.zeros(shape, dtype=torch.bfloat16) for _ in range(2))
    identity = torch.eye(num_tokens, dtype=torch.bfloat16)
    value = identity.expand(shape).contiguous().requires_grad_()
    output = attend(query, key, value, None, scaling=1.0, dropout=rate)
    output.backward(identity[None, :, None].expand_as(output))
    return output.detach().transpose(1, 2), value.grad.transpose(2, 3)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
def test_the_rate_and_the_scale_are_those_of_dropout(rate):
    torch.manual_seed(5)
    forward, backward = read_mask(rate=rate)
    dropped = forward == 0
    assert stats.binomtest(int(dropped.sum()), dropped.numel(), rate).pvalue > BELIEVABLE
    kept = forward[~dropped].float()
    assert kept.unique().numel() == 1
    assert float(kept[0]) == pytest.approx(1 / 64 / (1 - rate), rel=2**-8)
    assert torch.equal(backward == 0, dropped)  # the same weights are dropped on the way back
    assert float(backward[~dropped][0]) == pytest.approx(1 / 64 / (1 - rate), rel=2**-8)


@pytest.mark.parametrize(
    "shift",
    [(0, 0, 0, 1), (0, 0, 0, 2), (0, 0, 0, 16), (0, 0, 0, 32), (0, 0, 1, 0), (0, 1, 0, 0),
     (1, 0, 0, 0), (0, 0, 1, 1)],
    ids=str,
)  # fmt: skip
def test_weights_do_not_depend_on_their_neighbours(shift):
    """Along keys, words of one row (16 apart: halves of a word), queries, heads and texts."""
    torch.manual_seed(6)
    dropped = read_mask(num_texts=6, num_heads=6, rate=0.5)[0] == 0
    moved = dropped[tuple(slice(by, None) for by in shift)]
    still = dropped[tuple(slice(None, -by or None) for by in shift)]
    table = [[int((x & y).sum()) for y in (still, ~still)] for x in (moved, ~moved)]
    assert stats.chi2_contingency(table).pvalue > BELIEVABLE


@pytest.mark.parametrize("along", ["keys", "queries"])
def test_how_many_are_dropped_of_a_row_varies_as_by_chance(along):
    """Numbers drawn without putting them back would vary less."""
    torch.manual_seed(10)
    dropped = read_mask(num_texts=2, num_heads=3, num_tokens=256, rate=0.5)[0] == 0
    counts = dropped.sum(dim=3 if along == "keys" else 2).double().flatten()
    spread = float(((counts - 128) ** 2).sum() / (256 * 0.25))
    tail = stats.chi2.cdf(spread, df=len(counts))
    assert min(tail, 1 - tail) > BELIEVABLE


def test_masks_follow_the_seed_and_differ_from_call_to_call():
    torch.manual_seed(7)
    first, second = (read_mask()[0] == 0 for _ in range(2))
    torch.manual_seed(7)
    assert torch.equal(read_mask()[0] == 0, first)
    agreement = float((first == second).float().mean())
    assert agreement == pytest.approx(0.3**2 + 0.7**2, abs=0.02)


def test_gradients_with_dropout_are_those_of_the_weights_that_were_kept():
    """Along a direction, the output moves as the gradients say; the seed fixes the mask."""
    states = make_states(1, 2, 64, 64, 32)
    generator = torch.Generator().manual_seed(8)
    slopes = torch.randn(1, 64, 2, 32, generator=generator).to(torch.bfloat16)
    torch.manual_seed(9)
    attend(*states, None, scaling=0.2, dropout=0.4).backward(slopes)
    for place in range(3):
        direction = states[place].grad.float()
        direction /= direction.norm()
        sides = []
        for step in (0.5, -0.5):
            moved = [state.detach().clone() for state in states]
            moved[place] = (moved[place].float() + step * direction).to(torch.bfloat16)
            torch.manual_seed(9)
            output = attend(*moved, None, scaling=0.2, dropout=0.4).float()
            sides.append(float((output * slopes.float()).sum()))
        along = float(states[place].grad.float().norm())
        assert sides[0] - sides[1] == pytest.approx(along, rel=0.1)
