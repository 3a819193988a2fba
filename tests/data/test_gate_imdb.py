"""The data gate on IMDB: exactly its known faults, and its near-duplicates."""

from __future__ import annotations

import pytest

from bertfit.data.checks import check_training_data
from bertfit.data.dataset import Columns
from bertfit.data.gate import inspect_rows, summarize_leaks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def report(data_dir):
    checked = check_training_data(
        data_dir / "imdb" / "imdb_train_raw.jsonl.gz",
        test=data_dir / "imdb" / "imdb_test_raw.jsonl.gz",
        columns=Columns(group="movie"),
    )
    return inspect_rows(checked.train, test=checked.test, label_names=checked.label_names)


@pytest.mark.parametrize(
    ("kind", "part", "count"),
    [
        ("duplicates", "train", 98),  # 96 and 199 with HTML line breaks as they are
        ("duplicates", "test", 201),
        ("shared_texts", "test", 123),
        ("html_breaks", "train", 14_665),
        ("html_breaks", "test", 14_535),
        ("c1_characters", "train", 811),
        ("c1_characters", "test", 760),
    ],
)
def test_the_known_facts_are_found(report, kind, part, count):
    (finding,) = [one for one in report.findings if (one.kind, one.part) == (kind, part)]
    assert finding.count == count


def test_the_shared_movie_is_named(report):
    (finding,) = [one for one in report.findings if one.kind == "shared_groups"]
    assert finding.message.startswith("1 group (tt0406816) of test is also in train")


def test_shared_texts_have_the_same_label(report):
    assert "another label" not in report.findings[0].message


def test_near_duplicates_are_found_besides(report):
    (finding,) = [one for one in report.findings if one.kind == "near_duplicates"]
    assert finding.severity == "leak"
    assert finding.count >= 1
    assert len(report.leaked_test_rows) == 123 + finding.count


def test_no_natural_word_is_called_a_giveaway(report):
    assert not [one for one in report.findings if one.kind == "giveaway"]


def test_the_first_line_is_the_leak(report):
    assert summarize_leaks(report).startswith("LEAK: 12")
