"""Slices find where a model is weak, and are not flagged if they look bad by chance."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest, false_discovery_control, fisher_exact, t

from bertfit.errors import DataError
from bertfit.evaluation.slices import bin_numbers, list_slices, name_values, score_slices


def test_a_weak_slice_is_found_and_stands_first() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.choice(["drama", "comedy", "horror"], size=900)
    is_right = rng.random(900) < np.where(kinds == "horror", 0.6, 0.9)
    report = score_slices(is_right, {"kind": kinds.tolist()})
    assert report.slices[0].value == "horror"
    assert [one.is_worse for one in report.slices] == [True, False, False]
    assert not any(one.is_small for one in report.slices)


def test_the_interval_is_exact() -> None:
    is_right = [True] * 80 + [False] * 20
    (one, _) = score_slices(is_right, {"by": ["x"] * 60 + ["y"] * 40}).slices
    expected = binomtest(one.num_right, one.num_rows).proportion_ci(0.95, method="exact")
    assert (one.value, one.num_rows, one.num_right) == ("y", 40, 20)
    assert (one.interval.low, one.interval.high) == pytest.approx((expected.low, expected.high))
    assert one.rest_accuracy == 1.0


def test_among_many_slices_that_do_not_differ_hardly_one_is_called_worse() -> None:
    """Without adjustment 5 of 100 slices would be; with it, hardly one in ten data sets."""
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(5):
        groups = rng.integers(100, size=4000).astype(str).tolist()
        report = score_slices(rng.random(4000) < 0.8, {"group": groups})
        found += any(one.is_worse for one in report.slices)
    assert found <= 1


def test_p_values_are_those_of_fisher_adjusted_by_benjamini_and_hochberg() -> None:
    sizes = {"a": (10, 30), "b": (25, 30), "c": (28, 40)}
    is_right = [at < right for right, size in sizes.values() for at in range(size)]
    values = [name for name, (_, size) in sizes.items() for _ in range(size)]
    p_values = [
        fisher_exact([[right, size - right], [63 - right, 37 - size + right]]).pvalue
        for right, size in sizes.values()
    ]
    adjusted = dict(zip(sizes, false_discovery_control(p_values, method="bh"), strict=True))
    found = {one.value: one.p_value for one in score_slices(is_right, {"by": values}).slices}
    assert found == pytest.approx(adjusted)


def test_small_slices_are_flagged_and_tiny_ones_left_out() -> None:
    values = ["a"] * 50 + ["b"] * 49 + ["c"] * 10 + ["d"] * 9
    report = score_slices([True] * 118, {"by": values})
    is_small = {one.value: one.is_small for one in report.slices}
    assert is_small == {"a": False, "b": True, "c": True}
    assert report.num_too_small == 1


def test_a_small_bad_slice_does_not_push_a_large_one_aside() -> None:
    """The end of the interval counts: 5 of 10 is less known to be bad than 120 of 200."""
    is_right = [True] * 5 + [False] * 5 + [True] * 120 + [False] * 80 + [True] * 300
    values = ["tiny"] * 10 + ["big"] * 200 + ["rest"] * 300
    assert score_slices(is_right, {"by": values}).slices[0].value == "big"


def test_a_slice_of_all_rows_has_no_rest_and_is_left_out() -> None:
    assert score_slices([True] * 20, {"truncated": ["no"] * 20}).slices == ()


def test_rows_without_a_value_are_a_slice() -> None:
    report = score_slices([True] * 40, {"by": [None] * 20 + ["a"] * 20})
    assert {one.value for one in report.slices} == {"(none)", "a"}


def test_a_value_spelt_as_the_missing_ones_is_a_slice_of_its_own() -> None:
    values = [None] * 20 + ["(none)"] * 15 + ["a"] * 10
    report = score_slices([True] * 20 + [False] * 25, {"by": values})
    found = {one.value: (one.num_rows, one.num_right) for one in report.slices}
    assert found == {"((none))": (20, 20), "(none)": (15, 0), "a": (10, 0)}


def test_values_spelt_as_the_missing_ones_in_any_parentheses_are_slices_of_their_own() -> None:
    values = [None] * 20 + ["(none)"] * 15 + ["((none))"] * 10
    report = score_slices([True] * 20 + [False] * 25, {"by": values})
    found = {one.value: one.num_rows for one in report.slices}
    assert found == {"(((none)))": 20, "(none)": 15, "((none))": 10}


def test_columns_are_adjusted_together() -> None:
    is_right = [True] * 90 + [False] * 10
    values = ["a"] * 80 + ["b"] * 20
    alone = score_slices(is_right, {"x": values}).slices[0].p_value
    noise = {f"noise {n}": (["p", "q"] * 50) for n in range(20)}
    assert score_slices(is_right, {"x": values, **noise}).slices[0].p_value > alone


@pytest.mark.parametrize(("is_right", "values"), [([], {}), ([True] * 3, {"x": ["a"]})])
def test_wrong_rows_are_refused(is_right, values) -> None:
    with pytest.raises(DataError, match="expected"):
        score_slices(is_right, values)


def test_numbers_are_cut_into_bins_of_about_equal_size() -> None:
    names = bin_numbers(np.random.default_rng(0).permutation(1000).tolist())
    counts = {name: names.count(name) for name in set(names)}
    assert len(counts) == 5
    assert max(counts.values()) - min(counts.values()) <= 2
    assert "0 to 199" in counts


def test_a_column_of_many_numbers_is_binned_and_of_few_is_not() -> None:
    assert set(name_values([str(n / 7) for n in range(100)])) != {str(n / 7) for n in range(100)}
    assert name_values(range(20)) == [str(number) for number in range(20)]
    assert len(set(name_values(range(21)))) == 5
    assert name_values([0.5, float("nan"), "", None]) == ["0.5", None, None, None]


def test_values_are_spelt_as_labels_and_groups_are() -> None:
    assert name_values([True, np.False_, None, " a "]) == ["true", "false", None, "a"]
    assert name_values([1.0, 2, 2.5, ["x"]]) == ["1", "2", "2.5", "['x']"]
    assert name_values([True, *range(30)])[:2] == ["true", "0"]  # no number among numbers


def test_years_are_named_as_years_and_large_numbers_in_full() -> None:
    names = bin_numbers([*range(1980, 2020)] * 5)
    assert names[0] == "1980 to 1987"
    assert set(bin_numbers([2_000_000.0] * 5)) == {"2,000,000"}
    assert bin_numbers([10_000, *range(20_000, 20_004)] * 2)[0] == "10,000"


@pytest.mark.parametrize(
    ("start", "step", "name"),
    [
        (1_700_000_000.5, 1.0, "1700000000.5 to 1700000019.5"),
        (0.9999, 1e-7, "0.9999 to 0.9999019"),
        (0.5, 0.25, "0.5 to 5.25"),
        (1e300, 1e300, "1e+300 to 2e+301"),
    ],
)
def test_bins_are_told_apart_by_their_names(start: float, step: float, name: str) -> None:
    names = name_values([start + step * place for place in range(100)])
    assert [names.count(one) for one in dict.fromkeys(names)] == [20] * 5
    assert names[0] == name


def test_a_column_may_be_named_as_another_is_renamed() -> None:
    further = {"label": ["u", "v"], "column label": ["w", "w"]}
    values = list_slices([5, 9], [False, True], ["a", "b"], further=further)
    assert values["column label"] == ["u", "v"]
    assert values["column column label"] == ["w", "w"]


def test_of_two_columns_that_are_the_same_the_first_is_tested() -> None:
    further = {"film": ["x", "y"], "title": ["x", "y"], "year": ["x", "z"]}
    values = list_slices([5, 9], [False, True], ["a", "b"], further=further)
    assert list(values) == ["tokens", "truncated", "label", "film", "year"]


def test_bytes_are_named_as_the_text_that_they_are() -> None:
    """Older writers of Parquet do not mark strings as such; labels are decoded, too."""
    values = name_values([b"caf\xc3\xa9", b"\xff", b" ", None])
    assert values == ["café", "\\xff", None, None]
    assert name_values([str(number).encode() for number in range(100)])[0] == "0 to 19"


def test_ids_with_an_underscore_are_no_numbers() -> None:
    """Python reads 12_7 as 127: ids were put into bins of numbers that no row has."""
    ids = [f"{number}_7" for number in range(100)]
    assert name_values(ids) == ids


def test_integers_of_any_size_are_values() -> None:
    assert name_values([10**400, 2, None]) == [str(10**400), "2", None]
    assert name_values([10**5000, -(10**5000)]) == [hex(10**5000), hex(-(10**5000))]
    assert name_values([10**400, *range(100)])[1:] == [str(number) for number in range(100)]


def test_missing_numbers_stay_missing() -> None:
    names = name_values([None, *range(100)])
    assert names[0] is None
    assert names[1] == "0 to 19"


def test_spellings_of_no_number_are_missing_among_numbers_alone() -> None:
    odd = ["NaN", "null", " n/a", "-inf", "Infinity", "1e400", float("inf"), float("nan"), ""]
    odd.append(Decimal("Infinity"))
    names = name_values([*odd, *map(str, range(100))])
    assert names[: len(odd)] == [None] * len(odd)
    assert names[len(odd)] == "0 to 19"
    assert name_values(["NaN", "null", "a"]) == ["NaN", "null", "a"]


def test_a_report_can_be_written_as_json() -> None:
    report = score_slices([True, False] * 30, {"by": (["a"] * 30 + ["b"] * 30)})
    value = json.loads(json.dumps(report.to_json()))
    assert value["adjustment"] == "Benjamini-Hochberg"
    assert value["slices"][0]["interval"]["low"] >= 0


def test_a_column_may_bear_the_name_of_a_slice_and_is_not_tested_twice() -> None:
    found = list_slices(
        [3, 4],
        [True, False],
        ["a", "b"],
        groups=["g", "h"],
        further={"tokens": ["x", "y"], "film": ["g", "h"], "label": ["a", "b"]},
    )
    assert found == {
        "tokens": ["3", "4"],
        "truncated": ["yes", "no"],
        "label": ["a", "b"],
        "group": ["g", "h"],
        "column tokens": ["x", "y"],
    }


def draw_films(num_films: int = 40, *, deviation: float, seed: int, harder: float = 0.0):
    """2,000 rows of films that differ in difficulty: what is right, films, genres, thirds.

    Films of the genre "0" are harder by so much, in log odds.
    """
    rng = np.random.default_rng(seed)
    films = rng.integers(num_films, size=2000)
    genres = np.arange(num_films) % 4
    log_odds = 2.2 + rng.normal(0, deviation, num_films) - harder * (genres == 0)
    is_right = rng.random(2000) < 1 / (1 + np.exp(-log_odds[films]))
    names = [f"film {film}" for film in films]
    return is_right, names, genres[films].astype(str).tolist(), (films % 3).astype(str).tolist()


def test_slices_of_whole_groups_are_not_called_worse_by_chance() -> None:
    found, by_rows = 0, 0
    for seed in range(20):
        is_right, films, genres, _ = draw_films(deviation=1.0, seed=seed)
        by_rows += any(one.is_worse for one in score_slices(is_right, {"x": genres}).slices)
        report = score_slices(is_right, {"x": genres}, groups=films)
        found += any(one.is_worse for one in report.slices)
    assert found <= 1
    assert by_rows >= 8  # rows taken as independent


def test_slices_of_whole_groups_that_are_much_worse_are_found() -> None:
    found = 0
    for seed in range(10):
        is_right, films, genres, _ = draw_films(deviation=0.5, seed=seed, harder=1.5)
        report = score_slices(is_right, {"x": genres}, groups=films)
        found += report.slices[0].value == "0" and report.slices[0].is_worse
    assert found >= 9


def test_groups_widen_intervals_and_never_lower_p() -> None:
    is_right, films, genres, _ = draw_films(deviation=1.0, seed=0)
    halves = ["a", "b"] * 1000  # across films
    values = {"genre": genres, "half": halves}
    plain = {(one.by, one.value): one for one in score_slices(is_right, values).slices}
    report = score_slices(is_right, values, groups=films)
    assert report.to_json()["unit"] == "group"
    for one in report.slices:
        other = plain[one.by, one.value]
        assert one.p_value >= other.p_value - 1e-12
        assert one.interval.low <= other.interval.low
        assert one.interval.high >= other.interval.high
        if one.by == "genre":
            width = other.interval.high - other.interval.low
            assert one.interval.high - one.interval.low > 1.5 * width


def test_a_slice_by_group_is_about_that_group_alone() -> None:
    """Its rows are independent, given the group; a column of the same rows may mean more."""
    is_right = [True] * 190 + [False] * 30 + [True] * 180
    films = ["a"] * 180 + ["b"] * 40 + ["c"] * 180
    kinds = ["old" if film == "b" else "new" for film in films]
    report = score_slices(is_right, {"group": films, "kind": kinds}, groups=films)
    found = {one.value: one for one in report.slices}
    assert found["b"].is_worse
    assert (found["old"].num_rows, found["old"].num_right) == (40, 10)
    assert not found["old"].is_worse
    assert found["old"].interval.high > 0.9


def test_groups_that_are_worse_do_not_make_the_test_of_other_slices_laxer() -> None:
    is_right, films, genres, thirds = draw_films(deviation=1.5, seed=1)
    values = {"genre": genres, "third": thirds}
    alone = score_slices(is_right, values, groups=films).slices
    report = score_slices(is_right, {"group": films, **values}, groups=films)
    assert sum(one.is_worse for one in report.slices) > 5
    assert [one for one in report.slices if one.by != "group"] == list(alone)


def test_groups_of_one_row_each_are_rows() -> None:
    is_right, values = [True, False] * 30, {"by": ["a"] * 30 + ["b"] * 30}
    assert score_slices(is_right, values, groups=[f"g{row}" for row in range(60)]) == score_slices(
        is_right, values
    )
    with pytest.raises(DataError, match="group"):
        score_slices(is_right, values, groups=["g"])


def test_groups_that_are_all_right_prove_little() -> None:
    """The rest is four films without a mistake: others may be as hard as those of the slice."""
    is_right, films = [True] * 400, [f"film {row % 4}" for row in range(400)]
    is_right += [row % 10 > 0 for row in range(2000)]
    films += [f"film {4 + row % 40}" for row in range(2000)]
    kinds = ["few"] * 400 + ["many"] * 2000
    found = {one.value: one for one in score_slices(is_right, {"x": kinds}, groups=films).slices}
    assert not found["many"].is_worse
    assert found["few"].interval.low < 0.5


def test_groups_that_are_all_wrong_are_found_and_prove_little_of_others() -> None:
    is_right, films = [False] * 60, [f"film {row % 6}" for row in range(60)]
    is_right += [row % 10 > 0 for row in range(1200)]
    films += [f"film {6 + row % 40}" for row in range(1200)]
    kinds = ["few"] * 60 + ["many"] * 1200
    found = score_slices(is_right, {"x": kinds}, groups=films).slices[0]
    assert (found.value, found.accuracy, found.is_worse) == ("few", 0.0, True)
    assert found.interval.high == pytest.approx(1 - 0.025 ** (1 / 6))  # none of 6


def test_what_is_harder_within_each_group_is_found_however_much_groups_differ() -> None:
    """Of ten films, from hardly any right to nearly all, one half is a little worse in each."""
    is_right, films, halves = [], [], []
    for film in range(10):
        for half, num_right in (("a", 5 + 9 * film), ("b", 12 + 9 * film)):
            is_right += [row < num_right for row in range(100)]
            films += [f"film {film}"] * 100
            halves += [half] * 100
    found = score_slices(is_right, {"half": halves}, groups=films).slices[0]
    assert (found.value, found.is_worse) == ("a", True)


def test_the_variance_is_that_of_leaving_out_groups() -> None:
    """Of the share, with the slope of its log odds."""
    sizes, hits = np.array([30, 20, 50, 40]), np.array([12, 19, 30, 38])
    share, rest = 99.5 / 141, (hits.sum() - hits) / (sizes.sum() - sizes)
    deviation = (
        np.sqrt(3 / 4 * ((rest - hits.sum() / sizes.sum()) ** 2).sum()) / share / (1 - share)
    )
    is_right = [row < hit for size, hit in zip(sizes, hits, strict=True) for row in range(size)]
    films = [f"film {at}" for at, size in enumerate(sizes) for _ in range(size)]
    kinds, others = ["x"] * len(films) + ["y"] * 40, [f"other {at % 8}" for at in range(40)]
    report = score_slices([*is_right, *[True] * 40], {"kind": kinds}, groups=[*films, *others])
    found = next(one for one in report.slices if one.value == "x")
    away = t.ppf(0.975, 3) * deviation
    assert found.interval.low == pytest.approx(expit(logit(share) - away))
    assert found.interval.high == pytest.approx(expit(logit(share) + away))


def test_groups_that_do_not_differ_are_still_few() -> None:
    """Of three films, each has 9 of 10 right; by rows, the interval would begin at 0.74."""
    is_right = [row % 10 > 0 for row in range(130)]
    films = [f"film {row // 10}" for row in range(130)]
    kinds = ["x"] * 30 + ["y"] * 100
    found = {one.value: one for one in score_slices(is_right, {"kind": kinds}, groups=films).slices}
    assert found["x"].interval.low < 0.5


def test_where_groups_do_not_differ_the_doubt_of_rows_is_that_of_both_sides() -> None:
    """Of 5 films, each has 6 of 10 right, and of the 20 others 9 of 10."""
    is_right = [row % 10 < 6 for row in range(50)] + [row % 10 < 9 for row in range(200)]
    films = [f"film {row // 10}" for row in range(250)]
    kinds = ["x"] * 50 + ["y"] * 200
    found = score_slices(is_right, {"kind": kinds}, groups=films).slices[0]
    odds = np.array([30.5 / 20.5, 180.5 / 20.5])
    variances = (1 + odds) ** 2 / odds / [50, 200]
    far = np.log(odds[1] / odds[0]) / np.sqrt(variances.sum())
    assert found.p_value == pytest.approx(2 * t.sf(far, 4))


def test_slices_by_group_are_known_by_their_values_whatever_their_column() -> None:
    is_right, films, _, thirds = draw_films(deviation=1.5, seed=1)
    by_film, by_group = (
        score_slices(is_right, {name: films, "third": thirds}, groups=films).slices
        for name in ("film", "group")
    )
    assert [one.p_value for one in by_film] == [one.p_value for one in by_group]
    assert any(one.is_worse for one in by_film)


@pytest.mark.parametrize(("num_right", "num_rows"), [(20, 30), (27, 30), (100, 100)])
def test_groups_of_hardly_more_than_a_row_make_nothing_surer(num_right, num_rows) -> None:
    """Fisher's test and the exact interval hold for rows, and groups cannot tell more."""
    is_right = [row < num_right for row in range(num_rows)] + [row < 27 for row in range(30)]
    films = [f"film {row // 2 if row < 2 else row}" for row in range(len(is_right))]
    values = {"kind": ["x"] * num_rows + ["y"] * 30}
    plain, grouped = (
        {one.value: one for one in score_slices(is_right, values, groups=groups).slices}["x"]
        for groups in (None, films)
    )
    assert grouped.p_value >= plain.p_value
    assert grouped.interval.low <= plain.interval.low
    assert grouped.interval.high >= plain.interval.high


