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


def test_commands_that_are_told_are_not_wrapped(folder):
    name = "a-long-name-of-a-run" * 4
    left = folder / f".{name}.incomplete-abcd1234"
    left.mkdir()
    (left / "config.json").write_text("{}")
    said = invoke(f"import nothing --output {name}").output.splitlines()
    assert f"  rm -r {left.name}" in said
