"""Prediction of many rows: in order, in all formats, atomically."""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import json
from pathlib import Path

import pytest

from bertfit import Columns, TextClassifier
from bertfit.data.checks import count_good_rows
from bertfit.data.encoding import EncodingRule
from bertfit.data.readers import read_dataset
from bertfit.errors import ConfigError, DataError, WorkLeft
from bertfit.inference import predictor
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.precision import choose_precision
from bertfit.workflow.predicting import (
    PredictionCount,
    is_part_of_run,
    name_kept,
    predict_lines,
    predict_rows,
    write_predictions,
)

TEXTS = ["good", "the plot, of the film\nwas bad", 'a "fine"\tmovie', "awful", "a film"]
ROWS = [{"text": text} for text in TEXTS]


@pytest.fixture(scope="module")
def classifier(tiny_model_dir):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"])
    return TextClassifier(
        loaded.model,
        loaded.tokenizer,
        rule=EncodingRule(max_length=16),
        precision=choose_precision("cpu", "float32"),
    )


def predict_file(classifier, rows, path, **columns):
    count, chosen, names = PredictionCount(), Columns(**columns), classifier.label_names
    predictions = predict_rows(classifier, rows, count, columns=chosen)
    write_predictions(predictions, path, label_names=names, kept=name_kept(chosen, names))
    return count


def count_rows(classifier, source, on_bad_row="error", *, columns=None, on_progress=None):
    known = classifier.known_columns(columns)
    return count_good_rows(source, known, on_bad_row, verb="predicted", on_progress=on_progress)


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_json_lines_hold_the_whole_prediction(classifier, tmp_path):
    path = tmp_path / "out.jsonl"
    predict_file(classifier, ROWS, path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    expected = zip(TEXTS, classifier.predict(TEXTS), strict=True)
    for number, (line, (text, prediction)) in enumerate(zip(lines, expected, strict=True), 1):
        assert list(line) == ["line", "text", "label", "confidence", "probabilities"]
        assert (line["line"], line["text"], line["label"]) == (number, text, prediction.label)
        assert line["confidence"] == pytest.approx(prediction.confidence)
        assert line["probabilities"] == pytest.approx(prediction.probabilities)


def test_kept_columns_go_with_the_predictions_of_their_rows(classifier, tmp_path):
    """Without them, predictions could be joined to their rows by line only."""
    values = [7, "x,\ty", None, [1, "é"], 0.5]
    others = [b"caf\xe9", float("nan"), dt.date(2026, 11, 29), True, {"a": 1}]
    rows = [
        {"id": value, "label": "true", "p_neg": other, **row}
        for value, other, row in zip(values, others, ROWS, strict=True)
    ]
    kept = ("id", "label", "p_neg", "id")
    for suffix in ("jsonl", "csv", "tsv"):
        predict_file(classifier, rows, tmp_path / f"out.{suffix}", kept=kept)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert list(found[0])[:5] == ["line", "id", "column label", "column p_neg", "text"]
    assert [row["id"] for row in found] == values
    written = ["caf\\xe9", None, "2026-11-29", True, {"a": 1}]
    assert [row["column p_neg"] for row in found] == written
    table = read_table(tmp_path / "out.csv")
    assert list(table[0])[:5] == ["line", "id", "column label", "column p_neg", "text"]
    assert [row["id"] for row in table] == ["7", "x,\ty", "", '[1, "é"]', "0.5"]
    assert [row["text"] for row in table] == TEXTS
    assert {row["column label"] for row in table} == {"true"}
    tsv = (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1] for line in tsv] == ["id", "7", "x, y", "", '[1, "é"]', "0.5"]


def test_a_kept_column_that_is_not_there_is_named(classifier, tmp_path):
    with pytest.raises(DataError, match="no kept column 'it': columns are id, text"):
        predict_file(classifier, [{"id": 1, **ROWS[0]}], tmp_path / "out.csv", kept=("it",))


def test_a_csv_file_holds_texts_with_any_character(classifier, tmp_path):
    path = tmp_path / "out.csv"
    predict_file(classifier, ROWS, path)
    rows = read_table(path)
    assert [row["text"] for row in rows] == TEXTS
    assert list(rows[0]) == ["line", "text", "label", "confidence", "p_neg", "p_pos"]


