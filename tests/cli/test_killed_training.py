"""A killed training: what remains, and the messages of the next commands, in 80 columns."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bertfit.cli.main import app

runner = CliRunner()


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model_dir, make_reviews, write_csv):
    """Give a folder to work in, with the model `tiny` and 40 reviews."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, tmp_path / "tiny")
    write_csv(tmp_path / "reviews.csv", make_reviews(40))
    return tmp_path


TRAIN = "train reviews.csv --model tiny --batch-size 8 --dtype float32 --no-baseline"


def invoke(command):
    return runner.invoke(app, shlex.split(command))


@pytest.mark.slow
def test_a_killed_training_leaves_its_best_epoch_which_the_next_commands_name(folder):
    command = [sys.executable, "-m", "bertfit", *shlex.split(TRAIN), "--epochs", "1000"]
    with subprocess.Popen(
        [*command, "--output", "runs/mine"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert any(line.startswith("Epoch 1 ") for line in process.stdout)
            assert "bertfit train makes one." in str(invoke("report runs/mine").exception)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    (left,) = (folder / "runs").iterdir()
    commands = [
        f"  mv runs/{left.name} runs/mine.unfinished",
        f"  rm -r runs/{left.name}",
    ]
    assert not list((folder / "runs" / left.name).glob("training_state*"))  # not 10 minutes yet
    hint = str(invoke("predict runs/mine good").exception).splitlines()
    assert hint[0] == "the run runs/mine does not exist"
    assert hint[2:] == commands
    result = invoke(f"predict runs/{left.name} 'a good film'")
    assert result.exit_code == 0, result.output
    said = invoke(f"{TRAIN} --epochs 1 --output runs/mine").output.splitlines()
    end = said.index(commands[1])
    assert said[end - 1] == commands[0]
    assert " ".join(" ".join(said[: end - 1]).split()).startswith(
        f"A training that was killed left runs/{left.name} (0.1 MB): the model of its best epoch "
    )
    assert max(len(line) for line in said[: end + 1]) <= 80
    assert {path.name for path in (folder / "runs").iterdir()} == {"mine", left.name}


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_command_and_resume(folder):
    train = f"{TRAIN} --epochs 12 --set checkpoint_minutes=1e-9 --output runs/mine"
    command = [sys.executable, "-m", "bertfit", *shlex.split(train)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        try:
            assert any(line.startswith("Epoch 2 ") for line in process.stdout)
        finally:
            process.kill()
    hint = str(invoke("evaluate runs/mine reviews.csv").exception).splitlines()
    assert hint[-1] == "To go on with the training, add --resume to the command that began it."
    result = invoke(f"{train} --resume")
    assert result.exit_code == 0, result.output
    assert "Resumed after step " in result.output
    assert [path.name for path in (folder / "runs").iterdir()] == ["mine"]
    assert invoke(train.replace("runs/mine", "runs/whole")).exit_code == 0
    for name in ("model.safetensors", "training_history.json", "validation_predictions.jsonl"):
        mine, whole = (folder / "runs" / run / name for run in ("mine", "whole"))
        assert mine.read_bytes() == whole.read_bytes(), name


@pytest.mark.slow
def test_a_service_manager_ends_a_training_that_the_same_command_goes_on_with(folder):
    train = f"{TRAIN} --epochs 1000 --output runs/mine --resume"
    command = [sys.executable, "-m", "bertfit", *shlex.split(train)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert any(line.startswith("Epoch 2 ") for line in process.stdout)
            process.terminate()
            said = " ".join(process.stdout.read().split())
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.endswith("Interrupted; the same command goes on with the training.")
    assert "Traceback" not in said
    (left,) = (folder / "runs").iterdir()
    assert left.name.startswith(".mine.incomplete-")


def test_commands_that_are_told_are_not_wrapped(folder):
    name = "a-long-name-of-a-run" * 4
    left = folder / f".{name}.incomplete-abcd1234"
    left.mkdir()
    (left / "config.json").write_text("{}")
    said = invoke(f"import nothing --output {name}").output.splitlines()
    assert f"  rm -r {left.name}" in said
