"""Attention within texts: outputs and all gradients equal dense attention in float32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bertfit.modeling.kernels import attention
from bertfit.modeling.kernels.attention import (
    Spans,
    States,
    Tile,
    Tiles,
    attend,
    attend_backward,
    choose_tiles,
)
from bertfit.modeling.kernels.elementwise import Dropout
from tests.modeling.kernels.on_device import DEVICE, needs_triton

pytestmark = [
    needs_triton,
    # torch's, where a thread of autograd's multiplies for the first time
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),
]
ON_GPU = DEVICE.type == "cuda"
# The interpreter computes in float32; a GPU's tensor cores are used with bfloat16.
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
TOLERANCE = {"atol": 0.03, "rtol": 0.03} if ON_GPU else {"atol": 2e-5, "rtol": 2e-5}
HEADS = 2
SEEDS = (2**40 + 5, 2**62 + 12345)
SHORT = Tiles(
    Tile(64, 64, 4, 1),
    Tile(64, 64, 4, 1),
    Tile(64, 64, 4, 2),
    Tile(64, 64, 4, 2),
)
SIZES = [32, 64, 128] if ON_GPU else [16]
LENGTHS = [(300, 129, 1) if ON_GPU else (150, 1), (128, 127, 1, 40), (64, 3), (1, 1)]


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, DTYPE)


def make_starts(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=DEVICE)


def make_dropout(rate, which=1):
    return Dropout(rate, torch.tensor(SEEDS, device=DEVICE), which)


def mix(number):
    number = number ^ (number >> 16)
    number = number * np.uint32(0x7FEB352D)
    number = number ^ (number >> 15)
    number = number * np.uint32(0x846CA68B)
    return number ^ (number >> 16)


def find_kept(rate, seed, place, num_queries, num_keys):
    """Return which weights of a text and head the kernels keep, by the same arithmetic."""
    low, high = np.array([seed & 0xFFFFFFFF], np.uint32), np.array([seed >> 32], np.uint32)
    first = mix(mix(np.uint32(place) ^ low) + high)
    second = mix(mix((np.array([place], np.uint32) + np.uint32(0x9E3779B9)) ^ high) + low)
    queries, keys = np.arange(num_queries)[:, None], np.arange(num_keys)[None, :]
    drawn = (queries & -9).astype(np.uint32) * np.uint32(0x9E3779B1) + first
    drawn = drawn + (keys & -9).astype(np.uint32) * np.uint32(0x85EBCA77)
    drawn ^= drawn >> 16
    drawn *= np.uint32(0x7FEB352D)
    drawn ^= (drawn >> 15) ^ second
    factors = np.array([1, 0x27D4EB2F], np.uint32)[(queries & 8) // 8] * np.uint32(0xC2B2AE3D)
    factors = factors * np.array([1, 0x165667B1], np.uint32)[(keys & 8) // 8]
    return torch.from_numpy(drawn * factors >= np.uint32(round(rate * 2**32)))


def attend_densely(query, key, value, query_starts, key_starts, dropout):
    """Return output and log-sums, text by text, as autograd can follow them."""
    outputs, log_sums = [], []
    bounds = zip(query_starts.tolist(), key_starts.tolist(), strict=True)
    for text, ((query_from, key_from), (query_to, key_to)) in enumerate(itertools.pairwise(bounds)):
        asked, keys, values = (
            state.transpose(0, 1)
            for state in (
                query[query_from:query_to],
                key[key_from:key_to],
                value[key_from:key_to],
            )
        )
        scores = asked @ keys.transpose(1, 2) * query.shape[-1] ** -0.5
        weights = scores.softmax(dim=-1)
        if dropout.rate > 0.0:
            heads, seed = query.shape[1], int(dropout.seeds[dropout.which])
            places = range(text * heads, (text + 1) * heads)
            kept = [find_kept(dropout.rate, seed, place, *scores.shape[1:]) for place in places]
            weights = weights * torch.stack(kept).to(DEVICE) / (1.0 - dropout.rate)
        outputs.append((weights @ values).transpose(0, 1))
        log_sums.append(scores.logsumexp(dim=-1))
    return torch.cat(outputs), torch.cat(log_sums, dim=1)


def make_states(lengths, size, *, only_firsts):
    """Return queries, keys and values as views of a joint product, and where they lie."""
    joint = draw(sum(lengths), 3 * HEADS * size, seed=1)
    query, key, value = (state.unflatten(-1, (-1, size)) for state in joint.chunk(3, dim=1))
    starts, longest = make_starts(lengths), max(lengths)
    if not only_firsts:
        return States(query, key, value), Spans(starts, starts, longest, longest)
    query = draw(len(lengths), HEADS * size, seed=2).unflatten(-1, (-1, size))
    spans = Spans(make_starts([1] * len(lengths)), starts, 1, longest)
    return States(query, key, value), spans


def check(lengths, size, rate, *, only_firsts, tiles=None):
    states, spans = make_states(lengths, size, only_firsts=only_firsts)
    dropout = make_dropout(rate)
    attended = attend(states, spans, dropout=dropout, tiles=tiles)
    leaves = [state.float().requires_grad_() for state in states]
    expected, expected_log_sums = attend_densely(*leaves, *spans[:2], dropout)
    torch.testing.assert_close(attended.output.float(), expected, **TOLERANCE)
    torch.testing.assert_close(attended.log_sums, expected_log_sums, atol=2e-5, rtol=2e-5)
    gradient = draw(*expected.shape, seed=3)
    expected.backward(gradient.float())
    found = attend_backward(gradient, states, attended, spans, dropout=dropout, tiles=tiles)
    for got, leaf in zip(found[:3], leaves, strict=True):
        torch.testing.assert_close(got.float(), leaf.grad.flatten(1), **TOLERANCE)
    for sums, leaf in ((found.query_sums, leaves[0]), (found.value_sums, leaves[2])):
        expected = leaf.grad.flatten(1).sum(dim=0)
        sizes = {name: 8.0 * tolerance for name, tolerance in TOLERANCE.items()}
        torch.testing.assert_close(sums.sum(dim=0), expected, **sizes)
    parts = found[1:3] if len(states.query) < len(states.key) else found[:3]
    assert torch.equal(found.joint, torch.cat(parts, dim=1))
    assert parts[0].data_ptr() == found.joint.data_ptr()


@pytest.fixture(autouse=True)
def _poison_new_memory(monkeypatch):
    """Whatever a kernel fails to write is not a number."""

    make = torch.empty

    def make_poisoned(*shape, **how):
        made = make(*shape, **how)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(attention.torch, "empty", make_poisoned)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rate", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
@pytest.mark.parametrize("only_firsts", [False, True], ids=["all tokens", "first tokens"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_output_and_all_gradients_are_those_of_dense_attention(lengths, only_firsts, rate, size):
    check(lengths, size, rate, only_firsts=only_firsts)


@pytest.mark.parametrize("lengths", [(90, 20), (50, 64, 9)])
def test_other_tiles_give_the_same_with_the_same_weights_dropped(lengths):
    check(lengths, SIZES[0], 0.2, only_firsts=False, tiles=SHORT)


def test_tiles_take_all_queries_of_the_longest_text_or_go_back_in_two_kernels():
    for longest, size in itertools.product((1, 16, 17, 64, 65, 128, 129, 512), (32, 64, 128)):
        for longest_query in {1, longest}:
            whole = choose_tiles(longest_query, longest, size).whole
            assert whole is None or whole.queries >= longest_query


@pytest.mark.parametrize("size", [32, 64, 128])
def test_short_texts_have_the_tiles_of_longer_ones_which_were_tried_before(size):
    assert choose_tiles(16, 16, size) == choose_tiles(128, 128, size)
    assert choose_tiles(1, 16, size) == choose_tiles(1, 512, size)


# The interpreter's numpy warns of numbers for keys that are not there, which are stored nowhere.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("lengths", [(20, 130), (20, 100)])
def test_huge_scores_neither_overflow_nor_lose_their_gradients(lengths):
    (query, key, value), spans = make_states(lengths, SIZES[0], only_firsts=False)
    # All scores are far below zero, which a product with keys that are not there would be.
    states = States(query.abs() * 30, key.abs() * -30, value.contiguous())
    nothing = make_dropout(0.0)
    attended = attend(states, spans, dropout=nothing)
    found = attend_backward(attended.output, states, attended, spans, dropout=nothing)
    assert attended.log_sums.max() < -100  # beyond what exp2 has in float32
    assert all(part.isfinite().all() for part in (*attended, found.joint))


def drop(seed, place, rate=0.1, size=256):
    return ~find_kept(rate, seed, place, size, size).numpy()


def test_the_share_of_dropped_weights_is_the_rate_in_all_and_in_rows_and_columns():
    for rate in (0.1, 0.5):
        dropped = np.stack([drop(SEEDS[0], place, rate) for place in range(24)])
        spread = (rate * (1 - rate)) ** 0.5
        assert abs(dropped.mean() - rate) < 1e-3
        for axes, count in (((1,), 256), ((2,), 256), ((0, 1), 256 * 24), ((1, 2), 256**2)):
            means = (dropped.mean(axis=axes) - rate) / spread * count**0.5
            assert abs(means).max() < 6.5  # standard deviations of chance
            assert means.std() < 1.5


def test_no_weight_is_dropped_because_a_neighbour_is():
    rate = 0.1
    found = np.stack([drop(SEEDS[1], place, rate) for place in range(6)]) - np.float32(rate)
    steps = itertools.product((0, 1, 2, 4, 7, 8, 9, 16, 32, 64), repeat=2)
    for down, right in [step for step in steps if any(step)]:
        pairs = found[:, down:, right:] * found[:, : 256 - down, : 256 - right]
        agreement = pairs.mean(dtype=np.float64) / (rate * (1 - rate)) * pairs.size**0.5
        assert abs(agreement) < 5, (down, right)


def test_texts_heads_and_seeds_differ_as_chance_has_it():
    rate = 0.1
    seeds = {*range(8), *(1 << bit for bit in range(0, 63, 4)), 2**63 - 1}
    drawn = [drop(SEEDS[0], place) for place in range(24)] + [drop(seed, 0) for seed in seeds]
    flat = np.stack(drawn).reshape(len(drawn), -1) - np.float32(rate)
    agreement = flat @ flat.T / (rate * (1 - rate)) / flat.shape[1] ** 0.5
    assert abs(agreement[np.triu_indices(len(drawn), 1)]).max() < 5.5
