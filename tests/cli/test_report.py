"""bertfit report, and bertfit train --no-texts, on the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from bertfit.cli.main import app

runner = CliRunner()


def call(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, make_reviews, write_csv):
    folder = tmp_path_factory.mktemp("report")
    data = write_csv(folder / "train.csv", make_reviews(40))
    options = "--epochs 1 --batch-size 8 --dtype float32 --no-baseline --no-texts"
    told = call(
        *("train", data, "--model", tiny_model_dir, "--output", folder / "run", *options.split())
    )
    assert "look at" in told
    return folder / "run"


def test_training_without_texts_records_that(run):
    settings = json.loads((run / "bertfit.json").read_text(encoding="utf-8"))["settings"]
    assert settings["keep_texts"] == {"value": False, "origin": "option"}
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["texts"] is None
    assert "The run keeps no texts." in (run / "report.html").read_text(encoding="utf-8")


def test_report_says_what_it_wrote_and_what_it_kept(run):
    told = call("report", run)
    assert "The report is in" in told
    assert "The model card is in" in told  # it says what is there already
    card = run / "README.md"
    card.write_text("mine", encoding="utf-8")
    told = " ".join(call("report", run).split())
    assert "README.md is not as this version writes it, so it was kept" in told
    assert card.read_text(encoding="utf-8") == "mine"
    assert "The model card is in" in call("report", run, "--overwrite")


def test_report_to_another_file_as_json(run, tmp_path):
    page = tmp_path / "page.html"
    value = json.loads(call("report", run, "--output", page, "--no-texts", "--json"))
    assert value == {"page": str(page), "card": None}
    assert page.is_file()
