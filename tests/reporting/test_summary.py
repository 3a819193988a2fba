"""The sentences of the report say what holds of the run at hand."""

from __future__ import annotations

from typing import Any

from bertfit.reporting.facts_tables import list_baselines, list_seeds

INTERVALS = {"accuracy": {"low": 0.7, "high": 0.9}}


def make_facts(
    *, part: str = "validation", judged: dict[str, Any] | None = None, **record: Any
) -> dict[str, Any]:
    """Return the facts of a run of two classes that was judged on 1,000 rows of `part`."""
    own = {"part": part, "num_rows": 1000, "accuracy": 0.8, "intervals": INTERVALS}
    return {"label_names": ["no", "yes"], "judged": {**own, **(judged or {})}, "record": record}


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
