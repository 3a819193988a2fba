"""`find_suspects`: wrong labels come first, with a warning if the run was trained on them."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

import bertfit
from bertfit.cli.results import show_suspects
from bertfit.data import checks
from bertfit.errors import ConfigError, DataError, RunError
from bertfit.inference import predictor
from bertfit.modeling.precision import choose_precision
from bertfit.workflow import suspecting
from bertfit.workflow.learned import write_digests
from bertfit.workflow.suspecting import CSV_COLUMNS, write_suspects

SMALL = {"batch_size": 8, "dropout": 0.0, "dtype": "float32", "baseline": False}
FLIPPED = (3, 40, 77, 111)


@pytest.fixture(scope="module")
def rows(make_reviews):
    """Give 160 reviews, four of which bear the wrong label."""
    made = [dict(row) for row in make_reviews(160, seed=2)]
    for row in FLIPPED:
        made[row]["label"] = "neg" if made[row]["label"] == "pos" else "pos"
    return made


@pytest.fixture(scope="module")
def run(tiny_model_dir, make_reviews, tmp_path_factory):
    """Give a run of other rows, which knows good from bad."""
    path = tmp_path_factory.mktemp("runs") / "run"
    bertfit.train(
        make_reviews(80), path, model=str(tiny_model_dir), epochs=12, learning_rate=0.03, **SMALL
    )
    return path


def test_folds_put_wrong_labels_first(rows):
    report = bertfit.find_suspects(rows)
    top = {one.line - 1 for one in report.suspects[: len(FLIPPED)]}
    assert len(top & set(FLIPPED)) >= 3
    assert report.judged_by == "TF-IDF + logistic regression, 5 folds"
    assert (report.num_rows, report.warning) == (160, None)


def test_copies_do_not_confirm_a_wrong_label_however_they_are_spelt(make_reviews):
    rows = make_reviews(160, seed=2)
    text = f"{rows[0]['text']} zork"
    wrong = "neg" if rows[0]["label"] == "pos" else "pos"
    copies = (text, text.upper(), text.capitalize(), f" {text.replace(' ', '  ')}")
    report = bertfit.find_suspects([*rows, *({"text": one, "label": wrong} for one in copies)])
    assert {161, 162, 163, 164} <= {one.line for one in report.suspects}


def test_the_seed_and_the_number_of_folds_are_used(rows):
    report = bertfit.find_suspects(rows, num_folds=2)
    assert report.judged_by == "TF-IDF + logistic regression, 2 folds"
    assert bertfit.find_suspects(rows, num_folds=2).suspects == report.suspects
    assert bertfit.find_suspects(rows, num_folds=2, seed=1).suspects != report.suspects


def test_a_run_of_other_rows_puts_wrong_labels_first(rows, run):
    report = bertfit.find_suspects(rows, run=run)
    assert {one.line - 1 for one in report.suspects[: len(FLIPPED)]} == set(FLIPPED)
    first = report.suspects[0]
    assert first.looks_wrong
    assert first.label != first.suggested_label
    assert first.text == rows[first.line - 1]["text"]
    assert report.warning is None
    assert 0 <= report.num_expected < report.num_wrong
    assert report.to_json()["num_expected"] == report.num_expected


def test_a_run_judges_in_the_type_of_its_training(rows, run, tmp_path, monkeypatch):
    """As `evaluate` does; float32 is several times slower where bfloat16 is fast."""
    chosen = []

    def choose(device, dtype):
        chosen.append(dtype)
        return choose_precision(device, "float32")

    copied = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copied / "bertfit.json").read_text(encoding="utf-8"))
    record["training"]["dtype"] = "bfloat16"
    (copied / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(predictor, "choose_precision", choose)
    for folder in (run, copied):
        bertfit.find_suspects(rows, run=folder)
    assert chosen == ["float32", "auto"]


def test_of_bad_rows_it_is_said_that_nothing_was_judged(rows, run):
    for options in ({}, {"run": run}):
        with pytest.raises(DataError, match="1 problem in the data: nothing was judged\n"):
            bertfit.find_suspects([*rows, {"text": "", "label": "pos"}], **options)


def test_bad_rows_are_left_out_and_told_when_asked(rows, run):
    bad = [*rows, {"text": "", "label": "pos"}]
    for options in ({}, {"run": run}):
        report = bertfit.find_suspects(bad, on_bad_row="skip", **options)
        assert report.to_json()["skipped"] == ["rows:161: the text is empty"]
        assert report.suspects == bertfit.find_suspects(rows, **options).suspects


def test_every_suspect_is_predicted_otherwise(rows, run):
    suspects = bertfit.find_suspects(rows, run=run).suspects
    assert all(one.label != one.suggested_label for one in suspects)
    verdicts = [one.looks_wrong for one in suspects]
    assert verdicts == sorted(verdicts, reverse=True)


def test_only_the_first_suspects_look_wrong(rows):
    report = bertfit.find_suspects(rows, num_folds=2, seed=1)
    verdicts = [one.looks_wrong for one in report.suspects]
    assert 0 < report.num_wrong < len(verdicts)
    assert verdicts == [place < report.num_wrong for place in range(len(verdicts))]


class Notes:
    def __init__(self):
        self.notes, self.progresses = [], []

    def note(self, text):
        self.notes.append(text)

    def progress(self, task, done, total, detail=""):
        self.progresses.append((task, done, total))


def test_progress_is_told(rows, run):
    heard = Notes()
    bertfit.find_suspects(rows, run=run, listener=heard)
    bertfit.find_suspects(rows, listener=heard)
    ends = [("scoring", 160, 160), ("folds", 5, 5)]
    assert [told for told in heard.progresses if told[1] == told[2]] == ends
    folds = [told[1:] for told in heard.progresses if told[0] == "folds"]
    assert folds == [(done, 5) for done in range(6)]


@pytest.mark.parametrize("group", [None, "movie"])
def test_a_run_of_the_same_rows_is_warned_of(tiny_model_dir, make_reviews, tmp_path, group):
    trained = make_reviews(40)
    options = {**SMALL, "model": str(tiny_model_dir), "epochs": 1, "group_column": group}
    bertfit.train(trained, tmp_path / "run", **options)
    heard = Notes()
    report = bertfit.find_suspects(trained[::-1], run=tmp_path / "run", listener=heard)
    assert report.warning.startswith("the run was trained on 3")
    assert " of these 40 texts" in report.warning
    assert heard.notes == ["Columns: text and label.", f"WARNING: {report.warning}"]


def test_a_run_of_some_of_the_rows_is_warned_of(tiny_model_dir, make_reviews, tmp_path):
    """Also where the split knew a group, copies were dropped, and the rows come otherwise."""
    trained = make_reviews(40)
    options = {**SMALL, "model": str(tiny_model_dir), "epochs": 1, "group_column": "movie"}
    bertfit.train(trained + trained[:6], tmp_path / "run", drop_duplicates=True, **options)
    new = [{**row, "text": f"{row['text']} again"} for row in trained[:30]]
    report = bertfit.find_suspects(new + trained[::-1], run=tmp_path / "run")
    assert " of these 70 texts" in report.warning
    assert bertfit.find_suspects(new, run=tmp_path / "run").warning is None


@pytest.mark.parametrize("drops", [False, True])
def test_a_run_that_keeps_no_texts_knows_its_rows_in_whatever_file(
    tiny_model_dir, make_reviews, write_csv, tmp_path, monkeypatch, drops
):
    rows = make_reviews(40)
    path = write_csv(tmp_path / "train.csv", [*rows, rows[0]])
    options = {**SMALL, "model": str(tiny_model_dir), "epochs": 1, "keep_texts": False}
    monkeypatch.chdir(tmp_path)
    bertfit.train("train.csv", tmp_path / "run", drop_duplicates=drops, **options)
    assert not (tmp_path / "run" / "trained_texts.npy").exists()
    (tmp_path / "folder").mkdir()
    moved = path.rename(tmp_path / "folder" / "moved.csv")
    for data in (moved, [*rows, rows[0]]):
        report = bertfit.find_suspects(data, run=tmp_path / "run")
        assert report.warning.startswith("the run was trained on rows of train.csv")
    write_csv(path, make_reviews(40, seed=1))
    for data in ("train.csv", rows[1:]):
        assert bertfit.find_suspects(data, run=tmp_path / "run").warning is None


def test_rows_in_memory_may_be_any(run, make_reviews, tmp_path):
    """Without the texts of the training there is nothing to know them by."""
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "trained_texts.npy").unlink()
    record = json.loads((copied / "bertfit.json").read_text(encoding="utf-8"))
    assert record["data"]["train"]["source"] == "rows"
    assert bertfit.find_suspects(make_reviews(80), run=run).warning is not None
    assert bertfit.find_suspects(make_reviews(80), run=copied).warning is None


def test_damaged_digests_are_named(tiny_model_dir, make_reviews, tmp_path):
    options = {**SMALL, "model": str(tiny_model_dir), "epochs": 1}
    bertfit.train(make_reviews(40), tmp_path / "run", **options)
    path = tmp_path / "run" / "trained_texts.npy"
    odd = b"\x93NUMPY\x01\x00v\x00" + (b"(" * 100).ljust(117) + b"\n"
    huge = b"{'descr': '<u8', 'fortran_order': False, 'shape': (10000000000000,), }"
    huge = b"\x93NUMPY\x01\x00v\x00" + huge.ljust(117) + b"\n"
    for content in (b"", b"x", b"\x93NUMPY", np.lib.format.magic(1, 0), odd, huge):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"trained_texts\.npy cannot be read: [^\n]*\nRemove"):
            bertfit.find_suspects(make_reviews(40), run=tmp_path / "run")
    np.savez(path.with_suffix(".npz"), digests=np.zeros(2, dtype=np.uint64))
    path.with_suffix(".npz").rename(path)
    with pytest.raises(RunError, match="cannot be read: it is not one array of numpy"):
        bertfit.evaluate(tmp_path / "run", make_reviews(40))
    for array in (np.zeros((2, 2), dtype=np.uint64), np.zeros(2)):
        np.save(path, array)
        with pytest.raises(RunError, match="expected a row of 64-bit digests, got shape"):
            bertfit.evaluate(tmp_path / "run", make_reviews(40))


def test_scores_on_rows_of_the_training_are_warned_of(tiny_model_dir, make_reviews, tmp_path):
    options = {**SMALL, "model": str(tiny_model_dir), "epochs": 1}
    bertfit.train(make_reviews(40), tmp_path / "run", **options)
    heard = Notes()
    found = bertfit.evaluate(tmp_path / "run", make_reviews(40), listener=heard)
    assert found.learned.endswith("of these 40 texts")
    told = f"WARNING: {tmp_path / 'run'} was trained {found.learned}, so its scores are too good"
    assert heard.notes[0].startswith(told)
    assert found.warning == heard.notes[0].removeprefix("WARNING: ")
    other = [{**row, "text": f"{row['text']} again"} for row in make_reviews(40)]
    new = bertfit.evaluate(tmp_path / "run", other)
    assert (new.learned, new.without_learned, new.warning) == (None, None, None)
    known = [row["text"] for row in make_reviews(40)[:3]]
    write_digests(tmp_path / "run", known)
    mixed = bertfit.evaluate(tmp_path / "run", [*make_reviews(40)[:3], *other])
    clean = mixed.without_learned
    assert (clean.num_leaked, clean.num_rows) == (3, 40)
    assert (clean.accuracy, clean.macro_f1) == (new.scores.accuracy, new.scores.macro_f1)
    assert clean.intervals["accuracy"] == new.intervals["accuracy"]
    assert mixed.warning.endswith("so its scores are too good. Learned: rows:1, 2, 3.")
    value = mixed.to_json()
    assert (value["warning"], value["without_learned"]["num_rows"]) == (mixed.warning, 40)


def test_folds_judge_what_the_run_has_learned(tiny_model_dir, rows, tmp_path):
    options = {**SMALL, "model": str(tiny_model_dir), "epochs": 1}
    bertfit.train(rows, tmp_path / "run", **options)
    heard = Notes()
    report = bertfit.find_suspects(
        rows, run=tmp_path / "run", folds_if_learned=True, listener=heard
    )
    assert report == bertfit.find_suspects(rows)
    assert report.judged_by == "TF-IDF + logistic regression, 5 folds"
    assert heard.notes[0].startswith("The run was trained on 144 of these 160 texts")


def test_groups_may_be_named_where_folds_judge_what_was_learned(rows, run):
    """As `check --with` has them, for leaks; they are used if the run has learned the rows."""
    columns = bertfit.Columns(group="movie")
    report = bertfit.find_suspects(rows, run=run, folds_if_learned=True, columns=columns, seed=3)
    assert report.judged_by == f"the run {run}"


def test_folds_read_the_columns_that_the_run_has_learned(rows, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copied / "bertfit.json").read_text(encoding="utf-8"))
    record["settings"]["text_column"]["value"] = "review"
    (copied / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    write_digests(copied, [row["text"] for row in rows])
    both = [{**row, "review": row["text"], "text": "another"} for row in rows]
    report = bertfit.find_suspects(both, run=copied, folds_if_learned=True)
    assert report == bertfit.find_suspects(rows)


def test_a_run_judges_all_rows_if_it_has_learned_at_most_a_hundredth(rows, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    judges = []
    rows = rows[:100]
    for num_learned in (1, 2):
        write_digests(copied, [row["text"] for row in rows[:num_learned]])
        judges.append(bertfit.find_suspects(rows, run=copied, folds_if_learned=True).judged_by)
    assert judges == [f"the run {copied}", "TF-IDF + logistic regression, 5 folds"]


def test_copies_of_a_text_count_in_the_share_that_a_run_has_learned(rows, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    write_digests(copied, [rows[0]["text"]])
    report = bertfit.find_suspects([*rows[:99], rows[5]], run=copied, folds_if_learned=True)
    assert report.judged_by == f"the run {copied}"


def test_the_seed_is_that_of_the_folds_that_judge_what_was_learned(rows, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    write_digests(copied, [row["text"] for row in rows])
    report = bertfit.find_suspects(rows, run=copied, folds_if_learned=True, seed=7)
    assert report == bertfit.find_suspects(rows, seed=7)
    assert report != bertfit.find_suspects(rows)


def test_a_check_lists_suspects_by_a_run_of_other_rows(tiny_model_dir, rows, run):
    result = bertfit.check(rows, model=str(tiny_model_dir), run=run)
    assert result.suspects == bertfit.find_suspects(rows, run=run)
    assert result.suspects.judged_by == f"the run {run}"
    assert bertfit.check(rows, model=str(tiny_model_dir)).suspects is None


@pytest.mark.parametrize("has_learned", [False, True])
def test_a_check_with_a_run_reads_the_rows_once(
    tiny_model_dir, rows, run, tmp_path, monkeypatch, has_learned
):
    """A pipe can be read only once: the check waited for it forever."""
    copied, reads = shutil.copytree(run, tmp_path / "run"), []
    real = checks.read_dataset
    monkeypatch.setattr(checks, "read_dataset", lambda *a, **o: reads.append(1) or real(*a, **o))
    if has_learned:
        write_digests(copied, [row["text"] for row in rows])
    found = bertfit.check(rows, model=str(tiny_model_dir), run=copied).suspects
    assert reads == [1]
    assert found.judged_by.startswith("TF-IDF" if has_learned else "the run")


def test_suspects_are_written_as_a_table_to_edit(rows, run, tmp_path):
    report = bertfit.find_suspects(rows, run=run)
    write_suspects(tmp_path / "s.csv", report)
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == list(CSV_COLUMNS)
    assert len(written) == len(report.suspects)
    assert int(written[0]["line"]) == report.suspects[0].line
    assert written[0]["text"] == report.suspects[0].text
    for line, one in zip(written, report.suspects, strict=True):
        assert (line["label"], line["suggested_label"]) == (one.label, one.suggested_label)
        assert line["looks_wrong"] == ("yes" if one.looks_wrong else "no")
        assert (line["confidence"], line["margin"]) == (
            f"{one.confidence:.4f}",
            f"{one.margin:.4f}",
        )


def test_of_suspects_that_were_not_all_written_nothing_is_left(rows, run, tmp_path, monkeypatch):
    report = bertfit.find_suspects(rows, run=run)
    (tmp_path / "s.csv").write_text("edited", encoding="utf-8")

    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(suspecting, "_write_rows", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_suspects(tmp_path / "s.csv", report, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"]
    assert (tmp_path / "s.csv").read_text(encoding="utf-8") == "edited"


def test_an_edited_file_is_not_overwritten(rows, run, tmp_path):
    report = bertfit.find_suspects(rows, run=run)
    path = tmp_path / "s.csv"
    path.write_text("edited", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"s\.csv exists"):
        write_suspects(path, report)
    assert path.read_text(encoding="utf-8") == "edited"
    write_suspects(path, report, overwrite=True)
    assert path.read_text(encoding="utf-8").startswith("line,")


@pytest.mark.parametrize(
    ("name", "message"), [("s.xlsx", "a name ending in .csv"), ("d.csv", "is a folder")]
)
def test_an_output_that_cannot_be_is_refused(rows, run, tmp_path, name, message):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ConfigError, match=message):
        write_suspects(tmp_path / name, bertfit.find_suspects(rows, run=run))


def test_labels_of_one_row_are_told_and_the_others_are_judged(rows):
    odd = [{"text": f"odd {label}", "label": label, "movie": "x"} for label in ("none", "a", "b")]
    report = bertfit.find_suspects([*odd, *rows])
    assert report.unjudged_labels == ("a", "b", "none")
    assert report.num_rows == 160
    assert all(one.text == rows[one.line - 4]["text"] for one in report.suspects)
    top = {one.line - 4 for one in report.suspects[: len(FLIPPED)]}
    assert len(top & set(FLIPPED)) >= 3


def test_a_label_of_one_text_or_group_cannot_be_judged(rows, capsys):
    report = bertfit.find_suspects([*rows, *[{"text": "odd", "label": "none"}] * 3])
    assert report.unjudged_labels == ("none",)
    show_suspects(Console(), report)
    told = " ".join(capsys.readouterr().out.split())
    assert told.endswith("Not judged, because no row of another fold has the label: none.")
    show_suspects(Console(), replace(report, unjudged_labels=tuple("abcdefghijkl")))
    told = " ".join(capsys.readouterr().out.split())
    assert told.endswith("has the label: a, b, c, d, e, f, g, h, i, j and 2 more.")
    apart = [{**row, "group": row["label"]} for row in rows]
    with pytest.raises(DataError, match="can be judged: all rows of a label are in one fold"):
        bertfit.find_suspects(apart, num_folds=2, columns=bertfit.Columns(group="group"))


def test_groups_that_are_too_few_for_the_folds_are_called_groups(make_reviews):
    rows = [{**row, "movie": "ab"[at % 2]} for at, row in enumerate(make_reviews(20))]
    with pytest.raises(DataError, match=r"as many groups, .* got 2 groups, "):
        bertfit.find_suspects(rows, columns=bertfit.Columns(group="movie"), num_folds=3)


def test_a_report_can_be_written_as_json(rows):
    value = json.loads(json.dumps(bertfit.find_suspects(rows).to_json()))
    assert value["num_rows"] == 160


def test_what_cannot_be_asked_for_is_refused(rows, run, tmp_path):
    with pytest.raises(ConfigError, match="device: cpu is for a run that judges"):
        bertfit.find_suspects(rows, device="cpu")
    with pytest.raises(ConfigError, match="abacus"):
        bertfit.find_suspects(rows, run=run, device="abacus")
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(
            ConfigError, match=r"seed: expected a whole number at least 0 and below"
        ):
            bertfit.find_suspects(rows, seed=seed)
    with pytest.raises(ConfigError, match="run and num_folds"):
        bertfit.find_suspects(rows, run=run, num_folds=3)
    with pytest.raises(ConfigError, match="run and seed"):
        bertfit.find_suspects(rows, run=run, seed=0)
    with pytest.raises(ConfigError, match=r"run and columns\.group"):
        bertfit.find_suspects(rows, run=run, columns=bertfit.Columns(group="movie"))
    for folds in (1, 2.5):
        with pytest.raises(ConfigError, match=f"expected a whole number, at least 2, got {folds}"):
            bertfit.find_suspects(rows, num_folds=folds)
    with pytest.raises(RunError, match="does not exist"):
        bertfit.find_suspects(rows, run=tmp_path / "none")
    with pytest.raises(DataError, match="5 folds need at least as many"):
        bertfit.find_suspects(rows[:6])
