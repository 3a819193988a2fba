"""The sentences of the report say what holds of the run at hand."""

from __future__ import annotations

from typing import Any

import pytest

from bertfit.reporting.facts_tables import list_baselines, list_seeds
from bertfit.reporting.limits import describe_small_classes, describe_units, list_limits
from bertfit.reporting.summary import (
    describe_answer,
    describe_collapse,
    describe_seeds,
    describe_verdict,
    list_leaks,
)

INTERVALS = {"accuracy": {"low": 0.7, "high": 0.9}}


def make_facts(
    *, part: str = "validation", judged: dict[str, Any] | None = None, **record: Any
) -> dict[str, Any]:
    """Return the facts of a run of two classes that was judged on 1,000 rows of `part`."""
    own = {"part": part, "num_rows": 1000, "accuracy": 0.8, "intervals": INTERVALS}
    names = ["no", "yes"]
    return {
        "label_names": names,
        "judged": {**own, **(judged or {})},
        "record": {"label_names": names, **record},
        "history": None,
    }


@pytest.mark.parametrize(
    ("record", "chosen"),
    [
        ({"calibration": {"kind": "none"}}, "the epoch"),
        ({"calibration": {"kind": "temperature"}}, "the epoch and the calibration"),
        ({"seeds": {"runs": [{"seed": 0}]}}, "the epoch"),
        ({"seeds": {"runs": [{"seed": 0}, {"seed": 1}]}}, "the epoch and the seed"),
        (
            {
                "seeds": {"runs": [{"seed": 0}, {"seed": 1}]},
                "calibration": {"kind": "cubic"},
                "threshold": {"value": 0.3, "aim": "f1"},
            },
            "the epoch, the seed, the calibration and the threshold",
        ),
    ],
)
def test_all_that_the_judging_validation_rows_chose_is_named(
    record: dict[str, Any], chosen: str
) -> None:
    facts = make_facts(**record)
    assert f"these rows also chose {chosen}, and no test rows" in describe_answer(facts)
    assert f"the validation rows, which chose {chosen}, so they make" in list_limits(facts)[0]


@pytest.mark.parametrize(
    ("recall", "support", "told"),
    [
        (0.0, 8, "interval 70.0 to 90.0). Of the 8 rows of yes, it recognises none."),
        (0.5, 8, "it recognises 50.0 %."),
        (0.0, 4, "interval 70.0 to 90.0)."),  # too few to tell
        (0.6, 500, "interval 70.0 to 90.0)."),  # little worse than the whole
    ],
)
def test_a_class_that_is_hardly_recognised_stands_beside_the_accuracy(
    recall: float, support: int, told: str
) -> None:
    classes = {
        "no": {"recall": 1.0, "support": 1000 - support},
        "yes": {"recall": recall, "support": support},
    }
    facts = make_facts(part="test", judged={"per_class": classes})
    assert describe_answer(facts).endswith(told)
    many = {f"class {number}": classes["yes"] for number in range(11)}
    facts = make_facts(part="test", judged={"per_class": many})
    assert "recognises" not in describe_answer(facts)


def test_rows_that_chose_nothing_are_not_said_to_have_chosen() -> None:
    """One epoch is no choice."""
    facts = make_facts(settings={"epochs": {"value": 1, "origin": "option"}})
    assert describe_answer(facts).endswith("; no test rows were scored.")
    assert "the validation rows. " in f"{list_limits(facts)[0]} "
    assert "chose" not in list_limits(facts)[0]


@pytest.mark.parametrize(
    ("clean", "told"),
    [
        (None, "; it chose nothing. The scores hold for text like it."),
        (0.7, ". Some of them are not new to the model: the score without them, given above, is"),
        (0, ". None of them is new to the model: the scores say nothing about new text."),
    ],
)
def test_leaked_rows_are_not_said_to_choose_nothing(clean: float | None, told: str) -> None:
    """Test rows that are the validation rows chose the epoch, and the card said that none did."""
    found = [] if clean is None else [{"severity": "leak", "message": "leaked"}]
    scores = {"test_without_leaks": {"accuracy": clean or None, "num_leaked": 9, "num_rows": 9}}
    record = {"data": {"findings": found}, "scores": scores if found else {}}
    assert f"scored after training{told}" in list_limits(make_facts(part="test", **record))[0]


