"""Batching: every row once, within the budget, and a deterministic plan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bertfit.data.batching import (
    PlannedEpochs,
    cut_by_tokens,
    cut_into_packs,
    fill_pack,
    iter_batches,
    iter_packs,
    pack_rows,
    pad_rows,
    plan_epoch,
)
from bertfit.data.encoding import EncodedTexts

lengths_of_rows = st.lists(st.integers(1, 50), min_size=1, max_size=300).map(np.array)


def make_encoded(lengths) -> EncodedTexts:
    """Give rows of these lengths; row r holds the ids 1000 r + 1, 1000 r + 2, …"""
    rows = [1000 * row + 1 + np.arange(length) for row, length in enumerate(lengths)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token_ids = np.concatenate([*rows, []]).astype(np.int32)
    return EncodedTexts(token_ids, offsets, np.asarray(lengths, dtype=np.int32))


def flatten(plan) -> list[int]:
    return [int(row) for step in plan for row in step]


@given(lengths=lengths_of_rows, batch_size=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_plan_has_every_row_once(lengths, batch_size, seed):
    plan = plan_epoch(lengths, batch_size, seed=seed, epoch=0)
    assert sorted(flatten(plan)) == list(range(len(lengths)))


@given(lengths=lengths_of_rows, batch_size=st.integers(1, 40))
def test_all_steps_but_one_are_full(lengths, batch_size):
    sizes = sorted(len(step) for step in plan_epoch(lengths, batch_size, seed=0, epoch=0))
    assert set(sizes[1:]) <= {batch_size}
    assert 1 <= sizes[0] <= batch_size


@given(lengths=lengths_of_rows, seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_the_same_seed_and_epoch_give_the_same_plan(lengths, seed, epoch):
    a, b = (plan_epoch(lengths, 8, seed=seed, epoch=epoch) for _ in range(2))
    assert flatten(a) == flatten(b)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_gives_another_plan(change):
    lengths = np.arange(1, 101)
    base = {"seed": 0, "epoch": 0}
    assert flatten(plan_epoch(lengths, 8, **base)) != flatten(
        plan_epoch(lengths, 8, **(base | change))
    )


def test_a_plan_leaves_the_global_random_numbers_alone():
    np.random.seed(0)  # noqa: NPY002 (the global state is what is looked at)
    expected = np.random.random()  # noqa: NPY002 (as above)
    np.random.seed(0)  # noqa: NPY002 (as above)
    plan_epoch(np.arange(1, 20), 4, seed=3, epoch=0)
    assert np.random.random() == expected  # noqa: NPY002 (as above)


def test_rows_of_like_length_stand_together():
    lengths = np.random.default_rng(0).integers(1, 200, size=640)
    plan = plan_epoch(lengths, 16, seed=0, epoch=0)
    num_cells = sum(len(step) * int(lengths[step].max()) for step in plan)
    assert num_cells < 1.05 * lengths.sum()


def test_rows_that_share_a_step_do_not_share_one_in_the_next_epoch():
    first, second = (
        {frozenset(step.tolist()) for step in plan_epoch(np.arange(800), 4, seed=0, epoch=epoch)}
        for epoch in (0, 1)
    )
    assert len(first) == len(second) == 200
    assert not first & second


def test_the_next_epoch_of_a_seed_is_not_the_first_of_the_next_seed():
    plans = [plan_epoch(np.arange(1, 81), 8, seed=seed, epoch=1 - seed) for seed in (0, 1)]
    assert [step.tolist() for step in plans[0]] != [step.tolist() for step in plans[1]]


def test_rows_of_one_length_stay_in_the_order_of_the_shuffle():
    """A plan would else depend on how a processor sorts."""
    lengths = np.arange(200) % 3
    order = np.random.default_rng((3, 1)).permutation(200)  # as many as are sorted together
    rows = sorted(order.tolist(), key=lengths.__getitem__)
    plan = plan_epoch(lengths, 4, seed=3, epoch=1)
    assert sorted(step.tolist() for step in plan) == sorted(
        rows[at : at + 4] for at in range(0, 200, 4)
    )


def test_steps_do_not_stand_in_order_of_length():
    plan = plan_epoch(np.arange(1, 641), 16, seed=0, epoch=0)
    longest = [int(step.max()) for step in plan]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


@given(lengths=lengths_of_rows, max_tokens=st.integers(1, 200))
def test_cutting_keeps_every_row_once(lengths, max_tokens):
    pieces = cut_by_tokens(np.arange(len(lengths)), lengths, max_tokens)
    assert sorted(flatten(pieces)) == list(range(len(lengths)))


@given(lengths=lengths_of_rows, max_tokens=st.integers(1, 200))
def test_no_piece_exceeds_the_budget_but_a_row_that_is_longer_alone(lengths, max_tokens):
    for piece in cut_by_tokens(np.arange(len(lengths)), lengths, max_tokens):
        num_cells = len(piece) * int(lengths[piece].max())
        assert num_cells <= max_tokens or len(piece) == 1


@given(lengths=lengths_of_rows, max_tokens=st.integers(1, 200))
def test_the_longest_rows_come_first(lengths, max_tokens):
    pieces = cut_by_tokens(np.arange(len(lengths)), lengths, max_tokens)
    in_order = lengths[flatten(pieces)].tolist()
    assert in_order == sorted(in_order, reverse=True)


def test_only_the_given_rows_are_cut():
    lengths = np.array([3, 9, 4, 9, 5])
    assert flatten(cut_by_tokens([4, 0, 2], lengths, 100)) == [4, 2, 0]


def test_rows_are_padded_on_the_right_to_the_longest():
    batch = pad_rows(make_encoded([2, 3]), np.array([0, 1]), pad_id=7)
    assert batch.token_ids.tolist() == [[1, 2, 7], [1001, 1002, 1003]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.num_tokens == 5


def test_rows_of_one_length_need_no_mask():
    """Without a mask attention takes its fast path."""
    batch = pad_rows(make_encoded([2, 3, 2]), np.array([2, 0]), pad_id=7)
    assert batch.token_ids.tolist() == [[2001, 2002], [1, 2]]
    assert batch.attention_mask is None
    assert batch.num_tokens == 4


def test_what_torch_takes_is_int64():
    batch = pad_rows(make_encoded([2, 3]), np.array([0, 1]), pad_id=0)
    assert (batch.token_ids.dtype, batch.attention_mask.dtype) == (np.int64, np.int64)


@given(
    lengths=arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(1, 20)),
    max_tokens=st.integers(1, 100),
)
def test_batches_hold_the_ids_of_the_rows_that_they_name(lengths, max_tokens):
    encoded = make_encoded(lengths)
    rows = np.arange(len(lengths))
    seen = []
    for batch in iter_batches(encoded, rows, max_tokens=max_tokens, pad_id=0):
        for ids, row in zip(batch.token_ids, batch.indices, strict=True):
            assert ids[ids > 0].tolist() == (1000 * row + 1 + np.arange(lengths[row])).tolist()
            seen.append(int(row))
    assert sorted(seen) == rows.tolist()


@given(lengths=lengths_of_rows, max_tokens=st.integers(1, 200))
def test_packs_keep_every_row_once_and_the_longest_first(lengths, max_tokens):
    packs = cut_into_packs(np.arange(len(lengths)), lengths, max_tokens)
    assert sorted(flatten(packs)) == list(range(len(lengths)))
    in_order = lengths[flatten(packs)].tolist()
    assert in_order == sorted(in_order, reverse=True)


@given(lengths=lengths_of_rows, max_tokens=st.integers(1, 200))
def test_no_pack_exceeds_the_budget_but_a_row_that_is_longer_alone(lengths, max_tokens):
    for pack in cut_into_packs(np.arange(len(lengths)), lengths, max_tokens):
        assert lengths[pack].sum() <= max_tokens or len(pack) == 1


@given(lengths=lengths_of_rows, max_tokens=st.integers(1, 200))
def test_no_pack_leaves_room_for_the_next_row(lengths, max_tokens):
    packs = cut_into_packs(np.arange(len(lengths)), lengths, max_tokens)
    for pack, following in itertools.pairwise(packs):
        assert lengths[pack].sum() + lengths[following[0]] > max_tokens


def test_rows_are_packed_end_to_end():
    pack = pack_rows(make_encoded([2, 3, 1]), np.array([1, 0]))
    assert pack.token_ids.tolist() == [1001, 1002, 1003, 1, 2]
    assert pack.cu_seqlens.tolist() == [0, 3, 5]
    assert pack.positions.tolist() == [0, 1, 2, 0, 1]
    assert (pack.num_tokens, pack.num_cells) == (5, 5)
    assert (pack.token_ids.dtype, pack.positions.dtype) == (np.int64, np.int64)
    assert pack.cu_seqlens.dtype == np.int32


@given(
    lengths=arrays.arrays(np.int64, st.integers(1, 40), elements=st.integers(1, 20)),
    max_tokens=st.integers(1, 100),
)
def test_packs_hold_the_ids_of_the_rows_that_they_name(lengths, max_tokens):
    encoded = make_encoded(lengths)
    seen = []
    for pack in iter_packs(encoded, np.arange(len(lengths)), max_tokens=max_tokens):
        rows = np.split(pack.token_ids, pack.cu_seqlens[1:-1])
        positions = np.split(pack.positions, pack.cu_seqlens[1:-1])
        for ids, places, row in zip(rows, positions, pack.indices, strict=True):
            assert ids.tolist() == (1000 * row + 1 + np.arange(lengths[row])).tolist()
            assert places.tolist() == list(range(lengths[row]))
            seen.append(int(row))
    assert sorted(seen) == list(range(len(lengths)))


@given(
    lengths=lengths_of_rows.filter(lambda lengths: lengths.sum() < 4000),
    num_added=st.integers(1, 9),
    num_more=st.integers(0, 300),
)
def test_a_filled_pack_has_the_size_asked_for_and_its_own_rows_first(lengths, num_added, num_more):
    pack = pack_rows(make_encoded(lengths), np.arange(len(lengths)))
    num_tokens, num_rows = pack.num_tokens, len(lengths)
    size = {"num_tokens": num_tokens + num_added + num_more, "num_rows": num_rows + num_added}
    filled = fill_pack(pack, pad_id=7, **size)
    assert filled.num_tokens == size["num_tokens"]
    assert len(filled.token_ids) == len(filled.positions) == filled.cu_seqlens[-1]
    assert filled.cu_seqlens.dtype == np.int32
    of_rows = np.diff(filled.cu_seqlens)
    np.testing.assert_array_equal(of_rows[:num_rows], lengths)
    assert len(of_rows) == size["num_rows"]
    assert of_rows[num_rows:].min() >= 1
    assert np.ptp(of_rows[num_rows:]) <= 1
    np.testing.assert_array_equal(filled.token_ids[:num_tokens], pack.token_ids)
    assert set(filled.token_ids[num_tokens:].tolist()) <= {7}
    np.testing.assert_array_equal(filled.positions[:num_tokens], pack.positions)
    assert not filled.positions[num_tokens:].any()
    np.testing.assert_array_equal(filled.indices, pack.indices)


def test_a_pack_of_the_size_asked_for_stays_as_it_is():
    pack = pack_rows(make_encoded(np.array([3, 5])), np.arange(2))
    assert fill_pack(pack, pad_id=0, num_tokens=8, num_rows=2) is pack


@pytest.mark.parametrize(("num_tokens", "num_rows"), [(9, 2), (8, 3), (9, 4), (7, 2)])
def test_a_pack_cannot_be_filled_to_a_size_whose_rows_have_no_tokens(num_tokens, num_rows):
    pack = pack_rows(make_encoded(np.array([3, 5])), np.arange(2))
    with pytest.raises(AssertionError, match="each row of padding has a token"):
        fill_pack(pack, pad_id=0, num_tokens=num_tokens, num_rows=num_rows)


@pytest.mark.parametrize("num_rows", [1, 31, 32, 33, 1600, 1601, 5000])
def test_planned_epochs_are_those_of_the_plan(num_rows):
    lengths = np.random.default_rng(0).integers(1, 60, num_rows)
    epochs = PlannedEpochs(lengths, 32, seed=5, num_epochs=3)
    assert len(epochs) == 3
    for epoch, steps in enumerate(epochs):
        expected = plan_epoch(lengths, 32, seed=5, epoch=epoch)
        assert [rows.tolist() for rows in steps] == [rows.tolist() for rows in expected]
        assert len(steps) == epochs.num_steps
    with pytest.raises(IndexError):
        epochs[3]
