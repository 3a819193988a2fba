"""`bertfit check` on the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from bertfit.cli import terminal
from bertfit.cli.main import app
from bertfit.data import readers

runner = CliRunner()


@pytest.fixture
def files(tmp_path, make_reviews, write_csv):
    """Rows to train on, test rows of which four are among them, and clean ones."""
    rows = make_reviews(60)
    return {
        "train": str(write_csv(tmp_path / "train.csv", rows)),
        "test": str(write_csv(tmp_path / "test.csv", [*make_reviews(20, seed=5), *rows[-4:]])),
        "clean": str(write_csv(tmp_path / "clean.csv", make_reviews(20, seed=5))),
    }


@pytest.fixture
def check(tiny_model_dir):
    return lambda *args: runner.invoke(app, ["check", *args, "--model", str(tiny_model_dir)])


def test_a_leak_stands_in_the_first_line(check, files):
    result = check(files["train"], "--test", files["test"])
    assert result.exit_code == 0, result.output
    first = result.stdout.splitlines()[0]
    assert first.startswith("LEAK: 4 of 24 test rows (16.7 %) seen before")
    assert "test.csv:22 (as train line 58): " in result.stdout
    assert "> 512" in result.stdout


def test_nothing_is_wider_than_80_columns(check, files):
    result = check(files["train"], "--test", files["test"], "--max-length", "32")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_no_line_ends_in_spaces(check, files):
    lines = check(files["train"], "--test", files["test"]).stdout.splitlines()
    assert lines == [line.rstrip() for line in lines]


@pytest.mark.parametrize("rows_per_report", [40, 61])
def test_reading_many_rows_and_the_checks_are_told_in_lines(
    check, files, monkeypatch, rows_per_report
):
    monkeypatch.setattr(readers, "ROWS_PER_REPORT", rows_per_report)
    monkeypatch.setattr(terminal, "_QUIET_SECONDS", 0.0)
    told = check(files["train"], "--test", files["test"]).stderr.splitlines()
    read = ["reading: 40", "reading: 60/60"] if rows_per_report == 40 else []
    assert [line for line in told if line.startswith("reading")] == read
    assert [line for line in told if line.startswith("checks")] == [
        f"checks: {done}/4" for done in range(5)
    ]


def test_without_a_leak_the_first_line_says_so(check, files):
    result = check(files["train"], "--test", files["clean"])
    assert result.stdout.startswith("No leak into the test set was found (20 rows).")


def test_json_is_one_object(check, files):
    result = check(files["train"], "--test", files["test"], "--json", "--group-column", "movie")
    value = json.loads(result.stdout)
    assert value["num_leaked_test_rows"] == 4
    assert value["num_grouped_test_rows"] == 24
    assert {"128", "256", "512"} == set(value["parts"]["test"]["tokens"]["cut_shares"])


def test_strictness_shows_the_findings_and_then_fails(check, files):
    result = check(files["train"], "--test", files["test"], "--strict")
    assert result.exception.exit_code == 8
    assert result.stdout.startswith("LEAK: 4 of 24")


def test_strictness_lets_clean_data_pass(check, files):
    result = check(files["train"], "--test", files["clean"], "--strict")
    assert (result.exit_code, "changes nothing" in result.stderr) == (0, False)


def test_strictness_without_test_rows_is_said_to_change_nothing(check, files):
    result = check(files["train"], "--strict")
    assert result.exit_code == 0
    assert "--strict changes nothing: there are no test rows" in " ".join(result.stderr.split())


def test_columns_that_were_found_are_told(check, files):
    result = check(files["train"], "--test", files["test"])
    assert result.stderr.startswith("Columns: text and label.\n")


def test_columns_can_be_named(check, tmp_path, write_csv, make_reviews):
    rows = [{"words": row["text"], "mood": row["label"]} for row in make_reviews(20)]
    path = str(write_csv(tmp_path / "odd.csv", rows))
    result = check(path, "--text-column", "words", "--label-column", "mood")
    assert result.exit_code == 0, result.output


def test_skipped_rows_are_shown(check, tmp_path, write_csv, make_reviews):
    rows = [*make_reviews(20), {"text": "", "label": "pos", "movie": ""}]
    path = str(write_csv(tmp_path / "bad.csv", rows))
    result = check(path, "--on-bad-row", "skip")
    assert "1 row (4.8 %) cannot be used and was left out." in " ".join(result.stdout.split())


def test_training_shows_the_score_without_the_leaked_rows(files, tiny_model_dir, tmp_path):
    command = ["train", files["train"], "--test", files["test"], "--model", str(tiny_model_dir)]
    command += ["--output", str(tmp_path / "run"), "--epochs", "1", "--no-baseline"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    flat = " ".join(result.output.split())
    assert "Without the 4 leaked rows, on the other 20: accuracy " in flat
    assert ", macro F1 " in flat


def test_training_drops_duplicates_when_asked(files, tiny_model_dir, tmp_path):
    command = ["train", files["train"], "--test", files["test"], "--model", str(tiny_model_dir)]
    command += ["--output", str(tmp_path / "run"), "--epochs", "1", "--no-baseline"]
    result = runner.invoke(app, [*command, "--drop-duplicates", "--strict"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "run" / "bertfit.json").read_text("utf-8"))
    assert record["data"]["dropped"] == {"duplicates": 0, "in_other_parts": 4}
    assert record["settings"]["drop_duplicates"] == {"value": True, "origin": "option"}
