"""`bertfit predict --abstain-below`, and the confidence output of the other commands."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

import bertfit
from bertfit.cli.main import app

runner = CliRunner()


@pytest.fixture(scope="module")
def run(tiny_model_dir, make_reviews, tmp_path_factory):
    """Give a run with a threshold that was judged by rows of which every fifth is mislabelled."""
    validation = [dict(row) for row in make_reviews(200, seed=3)]
    for row in validation[::5]:
        row["label"] = {"pos": "neg", "neg": "pos"}[row["label"]]
    path = tmp_path_factory.mktemp("runs") / "run"
    bertfit.train(
        make_reviews(200),
        path,
        validation=validation,
        baseline=False,
        model=str(tiny_model_dir),
        epochs=3,
        batch_size=4,
        learning_rate=0.03,
        dropout=0.0,
        dtype="float32",
        threshold_aim="f1",
    )
    return path


def invoke(*arguments):
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


def test_what_to_expect_is_said_before_and_what_came_after(run):
    result = invoke("predict", run, "a good film", "bad", "--abstain-below", "0.999")
    assert result.stderr.startswith("Texts with a confidence below 0.999 get no label. Of the 200 ")
    assert result.stderr.endswith("No label: 2 of 2 texts (100 %).\n")
    assert max(map(len, result.stderr.splitlines())) <= 80
    assert [line.partition(" (")[0] for line in result.stdout.splitlines()] == ["abstained"] * 2


def test_an_abstention_is_null_in_json_and_leaves_probabilities(run):
    (plain, silent) = (
        json.loads(invoke("predict", run, "a good film", "--json", *extra).stdout)
        for extra in ((), ("--abstain-below", "1"))
    )
    assert plain["label"] is not None
    assert silent == plain | {"label": None}


def test_an_abstention_is_an_empty_label_in_a_file(run, tmp_path):
    data, output = tmp_path / "in.csv", tmp_path / "out.csv"
    data.write_text("text\na good film\n", encoding="utf-8")
    invoke("predict", run, "--file", data, "--output", output, "--abstain-below", "0.999")
    (row,) = csv.DictReader(output.read_text(encoding="utf-8").splitlines())
    assert row["label"] == ""
    assert float(row["confidence"]) > 0


def test_without_the_option_nothing_is_said_of_it(run):
    assert "label" not in invoke("predict", run, "a good film").stderr


def test_inspect_tells_calibration_and_threshold(run):
    shown = " ".join(invoke("inspect", run).stdout.split())
    assert "Calibration: temperature " in shown
    assert "Threshold: 'pos' is predicted at a probability of 0." in shown
    assert "chosen for f1" in shown


def test_evaluate_shows_confidence_and_the_threshold(run, tmp_path, write_csv, make_reviews):
    data = write_csv(tmp_path / "test.csv", make_reviews(60, seed=5))
    shown = invoke("evaluate", run, data).stdout
    for part in ("Calibration error (ECE)", "Brier score", "(AURC)", "Uncalibrated", "Threshold:"):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 80
    value = json.loads(invoke("evaluate", run, data, "--json").stdout)
    assert value["confidence"]["aurc"] >= 0
    assert 0 <= value["threshold"] <= 1
