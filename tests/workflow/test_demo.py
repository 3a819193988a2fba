"""The demo's own data: real snippets, and no film in two parts."""

from __future__ import annotations

from bertfit.data.duplicates import fingerprint_texts
from bertfit.workflow.demo import load_demo_data


def test_the_demo_tests_on_films_that_it_has_not_seen_under_any_name():
    """The corpus has one film twice, under two names and with the same 35 snippets."""
    data = load_demo_data()
    assert not {*data.train.groups} & {*data.test.groups}
    marks = fingerprint_texts([*data.train.texts, *data.test.texts])
    assert len(set(marks)) == len(marks)