def test_a_tsv_file_is_read_back_by_the_reader_of_tsv(classifier, tmp_path):
    """Quotes stand in it as they are; tabs and ends of lines are spaces."""
    texts = [*TEXTS, '"', 'says "no", and', "one\r\ntwo\rthree\tfour\n", "two\u2028lines"]
    path = tmp_path / "out.tsv"
    predict_file(classifier, [{"text": text} for text in texts], path)
    dataset, faults = read_dataset(path, Columns())
    assert faults == []
    assert dataset.texts[:2] == ["good", "the plot, of the film was bad"]
    assert dataset.texts[2] == 'a "fine" movie'
    assert dataset.texts[5:] == ['"', 'says "no", and', "one two three four ", "two\u2028lines"]
    assert dataset.labels == [one.label for one in classifier.predict(texts)]
    header = path.read_text(encoding="utf-8").splitlines()[0]
    assert header.split("\t") == ["line", "text", "label", "confidence", "p_neg", "p_pos"]


def test_a_table_rounds_to_six_places(classifier, tmp_path):
    predict_file(classifier, ROWS, tmp_path / "out.csv")
    (prediction,) = classifier.predict(TEXTS[0])
    row = read_table(tmp_path / "out.csv")[0]
    assert row["label"] == prediction.label
    assert row["confidence"] == f"{prediction.confidence:.6f}"
    assert row["p_neg"] == f"{prediction.probabilities['neg']:.6f}"


def test_rows_keep_their_line_and_order_over_chunks(classifier, monkeypatch):
    """Rows wait for their predictions a chunk at a time; skipped ones must not shift them."""
    monkeypatch.setattr(predictor, "_CHUNK", (3, 2**24))
    rows = [{"text": "" if number in {2, 3, 8} else f"film {number}"} for number in range(1, 12)]
    count = PredictionCount()
    found = [
        (row.line, row.text) for row in predict_rows(classifier, rows, count, on_bad_row="skip")
    ]
    kept = [1, 4, 5, 6, 7, 9, 10, 11]
    assert found == [(number, f"film {number}") for number in kept]
    assert [fault.line for fault in count.skipped] == [2, 3, 8]


def test_each_row_has_the_prediction_of_its_text(classifier, monkeypatch):
    monkeypatch.setattr(predictor, "_CHUNK", (2, 2**24))
    for row in predict_rows(classifier, ROWS, PredictionCount()):
        assert row.prediction.probabilities == pytest.approx(
            classifier.predict(row.text)[0].probabilities, abs=1e-6
        )


def test_rows_are_counted_as_they_are_predicted(classifier):
    count = PredictionCount()
    seen = [count.num_rows for _ in predict_rows(classifier, ROWS, count)]
    assert seen == [1, 2, 3, 4, 5]


def test_blank_lines_are_passed_over_and_still_numbered(classifier):
    count = PredictionCount()
    found = predict_lines(classifier, ["good", " ", "", "bad"], count)
    assert [(row.line, row.text) for row in found] == [(1, "good"), (4, "bad")]
    assert count.num_rows == 2


def test_a_bad_row_writes_nothing(classifier, tmp_path):
    with pytest.raises(DataError) as caught:
        predict_file(classifier, [*ROWS, {"text": ""}], tmp_path / "out.csv")
    assert caught.value.message == "a row cannot be predicted"
    assert caught.value.hint == "Fix the row, or skip such rows with --on-bad-row skip."
    assert [fault.line for fault in caught.value.faults] == [6]
    assert list(tmp_path.iterdir()) == []


def test_a_bad_row_after_others_keeps_their_predictions(classifier, tmp_path, monkeypatch):
    """Rows of standard input cannot be checked beforehand, and may have taken hours."""
    monkeypatch.setattr(predictor, "_CHUNK", (2, 2**24))
    with pytest.raises(DataError) as caught:
        predict_file(classifier, [*ROWS, {"text": ""}], tmp_path / "out.csv")
    (kept,) = tmp_path.iterdir()
    num_kept = len(read_table(kept))
    assert 2 <= num_kept < len(ROWS)
    assert kept.name == "out.unfinished.csv"
    assert caught.value.hint == (
        "Fix the row, or skip such rows with --on-bad-row skip.\n"
        f"{num_kept} predictions are in {kept}."
    )


