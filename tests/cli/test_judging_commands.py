"""compare, suspects, --seeds, --slice and --errors on the command line."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil

import pytest
from typer.testing import CliRunner

from bertfit.cli.main import app

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir, make_reviews, write_csv):
    """Give a folder with a training file, a test file, a run of two seeds and one of one."""
    folder = tmp_path_factory.mktemp("judging")
    rows = [{**row, "kind": "ab"[at % 2]} for at, row in enumerate(make_reviews(60))]
    rows[4]["label"] = "pos" if rows[4]["label"] == "neg" else "neg"
    write_csv(folder / "train.csv", rows)
    tested = [{**row, "kind": "ab"[at % 3 == 0]} for at, row in enumerate(make_reviews(40, seed=7))]
    write_csv(folder / "test.csv", tested)
    for name, options in (("a", "--seeds 2 --slice kind"), ("b", "--seed 4 --no-baseline")):
        command = ["train", str(folder / "train.csv"), "--test", str(folder / "test.csv")]
        command += ["--model", str(tiny_model_dir), "--output", str(folder / name)]
        command += f"--epochs 2 --batch-size 8 --dtype float32 {options}".split()
        result = runner.invoke(app, command)
        assert result.exit_code == 0, result.output
        (folder / f"{name}.txt").write_text(result.output, encoding="utf-8")
    return folder


def call(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def check_width(output: str, folder) -> None:
    wide = [line for line in output.splitlines() if len(line) > 80 and str(folder) not in line]
    assert wide == []


def test_training_with_seeds_shows_each_and_the_best(folder):
    output = (folder / "a.txt").read_text(encoding="utf-8")
    assert "By seed" in output
    flat = " ".join(output.split())
    assert "before any calibration and threshold. They chose the seed" in flat
    assert "as saved; they chose nothing." in flat
    assert "NB-SVM" in output
    check_width(output, folder)
    record = json.loads((folder / "a" / "bertfit.json").read_text(encoding="utf-8"))
    assert len(record["seeds"]["runs"]) == 2


def test_training_shows_slices_by_a_column_that_was_asked_for(folder):
    shown, other = (
        " ".join((folder / name).read_text(encoding="utf-8").split()) for name in ("a.txt", "b.txt")
    )
    assert "kind: a" in shown
    assert "kind: b" in shown
    assert "The worst" not in other
    record = json.loads((folder / "a" / "bertfit.json").read_text(encoding="utf-8"))
    slices = record["scores"]["test"]["slices"]["slices"]
    counts = {one["value"]: one["num_rows"] for one in slices if one["by"] == "kind"}
    assert counts == {"a": 26, "b": 14}


def test_evaluate_says_that_rows_of_one_group_were_drawn(folder, make_reviews, write_csv):
    """With a group column it drew rows all the same, and did not say so."""
    rows = [dict(row) for row in make_reviews(12, seed=7)]
    told = "All rows are of one group: the intervals do not say how much groups differ."
    for groups, is_told in ((["same"], True), (["one", "two"], False)):
        for at, row in enumerate(rows):
            row["movie"] = groups[at % len(groups)]
        write_csv(folder / "grouped.csv", rows)
        command = ("evaluate", folder / "b", folder / "grouped.csv", "--group-column", "movie")
        assert (told in " ".join(call(*command).split())) == is_told


def test_compare_shows_differences_and_a_verdict(folder):
    output = call("compare", folder / "a", folder / "b")
    for part in ("A minus B", "Macro F1", "Different answers:", "paired bootstrap"):
        assert part in output
    flat = " ".join(output.split())
    assert any(
        word in flat for word in ("could be chance", "hardly chance", "the same class for every")
    )
    check_width(output, folder)


def test_compare_without_rows_names_the_lines_where_they_disagree(folder):
    value = json.loads(call("compare", folder / "a", folder / "b", "--json"))
    output = call("compare", folder / "a", folder / "b")
    assert value["disagreements"], "the runs of this test must differ somewhere"
    assert f"line {value['disagreements'][0]['line']}: is " in output


def test_compare_as_json(folder):
    value = json.loads(call("compare", folder / "a", folder / "b", "--json"))
    assert value["num_rows"] == 40
    assert set(value["scores"]) == {"accuracy", "macro_f1", "log_loss"}


def test_top_cuts_the_json_too_which_holds_everything_without_it(folder):
    for command, name in (
        (("compare", folder / "a", folder / "b"), "disagreements"),
        (("suspects", folder / "train.csv", "--folds", 4), "suspects"),
    ):
        everything = json.loads(call(*command, "--json"))
        first = json.loads(call(*command, "--json", "--top", 1))
        assert len(everything[name]) > 1, "the runs of this test must differ in some rows"
        assert first == everything | {name: everything[name][:1]}


def test_compare_on_given_rows_shows_texts_where_they_disagree(folder):
    options = ("--data", folder / "test.csv", "--top", 2)
    value = json.loads(call("compare", folder / "a", folder / "b", *options, "--json"))
    output = call("compare", folder / "a", folder / "b", *options)
    assert ("Where they disagree" in output) is bool(value["num_disagreeing"])
    if value["num_disagreeing"]:
        assert value["disagreements"][0]["text"][:20] in output


def test_a_training_without_test_rows_says_where_its_slices_are(folder, tiny_model_dir, tmp_path):
    options = ("--model", tiny_model_dir, "--epochs", 1, "--no-baseline")
    for name, slices in (("a", ("--slice", "kind")), ("b", ())):
        output = call("train", folder / "train.csv", "--output", tmp_path / name, *options, *slices)
        assert ("The slices of the validation rows are in the report." in output) == bool(slices)


def test_evaluate_shows_the_worst_slices_and_errors(folder):
    options = ("--slice", "kind", "--slice", "movie", "--errors", 3)
    output = call("evaluate", folder / "a", folder / "test.csv", *options)
    for part in ("the worst first", "kind: ", "label: ", "Benjamini-Hochberg", "Wrong with"):
        assert part in output
    check_width(output, folder)


def test_evaluate_says_where_classes_have_few_rows(folder, make_reviews, write_csv):
    many = call("evaluate", folder / "a", folder / "test.csv")
    assert "less certain" not in many
    write_csv(folder / "few.csv", make_reviews(8, seed=9))
    few = " ".join(call("evaluate", folder / "a", folder / "few.csv").split())
    assert (
        "2 of 2 classes have fewer than 5 rows: their scores, and macro averages, are less" in few
    )


def test_evaluate_says_which_classes_have_no_rows(folder, make_reviews, write_csv):
    """Their recall was 0.0 %, as if the model had missed all of them."""
    rows = [row for row in make_reviews(40, seed=7) if row["label"] == "pos"]
    output = call("evaluate", folder / "a", write_csv(folder / "one.csv", rows))
    assert "1 of 2 classes has no rows here; it was " in " ".join(output.split())
    of_class = next(line.split() for line in output.splitlines() if line.startswith(" neg "))
    assert "–" in of_class
    assert of_class[-1] == "0"
    value = json.loads(call("evaluate", folder / "a", folder / "one.csv", "--json"))
    assert value["per_class"]["neg"]["recall"] == 0.0


def test_evaluate_counts_a_single_truncated_row_as_one(folder, tmp_path, write_csv):
    rows = [{"text": "a good film " * 40, "label": "pos"}, {"text": "bad", "label": "neg"}]
    told = call("evaluate", folder / "b", write_csv(tmp_path / "long.csv", rows))
    assert told.startswith("Columns: text and label.\n")
    assert "Truncated: 1 row (50.0 %) kept the head of its text, " in " ".join(told.split())


def test_evaluate_as_json_has_slices_and_errors(folder):
    options = ("--slice", "kind", "--errors", 2, "--json")
    value = json.loads(call("evaluate", folder / "a", folder / "test.csv", *options))
    assert {one["by"] for one in value["slices"]["slices"]} >= {"kind", "label"}
    assert 0 < len(value["errors"]) <= 2
    assert value["errors"][0]["label"] != value["errors"][0]["predicted"]


def test_suspects_show_a_table_and_write_a_file(folder, tmp_path):
    path = tmp_path / "s.csv"
    output = call("suspects", folder / "train.csv", "--output", path, "--folds", 4)
    with path.open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert "4 folds" in " ".join(output.split())
    assert written
    assert all(row["label"] != row["suggested_label"] for row in written)
    check_width(output, tmp_path)


def test_that_no_label_looks_wrong_is_said_once(tmp_path, write_csv):
    words = {"pos": "good great fine", "neg": "bad awful poor"}
    rows = [
        {"text": f"{words[label]} film {number}", "label": label}
        for number in range(20)
        for label in words
    ]
    output = call("suspects", write_csv(tmp_path / "clear.csv", rows))
    assert output.splitlines() == [
        "0 of 40 labels look wrong; 0 more rows are merely predicted differently. Judged",
        "by TF-IDF + logistic regression, 5 folds.",
        "With every label right, a model as unsure as this one would doubt about one.",
    ]


def test_a_judge_that_doubts_too_many_labels_is_doubted_itself(tmp_path, make_reviews, write_csv):
    rows = make_reviews(200)
    told = []
    for name, labels in (
        ("right", [row["label"] for row in rows]),
        ("random", random.Random(0).choices(["neg", "pos"], k=200)),
    ):
        labelled = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
        write_csv(tmp_path / f"{name}.csv", labelled)
        told.append(" ".join(call("suspects", tmp_path / f"{name}.csv").split()))
    doubt = "most of these rows are more likely errors of the model"
    assert [doubt in one for one in told] == [False, True]


@pytest.mark.parametrize(
    ("file", "judge"), [("test.csv", "Judged by the run"), ("train.csv", "regression, 5 folds.")]
)
def test_a_check_with_a_run_lists_suspects_and_names_the_judge(folder, tiny_model_dir, file, judge):
    options = ("--model", tiny_model_dir, "--with", folder / "b")
    output = call("check", folder / file, *options)
    assert re.search(r"\d+ of \d+ labels looks? wrong; ", " ".join(output.split()))
    assert judge in " ".join(output.split())
    assert "With every label right, a model as unsure as this one" in " ".join(output.split())
    value = json.loads(call("check", folder / file, *options, "--json"))
    assert value["suspects"]["num_expected"] >= 0
    named = value["suspects"]["judged_by"].rstrip(".")
    assert "".join(named.split()) in "".join(output.split())  # a long path is broken anywhere


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "a", "b", "--data", "bad.csv"),
        ("suspects", "bad.csv", "--folds", "2"),
        ("suspects", "bad.csv", "--with", "a"),
        ("evaluate", "a", "bad.csv"),
    ],
    ids=" ".join,
)
def test_skipped_rows_are_listed(folder, make_reviews, write_csv, monkeypatch, command):
    monkeypatch.chdir(folder)
    write_csv(folder / "bad.csv", [*make_reviews(20, seed=8), {"text": "", "label": "pos"}])
    output = call(*command, "--on-bad-row", "skip")
    assert "Skipped 1 bad row:\n  bad.csv:22: the text is empty\n" in output
    value = json.loads(call(*command, "--on-bad-row", "skip", "--json"))
    assert value["skipped"] == ["bad.csv:22: the text is empty"]


def test_suspects_of_the_training_rows_by_their_own_run_are_warned_of(folder):
    result = runner.invoke(
        app, ["suspects", str(folder / "train.csv"), "--with", str(folder / "b"), "--json"]
    )
    value = json.loads(result.stdout)
    assert "the run was trained on" in value["warning"]
    assert "WARNING" in result.stderr


def find_missing(output, parts):
    """Return the first part that does not follow those before it; lines may be wrapped."""
    rest = " ".join(output.split())
    for part in parts:
        _, found, rest = rest.partition(part)
        if not found:
            return part
    return None


def test_a_training_shows_its_scores_beside_the_baselines_and_what_comes_next(folder):
    output, run = (folder / "a.txt").read_text(encoding="utf-8"), folder / "a"
    parts = ["Test 40 rows", "Accuracy", "The slices, the worst first", "Scores on the same rows"]
    parts += ["this model", "NB-SVM", f"The run is in {run}. Next:", f"look at {run}/report.html"]
    parts += [f'bertfit predict {run} "your text"', f"bertfit evaluate {run} FILE"]
    assert find_missing(output, [*parts, f"bertfit inspect {run}"]) is None
    assert "Scores on the same rows" not in (folder / "b.txt").read_text(encoding="utf-8")


def test_a_comparison_says_what_it_is_of(folder):
    output = call("compare", folder / "a", folder / "b")
    assert find_missing(output, ["Compared on ", "This compares these two models."]) is None


def test_inspecting_a_run_says_what_was_chosen_and_nothing_of_what_did_not_happen(folder):
    output = call("inspect", folder / "a")
    parts = ["parameters", "Memory, estimated for", "Chosen settings: ", "epochs=2", "Kept: "]
    assert find_missing(output, parts) is None
    assert output.count("Labels: ") == 1
    assert "interrupted" not in output


def test_inspecting_a_run_tells_of_an_interruption_and_of_missing_seeds(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder / "a", run)
    record = json.loads((run / "bertfit.json").read_text(encoding="utf-8"))
    assert "interrupt" not in call("inspect", run)
    record["training"]["interrupted"] = True
    record["seeds"]["asked"] = 5
    (run / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    told = " ".join(call("inspect", run).split())
    assert "interrupted" in told
    assert "5 seeds" in told
