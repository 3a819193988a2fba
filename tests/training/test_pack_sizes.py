"""Packs are filled to few sizes, and what that wastes is limited."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertfit.data.batching import fill_pack, pack_rows
from bertfit.training.pack_sizes import PackSize, PackSizes
from tests.data.test_batching import make_encoded


def make_pack(*lengths):
    return pack_rows(make_encoded(np.array(lengths)), np.arange(len(lengths)))


def fill(pack, size):
    return fill_pack(pack, pad_id=0, num_tokens=size.num_tokens, num_rows=size.num_rows)


class Run:
    """Chooses sizes as a training does, which knows those that it has chosen."""

    def __init__(self):
        self.sizes, self.uses = PackSizes(), Counter()

    def take(self, *lengths, is_first=True):
        pack = make_pack(*lengths)
        size = self.sizes.choose(pack, is_first=is_first, known=self.uses)
        self.uses[size] += 1
        return size


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([128] * 16, (2048, 16, 128)),
        ([128] * 15 + [100], (2048, 24, 128)),
        ([128] * 15 + [121], (2176, 24, 128)),  # 8 rows of padding have 8 tokens
        ([1], (128, 8, 128)),
        ([1] * 127, (256, 128, 256)),  # a size has more tokens than rows
        ([1] * 128, (256, 136, 128)),
        ([300, 129], (512, 8, 384)),
        ([500] * 20, (10_240, 24, 512)),  # a multiple of 256
        ([500] * 40, (20_480, 48, 512)),  # of 512
        ([128] * 133 + [127], (17_408, 136, 256)),  # 2 rows of padding have 257 tokens
    ],
)
def test_a_first_pack_gets_the_next_size(lengths, expected):
    size = PackSizes().choose(make_pack(*lengths), is_first=True, known=())
    assert size == (*expected, True)
    assert PackSize.of(fill(make_pack(*lengths), size), is_first=True) == size


def test_a_smaller_pack_is_filled_to_a_size_that_is_known():
    run = Run()
    large = run.take(*[128] * 15, 100)
    assert run.take(*[64] * 16) == large
    assert run.take(30, 20) == large
    assert run.take(*[128] * 17, 3) != large


def test_each_row_of_padding_has_at_least_one_token():
    size = PackSize(128, 8, 128, is_first=True)
    assert size.takes(PackSize(121, 1, 128, is_first=True))
    assert not size.takes(PackSize(122, 1, 128, is_first=True))


def test_short_texts_are_not_computed_by_the_kernels_for_long_ones():
    run = Run()
    long = run.take(512, *[96] * 15)
    assert long == (2048, 24, 512, True)
    assert run.take(*[122] * 16) == (2048, 24, 128, True)
    assert run.take(400, 300, 200) == long


def test_the_size_that_is_added_is_the_one_that_saves_most():
    run = Run()
    run.take(*[128] * 15, 100)
    run.take(*[80] * 15, 50)  # would be worth a recording sooner, as it is larger
    while len(run.uses) == 1:
        run.take(5, 5)
    assert {size.num_tokens for size in run.uses} == {128, 2048}


@pytest.mark.parametrize(
    ("lengths", "is_first"),
    [
        ([128] * 15 + [129], True),  # a longer row
        ([90] * 23, True),  # one row of padding would have more tokens than a row may have
        ([80] * 24 + [5], True),  # more rows
        ([64] * 16, False),  # gradients to be added to others
    ],
)
def test_a_pack_that_does_not_fit_gets_a_size_of_its_own(lengths, is_first):
    run = Run()
    large = run.take(*[128] * 15, 120)
    assert large == (2048, 24, 128, True)
    assert run.take(*lengths, is_first=is_first) != large


def test_of_those_that_fit_the_one_with_the_least_padding_is_taken():
    run = Run()
    small, large = run.take(*[60] * 10), run.take(*[128] * 15, 100)
    assert small < large
    assert run.take(*[50] * 9) == small
    assert run.take(*[70] * 12) == large


def test_a_size_is_added_once_the_padding_is_worth_it():
    run = Run()
    large, taken = run.take(*[128] * 15, 100), []
    while len(run.uses) == 1:
        taken.append(run.take(*[64] * 13))
    assert taken[-1] == (896, 16, 128, True)
    wasted = (large.num_tokens - 896) * (len(taken) - 1)
    assert 2**25 // 896 * 0.95 < wasted <= 2**25 // 896
    assert run.take(*[64] * 13) == taken[-1]


@pytest.mark.parametrize(
    ("worth", "expected"), [(0, [896, 1024, 128, 896]), (math.inf, [2048] * 4)]
)
def test_each_size_may_be_worth_a_recording_or_none(worth, expected):
    run = Run()
    run.take(*[128] * 15, 100)
    run.sizes.worth = worth
    taken = [run.take(*lengths) for lengths in ([64] * 13, [75] * 13, [5, 5], [64] * 13)]
    assert [size.num_tokens for size in taken] == expected


def test_once_a_size_is_added_the_padding_of_smaller_packs_counts_from_nothing():
    run = Run()
    run.take(*[128] * 15, 100)
    for _ in range(100):  # most of what would add a size for them
        run.take(5, 5)
    while run.take(*[64] * 13).num_tokens != 896:
        assert len(run.uses) == 1
    num_filled = 0
    while run.take(5, 5).num_tokens == 896:
        num_filled += 1
    assert num_filled == 2**25 // (128 * (896 - 128))


def test_a_size_for_first_packs_does_not_put_off_one_for_later_ones():
    run = Run()
    for is_first in (True, False):
        run.take(*[128] * 15, 100, is_first=is_first)
    needed = [0, 0]
    for number in range(60):
        for at, is_first in enumerate((True, False)):
            if run.take(*[64] * 13, is_first=is_first)[0] == 896 and not needed[at]:
                needed[at] = number
    assert needed[0] == needed[1] > 0


def test_padding_of_later_packs_adds_no_size_for_first_ones():
    run = Run()
    later, first = (run.take(*[128] * 15, 100, is_first=is_first) for is_first in (False, True))
    for _ in range(32):
        assert run.take(*[64] * 13, is_first=False) == later
    assert run.take(*[64] * 13) == first
    assert run.take(*[64] * 13, is_first=False) == (896, 16, 128, False)


def test_packs_of_several_sizes_get_one_that_takes_most_of_them():
    """None of them alone would be worth a size for long."""
    run, generator = Run(), np.random.default_rng(0)
    run.take(*[128] * 15, 100)
    taken = [run.take(*generator.integers(20, 60, 16)) for _ in range(60)]
    assert 1 < len(run.uses) < 6
    assert all(size.num_tokens < 1024 for size in taken[-20:])


def test_sizes_that_are_not_known_are_not_used_for_others():
    sizes = PackSizes()
    sizes.choose(make_pack(*[128] * 15, 100), is_first=True, known=())
    for _ in range(3):
        assert sizes.choose(make_pack(30, 20), is_first=True, known=()).num_tokens == 128


@given(
    texts=st.lists(st.lists(st.integers(1, 512), min_size=1, max_size=20), min_size=1, max_size=30)
)
def test_each_pack_fits_into_its_size(texts):
    run = Run()
    for lengths in texts:
        size, pack = run.take(*lengths), make_pack(*lengths)
        filled = fill(pack, size)
        assert (filled.num_tokens, len(filled.cu_seqlens) - 1) == size[:2]
        assert np.diff(filled.cu_seqlens).max() <= size.longest
        assert np.diff(filled.cu_seqlens).min() >= 1


@pytest.mark.parametrize("scale", [1, 8])
def test_a_long_training_wastes_little_and_has_few_sizes(scale):
    generator, run, own = np.random.default_rng(0), Run(), set()
    wasted = computed = 0
    for _ in range(1_000):
        lengths = generator.integers(60, 129, 16 * scale)
        size = run.take(*lengths)
        own.add(PackSizes().choose(make_pack(*lengths), is_first=True, known=()))
        wasted += size.num_tokens - lengths.sum()
        computed += lengths.sum()
    assert len(run.uses) < len(own)
    assert wasted < 0.08 * computed


def test_large_packs_have_fewer_sizes():
    seen = set()
    for num_tokens in range(2_000, 32_000, 50):
        size = PackSizes().choose(make_pack(num_tokens), is_first=True, known=())
        assert num_tokens <= size.num_tokens < 1.08 * num_tokens
        seen.add(size.num_tokens)
    assert len(seen) < 120
