"""The demo's own data: real snippets, and no film in two parts."""

from __future__ import annotations

import bz2
import csv

from bertfit.assets import find_embedded_reviews
from bertfit.data.duplicates import fingerprint_texts
from bertfit.workflow.demo import load_demo_data


def test_the_demo_tests_on_films_that_it_has_not_seen_under_any_name():
    """The corpus has one film twice, under two names and with the same 35 snippets."""
    data = load_demo_data()
    assert not {*data.train.groups} & {*data.test.groups}
    marks = fingerprint_texts([*data.train.texts, *data.test.texts])
    assert len(set(marks)) == len(marks)


def test_the_demo_counts_what_it_leaves_out():
    with bz2.open(find_embedded_reviews(), "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    data = load_demo_data()
    assert len(data.train) + len(data.test) + data.num_left_out == len(rows)
    assert {*data.train.labels, *data.test.labels} == {"fresh", "rotten"}
    assert data.num_left_out >= sum(row["category"] not in {"fresh", "rotten"} for row in rows)
