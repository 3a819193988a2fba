"""`compare`: two runs on the rows that both kept, or on given rows."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import bertfit
from bertfit import Columns
from bertfit.errors import ConfigError, RunError
from bertfit.evaluation.predictions import KeptPredictions
from bertfit.progress import Silent
from bertfit.workflow import learned as learned_texts
from bertfit.workflow.comparing import _compare
from bertfit.workflow.sides import Side, _find_leaked

SMALL = {"batch_size": 8, "dropout": 0.0, "dtype": "float32", "baseline": False}


@pytest.fixture(scope="module")
def runs(tiny_model_dir, make_reviews, tmp_path_factory):
    """Give a run that learned nothing and one that learned all, tested on the same rows."""
    folder = tmp_path_factory.mktemp("runs")
    for name, epochs, rate in (("poor", 1, 1e-6), ("good", 20, 0.02)):
        bertfit.train(
            make_reviews(120),
            folder / name,
            test=make_reviews(40, seed=7),
            model=str(tiny_model_dir),
            epochs=epochs,
            learning_rate=rate,
            group_column="movie",
            seed=1,
            **SMALL,
        )
    return folder / "poor", folder / "good"


@pytest.fixture
def copies(runs, tmp_path):
    """Give copies of both runs that a test may change."""
    return tuple(shutil.copytree(run, tmp_path / run.name) for run in runs)


def change_record(run, change):
    path = run / "bertfit.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def test_the_better_run_is_named_without_scoring_anything(runs, monkeypatch):
    monkeypatch.setattr("bertfit.workflow.evaluating.evaluate", None)
    result = bertfit.compare(*runs)
    accuracy = result.comparison.scores["accuracy"]
    record = json.loads((runs[1] / "bertfit.json").read_text(encoding="utf-8"))
    assert accuracy.b == pytest.approx(record["scores"]["test"]["accuracy"])
    assert accuracy.b > accuracy.a
    assert result.verdict.startswith(f"{runs[1]} is better than {runs[0]} by ")
    assert result.rows == "the 40 test rows that both runs kept"
    assert result.comparison.grouped


def test_the_groups_of_either_run_are_those_of_both(copies):
    path = copies[0] / "test_predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text(
        "\n".join(json.dumps({**line, "group": None}) for line in lines), encoding="utf-8"
    )
    assert bertfit.compare(*copies).comparison.grouped
    assert bertfit.compare(*copies[::-1]).comparison.grouped
    assert not bertfit.compare(copies[0], copies[0]).comparison.grouped


def test_a_run_is_the_same_as_itself(runs):
    same = runs[1] / ".." / runs[1].name
    result = bertfit.compare(runs[1], same)
    assert result.comparison.could_be_chance
    assert " predict the same class for every row." in result.verdict
    assert " Both are the same run." in result.verdict
    assert "same run" not in bertfit.compare(*runs).verdict
    assert result.disagreements == ()


def test_given_rows_give_what_the_kept_ones_give(runs, make_reviews):
    kept = bertfit.compare(*runs)
    rows = make_reviews(40, seed=7)
    given = bertfit.compare(*runs, data=rows, columns=Columns(group="movie"))
    for name, difference in kept.comparison.scores.items():
        assert given.comparison.scores[name].difference == pytest.approx(difference.difference)
    assert given.disagreements[0].text in {row["text"] for row in rows}
    assert kept.disagreements[0].text is None
    assert [one.line for one in given.disagreements] == [one.line for one in kept.disagreements]


def test_the_progress_of_both_runs_is_told_and_what_they_note_once(runs, make_reviews):
    heard, noted = [], []

    class Listener(Silent):
        def note(self, text):
            noted.append(text)

        def progress(self, task, done, total, detail=""):
            heard.append((task, done, total))

    bertfit.compare(*runs, data=make_reviews(4), listener=Listener())
    assert heard.count(("scoring", 4, 4)) == 2
    assert [text for text in noted if text.startswith("Columns: ")] == ["Columns: text and label."]
    assert len(noted) == len(set(noted))


def test_which_run_has_learned_some_of_the_rows_is_told(runs, copies, make_reviews):
    """Each by its name: a run that knows the rows is not comparable with one that does not."""
    (copies[0] / "trained_texts.npy").unlink()
    rows = make_reviews(120)[:30]
    noted = []

    class Listener(Silent):
        def note(self, text):
            noted.append(text)

    found = bertfit.compare(copies[0], runs[1], data=rows, listener=Listener())
    assert found.learned[0] is None
    assert found.learned[1].endswith("of these 30 texts")
    told = f"{runs[1]} was trained {found.learned[1]}"
    assert f" {told}: scores of learned rows are too good." in found.verdict
    chosen = f"{runs[1]} knew some others of these rows, or was chosen by them"
    assert chosen in found.verdict
    of_first, of_second = (note for note in noted if "trained" in note)
    assert of_first.startswith(f"{copies[0]} does not tell which texts it was trained on")
    assert of_second.startswith(f"WARNING: {told}")
    assert found.to_json()["learned"] == [None, found.learned[1]]
    (copies[1] / "trained_texts.npy").unlink()
    test = make_reviews(40, seed=7)
    leaky = bertfit.compare(copies[0], copies[1], data=test)
    both = f"{copies[0]} and {copies[1]} knew some of these rows, or were chosen by them"
    assert both in leaky.verdict
    both = bertfit.compare(runs[0], runs[1], data=rows)
    assert both.verdict.count("was trained on") == 2


@pytest.mark.parametrize(
    ("texts", "groups", "told"),
    [
        (3, None, "3"),
        (3, 7000, "7,000"),
        (None, 4, "4"),
    ],
)
def test_leaks_into_the_kept_test_rows_are_told(copies, texts, groups, told):
    def leak(record, *numbers):
        for part, number in zip(("leaks", "groups"), numbers, strict=True):
            entry = None if number is None else {"num_leaked": number}
            record["scores"][f"test_without_{part}"] = entry

    change_record(copies[0], lambda record: leak(record, texts, groups))
    change_record(copies[1], lambda record: leak(record, None, None))
    by = "by text (or nearly)" if groups is None else "by text (or nearly) or by group"
    end = f", {by}: scores of known rows are too good."
    poor, good = copies
    assert bertfit.compare(*copies).verdict.endswith(f" Of all these rows, {poor} knew {told}{end}")
    change_record(good, lambda record: leak(record, 1, None))
    verdict = bertfit.compare(*copies).verdict
    assert verdict.endswith(f" Of all these rows, {poor} knew {told} and {good} knew 1{end}")
    change_record(good, lambda record: leak(record, None, None))
    change_record(copies[0], lambda record: leak(record, None, None))
    assert "too good" not in bertfit.compare(*copies).verdict


def test_the_verdict_is_on_the_rows_that_neither_run_knew(tiny_model_dir, make_reviews, tmp_path):
    """Who learned the rows by heart was "better, hardly chance"."""
    rows, new = make_reviews(60), make_reviews(90, seed=7)[60:]
    options = {"model": str(tiny_model_dir), **SMALL, "epochs": 1}
    bertfit.train(rows, tmp_path / "learned", **options)
    bertfit.train(make_reviews(60, seed=5), tmp_path / "other", **options)
    runs = (tmp_path / "learned", tmp_path / "other")
    known = set(np.load(runs[0] / "trained_texts.npy").tolist())
    found, of_new = (bertfit.compare(*runs, data=data) for data in (rows + new, new))
    assert of_new.without_known is None
    assert found.comparison.num_rows == 90
    assert found.without_known.num_rows == 36  # the 6 that were held out chose nothing
    told = found.verdict.partition(" That is on the ")[2]
    start = f"{found.without_known.num_rows} rows, of 90, that neither knew (accuracy: {runs[0]} "
    assert told.startswith(start)
    assert found.to_json()["without_known"]["num_rows"] == found.without_known.num_rows
    digests = learned_texts._digest([row["text"] for row in rows]).tolist()
    learned = [row for row, digest in zip(rows, digests, strict=True) if digest in known]
    all_known = bertfit.compare(*runs, data=learned)
    assert all_known.without_known is None
    assert (
        " Each of these rows was known to one of them at least: with new text it may"
        in all_known.verdict
    )


def test_the_verdict_on_kept_rows_is_on_those_that_leaked_into_neither(
    tiny_model_dir, make_reviews, tmp_path
):
    options = {"model": str(tiny_model_dir), **SMALL, "epochs": 1}
    rows, runs = make_reviews(60), (tmp_path / "leaky", tmp_path / "clean")
    test = rows[:10] + make_reviews(90, seed=7)[60:]
    bertfit.train(rows, runs[0], test=test, **options)
    bertfit.train(make_reviews(60, seed=5), runs[1], test=test, **options)
    kept = (runs[0] / "test_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    num_known = sum(json.loads(line)["known"] for line in kept)
    assert 10 <= num_known < 40
    found = bertfit.compare(*runs)
    assert found.without_known.num_rows <= 40 - num_known
    assert bertfit.compare(*runs[::-1]).without_known.num_rows == found.without_known.num_rows
    assert f" That is on the {found.without_known.num_rows} rows, of 40, that" in found.verdict
    scored = bertfit.compare(*runs, data=test)
    assert scored.without_known.num_rows == found.without_known.num_rows
    (runs[0] / "test_predictions.jsonl").unlink()
    assert bertfit.compare(*runs, data=test).without_known.num_rows > found.without_known.num_rows


def test_the_surest_disagreements_come_first(runs, make_reviews):
    found = bertfit.compare(*runs, data=make_reviews(40, seed=7)).disagreements
    sure = [min(one.confidence_a, one.confidence_b) for one in found]
    assert sure == sorted(sure, reverse=True)
    assert len(sure) > 1
    assert all(one.predicted_a != one.predicted_b for one in found)


def test_the_order_of_the_classes_may_differ(copies, runs):
    poor, good = copies
    change_record(poor, lambda record: record["label_names"].reverse())
    path = poor / "test_predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["probabilities"].reverse()
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for name, difference in bertfit.compare(*runs).comparison.scores.items():
        turned = bertfit.compare(good, poor).comparison.scores[name]
        assert turned.difference == pytest.approx(-difference.difference)


def test_three_classes_in_another_order_are_put_in_the_order_of_the_first_run(copies):
    """Of three, the way back is another one than the way there."""
    names = ("bad", "fair", "good")
    sure = {"bad": [0.7, 0.2, 0.1], "fair": [0.1, 0.6, 0.3], "good": [0.0, 0.1, 0.9]}
    for run, order, first in ((copies[0], (0, 1, 2), "bad"), (copies[1], (2, 0, 1), "good")):
        change_record(
            run, lambda record, order=order: record.update(label_names=[names[at] for at in order])
        )
        path = run / "test_predictions.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for at, line in enumerate(lines):
            answer = names[at % 3] if at else first
            line["label"] = names[at % 3]
            line["probabilities"] = [sure[answer][place] for place in order]
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    result = bertfit.compare(*copies)
    accuracy = result.comparison.scores["accuracy"]
    assert (accuracy.a, accuracy.b) == (1.0, pytest.approx(39 / 40))
    (row,) = result.disagreements
    assert (row.line, row.label, row.predicted_a, row.predicted_b) == (1, "bad", "bad", "good")
    assert (row.confidence_a, row.confidence_b) == (0.7, 0.9)


def test_a_threshold_decides_what_is_answered(copies):
    _, good = copies
    assert bertfit.compare(*copies).comparison.scores["accuracy"].b > 0.5
    change_record(good, lambda record: record.update(threshold={"value": 0.0}))
    result = bertfit.compare(*copies)
    assert result.comparison.scores["accuracy"].b == 0.5  # everything is answered "pos"
    assert {one.predicted_b for one in result.disagreements} <= {"pos"}


def test_thresholds_are_named_in_the_verdict(copies, make_reviews):
    """A threshold chosen for recall gives up accuracy on purpose; the verdict blamed the model."""
    poor, good = copies
    assert "by its threshold" not in bertfit.compare(poor, good).verdict
    change_record(poor, lambda record: record.update(threshold={"value": 0.0}))
    told = f" {poor} answers by its threshold here, which may cost accuracy."
    assert told in bertfit.compare(poor, good).verdict
    assert told in bertfit.compare(poor, good, data=make_reviews(40)).verdict
    change_record(good, lambda record: record.update(threshold={"value": 0.5}))
    both = f" {poor} and {good} answer by their thresholds here, which may cost accuracy."
    assert both in bertfit.compare(poor, good).verdict


@pytest.mark.parametrize("value", ["high", None, 7])
def test_a_damaged_threshold_is_refused_as_by_evaluate(copies, value):
    change_record(copies[0], lambda record: record.update(threshold={"value": value}))
    for call in (lambda: bertfit.compare(*copies), lambda: bertfit.evaluate(copies[0], [])):
        with pytest.raises(RunError, match="is damaged: its calibration, threshold or selective"):
            call()


def test_a_record_without_label_names_is_refused(copies, make_reviews):
    change_record(copies[0], lambda record: record.pop("label_names"))
    for data in (None, make_reviews(4)):
        with pytest.raises(RunError, match=r"different labels: .*poor has none; .*good has neg,"):
            bertfit.compare(*copies, data=data)


def test_everything_can_be_written_as_json(runs):
    value = json.loads(json.dumps(bertfit.compare(*runs).to_json()))
    assert (value["a"], value["could_be_chance"]) == (str(runs[0]), False)
    assert len(value["disagreements"]) == value["num_disagreeing"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"columns": Columns(group="movie")}, "group column"),
        ({"columns": Columns(text="a", label="b")}, "text column, label column"),
        ({"columns": Columns(slices=("a",), kept=("b",))}, "slices, kept columns"),
        ({"on_bad_row": "skip", "device": "cpu", "dtype": "float32"}, "on_bad_row, device, dtype"),
    ],
)
def test_options_for_rows_need_rows(runs, options, named):
    with pytest.raises(ConfigError, match=f"^{named}: only for rows to score") as caught:
        bertfit.compare(*runs, **options)
    assert "--data" in caught.value.hint
    bertfit.compare(*runs, columns=Columns())


def test_runs_that_do_not_tell_their_test_rows_are_refused(copies):
    for run in copies:
        change_record(run, lambda record: record["data"]["test"].pop("fingerprint"))
    with pytest.raises(RunError, match="tested on different rows"):
        bertfit.compare(*copies)


def test_runs_of_other_test_rows_are_refused(copies):
    change_record(copies[1], lambda record: record["data"]["test"].update(fingerprint="x"))
    with pytest.raises(RunError, match="tested on different rows") as caught:
        bertfit.compare(*copies)
    assert "--data" in caught.value.hint


@pytest.fixture
def one_of_other_columns(copies):
    """Give two runs, the second of which was trained on the columns review and stars."""

    def rename(record):
        record["settings"]["text_column"]["value"] = "review"
        record["settings"]["label_column"]["value"] = "stars"

    change_record(copies[1], rename)
    return copies


@pytest.mark.parametrize("column", ["review", "stars"], ids=["another row skipped", "other labels"])
def test_runs_that_read_other_rows_are_refused(one_of_other_columns, make_reviews, column):
    """They were compared by the labels of the first, or failed with a message about arrays."""
    rows = [{**one, "review": one["text"], "stars": one["label"]} for one in make_reviews(40)]
    bertfit.compare(*one_of_other_columns, data=rows)
    rows[3][column] = {"review": "", "stars": rows[4]["label"]}[column]
    with pytest.raises(RunError, match="read other rows or labels of rows: ") as caught:
        bertfit.compare(*one_of_other_columns, data=rows, on_bad_row="skip")
    assert "poor the columns 'text' and 'label', " in caught.value.message
    assert caught.value.message.endswith("good 'review' and 'stars'")
    assert "--label-column" in caught.value.hint
    named = Columns(text="text", label="label")
    found = bertfit.compare(*one_of_other_columns, data=rows, columns=named, on_bad_row="skip")
    assert found.skipped == ()


def test_bad_rows_that_both_leave_out_are_told(runs, make_reviews):
    rows = [*make_reviews(10), {"text": "", "label": "pos"}]
    found = bertfit.compare(*runs, data=rows, on_bad_row="skip")
    assert found.rows == "the 10 rows of rows"
    assert found.to_json()["skipped"] == ["rows:11: the text is empty"]


def test_runs_with_other_labels_are_refused(copies, make_reviews):
    def rename(record):
        record["label_names"] = ["bad", "good"]

    change_record(copies[1], rename)
    for data in (None, make_reviews(4)):
        with pytest.raises(RunError, match=r"different labels: .* has neg, pos; .* has bad, good"):
            bertfit.compare(*copies, data=data)


@pytest.mark.parametrize("other", [("0.0", "1.0"), ("LABEL_0", "LABEL_1")])
def test_runs_that_spell_the_same_labels_differently_are_compared(
    tiny_model_dir, make_reviews, tmp_path, other
):
    """As where one was trained on what pandas wrote to CSV, and one on a Parquet file."""
    spellings = {"whole": {"neg": "1", "pos": "0"}, "other": {"neg": other[1], "pos": other[0]}}
    rows = {
        name: [{**row, "label": spelt[row["label"]]} for row in make_reviews(40)]
        for name, spelt in spellings.items()
    }
    for name in spellings:
        options = {"model": str(tiny_model_dir), "epochs": 1, "max_length": 16, "baseline": False}
        bertfit.train(rows[name], tmp_path / name, **options)
    runs = (tmp_path / "whole", tmp_path / "other")
    for data in rows.values() if other[0] == "0.0" else [rows["whole"]]:
        found = bertfit.compare(*runs, data=data)
        assert found.comparison.num_disagreeing == 0
        assert bertfit.compare(*reversed(runs), data=data).comparison.num_disagreeing == 0
        assert found.disagreements == ()


def test_of_many_labels_the_refusal_names_the_differing_ones_first(copies):
    """It named the first ten of each run, which may be the same."""
    names = [f"class {number}" for number in range(12)]
    for copy, last in zip(copies, ("old", "new"), strict=True):
        change_record(copy, lambda record, last=last: record.update(label_names=[*names, last]))
    shared = ", ".join(names[:9])
    told = f" has old, {shared} and 3 more; .* has new, {shared} and 3 more$"
    with pytest.raises(RunError, match=told):
        bertfit.compare(*copies)


def test_long_labels_are_shortened_in_the_refusal(copies):
    change_record(copies[1], lambda record: record.update(label_names=["long " * 40 + "end", "b"]))
    with pytest.raises(RunError) as caught:
        bertfit.compare(*copies)
    shown = caught.value.message.partition(f"{copies[1]} has ")[2]
    assert len(shown) == 80 + len(", b")
    assert shown.startswith("long long")
    assert shown.endswith("long end, b")


def test_a_run_without_kept_predictions_is_refused_with_a_way_out(copies):
    (copies[1] / "test_predictions.jsonl").unlink()
    with pytest.raises(RunError, match="keeps no such predictions") as caught:
        bertfit.compare(*copies)
    assert "--data" in caught.value.hint


def test_a_file_that_lost_lines_is_refused(copies):
    path = copies[1] / "test_predictions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(RunError, match="predictions of 39 rows; 40 were kept") as caught:
        bertfit.compare(*copies)
    assert str(path) in caught.value.message
    assert "--data" in caught.value.hint


def test_a_missing_run_is_named(runs, tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        bertfit.compare(runs[0], tmp_path / "none")


def test_probabilities_of_the_comparison_are_those_of_evaluate(runs, make_reviews):
    rows = make_reviews(40, seed=7)
    expected = bertfit.evaluate(runs[1], rows).scores
    found = bertfit.compare(*runs, data=rows).comparison.scores
    assert np.isclose(found["log_loss"].b, expected.log_loss)
    assert np.isclose(found["macro_f1"].b, expected.macro_f1)


def make_sides(*answers, label_ids, is_known):
    """Give what runs that are sure of their answers kept of the same rows, and know of them."""
    num_rows = len(label_ids)
    return [
        Side(
            ("neg", "pos"),
            KeptPredictions(
                lines=range(1, num_rows + 1),
                groups=[],
                label_ids=label_ids,
                probabilities=np.eye(2)[one] * 0.8 + 0.1,
                num_tokens=np.full(num_rows, 5),
                is_truncated=np.zeros(num_rows, dtype=bool),
                is_known=known,
            ),
            one,
            threshold=None,
            texts=None,
        )
        for one, known in zip(answers, is_known, strict=True)
    ]


@pytest.fixture
def folders(tmp_path):
    """Give the folders of two runs, which are empty."""
    both = (tmp_path / "a", tmp_path / "b")
    for folder in both:
        folder.mkdir()
    return both


def test_who_is_better_on_new_rows_is_named_with_the_accuracies_on_those(folders):
    """Run A learned the first half by heart, on which run B guesses."""
    label_ids, is_known = np.arange(80) % 2, np.arange(80) < 40
    of_a = np.where(~is_known & (np.arange(80) % 4 < 2), 1 - label_ids, label_ids)
    of_b = np.where(is_known & (np.arange(80) % 4 < 2), 1 - label_ids, label_ids)
    known = (is_known, np.zeros(80, dtype=bool))
    sides = make_sides(of_a, of_b, label_ids=label_ids, is_known=known)
    found = _compare("the rows", sides, runs=folders)
    assert found.comparison.scores["accuracy"].difference == 0
    assert found.verdict.startswith(f"{folders[1]} is better than {folders[0]} by 50.0 points ")
    told = f" of 80, that neither knew (accuracy: {folders[0]} 50.0 % and {folders[1]} 100.0 %)."
    assert told in found.verdict


def test_a_run_that_does_not_tell_what_it_knew_leaves_no_row_out(folders):
    label_ids, is_known = np.arange(20) % 2, np.arange(20) < 5
    for known in ((is_known, None), (None, is_known), (None, None)):
        sides = make_sides(label_ids, label_ids, label_ids=label_ids, is_known=known)
        found = _compare("the rows", sides, runs=folders)
        assert found.without_known is None
        assert "knew" not in found.verdict


def test_of_one_row_that_neither_run_knew_is_told_in_good_grammar(folders):
    label_ids, is_known = np.arange(20) % 2, np.arange(20) > 0
    known = (is_known, np.zeros(20, dtype=bool))
    sides = make_sides(label_ids, label_ids, label_ids=label_ids, is_known=known)
    found = _compare("the rows", sides, runs=folders)
    assert " That is on the only row, of 20, that neither knew (accuracy: " in found.verdict


def test_what_leaked_into_the_test_rows_of_a_run_says_nothing_of_as_many_others(copies):
    run, names = copies[0], ("neg", "pos")
    path = run / "test_predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    known = [at % 2 == 0 for at in range(len(lines))]
    told = [json.dumps({**line, "known": of}) for line, of in zip(lines, known, strict=True)]
    path.write_text("\n".join(told), encoding="utf-8")
    for is_own_test in (True, False):
        rows = SimpleNamespace(dataset=lines, is_own_test=is_own_test)
        expected = known if is_own_test else [False] * len(lines)
        assert _find_leaked(run, names, rows).tolist() == expected


def test_a_run_tells_what_it_learned_without_the_texts_that_chose_it(copies, make_reviews):
    (copies[0] / "validation_texts.npy").unlink()
    rows = make_reviews(120)[:30]
    whole, found = bertfit.compare(copies[1], copies[0], data=rows).learned
    assert found == whole is not None


def test_of_a_run_that_kept_no_digests_its_test_rows_chose_nothing(copies, make_reviews):
    for name in ("trained_texts.npy", "validation_texts.npy"):
        (copies[1] / name).unlink()
    rows = make_reviews(40, seed=7)
    told = bertfit.evaluate(copies[1], rows, columns=Columns(group="movie")).warning
    assert "Of all these rows" in told
    assert "chose" not in told
