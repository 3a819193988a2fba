"""`bertfit train`: each option reaches the function that trains, and --json prints one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bertfit.cli.main import app
from bertfit.cli.terminal import console, error_console
from bertfit.errors import ConfigError, TrainingError
from bertfit.run_directory import read_record
from bertfit.workflow import seeds, training


@pytest.fixture
def call(monkeypatch):
    """Give a function that runs `train` with options, and returns what would have been trained."""

    def run(*options: str) -> dict[str, Any]:
        heard: list[dict[str, Any]] = []

        def keep(data: Path, output: Path, **given: Any) -> None:
            heard.append({"data": data, "output": output, **given})
            raise TrainingError("enough")

        monkeypatch.setattr(training, "train", keep)
        monkeypatch.setattr(seeds, "train_seeds", keep)
        result = CliRunner().invoke(app, ["train", "rows.csv", "--output", "run", *options])
        assert isinstance(result.exception, TrainingError), result.output
        return heard[0]

    return run


def test_without_options_nothing_is_asked_for(call):
    given = call()
    assert given.pop("listener")._console is console
    settings = given.pop("settings")
    assert {entry["origin"] for entry in settings.to_json().values()} == {"default"}
    assert given == {
        "data": Path("rows.csv"),
        "output": Path("run"),
        "validation": None,
        "test": None,
        "overwrite": False,
        "resume": False,
        "baseline": True,
    }


def test_resume_reaches_the_training(call):
    assert call("--resume")["resume"] is True


def test_several_seeds_cannot_be_resumed(call):
    result = CliRunner().invoke(app, ["train", "r.csv", "--output", "run", "--seeds=2", "--resume"])
    assert isinstance(result.exception, ConfigError)
    assert "--resume goes on with one training, and --seeds trains several" in str(result.exception)


def test_every_option_reaches_the_training(call, tmp_path):
    (tmp_path / "s.toml").write_text('epochs = 7\nbatch_size = 5\nslice_columns = ["a"]\n')
    given = call(
        *("--validation", "v.csv", "--test", "t.csv", "--seeds", "3", "--overwrite"),
        *("--no-baseline", "--json", "--epochs", "2", "--slice", "b,c", "--slice", "d"),
        *("--token-budget", "auto", "--recipe", "notebook", "--config", str(tmp_path / "s.toml")),
        *("--set", "patience=4", "--no-texts", "--strict", "--drop-duplicates"),
    )
    assert given["listener"]._console is error_console
    assert (given["validation"], given["test"]) == (Path("v.csv"), Path("t.csv"))
    assert (given["num_seeds"], given["overwrite"], given["baseline"]) == (3, True, False)
    settings = given["settings"].settings
    assert (settings.epochs, settings.batch_size, settings.patience) == (2, 5, 4)
    assert settings.slice_columns == ("b,c", "d")
    assert settings.micro_batch_tokens == "auto"
    assert settings.learning_rate == 2e-5  # of the recipe
    assert (settings.keep_texts, settings.strict, settings.drop_duplicates) == (False, True, True)


def test_without_slices_on_the_command_line_those_of_the_file_hold(call, tmp_path):
    (tmp_path / "s.toml").write_text('slice_columns = ["a"]\n')
    given = call("--config", str(tmp_path / "s.toml"))
    assert given["settings"].settings.slice_columns == ("a",)


def test_json_is_one_object_with_the_record_and_the_run(tmp_path, tiny_model_dir, write_csv):
    rows = [{"text": f"{word} film", "label": word} for word in ("good", "bad") * 12]
    data, run = write_csv(tmp_path / "rows.csv", rows), tmp_path / "run"
    options = ["--epochs", "1", "--no-baseline", "--json", "--dtype", "float32"]
    command = ["train", str(data), "--output", str(run), "--model", str(tiny_model_dir), *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"run": str(run), **read_record(run)}
