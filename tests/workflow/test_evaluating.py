"""`evaluate`: scores of a run on labelled rows, with the settings of its training."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bertfit
from bertfit import Columns, TextClassifier
from bertfit.data.dataset import TextDataset
from bertfit.errors import ConfigError, DataError, RunError
from bertfit.progress import Silent
from bertfit.workflow import evaluating, rows_to_score
from bertfit.workflow.learned import Learned, describe_leaks
from tests.step_listener import Recorder


@pytest.fixture(scope="module")
def run(tiny_model_dir, make_reviews, tmp_path_factory):
    """Give a run whose training rows had columns of unusual names."""
    path = tmp_path_factory.mktemp("runs") / "run"
    bertfit.train(
        rename(make_reviews(40)),
        path,
        model=str(tiny_model_dir),
        epochs=6,
        batch_size=8,
        learning_rate=0.01,
        dropout=0.0,
        dtype="float32",
        max_length=10,
        text_column="snippet",
        label_column="verdict",
    )
    return path


def rename(rows):
    return [
        {"snippet": row["text"], "verdict": row["label"], "movie": row["movie"]} for row in rows
    ]


@pytest.fixture(scope="module")
def rows(make_reviews):
    return make_reviews(30, seed=8)


@pytest.fixture(scope="module")
def evaluation(run, rows):
    return bertfit.evaluate(run, rows)


def test_the_accuracy_is_that_of_the_predictions(run, rows, evaluation):
    predictions = TextClassifier.load(run).predict([row["text"] for row in rows])
    hits = [p.label == row["label"] for p, row in zip(predictions, rows, strict=True)]
    assert evaluation.scores.accuracy == pytest.approx(np.mean(hits))
    assert evaluation.scores.num_rows == 30


def test_probabilities_stand_in_the_order_of_the_rows(run, rows, evaluation):
    expected = TextClassifier.load(run).predict_probabilities(row["text"] for row in rows)
    np.testing.assert_allclose(evaluation.probabilities, expected, atol=1e-6)
    assert evaluation.label_ids.tolist() == [int(row["label"] == "pos") for row in rows]


def test_every_headline_number_lies_in_its_interval(evaluation):
    scores = evaluation.scores.to_json()
    for name, interval in evaluation.intervals.items():
        assert interval.low <= scores[name] <= interval.high, name


@pytest.mark.parametrize(("least", "is_told"), [(30, True), (31, False)])
def test_intervals_of_many_rows_tell_their_progress(run, rows, monkeypatch, least, is_told):
    monkeypatch.setattr(evaluating, "_MANY_ROWS", least)
    heard = []
    told = SimpleNamespace(note=lambda _text: None, progress=lambda *counts: heard.append(counts))
    bertfit.evaluate(run, rows, listener=told)
    counts = [(done, total) for task, done, total, *_ in heard if task == "intervals"]
    assert bool(counts) == is_told
    assert all(0 < done <= total for done, total in counts)


def test_truncated_rows_are_counted(run, rows, evaluation):
    lengths = [2 + len(row["text"].split()) for row in rows]
    assert evaluation.num_truncated == sum(length > 10 for length in lengths) > 0
    assert (evaluation.max_length, evaluation.truncation) == (10, "head")


def test_the_arithmetic_is_that_of_the_training(evaluation):
    assert evaluation.dtype == "float32"


def test_another_arithmetic_can_be_asked_for(run, rows):
    assert bertfit.evaluate(run, rows, device="cpu", dtype="bfloat16").dtype == "bfloat16"


def test_a_file_gives_what_its_rows_give(run, rows, evaluation, write_csv, tmp_path):
    path = write_csv(tmp_path / "test.csv", rows)
    again = bertfit.evaluate(run, path)
    assert again.scores == evaluation.scores
    assert again != evaluation
    assert len({again, evaluation}) == 2


def test_the_columns_of_the_training_are_the_default(run, rows, evaluation):
    """A test file looks like the training file: its columns need not be named again."""
    assert bertfit.evaluate(run, rename(rows)).scores == evaluation.scores


def test_other_columns_can_be_named(run, rows, evaluation):
    columns = Columns(text="snippet", label="verdict")
    assert bertfit.evaluate(run, rename(rows), columns=columns).scores == evaluation.scores


def test_groups_are_resampled_whole(run, rows):
    evaluation = bertfit.evaluate(run, rows, columns=Columns(group="movie"))
    found = evaluation.to_json()
    assert (found["interval_unit"], found["of_one_group"]) == ("group", False)
    alike = [{**row, "movie": "one"} for row in rows]
    found = bertfit.evaluate(run, alike, columns=Columns(group="movie")).to_json()
    assert (found["interval_unit"], found["of_one_group"]) == ("row", True)


def test_without_groups_rows_are_resampled(evaluation):
    assert evaluation.to_json()["interval_unit"] == "row"


def test_everything_can_be_written_as_json(evaluation):
    value = json.loads(json.dumps(evaluation.to_json()))
    assert value["num_rows"] == 30
    assert value["intervals"]["accuracy"]["level"] == 0.95


def test_a_label_that_the_model_does_not_know_is_a_fault_of_its_row(run, rows):
    bad = [*rows, {"text": "a film", "label": "poss", "movie": "x"}]
    with pytest.raises(DataError) as caught:
        bertfit.evaluate(run, bad)
    (fault,) = caught.value.faults
    assert fault.line == 31
    assert fault.message == (
        "label 'poss' is not known to the model, which has neg, pos. Did you mean 'pos'?"
    )


def test_bad_rows_can_be_skipped_and_are_counted(run, rows):
    bad = [*rows, {"text": "", "label": "pos", "movie": "x"}]
    evaluation = bertfit.evaluate(run, bad, on_bad_row="skip")
    assert (evaluation.scores.num_rows, evaluation.to_json()["num_skipped"]) == (30, 1)


def test_a_missing_run_is_named(tmp_path, rows):
    with pytest.raises(RunError, match="does not exist"):
        bertfit.evaluate(tmp_path / "none", rows)


def test_a_plain_model_folder_can_be_evaluated(run, rows, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in run.iterdir():
        if path.name != "bertfit.json":
            (plain / path.name).write_bytes(path.read_bytes())
    assert bertfit.evaluate(plain, rows).scores.num_rows == 30


def test_slices_are_cut_by_length_truncation_label_and_group(run, rows):
    evaluation = bertfit.evaluate(run, rows * 3, columns=Columns(group="movie"))
    by = {one.by for one in evaluation.slices.slices}
    assert by == {"tokens", "truncated", "label", "group"}
    labels = {one.value: one.num_rows for one in evaluation.slices.slices if one.by == "label"}
    assert labels == {"neg": 45, "pos": 45}


@pytest.mark.parametrize("as_file", [True, False])
def test_slices_can_be_cut_by_any_column(run, rows, write_csv, tmp_path, as_file):
    """A bad row in between does not shift the values to other rows."""
    data = [{**row, "kind": "ab"[at % 2], "year": 1990 + at} for at, row in enumerate(rows)]
    data.insert(5, {**data[0], "text": "", "kind": "odd"})
    if as_file:
        data = write_csv(tmp_path / "test.csv", data)
    found = bertfit.evaluate(run, data, slice_columns=["kind", "year"], on_bad_row="skip")
    kinds = {one.value: one for one in found.slices.slices if one.by == "kind"}
    assert {value: one.num_rows for value, one in kinds.items()} == {"a": 15, "b": 15}
    right = found.predicted_ids == found.label_ids
    assert kinds["b"].num_right == int(right[1::2].sum())
    assert found.slices.num_too_small >= 5  # years fall into bins of six rows


def test_slices_are_cut_by_what_columns_names_too(run, rows):
    data = [{**row, "kind": "ab"[at % 2], "half": "xy"[at // 15]} for at, row in enumerate(rows)]
    columns = bertfit.Columns(slices=("kind",))
    found = bertfit.evaluate(run, data, columns=columns, slice_columns="half")
    cut = [one.by for one in found.slices.slices if one.by in {"kind", "half"}]
    assert sorted(cut) == ["half", "half", "kind", "kind"]


def test_a_column_that_cuts_no_slices_is_told(run, rows):
    listener = Recorder()
    data = [{**row, "kind": " a", "year": at} for at, row in enumerate(rows)]
    found = bertfit.evaluate(run, data, slice_columns=["kind", "year"], listener=listener)
    assert "kind" not in {one.by for one in found.slices.slices}
    assert listener.notes[1:] == ["Column 'kind' has one value, so no slices are cut by it."]


def test_a_column_that_is_the_same_as_another_is_told(run, rows):
    listener = Recorder()
    data = [
        {**row, "film": f"film {at % 5}", "title": f"film {at % 5}", "truth": row["label"]}
        for at, row in enumerate(rows)
    ]
    columns = ["film", "title", "truth"]
    found = bertfit.evaluate(run, data, slice_columns=columns, listener=listener)
    assert not {"title", "truth"} & {one.by for one in found.slices.slices}
    assert listener.notes[-2:] == [
        "Column 'title' has the same values as slices by film, so it cuts no others.",
        "Column 'truth' has the same values as slices by label, so it cuts no others.",
    ]


@pytest.mark.parametrize("value", [3, (3,), ("kind", None)])
def test_slice_columns_of_another_type_are_refused(run, rows, value):
    with pytest.raises(ConfigError) as caught:
        bertfit.evaluate(run, rows, slice_columns=value)
    assert str(caught.value) == f"slice_columns: expected a list of names, got {value!r}"


def test_a_column_of_slices_that_is_not_there_is_named(run, rows):
    with pytest.raises(
        DataError, match=r"no slice column 'moovie': columns are .*Did you mean 'movie'"
    ):
        bertfit.evaluate(run, rows, slice_columns=["moovie"])


def test_the_worst_errors_are_those_of_which_the_model_is_surest(run, rows):
    turned = [{**row, "label": "pos" if row["label"] == "neg" else "neg"} for row in rows]
    evaluation = bertfit.evaluate(run, turned)
    errors = evaluation.worst_errors(5)
    assert len(errors) == 5
    sure = [one.confidence for one in errors]
    assert sure == sorted(sure, reverse=True)
    wrong = evaluation.predicted_ids != evaluation.label_ids
    assert sure[0] == pytest.approx(evaluation.probabilities[wrong].max())
    for one in errors:
        assert one.label == turned[one.line - 1]["label"] != one.predicted
        assert one.text == turned[one.line - 1]["text"]


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_an_impossible_number_of_errors_is_refused(evaluation, count):
    with pytest.raises(ConfigError, match=f"count: expected .* at least 0, got {count}"):
        evaluation.worst_errors(count)


def test_what_is_kept_of_an_evaluation_has_no_text(evaluation, rows):
    kept = evaluation.kept()
    assert len(kept) == 30
    assert list(kept.lines) == list(range(1, 31))
    assert kept.known_groups is None
    lengths = [2 + len(row["text"].split()) for row in rows]
    assert kept.num_tokens.tolist() == lengths
    assert kept.is_truncated.tolist() == [length > 10 for length in lengths]


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_validation_rows_of_the_run_are_known_again(
    tiny_model_dir, tmp_path, make_reviews, epochs
):
    rows, notes = make_reviews(20, seed=3), []
    listener = SimpleNamespace(note=notes.append, progress=lambda *_: None)
    bertfit.train(
        make_reviews(40),
        tmp_path / "run",
        validation=rows,
        model=str(tiny_model_dir),
        epochs=epochs,
        calibration="none",
        baseline=False,
    )
    told = f"these are the validation rows of {tmp_path / 'run'}, which chose the epoch, so its"
    for data, is_known in ((rows, True), (make_reviews(20, seed=4), False)):
        notes.clear()
        bertfit.evaluate(tmp_path / "run", data, listener=listener)
        # One epoch is no choice.
        assert any(told in note for note in notes) == (is_known and epochs > 1)


def test_leaks_into_the_runs_own_test_rows_are_told_again(tiny_model_dir, tmp_path, make_reviews):
    """Near copies have another digest than what was trained on."""
    rows, notes = make_reviews(40), []
    for row in rows:
        row["text"] += " and nobody in the whole house had a word to say about it after all"
    test = [{**row, "text": f"{row['text']} really"} for row in rows[:5]] + make_reviews(9, seed=5)
    options = {"model": str(tiny_model_dir), "epochs": 1, "baseline": False}
    bertfit.train(rows, tmp_path / "run", test=test, **options)
    listener = SimpleNamespace(note=notes.append, progress=lambda *_: None)
    bertfit.evaluate(tmp_path / "run", test, listener=listener)
    (told,) = (note for note in notes if " knew 5, by text (or nearly): " in note)
    notes.clear()
    bertfit.evaluate(tmp_path / "run", test[1:], listener=listener)
    assert told not in notes


def test_how_the_baseline_did_with_the_runs_own_test_rows_is_told(
    tiny_model_dir, tmp_path, make_reviews
):
    test, notes = make_reviews(20, seed=5), []
    options = {"model": str(tiny_model_dir), "epochs": 1, "test": test}
    verdict = bertfit.train(make_reviews(40), tmp_path / "run", **options).test.comparison.verdict
    listener = SimpleNamespace(note=notes.append, progress=lambda *_: None)
    told = f"With these rows, the training of {tmp_path / 'run'} found: {verdict}"
    for data, is_told in ((test, True), (test[1:], False)):
        notes.clear()
        bertfit.evaluate(tmp_path / "run", data, listener=listener)
        assert (told in notes) == is_told


LEARNED = Learned("on 3 of these 9 texts", [1, 4, 5], 1 / 3)
ALL_LEARNED = Learned("on 9 of these 9 texts", range(9), 1.0)
LEAKED = (
    "Of all these rows, run knew 3, by text (or nearly): scores of known rows are too good. "
    "bertfit inspect shows those without them."
)
TOLD = "run was trained on 3 of these 9 texts, so its scores are too good. Learned: a.csv:3, 6, 7."


@pytest.mark.parametrize(
    ("learned", "choosing", "part", "told"),
    [
        (LEARNED, [], "test", f"{TOLD} {LEAKED}"),
        (LEARNED, [], None, TOLD),
        (
            LEARNED,
            [0],
            None,
            (
                f"{TOLD} 1 other of these 9 texts is a validation row of run, which chose the "
                "epoch: scores of them are too good. Validation: a.csv:2."
            ),
        ),
        (
            ALL_LEARNED,
            [],
            None,
            (
                "run was trained on 9 of these 9 texts, so its scores are too good. Evaluate it on "
                "rows that it has not seen."
            ),
        ),
        (
            None,
            [*range(7)],
            None,
            (
                "7 of these 9 texts are validation rows of run, which chose the epoch: scores of "
                "them are too good. Validation: a.csv:2, 3, 4, 5, 6 and 2 more."
            ),
        ),
        (
            None,
            [*range(9)],
            "validation",
            (
                "these are the validation rows of run, which chose the epoch, so its scores are "
                "too good. Evaluate it on rows that chose nothing."
            ),
        ),
        (None, [], "validation", None),
        (
            None,
            [],
            "test",
            LEAKED,
        ),
    ],
)
def test_what_a_run_knows_of_rows_is_warned_of(learned, choosing, part, told):
    record = {"scores": {"test_without_leaks": {"num_leaked": 3}}}
    leaks = describe_leaks([(Path("run"), record)]) if part == "test" else None
    dataset = TextDataset("a.csv", ["x"] * 9, (), (), range(2, 11))
    known = (learned, choosing, leaks)
    assert rows_to_score._warn_of_known_rows("run", dataset, *known, chosen="the epoch") == told


def test_validation_rows_are_known_in_any_order_and_among_others(
    tiny_model_dir, tmp_path, make_reviews
):
    """They were known again only as a whole; scores without learned rows were of these alone."""
    rows = make_reviews(60)
    options = {"model": str(tiny_model_dir), "epochs": 2, "baseline": False}
    bertfit.train(rows, tmp_path / "run", **options)
    kept = (tmp_path / "run" / "validation_predictions.jsonl").read_text(encoding="utf-8")
    chosen = [rows[json.loads(line)["line"] - 1] for line in kept.splitlines()]
    new = [{**row, "text": f"{row['text']} again"} for row in make_reviews(20, seed=7)]
    for data, clean in (
        (chosen[::-1], None),
        (chosen[1:], None),
        ([*new, *chosen], 20),
        (rows, 0),
        ([*new, *rows], 20),
    ):
        found = bertfit.evaluate(tmp_path / "run", data)
        assert "which chose the epoch" in found.warning
        assert (found.without_learned and found.without_learned.num_rows) == clean
    for name in ("trained_texts.npy", "validation_texts.npy"):  # a run may keep no texts
        (tmp_path / "run" / name).unlink()
    assert bertfit.evaluate(tmp_path / "run", chosen).warning is not None
    assert bertfit.evaluate(tmp_path / "run", chosen[::-1]).warning is None


def test_rows_that_the_model_cannot_read_are_found(finished_run_of_odd_test):
    run, odd = finished_run_of_odd_test
    record = json.loads((run / "bertfit.json").read_text(encoding="utf-8"))
    (finding,) = [one for one in record["data"]["findings"] if one["kind"] == "unknown_tokens"]
    assert (finding["part"], finding["count"]) == ("test", 3)
    heard = SimpleNamespace(notes=[])
    listener = SimpleNamespace(note=heard.notes.append, progress=lambda *_: None)
    found = bertfit.evaluate(run, odd, listener=listener)
    assert [one.count for one in found.findings] == [3]
    assert any("3 rows of rows (13.0 %) become mostly unknown" in note for note in heard.notes)
    assert found.to_json()["findings"][0]["kind"] == "unknown_tokens"
    assert "findings" not in record["scores"]["test"]


@pytest.fixture
def finished_run_of_odd_test(tiny_model_dir, tmp_path, make_reviews):
    odd = [*make_reviews(20, seed=5), *({"text": "ᚠᛖᚩᚻ ᚠᚱᚩ", "label": "pos"} for _ in range(3))]
    options = {"model": str(tiny_model_dir), "epochs": 1, "baseline": False}
    bertfit.train(make_reviews(40), tmp_path / "run", test=odd, **options)
    return tmp_path / "run", odd


def test_what_the_training_found_on_its_test_rows_is_told_with_those_alone(run, rows, monkeypatch):
    load, told = TextClassifier.load, []

    class Listener(Silent):
        def note(self, text):
            told.append(text)

    def load_with_verdict(*args, **options):
        classifier = load(*args, **options)
        classifier.record["scores"]["comparison"] = {"verdict": "It wins."}
        return classifier

    monkeypatch.setattr(TextClassifier, "load", load_with_verdict)
    for part, is_told in (("test", True), ("validation", False), (None, False)):
        monkeypatch.setattr(rows_to_score, "find_part", lambda *_, part=part: part)
        told.clear()
        bertfit.evaluate(run, rows, listener=Listener())
        assert (f"With these rows, the training of {run} found: It wins." in told) == is_told