def test_slices_that_are_better_than_the_rest_come_last() -> None:
    """Of few rows, a better slice may reach less high than a worse one of many."""
    is_right = [True] * 150 + [False] * 50 + [True] * 6 + [False] * 4 + [True] * 4 + [False] * 6
    values = ["many"] * 200 + ["few"] * 10 + ["bad"] * 10
    by_rank = score_slices(is_right, {"by": values}).slices
    assert [one.value for one in by_rank] == ["bad", "few", "many"]
    worse, better = by_rank[:2], by_rank[2]
    assert all(one.accuracy < one.rest_accuracy for one in worse)
    assert better.accuracy > better.rest_accuracy


def test_columns_whose_slices_are_all_too_small_are_named() -> None:
    ids, halves = [str(row) for row in range(30)], ["a"] * 15 + ["b"] * 15
    report = score_slices([True, False] * 15, {"id": ids, "half": halves})
    assert report.columns_too_small == ("id",)
    assert report.to_json()["columns_too_small"] == ["id"]
    assert report.num_too_small == 30


def test_a_column_with_a_judged_slice_is_not_named_as_too_small() -> None:
    report = score_slices([True, False] * 15, {"x": ["large"] * 25 + ["tiny"] * 5})
    assert report.num_too_small == 1
    assert report.columns_too_small == ()


