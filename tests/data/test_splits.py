"""Splitting: each row once, stratified by label, no group divided, reproducible."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bertfit.data.dataset import TextDataset
from bertfit.data.splits import split_off
from bertfit.errors import ConfigError, DataError

FRACTIONS = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 2**32)


def make(labels, groups=()) -> TextDataset:
    return TextDataset(
        source="train.csv",
        texts=[f"text {index}" for index in range(len(labels))],
        labels=list(labels),
        groups=list(groups),
        lines=list(range(2, len(labels) + 2)),
    )


def refuse(dataset, fraction=0.1) -> str:
    with pytest.raises(DataError) as caught:
        split_off(dataset, fraction, seed=0)
    return str(caught.value)


@st.composite
def labelled(draw):
    labels = draw(st.lists(st.sampled_from("abc"), min_size=4, max_size=60))
    counts = Counter(labels)
    assume(len(counts) > 1 and min(counts.values()) > 1)
    return make(labels)


@st.composite
def grouped(draw):
    pairs = st.tuples(st.sampled_from("abc"), st.integers(0, 9))
    rows = draw(st.lists(pairs, min_size=20, max_size=60))
    return make([label for label, _ in rows], [f"g{group}" for _, group in rows])


@given(labelled(), FRACTIONS, SEEDS)
def test_each_row_is_in_one_part_once_and_in_order(dataset, fraction, seed):
    rest, part = split_off(dataset, fraction, seed=seed)
    assert sorted([*rest.lines, *part.lines]) == dataset.lines
    assert (sorted(rest.lines), sorted(part.lines)) == (rest.lines, part.lines)


@given(labelled(), FRACTIONS, SEEDS)
def test_both_parts_hold_every_label_in_proportion(dataset, fraction, seed):
    rest, part = split_off(dataset, fraction, seed=seed)
    counts = Counter(part.labels)
    assert set(rest.labels) == set(part.labels) == set(dataset.labels)
    for label, count in Counter(dataset.labels).items():
        assert abs(counts[label] - count * fraction) <= 1


@given(labelled(), FRACTIONS, SEEDS)
def test_the_same_seed_gives_the_same_split(dataset, fraction, seed):
    assert split_off(dataset, fraction, seed=seed) == split_off(dataset, fraction, seed=seed)


@given(grouped(), FRACTIONS, SEEDS)
def test_no_group_is_divided_and_every_label_is_in_both_parts(dataset, fraction, seed):
    try:
        rest, part = split_off(dataset, fraction, seed=seed)
    except DataError:
        assume(False)
    assert not set(rest.groups) & set(part.groups)
    assert sorted([*rest.lines, *part.lines]) == dataset.lines
    assert set(rest.labels) == set(part.labels) == set(dataset.labels)


@given(grouped(), FRACTIONS, SEEDS)
def test_the_same_seed_gives_the_same_split_by_group(dataset, fraction, seed):
    def lines():
        try:
            return [part.lines for part in split_off(dataset, fraction, seed=seed)]
        except DataError as error:
            return str(error)

    assert lines() == lines()


def test_another_seed_gives_another_split():
    dataset = make("ab" * 100)
    assert split_off(dataset, 0.1, seed=0)[1].lines != split_off(dataset, 0.1, seed=1)[1].lines


def test_a_seed_gives_this_split_on_every_machine():
    _, part = split_off(make("aabb" * 5), 0.2, seed=13)
    _, grouped_part = split_off(make("aabb" * 5, "11223344556677889900"), 0.2, seed=13)
    assert (part.lines, grouped_part.lines) == ([3, 9, 14, 20], [4, 5, 14, 15])


def test_a_file_sorted_by_label_is_split_in_proportion():
    rest, part = split_off(make("n" * 500 + "p" * 500), 0.1, seed=0)
    assert (Counter(rest.labels), Counter(part.labels)) == (
        {"n": 450, "p": 450},
        {"n": 50, "p": 50},
    )


@pytest.mark.parametrize(
    ("labels", "fraction", "expected"),
    [
        ("a" * 10 + "b" * 14 + "c" * 3, 0.25, {"a": 3, "b": 3, "c": 1}),  # of 2.5, 3.5 and 0.75
        ("a" * 100 + "b" * 2, 0.9, {"a": 90, "b": 1}),  # of 1.8
    ],
)
def test_the_largest_remainders_are_rounded_up_unless_that_takes_all_of_a_label(
    labels, fraction, expected
):
    assert Counter(split_off(make(labels), fraction, seed=0)[1].labels) == expected


def test_many_small_labels_give_one_row_each():
    labels = [f"intent {number % 77}" for number in range(77 * 3)]
    _, part = split_off(make(labels), 0.1, seed=0)
    assert set(Counter(part.labels).values()) == {1}


def test_no_group_is_in_the_part_whatever_the_seed():
    """Authors of very different numbers of texts: the largest has a tenth of all."""
    sizes = [max(1, int(300 / rank**0.8)) for rank in range(1, 201)]
    groups = [f"author {author}" for author, size in enumerate(sizes) for _ in range(size)]
    labels = [("neg", "pos")[(row * 7 + row // 5) % 2] for row in range(len(groups))]
    parts = [split_off(make(labels, groups), 0.1, seed=seed)[1] for seed in range(10)]
    assert not set.intersection(*(set(part.groups) for part in parts))
    assert all(0.08 < len(part) / len(groups) < 0.14 for part in parts)


def test_a_grouped_part_comes_near_its_share_of_each_label():
    labels = [("neg", "pos")[(row * 7 + row // 5) % 2] for row in range(2000)]
    groups = [f"movie {(row * row) % 211}" for row in range(2000)]
    _, part = split_off(make(labels, groups), 0.1, seed=3)
    total, counts = Counter(labels), Counter(part.labels)
    assert all(abs(counts[label] / total[label] - 0.1) < 0.02 for label in total)


def test_a_grouped_part_comes_near_its_share_of_a_rare_label():
    """One group of it is nearest; for the share of the usual labels, more would be welcome."""
    labels, groups = ["a", *"ccccc"] * 4 + ["a", "b"] * 500, [f"c{row // 6}" for row in range(24)]
    groups += [f"g{row // 10}" for row in range(1000)]
    parts = [split_off(make(labels, groups), 0.2, seed=seed)[1] for seed in range(10)]
    assert [part.labels.count("c") for part in parts] == [5] * 10


def test_a_group_with_a_rare_label_brings_the_usual_ones_in():
    """If one was brought in for the usual labels first, the part would be twice its share."""
    labels, groups = ["a", "b"] * 90 + ["a", "b", "c"] * 6, [f"g{row // 10}" for row in range(180)]
    groups += ["c1"] * 9 + ["c2"] * 9
    parts = [split_off(make(labels, groups), 0.05, seed=seed)[1] for seed in range(5)]
    assert [len(part) for part in parts] == [9] * 5


def test_where_each_group_with_a_label_is_too_large_the_nearest_is_taken():
    labels = ["a", "b"] * 200 + ["c"] * 10 + ["a", "b"] * 15 + ["c"] * 10 + ["a", "b"] * 100
    groups = ["huge"] * 410 + ["large"] * 40 + [f"g{row // 10}" for row in range(200)]
    for seed in range(5):
        _, part = split_off(make(labels, groups), 0.05, seed=seed)
        assert set(part.groups) == {"large"}


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError) as caught:
        split_off(make("aabb"), fraction, seed=0)
    assert str(caught.value) == (
        f"the fraction to split off is {fraction}; above 0 and below 1 was expected"
    )


def test_a_dataset_without_labels_is_refused():
    dataset = TextDataset(source="rows", texts=["a"], labels=(), groups=(), lines=[1])
    assert refuse(dataset) == "rows cannot be split: it has no labels"


def test_a_single_label_is_refused():
    assert refuse(make("aaaa")).splitlines() == [
        "train.csv cannot be split into training and validation rows",
        "  train.csv: all rows have the label 'a'; at least 2 labels are needed",
        "Add rows, leave the label out, or give a validation file of its own.",
    ]


def test_labels_with_one_row_are_all_named_with_their_lines():
    message = refuse(make("aaxby" + "ab"))
    assert "train.csv:4: label 'x' has 1 row; each part needs at least one" in message
    assert "train.csv:6: label 'y' has 1 row; each part needs at least one" in message


def test_a_label_within_one_group_is_refused():
    message = (
        "train.csv:2: all 2 rows with the label 'a' belong to one group, 'g1', and a group is "
        "never divided; each part needs at least one"
    )
    assert message in refuse(make("aabb", ["g1", "g1", "g1", "g2"]))


def test_a_label_of_two_groups_is_in_both_parts():
    """Alone, either group is far more than a twentieth of the label, so neither came near it."""
    labels, groups = ["a", "b", "c"] + ["a", "b"] * 99, [f"g{row // 4}" for row in range(201)]
    labels[-1] = "c"
    rest, part = split_off(make(labels, groups), 0.05, seed=0)
    assert "c" in rest.labels
    assert "c" in part.labels


def test_groups_that_cannot_be_divided_between_the_parts_are_refused():
    # Each label has two of three groups: one part always lacks a label.
    message = refuse(make("accbab", ["1", "1", "2", "2", "3", "3"]), fraction=0.3)
    assert "train.csv: no split by group was found with" in message
    assert message.endswith("in both parts\nGive a validation file of its own.")


def test_where_one_order_of_groups_leaves_a_label_out_another_is_tried():
    labels, groups = "cdabcbdbba", "1330210211"
    rest, part = split_off(make(labels, groups), 0.3, seed=0)
    assert set(rest.labels) == set(part.labels) == set("abcd")


def test_a_grouped_part_stops_where_it_is_nearest_to_its_share():
    """Of ten groups of ten rows, one is nearer to 14 rows than two, and two to 16 rows than one."""
    dataset = make("ab" * 50, [f"g{row // 10}" for row in range(100)])
    sizes = [len(split_off(dataset, fraction, seed=0)[1]) for fraction in (0.14, 0.16, 0.9)]
    assert sizes == [10, 20, 90]


def test_a_group_after_which_the_part_is_as_far_from_its_share_stays_in_the_rest():
    """Of three groups of two rows for each label, one is as near to three rows as two."""
    dataset = make("aabb" * 3, [f"g{row // 2}" for row in range(12)])
    rest, part = split_off(dataset, 0.5, seed=0)
    assert Counter(part.labels) == {"a": 2, "b": 2}
    assert len(rest) == 8


def test_the_group_nearest_to_the_share_brings_a_rare_label_in():
    """The other group with the label holds most of the rows."""
    labels = ["a", "b", "c"] * 300 + ["a", "b", "c"] + ["a", "b"] * 50
    groups = ["huge"] * 900 + ["small"] * 3 + [f"g{row // 10}" for row in range(100)]
    for seed in range(5):
        _, part = split_off(make(labels, groups), 0.1, seed=seed)
        assert "huge" not in part.groups