@pytest.mark.parametrize(
    ("source", "told"),
    [("rows", "was given in memory"), ("DataFrame", "was given in memory"), ("a.csv", "is a.csv")],
)
def test_a_test_set_is_named_by_its_file_if_it_has_one(source: str, told: str) -> None:
    facts = make_facts(part="test", data={"test": {"source": source}})
    assert list_limits(facts)[0].startswith(f"The test set {told}, 1,000 rows, ")


def test_of_groups_that_are_all_known_the_scores_hold_for_these() -> None:
    scores = {"test_without_groups": {"accuracy": None, "num_leaked": 9, "num_rows": 0}}
    data = {"findings": [{"severity": "leak", "message": "leaked"}]}
    told = list_limits(make_facts(part="test", data=data, scores=scores))[0]
    assert ". None of their groups is new to the model: the scores hold for these alone." in told


@pytest.mark.parametrize("part", ["validation", "test"])
def test_small_classes_and_groups_are_limits_on_either_part(part: str) -> None:
    """On validation rows, intervals stood without what they take for granted."""
    judged = {
        "per_class": {"no": {"support": 996}, "yes": {"support": 4}},
        "interval_unit": "group",
        "num_interval_units": 9,
    }
    told = list_limits(make_facts(part=part, judged=judged))[0]
    assert "Intervals: whole groups were resampled, 9 groups, too few to be sure" in told
    assert "1 of 2 classes has fewer than 5 rows" in told
    told = list_limits(make_facts(part=part))[0]
    assert told.endswith("Intervals: rows are taken as independent.")
    judged = {"interval_unit": "row", "of_one_group": True}
    told = list_limits(make_facts(part=part, judged=judged))[0]
    assert "independent. All rows are of one group: the intervals do not say" in told
    assert "Intervals" not in list_limits(make_facts(part=part, judged={"intervals": {}}))[0]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"test": None}, "There was no test set."),
        ({"test": {"source": "t.csv"}}, "Interrupted before the test rows were scored"),
    ],
)
def test_why_no_test_rows_were_scored_is_said(data: dict[str, Any], why: str) -> None:
    assert list_limits(make_facts(data=data))[0].startswith(why)


def test_the_share_of_cut_texts_is_that_of_the_judged_rows() -> None:
    encoding = {"max_length": 1024, "truncation": "tail"}
    facts = make_facts(part="test", judged={"num_truncated": 1}, encoding=encoding)
    told = "Of texts longer than 1,024 tokens the model reads only their end: 1 of 1,000 test rows"
    assert f"{told} (0.1 %)." in list_limits(facts)
    facts = make_facts(part="test", judged={"num_truncated": 0}, encoding=encoding)
    told = "Of texts longer than 1,024 tokens the model reads only their end; no test row is longer"
    assert f"{told}." in list_limits(facts)


@pytest.mark.parametrize(
    ("ece", "verdict"), [(0.05, "is within chance"), (0.051, "is more than chance explains")]
)
def test_an_error_of_calibration_is_weighed_against_chance(ece: float, verdict: str) -> None:
    facts = make_facts(judged={"confidence": {"ece": ece, "ece_noise": 0.05}})
    assert list_limits(facts)[-1] == (
        f"Confidence is not calibrated. Its calibration error of {ece:.4f} {verdict} (chance alone "
        "gives up to 0.0500)."
    )


def test_scores_without_leaks_count_what_they_leave_out() -> None:
    clean = {"num_leaked": 1, "num_rows": 1199, "accuracy": 0.75, "intervals": INTERVALS}
    nothing = {"num_leaked": 1200, "num_rows": 0, "accuracy": None, "intervals": {}}
    facts = make_facts(scores={"test_without_leaks": clean, "test_without_groups": nothing})
    assert list_leaks(facts["record"]) == [
        "Without 1 leaked row, on the other 1,199: accuracy 75.0 % (95 % interval 70.0 to 90.0).",
        "Without the leaked or grouped rows nothing is left to score.",
    ]


