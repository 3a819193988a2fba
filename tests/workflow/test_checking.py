"""`check`: what it returns, and what the data gate does within a training."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bertfit
from bertfit.data import readers, token_faults
from bertfit.errors import ConfigError, DataError, LeakError, ModelError, RunError
from bertfit.evaluation.metrics import accuracy_and_macro_f1
from bertfit.workflow import checking

SMALL = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "dropout": 0.0, "dtype": "float32"}


class Recorder:
    def __init__(self):
        self.notes, self.tasks = [], []

    def note(self, text):
        self.notes.append(text)

    def progress(self, task, done, total, detail=""):
        self.tasks.append(task)


@pytest.fixture
def check(tiny_model_dir):
    return lambda *args, **options: bertfit.check(*args, model=str(tiny_model_dir), **options)


@pytest.fixture
def train(tiny_model_dir, tmp_path):
    def run(data, **options):
        options = {"model": str(tiny_model_dir), "baseline": False, **SMALL, **options}
        result = bertfit.train(data, tmp_path / "run", **options)
        return result, json.loads((tmp_path / "run" / "bertfit.json").read_text("utf-8"))

    return run


def leaking(make_reviews):
    """Rows to train on, and test rows of which the last four are among them."""
    rows = make_reviews(60)
    return rows, [*make_reviews(20, seed=5), *rows[-4:]]


def test_a_check_describes_every_part(check, make_reviews):
    rows = make_reviews(60)
    result = check(rows, validation=make_reviews(20, seed=3), test=make_reviews(30, seed=4))
    assert {name: part["num_rows"] for name, part in result.parts.items()} == {
        "train": 60,
        "validation": 20,
        "test": 30,
    }
    assert result.parts["train"]["tokens"]["max"] == 14
    assert result.parts["train"]["tokens"]["cut_shares"]["128"] == 0.0


@pytest.mark.parametrize("num_breaks", [1, 0])
def test_tokens_are_counted_as_a_training_would_read_them(check, train, make_reviews, num_breaks):
    """Line breaks of the training rows decide for all parts."""
    rows, test = make_reviews(60), make_reviews(20, seed=4)
    rows[0]["text"] += " <br /><br />" * num_breaks
    test[0]["text"] = "good <br />"
    tokens = {name: part["tokens"] for name, part in check(rows, test=test).parts.items()}
    ways = {part["text_cleaning"] for part in tokens.values()}
    assert ways == {"html_breaks" if num_breaks else "none"}
    clean = [{**row, "text": row["text"].replace("<br />", " ")} for row in rows]
    assert tokens["train"]["max"] == check(clean).parts["train"]["tokens"]["max"]
    _, record = train(rows)
    assert record["encoding"]["text_cleaning"] in ways


def test_findings_of_the_tokenizer_stand_among_the_others(check, make_reviews):
    rows = [*make_reviews(60), {"text": "好电影", "label": "pos", "movie": "x"}]
    result = check(rows)
    assert "unknown_tokens" in {finding.kind for finding in result.findings}
    assert result.report.findings == result.findings


def test_unknown_texts_that_a_sample_shows_are_counted_in_full(check, make_reviews, monkeypatch):
    """Plain ASCII is never suspected: what the model does not know of it, the sample must show."""
    monkeypatch.setattr(token_faults, "MOST_SAMPLED", 20)
    foreign = [
        {"text": f"7 8 9 {at}", "label": ("pos", "neg")[at % 2], "movie": "x"} for at in range(100)
    ]
    (finding,) = [
        one for one in check([*make_reviews(60), *foreign]).findings if one.kind == "unknown_tokens"
    ]
    assert (finding.count, finding.num_rows) == (100, 160)


def test_the_json_says_whether_there_are_leaks_first(check, make_reviews):
    train, test = leaking(make_reviews)
    value = json.loads(json.dumps(check(train, test=test).to_json()))
    assert next(iter(value)) == "summary"
    assert value["summary"].startswith("LEAK: 4 of 24 test rows (16.7 %) seen before")
    assert value["num_leaked_test_rows"] == 4
    assert value["findings"][0]["kind"] == "shared_texts"
    assert value["findings"][0]["share"] == pytest.approx(4 / 24)


def test_a_strict_check_refuses_leaks(check, make_reviews):
    train, test = leaking(make_reviews)
    with pytest.raises(LeakError, match="4 of 24 test rows"):
        check(train, test=test, strict=True)


def test_a_strict_check_without_test_rows_says_that_it_checks_nothing(check, make_reviews):
    listener = Recorder()
    check(make_reviews(20), strict=True, listener=listener)
    told = "strict changes nothing: there are no test rows, and nothing can leak into them."
    assert told in listener.notes
    train, test = make_reviews(20), make_reviews(20, seed=7)
    check(train, test=[row for row in test if row not in train], strict=True, listener=listener)
    assert listener.notes.count(told) == 1


def test_faults_that_stop_a_training_stop_a_check(check):
    with pytest.raises(DataError, match="the text is empty"):
        check([{"text": "", "label": "pos"}, {"text": "bad", "label": "neg"}])


def test_a_model_that_is_wrong_is_told_before_the_rows_are_compared(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(checking, "inspect_rows", None)
    rows = [{"text": "good film", "label": "pos"}, {"text": "bad film", "label": "neg"}]
    for options in ({"model": "no/such/folder"}, {"model": str(tiny_model_dir), "max_length": 65}):
        with pytest.raises(ModelError):
            bertfit.check(rows, **options)


def test_more_tokens_than_the_model_reads_are_refused(check, make_reviews):
    with pytest.raises(ModelError, match="reads at most 64 tokens"):
        check(make_reviews(10), max_length=65)


def test_a_length_out_of_range_is_refused(check, make_reviews):
    with pytest.raises(ConfigError, match="max_length: expected a number at least 4"):
        check(make_reviews(10), max_length=1)


def test_progress_is_told(check, make_reviews):
    listener = Recorder()
    check(make_reviews(10), listener=listener)
    assert set(listener.tasks) == {"comparing", "checks", "tokens of train"}


def test_reading_many_rows_is_told_by_all_that_reads_labelled_rows(
    check, train, make_reviews, tmp_path, monkeypatch
):
    monkeypatch.setattr(readers, "ROWS_PER_REPORT", 30)
    rows, run = make_reviews(40), tmp_path / "run"

    def tasks_of(call, *args, **options):
        listener = Recorder()
        call(*args, listener=listener, **options)
        return listener.tasks

    assert tasks_of(train, rows)[:2] == ["reading", "reading"]
    assert "reading" in tasks_of(check, rows)
    assert "reading" in tasks_of(bertfit.evaluate, run, rows)
    assert tasks_of(bertfit.compare, run, run, data=rows).count("reading") == 2 * 2
    assert "reading" in tasks_of(bertfit.find_suspects, rows)
    assert "reading" in tasks_of(bertfit.find_suspects, make_reviews(40, seed=3), run=run)


def test_a_training_notes_leaks_first_and_records_findings(train, make_reviews):
    rows, test = leaking(make_reviews)
    listener = Recorder()
    _, record = train(rows, test=test, listener=listener)
    assert listener.notes[0].startswith("LEAK: 4 of 24 test rows (16.7 %) seen before")
    findings = record["data"]["findings"]
    assert findings[0]["severity"] == "leak"
    assert {"kind", "part", "count", "share", "examples", "advice"} <= set(findings[0])
    assert record["data"]["dropped"] == {"duplicates": 0, "in_other_parts": 0}


def test_a_training_gives_the_score_without_the_leaked_rows(train, make_reviews):
    rows, test = leaking(make_reviews)
    result, record = train(rows, test=test)
    stored = record["scores"]["test_without_leaks"]
    kept = slice(0, 20)
    evaluation = result.test.evaluation
    expected = accuracy_and_macro_f1(
        evaluation.predicted_ids[kept], evaluation.label_ids[kept], num_labels=2
    )
    assert (stored["accuracy"], stored["macro_f1"]) == pytest.approx(expected)
    assert (stored["num_leaked"], stored["num_rows"]) == (4, 20)
    interval = stored["intervals"]["accuracy"]
    assert interval["low"] <= stored["accuracy"] <= interval["high"]
    assert record["scores"]["test"]["num_rows"] == 24


def test_a_training_gives_the_score_without_rows_of_seen_groups(train, make_reviews):
    rows = make_reviews(60)
    new = [{**row, "movie": f"new{at}"} for at, row in enumerate(make_reviews(20, seed=5))]
    other = [{**row, "movie": rows[0]["movie"]} for row in make_reviews(6, seed=9)]
    result, record = train(rows, test=[*new, *other, rows[-1]], group_column="movie")
    stored, evaluation = record["scores"]["test_without_groups"], result.test.evaluation
    seen = record["scores"]["test_without_leaks"]
    assert (seen["num_leaked"], seen["num_rows"]) == (1, 26)
    assert (stored["num_leaked"], stored["num_rows"]) == (7, 20)
    is_right = (evaluation.predicted_ids == evaluation.label_ids)[:20]
    assert stored["accuracy"] == pytest.approx(is_right.mean())
    page = (result.run / "report.html").read_text(encoding="utf-8")
    assert "Without 7 leaked or grouped rows, on the other 20: accuracy" in page


def test_without_leaks_there_is_one_score(train, make_reviews):
    unseen = [("plot was bad bad bad", "neg"), ("plot was fine fine fine", "pos")]
    test = [{"text": text, "label": label} for text, label in unseen]
    result, record = train(make_reviews(60), test=test)
    assert result.test.without_leaks is None
    assert result.test.without_groups is None
    assert record["scores"]["test_without_leaks"] is None


def test_where_all_test_rows_leaked_nothing_is_left(train, make_reviews):
    rows = make_reviews(60)
    _, record = train(rows, test=rows[:10])
    stored = record["scores"]["test_without_leaks"]
    assert (stored["num_leaked"], stored["num_rows"], stored["accuracy"]) == (10, 0, None)


def test_a_strict_training_stops_before_the_rows_are_encoded(
    train, make_reviews, tmp_path, monkeypatch
):
    monkeypatch.setattr("bertfit.workflow.preparing.encode_or_reuse", None)
    rows, test = leaking(make_reviews)
    with pytest.raises(LeakError) as caught:
        train(rows, test=test, strict=True)
    assert caught.value.exit_code == 8
    assert not (tmp_path / "run").exists()


def test_dropping_leaves_the_test_set_and_counts_what_went(train, make_reviews):
    rows, test = leaking(make_reviews)
    listener = Recorder()
    result, record = train(
        [*rows, rows[0], rows[0]], test=test, drop_duplicates=True, strict=True, listener=listener
    )
    assert record["data"]["dropped"] == {"duplicates": 2, "in_other_parts": 4}
    assert result.num_train + result.num_validation == 56
    assert record["data"]["test"]["num_rows"] == 24
    assert listener.notes[0] == (
        "Dropped from the training rows: 2 duplicates, and 4 rows whose text is also in "
        "validation or test."
    )
    assert record["scores"]["test_without_leaks"] is None


def test_dropping_is_recorded_as_a_setting(train, make_reviews):
    _, record = train(make_reviews(40), drop_duplicates=True)
    assert record["settings"]["drop_duplicates"] == {"value": True, "origin": "argument"}
    assert record["settings"]["strict"] == {"value": False, "origin": "default"}


def test_texts_that_the_model_cannot_read_are_recorded(train, make_reviews):
    rows = [*make_reviews(60), *({"text": f"好电影{at}", "label": "pos"} for at in range(9))]
    _, record = train([{"text": row["text"], "label": row["label"]} for row in rows])
    kinds = {finding["kind"] for finding in record["data"]["findings"]}
    assert "unknown_tokens" in kinds


def test_without_dropping_duplicates_nothing_changes(train, make_reviews):
    """The gate looks; it moves no row, so that runs from before can be repeated."""
    rows = make_reviews(40)
    result, _ = train([*rows, rows[0]])
    assert result.num_train + result.num_validation == 41
    assert np.isfinite(result.outcome.history.val_losses).all()


def test_a_run_that_is_not_there_is_said_before_the_long_work(
    check, make_reviews, tmp_path, monkeypatch
):
    monkeypatch.setattr(checking, "inspect_rows", None)  # calling it would be a TypeError
    with pytest.raises(RunError, match="does not exist"):
        check(make_reviews(20), run=tmp_path / "nowhere")


def test_labels_that_the_run_does_not_know_are_said_before_the_long_work(
    check, make_reviews, train, tmp_path, monkeypatch
):
    train(make_reviews(40))
    monkeypatch.setattr(checking, "inspect_rows", None)  # calling it would be a TypeError
    rows = [{**row, "label": row["label"].upper()} for row in make_reviews(20, seed=3)]
    with pytest.raises(DataError, match="label 'POS' is not known to the model"):
        check(rows, run=tmp_path / "run")


def test_lengths_of_long_texts_are_told_as_estimates(check):
    rows = [{"text": f"good film {at}", "label": "pos" if at % 2 else "neg"} for at in range(20)]
    rows[3]["text"] = "good film. " * 4_000
    tokens = check(rows).parts["train"]["tokens"]
    assert tokens["num_estimated"] == 1
    assert tokens["max"] == pytest.approx(12_002, rel=0.01)
    assert check(rows, max_length=64).parts["train"]["tokens"] == {
        **tokens,
        "cut_shares": {"64": 0.05, **tokens["cut_shares"]},
    }