def test_an_error_of_another_kind_tells_which_predictions_are_kept(classifier, tmp_path):
    def run_out(rows):
        yield from itertools.islice(rows, 2)
        raise MemoryError

    predictions = predict_rows(classifier, ROWS, PredictionCount())
    with pytest.raises(MemoryError) as caught:
        write_predictions(
            run_out(predictions), tmp_path / "out.csv", label_names=classifier.label_names
        )
    (kept,) = tmp_path.iterdir()
    assert caught.value.__notes__ == [f"2 predictions are in {kept}."]


def test_an_old_output_survives_a_bad_row(classifier, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(DataError):
        predict_file(classifier, [*ROWS, {"text": ""}], path)
    assert path.read_text() == "old"


def test_rows_are_counted_and_checked_before_they_are_predicted(classifier, monkeypatch):
    monkeypatch.setattr("bertfit.data.checks.ROWS_PER_REPORT", 4)
    heard = []
    assert count_rows(classifier, ROWS, on_progress=lambda *count: heard.append(count)) == 5
    assert heard == [(4, None), (5, 5)]
    heard.clear()
    assert count_rows(classifier, ROWS[:4], on_progress=lambda *count: heard.append(count)) == 4
    assert heard == [(4, None), (4, 4)]
    rows = [{"text": ""}, *ROWS, {"text": None}]
    with pytest.raises(DataError) as caught:
        count_rows(classifier, rows)
    assert caught.value.message == "2 problems in the data: nothing was predicted"
    assert [fault.line for fault in caught.value.faults] == [1, 7]
    assert count_rows(classifier, rows, on_bad_row="skip") == 5
    for policy in ("skip", "error"):
        with pytest.raises(DataError, match="no row can be used: all 2 have faults") as caught:
            count_rows(classifier, [rows[0], rows[-1]], on_bad_row=policy)
        assert "--on-bad-row" not in str(caught.value)
    assert count_rows(classifier, [{"x": "a"}], columns=Columns(text="x")) == 1


def interrupt_after(predictions, num_rows):
    yield from itertools.islice(predictions, num_rows)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_an_interrupt_keeps_the_predictions_made_so_far(classifier, tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    names = classifier.label_names
    for end in ("unfinished", "unfinished-2"):
        predictions = predict_rows(classifier, ROWS, PredictionCount())
        with pytest.raises(WorkLeft) as caught:
            write_predictions(interrupt_after(predictions, 3), path, label_names=names)
        kept = tmp_path / f"out.{end}{path.suffix}"
        assert str(caught.value) == f"3 predictions are in {kept}"
        dataset = read_dataset(kept, Columns())[0]
        assert len(dataset) == 3
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupt_replaces_no_file_that_came_meanwhile(classifier, tmp_path):
    """As that of another process, which predicts to the same file."""
    predictions = predict_rows(classifier, ROWS, PredictionCount())

    def meet(rows):
        yield from itertools.islice(rows, 2)
        (tmp_path / "out.unfinished.csv").write_text("another's")
        raise KeyboardInterrupt

    with pytest.raises(WorkLeft, match=r"2 predictions are in .*out\.unfinished-2\.csv"):
        write_predictions(
            meet(predictions), tmp_path / "out.csv", label_names=classifier.label_names
        )
    assert (tmp_path / "out.unfinished.csv").read_text() == "another's"


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "loop.csv"])
def test_an_odd_place_of_the_output_hinders_neither_writing_nor_keeping(classifier, tmp_path, name):
    path = tmp_path / name
    if name == "loop.csv":
        path.symlink_to("back.csv")
        (tmp_path / "back.csv").symlink_to("loop.csv")
    names = classifier.label_names
    predictions = predict_rows(classifier, ROWS, PredictionCount())
    with pytest.raises(WorkLeft) as caught:
        write_predictions(interrupt_after(predictions, 3), path, label_names=names)
    kept = Path(str(caught.value).removeprefix("3 predictions are in "))
    assert len(read_dataset(kept, Columns())[0]) == 3
    write_predictions(predict_rows(classifier, ROWS, PredictionCount()), path, label_names=names)
    assert len(read_table(path)) == 5