def test_an_interrupted_training_says_how_far_its_last_epoch_came() -> None:
    training = {"interrupted": True, "unfinished_epoch": [3, 9]}
    limits = list_limits(make_facts(training=training))
    assert "The training was interrupted after 3 of 9 steps of its last epoch." in limits
    training = {"interrupted": True, "unfinished_epoch": None}
    limits = list_limits(make_facts(training=training))
    assert "The training was interrupted." in limits


@pytest.mark.parametrize(
    ("kind", "told"), [("temperature", "yes is"), ("vector", "before its calibration, yes was")]
)
def test_a_collapse_is_told_of_the_model_that_had_it(kind: str, told: str) -> None:
    """Biases of a calibration can make other classes the most probable ones."""
    facts = make_facts(training={"collapsed_to": 1}, calibration={"kind": kind})
    whole = f"The model has collapsed: {told} most probable for every validation row."
    assert describe_collapse(facts["record"]) == whole
    assert describe_collapse(make_facts(training={"collapsed_to": None})["record"]) is None


def test_without_a_test_set_the_best_baseline_is_named_beside_the_model() -> None:
    facts = make_facts() | {
        "judged": {"part": "validation"},
        "validation_accuracy": 0.7,
        "baselines": {
            "best": "NB-SVM",
            "baselines": [
                {"name": "majority class", "validation": {"accuracy": 0.5}},
                {"name": "NB-SVM", "validation": {"accuracy": 0.8}},
            ],
        },
    }
    assert describe_verdict(facts) == (
        "On the validation rows, which also chose the epoch, the model classifies 70.0 % "
        "correctly, and the best baseline, NB-SVM, 80.0 %."
    )
    told = describe_verdict(facts | {"history": {"val_losses": [0.5]}})
    assert str(told).startswith("On the validation rows the model classifies 70.0 % correctly, and")
    assert describe_verdict(facts | {"baselines": None}) is None
    assert describe_verdict(facts | {"judged": {"part": "test"}}) is None  # was not compared


def test_the_kept_and_the_interrupted_seed_are_marked() -> None:
    scores = {"accuracy": 0.75, "macro_f1": 0.7}
    part = {"mean": scores, "standard_deviation": None}
    seeds = {
        "runs": [
            {"seed": seed, "interrupted": seed == 5, "validation": scores, "test": None}
            for seed in (3, 4, 5)
        ],
        "best_seed": 4,
        "validation": part,
        "test": {"mean": None, "standard_deviation": None},
    }
    rows = list_seeds(make_facts(seeds=seeds))
    names = ["3", "4 (kept)", "5 (interrupted)", "mean", "standard deviation"]
    assert [row["name"] for row in rows] == names
    assert [row["name"] for row in rows if row["is_kept"]] == ["4 (kept)"]
    assert rows[-1]["cells"] == ["–"] * 4


def test_without_test_rows_baselines_have_only_their_validation_accuracy() -> None:
    one = {"name": "NB-SVM", "note": "n", "validation": {"accuracy": 0.625}, "test": None}
    facts = make_facts() | {"baselines": {"baselines": [one]}, "validation_accuracy": 0.5}
    assert list_baselines(facts) == [
        {"name": "this model", "note": None, "cells": ["50.0 %", "–", "–"]},
        {"name": "NB-SVM", "note": "n", "cells": ["62.5 %", "–", "–"]},
    ]


@pytest.mark.parametrize(
    ("num_seeds", "metric", "chosen"),
    [
        (2, "accuracy", "the seed with the highest accuracy"),
        (2, "loss", "the seed with the lowest loss"),
        (1, "accuracy", "the epoch"),  # Ctrl-C came before the second seed
    ],
)
def test_what_chose_the_seed_is_told_if_there_was_a_choice(
    num_seeds: int, metric: str, chosen: str
) -> None:
    runs = [
        {"seed": seed, "interrupted": False, "validation": {metric: 0.5 + seed}}
        for seed in range(num_seeds)
    ]
    seeds = {"runs": runs, "chosen_by": f"validation {metric}", "test": {"mean": None}}
    seeds["best_seed"] = 0
    assert f"They chose {chosen}, so they make it look too good." in describe_seeds(seeds)


