"""Predictions survive a round trip, and damage is reported with its line."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bertfit.errors import RunError
from bertfit.evaluation.predictions import KeptPredictions, read_predictions, write_predictions

NAMES = ("neg", "pos")


@pytest.fixture
def kept() -> KeptPredictions:
    probabilities = np.random.default_rng(0).dirichlet([1, 1], size=3)
    probabilities[2] = [0.0, 1.0]  # as a model gives that is sure beyond rounding
    return KeptPredictions(
        lines=[2, 3, 5],
        groups=["movie é", None, "b"],
        label_ids=np.array([0, 1, 1]),
        probabilities=probabilities,
        num_tokens=np.array([4, 700, 5]),
        is_truncated=np.array([False, True, False]),
    )


def test_what_is_written_is_read_back_exactly(kept, tmp_path) -> None:
    write_predictions(tmp_path / "p.jsonl", kept, NAMES)
    back = read_predictions(tmp_path / "p.jsonl", NAMES)
    np.testing.assert_array_equal(back.probabilities, kept.probabilities)
    for name in ("label_ids", "num_tokens", "is_truncated"):
        np.testing.assert_array_equal(getattr(back, name), getattr(kept, name))
    assert (back.lines, back.groups, len(back)) == (kept.lines, kept.groups, 3)
    assert back.known_groups.tolist() == ["movie é", None, "b"]


def test_a_line_has_no_text(kept, tmp_path) -> None:
    write_predictions(tmp_path / "p.jsonl", kept, NAMES)
    first = json.loads((tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(first) == ["line", "group", "label", "probabilities", "num_tokens", "truncated"]
    assert first["label"] == "neg"


def test_without_groups_there_are_none(kept, tmp_path) -> None:
    alone = KeptPredictions(
        kept.lines, [None] * 3, kept.label_ids, kept.probabilities, *(kept.num_tokens,) * 2
    )
    assert alone.known_groups is None


GOOD = {
    "line": 2,
    "group": None,
    "label": "pos",
    "probabilities": [0.5, 0.5],
    "num_tokens": 3,
    "truncated": False,
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "p.jsonl:2: the line is not JSON"),
        ("[" * 100_000, "p.jsonl:2: the line is not JSON"),
        ("[1]", "expected an object with line, group"),
        (json.dumps({"line": 1}), "expected an object with line, group"),
        (json.dumps({**GOOD, "label": "x"}), "label 'x' is not one of the run's: neg, pos"),
        (json.dumps({**GOOD, "label": [1]}), "label [1] is not one of the run's: neg, pos"),
        (json.dumps({**GOOD, "probabilities": [0.5]}), "probabilities: expected 2 numbers"),
        (json.dumps({**GOOD, "probabilities": [1]}), "probabilities: expected 2 numbers"),
        (json.dumps({**GOOD, "probabilities": [0, 10**400]}), "that sum to 1, got [0, 1000"),
        (json.dumps({**GOOD, "probabilities": [0.5, 0.9]}), "that sum to 1"),
        (json.dumps({**GOOD, "probabilities": [0.5, 0.502]}), "that sum to 1"),
        (json.dumps({**GOOD, "probabilities": [1.5, -0.5]}), "of at least 0"),
        (json.dumps({**GOOD, "probabilities": ["1", "0"]}), "probabilities: expected 2 numbers"),
        (json.dumps({**GOOD, "num_tokens": -1}), "num_tokens: expected a whole number"),
        (json.dumps({**GOOD, "num_tokens": 2**63}), "num_tokens: expected a whole number"),
        (json.dumps({**GOOD, "line": "2"}), "line: expected a whole number"),
        (json.dumps({**GOOD, "line": True}), "line: expected a whole number"),
        (json.dumps({**GOOD, "truncated": 1}), "truncated: expected true or false, got 1"),
        (json.dumps({**GOOD, "group": 5}), "group: expected a string or null, got 5"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(RunError) as caught:
        read_predictions(path, NAMES)
    assert message in str(caught.value)
    assert "p.jsonl:2" in str(caught.value)


def test_a_missing_file_an_empty_one_and_one_of_other_bytes_are_told_apart(tmp_path) -> None:
    with pytest.raises(RunError, match="does not exist: the run keeps no such predictions"):
        read_predictions(tmp_path / "none.jsonl", NAMES)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(RunError, match="is empty"):
        read_predictions(tmp_path / "empty.jsonl", NAMES)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="cannot be read"):
        read_predictions(tmp_path / "bytes.jsonl", NAMES)


@pytest.mark.parametrize("known", [None, [True, False, True]])
def test_which_rows_were_known_is_read_back_and_is_not_made_up(kept, tmp_path, known) -> None:
    is_known = None if known is None else np.array(known)
    write_predictions(tmp_path / "p.jsonl", dataclasses.replace(kept, is_known=is_known), NAMES)
    back = read_predictions(tmp_path / "p.jsonl", NAMES).is_known
    assert (None if back is None else back.tolist()) == known


@pytest.mark.parametrize("num_rows", [2, 4])
def test_more_rows_are_as_wrong_as_fewer(kept, tmp_path, num_rows: int) -> None:
    write_predictions(tmp_path / "p.jsonl", kept, NAMES)
    assert len(read_predictions(tmp_path / "p.jsonl", NAMES, num_rows=3)) == 3
    with pytest.raises(RunError, match=f"it holds predictions of 3 rows; {num_rows} were kept"):
        read_predictions(tmp_path / "p.jsonl", NAMES, num_rows=num_rows)


def test_a_count_may_be_zero(tmp_path) -> None:
    record = {**GOOD, "line": 0, "num_tokens": 0}
    (tmp_path / "p.jsonl").write_text(json.dumps(record), encoding="utf-8")
    assert read_predictions(tmp_path / "p.jsonl", NAMES).num_tokens.tolist() == [0]