def test_both_ends_of_a_bin_are_shown_however_near_they_are() -> None:
    names = bin_numbers([0.12341, 0.12344, 1, 1, 2, 2, 3, 3, 4, 4])
    assert list(dict.fromkeys(names)) == ["0.12341 to 0.12344", "1", "2", "3", "4"]


def test_missing_values_are_none_of_the_few_numbers_that_are_named() -> None:
    assert name_values([None, "", *range(20)]) == [None, None, *map(str, range(20))]


def test_whole_numbers_of_up_to_15_digits_are_named_in_full() -> None:
    assert set(bin_numbers([10**15 - 1] * 5)) == {"999,999,999,999,999"}
    assert set(bin_numbers([10**15] * 5)) == {"1e+15"}


def test_bins_of_one_value_each_are_told_apart_by_their_names() -> None:
    numbers = [0.12341, 0.12342, 0.12343, 0.12344, 0.12345]
    assert bin_numbers(numbers * 4) == list(map(str, numbers)) * 4


def test_a_slice_as_good_as_the_rest_comes_before_those_that_are_better() -> None:
    """Of few rows, its interval reaches higher than theirs."""
    sizes = {"same": (8, 10), "better": (425, 500), "worse": (375, 500)}
    is_right = [at < right for right, size in sizes.values() for at in range(size)]
    values = [name for name, (_, size) in sizes.items() for _ in range(size)]
    slices = score_slices(is_right, {"by": values}).slices
    assert [one.value for one in slices] == ["worse", "same", "better"]
    assert slices[1].accuracy == slices[1].rest_accuracy
    assert slices[1].interval.high > slices[2].interval.high


def test_slices_by_group_are_adjusted_among_themselves() -> None:
    sizes = {"a": (10, 30), "b": (25, 30), "c": (28, 40)}
    is_right = [at < right for right, size in sizes.values() for at in range(size)]
    films = [name for name, (_, size) in sizes.items() for _ in range(size)]
    by_row = score_slices(is_right, {"group": films}).slices
    by_group = score_slices(is_right, {"group": films}, groups=films).slices
    assert [one.p_value for one in by_group] == pytest.approx([one.p_value for one in by_row])