@pytest.mark.parametrize(
    ("losses", "told"), [((0.4, 0.3), "the lowest loss"), ((0.3, 0.3), "the first")]
)
def test_how_one_of_equal_seeds_was_chosen_is_told(losses: tuple[float, float], told: str) -> None:
    runs = [
        {"seed": seed, "interrupted": False, "validation": {"accuracy": 0.5, "loss": loss}}
        for seed, loss in enumerate(losses)
    ]
    runs.append({"seed": 2, "interrupted": True, "validation": {"accuracy": 0.5, "loss": 0.1}})
    seeds = {"runs": runs, "chosen_by": "validation accuracy", "test": {"mean": None}}
    seeds["best_seed"] = 1 if told == "the lowest loss" else 0
    assert f"the highest accuracy (of equals, {told}), so they" in describe_seeds(seeds)


def test_five_rows_of_a_class_and_ten_groups_are_not_few() -> None:
    assert describe_small_classes([5, 900], [0, 905]) == ""
    assert describe_units(10, grouped=True) == "10 groups"


OTHER = "The other has fewer than 5 rows: its"
ONE = "1 of the 2 others has fewer than 5 rows: its"
LESS = "scores, and macro averages, are less certain than the intervals say."
ZERO = "as 0 in macro averages."
OUT = "so macro averages leave"


@pytest.mark.parametrize(
    ("supports", "num_predicted", "told"),
    [
        ([9, 3, 2], [9, 3, 2], f"2 of 3 classes have fewer than 5 rows: their {LESS}"),
        ([9, 0, 0], None, "2 of 3 classes have no rows here."),
        (
            [9, 9, 0, 0, 0],
            [15, 0, 2, 0, 1],
            f"3 of 5 classes have no rows here; 2 of them were predicted, and count {ZERO}",
        ),
        (
            [9, 0, 0],
            [8, 1, 0],
            f"2 of 3 classes have no rows here; 1 of them was predicted, and counts {ZERO}",
        ),
        (
            [900, 9, 0, 0],
            [909, 0, 0, 0],
            f"2 of 4 classes have no rows here; none of them was predicted, {OUT} them out.",
        ),
        (
            [1, 0],
            [0, 1],
            f"1 of 2 classes has no rows here; it was predicted, and counts {ZERO} {OTHER} {LESS}",
        ),
        (
            [9, 4, 0],
            [13, 0, 0],
            f"1 of 3 classes has no rows here; it was not predicted, {OUT} it out. {ONE} {LESS}",
        ),
    ],
)
def test_classes_without_rows_are_told_from_those_with_few(
    supports: list[int], num_predicted: list[int] | None, told: str
) -> None:
    """Absent classes that were predicted halved a macro F1, and nothing said so."""
    assert describe_small_classes(supports, num_predicted) == told


def test_limits_tell_which_absent_classes_were_predicted_if_the_record_does() -> None:
    judged = {"per_class": {"no": {"support": 9}, "yes": {"support": 0}}}
    told = list_limits(make_facts(part="test", judged=judged))[0]
    assert told.endswith("1 of 2 classes has no rows here.")
    told = list_limits(make_facts(part="test", judged={**judged, "confusion": [[8, 1], [0, 0]]}))[0]
    assert told.endswith("no rows here; it was predicted, and counts as 0 in macro averages.")


def test_serious_findings_are_limits_and_others_are_told_elsewhere() -> None:
    severities = ("leak", "serious", "minor")
    findings = [{"severity": name, "message": f"a {name} one"} for name in severities]
    facts = make_facts(data={"test": None, "findings": findings})
    assert [told for told in list_limits(facts) if told.startswith("a ")] == ["a serious one"]
    assert list_leaks(facts["record"]) == ["a leak one"]


@pytest.mark.parametrize("reads_it", [True, False, None])
def test_that_a_model_reads_padding_is_told_to_those_who_take_a_pipeline(reads_it: bool | None):
    training = {} if reads_it is None else {"reads_padding": reads_it}
    told = " ".join(list_limits(make_facts(part="test", training=training)))
    assert ("a pipeline with a batch_size does, gets other answers" in told) == bool(reads_it)