def test_kept_values_may_be_nested_as_deep_as_the_reader_takes_them(classifier, tmp_path):
    deep = "[" * 900 + "]" * 900
    rows = tmp_path / "deep.jsonl"
    rows.write_text(f'{{"text": "good", "id": {deep}}}\n')
    predict_file(classifier, rows, tmp_path / "out.csv", kept=("id",))
    (found,) = read_table(tmp_path / "out.csv")
    assert found["id"] == deep


def test_kept_values_are_json_in_tables_however_deep(classifier, tmp_path):
    row = {"text": "good", "id": {"days": [dt.date(2026, 1, 2)], "score": float("nan")}}
    predict_file(classifier, [row], tmp_path / "out.csv", kept=("id",))
    (found,) = read_table(tmp_path / "out.csv")
    assert json.loads(found["id"]) == {"days": ["2026-01-02"], "score": None}


def test_an_interrupt_before_the_first_prediction_leaves_nothing(classifier, tmp_path):
    names = classifier.label_names
    with pytest.raises(KeyboardInterrupt) as caught:
        write_predictions(interrupt_after(iter([]), 0), tmp_path / "out.csv", label_names=names)
    assert not isinstance(caught.value, WorkLeft)
    assert list(tmp_path.iterdir()) == []


def test_a_column_can_be_named(classifier):
    rows = [{"other": "x", "snippet": "good"}]
    (found,) = predict_rows(classifier, rows, PredictionCount(), columns=Columns(text="snippet"))
    assert found.text == "good"


@pytest.mark.parametrize("name", ["out.txt", "out", "out.parquet"])
def test_an_unknown_suffix_is_refused(classifier, tmp_path, name):
    with pytest.raises(ConfigError) as caught:
        predict_file(classifier, ROWS, tmp_path / name)
    assert str(caught.value) == (
        f"output: expected a name ending in .jsonl, .json, .csv, .tsv, got {name!r}"
    )


def test_a_json_file_is_part_of_a_run_only_in_its_folder(tiny_model_dir, tmp_path):
    path = tmp_path / "answers.json"
    path.write_text("old", encoding="utf-8")
    assert not is_part_of_run(path, tiny_model_dir)
    assert not is_part_of_run(tiny_model_dir / "answers.json", tiny_model_dir)
    assert is_part_of_run(tiny_model_dir / "config.json", tiny_model_dir)


def test_a_link_to_a_file_of_a_run_and_a_file_of_another_run_are_parts_of_one(
    tiny_model_dir, tmp_path
):
    (tmp_path / "link.json").symlink_to(tiny_model_dir / "config.json")
    assert is_part_of_run(tmp_path / "link.json", tiny_model_dir)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("bertfit.json", "answers.csv"):
        (other / name).write_text("{}", encoding="utf-8")
    assert is_part_of_run(other / "bertfit.json", tiny_model_dir)
    assert not is_part_of_run(other / "answers.csv", tiny_model_dir)


def test_abstentions_are_null_or_empty_and_counted(classifier, tmp_path):
    least = max(prediction.confidence for prediction in classifier.predict(TEXTS))
    for suffix in ("jsonl", "csv"):
        count = PredictionCount()
        predictions = predict_rows(classifier, ROWS, count, abstain_below=least)
        path = tmp_path / f"out.{suffix}"
        write_predictions(predictions, path, label_names=classifier.label_names)
        assert (count.num_rows, count.num_abstained) == (5, 4)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    labels = [json.loads(line)["label"] for line in lines]
    assert labels.count(None) == 4
    table = [row["label"] for row in read_table(tmp_path / "out.csv")]
    assert table == [label or "" for label in labels]


def test_lines_abstain_too(classifier):
    count = PredictionCount()
    found = list(predict_lines(classifier, TEXTS[:1], count, abstain_below=1.0))
    assert found[0][2].label is None
    assert count.num_abstained == 1


def test_an_argument_that_is_no_utf8_is_refused(classifier):
    """Python reads such a byte as half a surrogate pair."""
    with pytest.raises(DataError, match=r"TEXT:2: the text is not UTF-8: it has a lone surrogate"):
        list(predict_lines(classifier, ["good", "caf\udce9"], PredictionCount()))
