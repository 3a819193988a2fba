"""The commands on the command line, from training to prediction."""

from __future__ import annotations

import csv
import errno
import importlib
import io
import itertools
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest
import rich.box
import torch
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

import bertfit
from bertfit.__main__ import main as run_command
from bertfit.cli.main import app, main
from bertfit.cli.predict import predict
from bertfit.cli.results import show_imdb_counts
from bertfit.cli.terminal import Terminal, console, exit_code_of
from bertfit.config import setting_names
from bertfit.data.imdb import ImdbCounts
from bertfit.errors import BertfitError, ConfigError, RunError, WorkLeft

runner = CliRunner()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_dir):
    """A run, and the file that it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "reviews.csv"
    rows = [("good fine film", "pos"), ("bad awful plot", "neg")] * 30
    with data.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    options = "--epochs 12 --batch-size 8 --seed 1 --dtype float32 --set dropout=0"
    command = ["train", str(data), "--test", str(data), "--model", str(tiny_model_dir)]
    command += ["--output", str(folder / "run"), "--set", "learning_rate=0.03", *options.split()]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder / "run", data, result.output


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """A path in a folder that may not be entered, as pathlib treats it from Python 3.14 on."""
    folder = tmp_path / "closed"
    look_up = Path.stat

    def stat(path, **options):
        if path.is_relative_to(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look_up(path, **options)

    def exists(path):
        try:
            return bool(path.stat())
        except OSError:
            return False

    monkeypatch.setattr(Path, "stat", stat)
    for name in ("exists", "is_dir", "is_file", "is_symlink"):
        monkeypatch.setattr(Path, name, exists)
    return folder / "a.csv"


@pytest.mark.parametrize(
    "command",
    [
        "evaluate HIDDEN FILE",
        "predict RUN --file HIDDEN",
        "inspect HIDDEN",
        "report HIDDEN",
        "prepare imdb --source HIDDEN --output NEW",
        "import HIDDEN --output NEW",
    ],
)
def test_what_a_closed_folder_hides_is_not_said_to_be_missing(command, hidden, trained, tmp_path):
    run, data, _output = trained
    places = {"HIDDEN": hidden, "FILE": data, "RUN": run, "NEW": tmp_path / "new"}
    words = [str(places.get(word, word)) for word in command.split()]
    result = runner.invoke(app, words)
    message = str(result.exception)
    assert "ermission" in message
    assert str(hidden) in message
    assert "exist" not in message


def test_training_shows_labels_epochs_choice_scores_and_next_commands(trained):
    _run, _data, output = trained
    for part in (
        "Labels: neg → 0, pos → 1.",
        "Rows: 54 train, 6 validation (split off, stratified), 60 test.",
        "Epoch   Train loss",
        "Kept: epoch",
        "95 %",
        "TF-IDF + logistic regression",
        "bertfit predict",
    ):
        assert part in " ".join(output.split()) or part in output


@pytest.mark.parametrize("box", [rich.box.SIMPLE, None])
def test_a_narrow_terminal_breaks_the_lines_of_a_table_and_cuts_none(box):
    table = Table("Score", "Value (95 % interval)", "Uncalibrated", box=box)
    table.add_row("Risk-coverage area (AURC)", "0.9936 (0.9852 to 0.9991)", "4.1027")
    told = type(console)(file=io.StringIO(), width=40)
    told.print(Group(Text("in few words"), table))
    told.print("text " * 9)
    first, *lines, text, more = told.file.getvalue().splitlines()
    assert first == "in few words"
    assert any("0.9936 (0.9852 to 0.9991)" in line and "4.1027" in line for line in lines)
    assert (text.split(), more.split()) == (["text"] * 8, ["text"])


def test_a_narrow_terminal_shows_no_empty_lines_between_the_rows_of_a_table():
    """The spaces that pad a row to the width of its table would be lines of their own there."""
    table = Table("Score", "Value (95 % interval)", "Before", box=rich.box.SIMPLE, pad_edge=False)
    for name in ("Accuracy", "Macro F1"):
        table.add_row(name, "99.1 %", "")
    told = type(console)(file=io.StringIO(), width=40)
    told.print(table)
    lines = told.file.getvalue().splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert [line.split() for line in lines[-3:-1]] == [
        ["Accuracy", "99.1", "%"],
        ["Macro", "F1", "99.1", "%"],
    ]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_line_is_padded_to_the_width_of_a_terminal_alone(is_terminal):
    told = type(console)(file=io.StringIO(), width=20, force_terminal=is_terminal, style="on red")
    told.print(Padding(Text("in few words"), (1, 0, 0, 2)))
    told.print(Text.assemble("one ", ("line", "bold"), "  ", ("", "bold"), "\n", "two  \nthree"))
    told.print("goes ", end="")
    told.print("on")
    shown = Text.from_ansi(told.file.getvalue()).plain.split("\n")
    if is_terminal:
        assert shown[1] == "  in few words      "
    else:
        assert shown[:6] == ["", "  in few words", "one line", "two", "three", "goes on"]


def test_nothing_that_training_prints_is_wider_than_80_columns(trained):
    run, _data, output = trained
    assert [line for line in output.splitlines() if len(line) > 80 and str(run) not in line] == []


def test_predict_tells_how_many_texts_were_cut_and_where(trained):
    run, _data, _output = trained
    long = "bad awful plot film film " * 20
    result = runner.invoke(app, ["predict", str(run), "good fine film", long])
    limit = json.loads((run / "bertfit.json").read_text())["encoding"]["max_length"]
    assert " ".join(result.stderr.split()) == (
        f"Truncated: 1 of 2 texts (50.0 %) is longer than {limit} tokens and keeps its head."
    )


def test_predict_tells_of_texts_that_the_model_cannot_read(trained):
    """As evaluate does; a label of them was given like any other."""
    run, _data, _output = trained
    result = runner.invoke(app, ["predict", str(run), "good fine film", "很好的电影", "好"])
    assert " ".join(result.stderr.split()) == (
        "WARNING: the model cannot read 2 of 3 texts (66.7 %), as nothing or little of them is in "
        "its vocabulary: such an answer says nothing."
    )
    assert len(result.stdout.splitlines()) == 3


def test_python_m_bertfit_is_the_command():
    command = [sys.executable, "-m", "bertfit", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bertfit ")


def test_ctrl_c_while_the_command_is_being_imported_shows_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-m", "bertfit", "--help"],
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (130, "Interrupted.\n")


def test_ctrl_c_while_the_options_are_set_up_shows_no_traceback(monkeypatch, capsys):
    """That takes typer a tenth of a second, before it looks for Ctrl-C itself."""

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.main.get_command", interrupted)
    with pytest.raises(SystemExit) as stop:
        run_command()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_current_folder_that_was_removed_is_told(tmp_path, monkeypatch):
    """Torch's libraries end the process with a message of their own."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = runner.invoke(app, ["check", "nothing.csv"])
    assert str(result.exception) == (
        "the current folder does not exist any more\nChange to another one (cd)."
    )


def test_python_without_docstrings_is_told(trained):
    """Of transformers' own error, the message was that the folder of the run is damaged."""
    command = [sys.executable, "-OO", "-m", "bertfit", "predict", str(trained[0]), "good"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO)")
    assert done.stderr.endswith("Unset PYTHONOPTIMIZE, or set it to 1.\n")


def test_packing_and_the_token_budget_are_taken_from_the_command(trained, tmp_path):
    run, data, _output = trained
    command = ["train", str(data), "--model", str(run), "--output", str(tmp_path / "run")]
    command += ["--epochs", "1", "--no-baseline", "--token-budget", "40", "--packing", "on"]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "Packing: on (asked for;" in result.output
    settings = json.loads((tmp_path / "run" / "bertfit.json").read_text())["settings"]
    assert settings["micro_batch_tokens"] == {"value": 40, "origin": "option"}
    assert settings["packing"] == {"value": "on", "origin": "option"}


def test_a_token_budget_that_is_no_number_is_refused(trained, tmp_path):
    run, data, _output = trained
    command = ["train", str(data), "--model", str(run), "--output", str(tmp_path / "run")]
    result = runner.invoke(app, [*command, "--token-budget", "most"])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.message == ("--token-budget: expected int or none or auto, got 'most'")
    result = runner.invoke(app, [*command, "--token-budget", "9" * 5000])  # Python takes 4,300
    assert isinstance(result.exception, ConfigError)
    result = runner.invoke(app, [*command, "--set", "micro_batch_tokens=most"])
    assert result.exception.message.startswith("micro_batch_tokens: expected int or none or auto")


def test_predict_prints_label_and_confidence_for_each_text(trained):
    result = runner.invoke(app, ["predict", str(trained[0]), "good fine film", "bad awful plot"])
    lines = result.stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["good fine film", "bad awful plot"]
    assert lines[0].startswith("pos (0.")
    assert lines[1].startswith("neg (0.")


@pytest.mark.parametrize("text", ["good film " * 500, "good \0 film", "no-such-file.csv"])
def test_predict_takes_a_text_that_is_no_files_name(trained, text):
    """A name may not be so long, nor hold a NUL, and asking for such a file must not fail."""
    result = runner.invoke(app, ["predict", str(trained[0]), text])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(("neg (0.", "pos (0."))


def test_predict_takes_a_word_that_is_a_folders_name(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    result = runner.invoke(app, ["predict", str(trained[0]), "good", "bad"])
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == ["good", "bad"]


@pytest.mark.parametrize("texts", [[], ["-"]])
def test_predict_reads_standard_input_line_by_line(trained, texts):
    result = runner.invoke(
        app, ["predict", str(trained[0]), *texts], input="good fine film\nbad awful plot\n"
    )
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["pos", "neg"]


def test_a_byte_order_mark_before_standard_input_is_no_part_of_the_first_text(trained):
    """Only there is it a mark; elsewhere it is a character of the text."""
    lines = b"\xef\xbb\xbfgood film\n\xef\xbb\xbfbad film\n"
    result = runner.invoke(app, ["predict", str(trained[0]), "--json"], input=lines)
    texts = [json.loads(line)["text"] for line in result.stdout.splitlines()]
    assert texts == ["good film", "\ufeffbad film"]


def test_predict_shows_the_beginning_of_a_long_text(trained):
    whole, long = "good films" * 6, "good films" * 6 + "."
    result = runner.invoke(app, ["predict", str(trained[0]), whole, long])
    shown = [line.split("\t")[1] for line in result.stdout.splitlines()]
    assert shown == [whole, f"{long[:57]}…"]


def test_predictions_of_standard_input_keep_their_line_numbers(trained):
    lines = b"good fine film\n\n\xff\nbad awful plot\n"
    command = ["predict", str(trained[0]), "--json", "--on-bad-row", "skip"]
    result = runner.invoke(app, command, input=lines)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["line"], row["label"]) for row in rows] == [(1, "pos"), (4, "neg")]
    assert "1 blank text was skipped." in result.stderr
    assert "Skipped 1 bad row:\n  standard input:3: byte 0xff at offset 0" in result.stderr


def test_an_interrupted_prediction_of_a_file_says_where_its_rows_are(
    trained, tmp_path, monkeypatch, capsys
):
    data, output = tmp_path / "data.csv", tmp_path / "out.csv"
    data.write_text("text\n" + "good film\nbad plot\n" * 3)
    told = []

    def interrupt(_terminal, _task, done, total, _detail=""):
        told.append((done, total))
        if done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("bertfit.cli.terminal.Terminal.progress", interrupt)
    monkeypatch.setattr("bertfit.cli.predict._SECONDS_BETWEEN_COUNTS", 0)
    with pytest.raises(WorkLeft) as caught:
        predict(trained[0], file=data, output=output)
    assert told == [(1, 6), (2, 6), (3, 6), (4, 6)]
    assert exit_code_of(caught.value) == 130
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"Interrupted; 3 predictions are in {tmp_path / 'out.unfinished.csv'}."
    assert len((tmp_path / "out.unfinished.csv").read_text().splitlines()) == 4
    assert not output.exists()


def test_whole_predictions_that_cannot_take_their_place_are_told(capsys):
    for number, told in ((errno.EPERM, "no permission"), (errno.ENOSPC, "the disk is full")):
        error = OSError(number, os.strerror(number), "p.csv")
        error.add_note("6 predictions are in p.unfinished.csv.")
        assert exit_code_of(error) == 1
        first, *rest = capsys.readouterr().err.splitlines()
        assert first.startswith(f"Error: {told}")
        assert "No half-written file" not in first
        assert rest == ["6 predictions are in p.unfinished.csv."]


@pytest.mark.parametrize("written", ["cp1252", "utf-16"])
def test_standard_input_is_read_in_its_encoding(trained, written):
    lines = "café good\nÖl bad\n"
    command = ["predict", str(trained[0]), "-", "--json", "--encoding", "cp1252"]
    result = runner.invoke(app, command, input=lines.encode(written))
    texts = [json.loads(line)["text"] for line in result.stdout.splitlines()]
    assert texts == ["café good", "Öl bad"]


def test_all_verbs_read_rows_in_their_encoding(trained, tmp_path):
    data = tmp_path / "data.csv"
    data.write_bytes("text,label\ncafé good,pos\nÖl bad,neg\n".encode("cp1252"))
    run, name = str(trained[0]), str(data)
    rows = "text,label\n" + "café good,pos\nÖl bad,neg\n" * 10
    (tmp_path / "train.csv").write_bytes(rows.encode("cp1252"))
    of_training = ["--model", run, "--output", str(tmp_path / "run"), "--no-baseline"]
    for command in (
        ["train", str(tmp_path / "train.csv"), *of_training, "--overwrite", "--epochs", "1"],
        ["check", name, "--model", run],
        ["evaluate", run, name],
        ["predict", run, "--file", name],
        ["compare", run, run, "--data", name],
        ["suspects", name, "--with", run],
    ):
        result = runner.invoke(app, [*command, "--encoding", "cp1252"])
        assert result.exit_code == 0, result.output
        assert "not UTF-8" in str(runner.invoke(app, command).exception)


def test_a_long_list_of_skipped_rows_says_how_many_more_there_are(trained, tmp_path):
    data = tmp_path / "bad.csv"
    unknown = "".join(f"so so,label{number}\n" for number in range(22))
    content = "text,label\ngood fine film,pos\n" + ",neg\n" * 25 + unknown
    data.write_text(content, encoding="utf-8")
    command = ["evaluate", str(trained[0]), str(data), "--on-bad-row", "skip"]
    told = runner.invoke(app, command).stdout
    assert "Skipped 47 bad rows:" in told
    assert "bad.csv:3, 4, 5 and 22 other rows: the text is empty" in told
    assert "… and 3 more" in told  # after 20 lines
    listed = json.loads(runner.invoke(app, [*command, "--json"]).stdout)["skipped"]
    assert listed[:25] == [f"{data}:{line}: the text is empty" for line in range(3, 28)]
    assert len(listed) == 47


def test_prepare_tells_counts_in_words(tmp_path):
    for split, kind in itertools.product(("train", "test"), ("neg", "pos")):
        folder = tmp_path / "aclImdb" / split / kind
        folder.mkdir(parents=True)
        (folder / "0_5.txt").write_text("a film")
        (folder / "notes").write_text("none")
    output = tmp_path / "out"
    told = runner.invoke(
        app, ["prepare", "imdb", "--source", str(tmp_path), "--output", str(output)]
    ).stdout
    assert "imdb_train.jsonl: 2 rows" in told
    assert "Reviews in the source: train/neg 1, train/pos 1, test/neg 1" in told
    assert "Skipped 4 files whose names are not those of reviews." in told
    assert "Differs: reviews in train/neg: 1; published: 12,500" in told
    counts = json.loads(
        runner.invoke(
            app,
            f"prepare imdb --source {tmp_path} --output {output} --overwrite --json".split(),
        ).stdout
    )
    assert counts["num_rows"] == {"imdb_train.jsonl": 2, "imdb_test.jsonl": 2}
    assert counts["num_skipped"] == 4


def test_prepare_without_a_name_for_its_folder_is_refused():
    result = runner.invoke(app, ["prepare", "imdb", "--source", "a.tar.gz", "--output", ""])
    assert str(result.exception) == "output_dir: expected a path, got an empty string"


def test_the_current_folder_is_named_in_full(capsys):
    counts = ImdbCounts(num_rows={}, num_per_shelf={}, num_skipped=0, differences=())
    show_imdb_counts(Console(soft_wrap=True), counts, Path())
    assert f"The files are in {Path.cwd()}." in capsys.readouterr().out


def test_predict_json_is_one_object_per_text(trained):
    result = runner.invoke(app, ["predict", str(trained[0]), "good fine film", "--json"])
    value = json.loads(result.stdout)
    assert value["label"] == "pos"
    assert value["confidence"] == max(value["probabilities"].values())
    assert sum(value["probabilities"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_predict_writes_a_file_in_input_order(trained, tmp_path, suffix):
    run, data, _ = trained
    output = tmp_path / f"out{suffix}"
    result = runner.invoke(app, ["predict", str(run), "--file", str(data), "--output", str(output)])
    assert result.exit_code == 0, result.output
    content = output.read_text(encoding="utf-8")
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
    else:
        rows = list(
            csv.DictReader(io.StringIO(content), delimiter="\t" if suffix == ".tsv" else ",")
        )
    assert [int(row["line"]) for row in rows] == list(range(2, 62))
    assert [row["label"] for row in rows] == ["pos", "neg"] * 30


def test_evaluate_json_has_scores_intervals_and_truncation(trained):
    run, data, _ = trained
    result = runner.invoke(app, ["evaluate", str(run), str(data), "--json"])
    value = json.loads(result.stdout)
    assert value["num_rows"] == 60
    assert value["intervals"]["accuracy"]["low"] <= value["accuracy"]
    assert value["num_truncated"] == 0


def test_inspect_shows_the_tree_and_what_a_run_says(trained):
    result = runner.invoke(app, ["inspect", str(trained[0])])
    assert "embeddings" in result.stdout
    assert "neg → 0, pos → 1" in result.stdout
    assert "Kept: epoch" in result.stdout
    assert "\nChosen settings:" in result.stdout  # a long path may stand in the next line
    assert "The model's files are as they were when the run was made" in result.stdout


def test_inspect_shows_the_score_with_what_makes_it_less(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    record = json.loads((run / "bertfit.json").read_text(encoding="utf-8"))
    ends = {"accuracy": {"low": 0.8, "high": 0.95}}
    test = {"accuracy": 0.9, "intervals": ends, "num_rows": 50}
    record["training"]["collapsed_to"] = 1
    record["scores"] |= {
        "test": test,
        "test_without_leaks": {**test, "accuracy": 0.5, "num_leaked": 20, "num_rows": 30},
        "comparison": {"verdict": "The model beats nothing."},
    }
    (run / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    told = " ".join(runner.invoke(app, ["inspect", str(run)]).stdout.split())
    for part in (
        "Test accuracy: 90.0 % (95 % interval 80.0 to 95.0), 50 rows",
        "Without 20 leaked rows, on the other 30: accuracy 50.0 % (95 % interval 80.0 to 95.0).",
        "The model has collapsed: ",
        "The model beats nothing.",
    ):
        assert part in told


def test_what_inspect_shows_can_be_read_by_programs(trained):
    for options, key in (([str(trained[0])], "tree"), (["--runtime"], "advice")):
        result = runner.invoke(app, ["inspect", *options, "--json"])
        assert key in json.loads(result.stdout)


def test_inspect_needs_a_model_or_the_machine():
    with pytest.raises(ConfigError, match="expected MODEL, or --runtime"):
        runner.invoke(app, ["inspect"], catch_exceptions=False)


def test_inspect_says_what_a_damaged_record_lacks(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    record = json.loads((run / "bertfit.json").read_text(encoding="utf-8"))
    record["scores"]["test"] = {"num_rows": 3}
    (run / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    told = r"bertfit.json lacks what inspect shows \(KeyError: 'accuracy'\)\nIt was changed"
    with pytest.raises(RunError, match=told):
        runner.invoke(app, ["inspect", str(run)], catch_exceptions=False)


def test_every_command_that_uses_a_changed_model_says_so(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    with (run / "config.json").open("a") as file:
        file.write("\n")
    for command in (
        ["inspect", run],
        ["predict", run, "good"],
        ["evaluate", run, trained[1]],
        ["suspects", trained[1], "--with", run],
    ):
        result = runner.invoke(app, [*map(str, command)])
        assert result.exit_code == 0
        assert "WARNING: config.json in" in result.output


def test_settings_lists_every_field():
    result = runner.invoke(app, ["settings"])
    assert "warmup_fraction" in result.stdout
    assert "micro_batch_tokens" in result.stdout
    listed = json.loads(runner.invoke(app, ["settings", "--json"]).stdout)
    assert listed["warmup_fraction"] == {"default": 0.06, "meaning": ANY}
    assert listed.keys() == set(setting_names())


def test_version_is_printed():
    assert runner.invoke(app, ["--version"]).stdout.startswith("bertfit ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--runtime", "--depth", "1"], "--depth, .*"),
        (["embedded", "--runtime", "--num-labels", "3"], ".* --num-labels, .*"),
        (["--runtime", "--batch-size", "32"], ".* --batch-size and .*"),
        (["--runtime", "--num-tokens", "9"], ".* and --num-tokens"),
        (["embedded", "--device", "cpu"], "--device and --dtype"),
        (["embedded", "--dtype", "bfloat16"], "--device and --dtype"),
    ],
)
def test_options_of_inspect_that_would_do_nothing_are_refused(options, named):
    with pytest.raises(ConfigError, match=f"^{named} are for"):
        runner.invoke(app, ["inspect", *options], catch_exceptions=False)


def show_help(verb):
    result = runner.invoke(app, [verb, "--help"])
    return " ".join(result.stdout.split())


@pytest.mark.parametrize("verb", [command.name for command in app.registered_commands])
def test_help_fits_into_80_columns(verb):
    result = runner.invoke(app, [verb, "--help"], env={"COLUMNS": "80"}, prog_name="bertfit")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: bertfit {verb} ")
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


@pytest.mark.parametrize("verb", ["evaluate", "compare", "predict"])
def test_the_help_of_commands_with_a_run_names_the_columns_of_its_training(verb):
    told = show_help(verb)
    assert "Text column (default: as in the training, else text, sentence, review or" in told
    named = "Label column (default: as in the training, else label, sentiment, category," in told
    assert named == (verb != "predict")


@pytest.mark.parametrize("verb", ["check", "train"])
def test_the_help_says_that_strictness_is_about_groups_too(verb):
    assert "Stop if texts or groups of the test rows" in show_help(verb)


def test_the_help_shows_what_each_command_does_in_whole_sentences():
    command = [sys.executable, "-m", "bertfit.cli.main", "--help"]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    commands = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(commands) == len(app.registered_commands) == 12
    assert [line for line in commands if not line.endswith(".") or line.endswith("...")] == []


def test_a_terminal_of_no_columns_is_one_of_unknown_width():
    command = [sys.executable, "-m", "bertfit.cli.main", "settings"]
    environment = {**os.environ, "COLUMNS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "micro_batch_tokens" in done.stdout


def test_memory_that_runs_out_before_a_message_can_be_shown_is_told(monkeypatch, capfd):
    def run_out(*_arguments, **_options):
        raise MemoryError

    monkeypatch.setattr("bertfit.cli.main.app", run_out)
    monkeypatch.setattr("bertfit.cli.terminal.exit_code_of", run_out)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "Error: out of memory." in capfd.readouterr().err


@pytest.mark.parametrize("width", [50, 60, 80])
def test_the_settings_fit_into_a_narrow_terminal_without_torn_words(width, monkeypatch):
    monkeypatch.setattr(console, "_width", width)
    shown = runner.invoke(app, ["settings"]).output
    assert max(len(line) for line in shown.splitlines()) <= width
    assert "…" not in shown
    assert {"micro_batch_tokens", "torch.compile", "(MiniLM-L6,"} <= set(shown.split())


@pytest.mark.slow  # a process that loads a model
def test_a_reader_that_stops_early_ends_the_command_quietly(trained):
    bertfit = Path(sys.executable).with_name("bertfit")
    text = "good fine film " * 60  # few rows fill a pipe
    command = f"yes '{text}' | head -n 300 | {bertfit} predict {trained[0]} | head -n 1"
    command = f"{command}; exit ${{PIPESTATUS[2]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("pos")
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


def test_a_console_whose_reader_has_gone_ends_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as file:
        told = type(console)(file=file)
        told.print("a sentence")
        file.flush()
        told.print("another one")
        assert told.quiet


@pytest.fixture
def full_disk():
    """Give a console that writes to a full disk."""
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as file:
        yield type(console)(file=file, stderr=False)


def work(out, reached, lose_output=lambda: None) -> None:
    with Terminal(out) as terminal:
        terminal.note("a sentence")
        lose_output()
        terminal.note("a sentence")
        terminal.progress("a task", 1, 2)
        reached.append("the end")


def test_work_goes_on_where_nothing_can_be_said_and_the_end_tells_it(full_disk):
    reached = []
    with pytest.raises(BertfitError) as caught:
        work(full_disk, reached)
    assert reached == ["the end"]
    assert caught.value.exit_code == 1
    assert caught.value.message == ("standard output could not be written: No space left on device")


def test_work_goes_on_where_its_terminal_was_closed():
    """As by nohup or disown, with the window gone."""
    screen, writer = pty.openpty()
    reached = []
    with os.fdopen(writer, "w") as file:
        out = type(console)(file=file, force_terminal=True)
        with pytest.raises(BertfitError, match="standard output could not be written"):
            work(out, reached, lose_output=lambda: os.close(screen))
    assert reached == ["the end"]


def test_an_error_is_not_hidden_by_what_cannot_be_written(full_disk):
    def fail():
        raise ConfigError("this")

    with pytest.raises(ConfigError):
        work(full_disk, [], lose_output=fail)


def test_the_exit_code_tells_an_error_that_cannot_be_written(full_disk, monkeypatch):
    monkeypatch.setattr("bertfit.cli.terminal.error_console", full_disk)
    assert exit_code_of(RunError("no run")) == 5


def test_a_full_disk_is_told_as_that(capsys):
    assert exit_code_of(OSError(28, "No space left on device")) == 1
    assert capsys.readouterr().err.startswith("Error: the disk is full")


def test_a_path_in_an_error_of_the_system_is_not_broken_into_lines(capsys):
    path = f"/{'folder/' * 20}file"
    assert exit_code_of(PermissionError(13, "Permission denied", path)) == 1
    assert path in capsys.readouterr().err


def test_a_library_that_finds_no_memory_is_told_as_that(capsys):
    """As ulimit -v makes it."""
    error = ImportError("libopenblas.so: failed to map segment from shared object")
    assert exit_code_of(error) == 1
    assert capsys.readouterr().err.startswith("Error: out of memory.")


def test_an_error_of_a_gpu_is_told_without_what_torch_advises(capsys):
    error = torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with …")
    error.add_note("The predictions made so far are in p.unfinished.csv.")
    assert exit_code_of(error) == 1
    first, _, last = capsys.readouterr().err.strip().partition("\n")
    assert first == "Error: the GPU cannot go on: CUDA error: device-side assert triggered"
    assert last.startswith("Run the command again")
    assert last.endswith("\nThe predictions made so far are in p.unfinished.csv.")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("raise ValueError('\\nno such log\\nValid ones are a, b')", "ValueError: no such log"),
        (
            "raise ImportError('libcudart.so.12: not found')",
            "ImportError: libcudart.so.12: not found",
        ),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def fail():\n    raise KeyError('x')\nfail()", "KeyError: 'x'"),
    ],
)
def test_a_library_that_cannot_be_imported_is_named(content, told, tmp_path, monkeypatch, capsys):
    (tmp_path / "a_library").mkdir()
    (tmp_path / "a_library" / "__init__.py").write_text("from a_library import inner")
    (tmp_path / "a_library" / "inner.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Exception) as caught:
        importlib.import_module("a_library")
    assert exit_code_of(caught.value) == 7
    shown = capsys.readouterr().err
    assert shown.startswith(f"Error: a_library cannot be imported: {told}\nInstall ")


def test_a_library_that_is_missing_is_named(capsys):
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module("no_such_library")
    assert exit_code_of(caught.value) == 7
    assert "Error: no_such_library cannot be imported" in capsys.readouterr().err


def test_an_error_that_nobody_expected_keeps_its_traceback():
    with pytest.raises(ValueError, match="a mistake of ours") as caught:
        raise ValueError("a mistake of ours")
    with pytest.raises(ValueError, match="a mistake of ours"):
        exit_code_of(caught.value)


@pytest.mark.slow
def test_a_training_whose_reader_has_gone_makes_its_run(tiny_model_dir, trained, tmp_path):
    bertfit, run = Path(sys.executable).with_name("bertfit"), tmp_path / "run"
    options = "--epochs 1 --batch-size 8 --dtype float32 --no-baseline"
    command = f"{bertfit} train {trained[1]} --model {tiny_model_dir} --output {run} {options}"
    command = f"{command} 2>&1 | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert (run / "bertfit.json").is_file()


def test_official_counts_of_imdb_are_said_to_be(capsys):
    counts = ImdbCounts(
        num_rows={"imdb_train.jsonl": 25_000}, num_per_shelf={}, num_skipped=0, differences=()
    )
    show_imdb_counts(Console(), counts, Path("out"))
    shown = capsys.readouterr().out
    assert "imdb_train.jsonl: 25,000 rows" in shown
    assert "The counts are the official ones.\nThe files are in out." in shown


def test_a_ctrl_c_says_that_nothing_was_left_behind(monkeypatch, capsys):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("bertfit.data.imdb.prepare_imdb", interrupted)
    command = "bertfit prepare imdb --source a --output b"
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "Interrupted; nothing half-made was left behind.\n"


@pytest.mark.slow  # a process that loads a model
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_predict_that_waits_for_a_line(trained, number):
    """As Ctrl-C does; a thread that waited for standard input would not let it end."""
    command = [sys.executable, "-m", "bertfit.cli.main", "predict", str(trained[0])]
    with subprocess.Popen(
        [*command, "--abstain-below", "0.9"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            told = process.stderr.readline()  # before the first line is read
            process.send_signal(number)
            assert process.wait(timeout=60) == 130
            assert b"Interrupted" in told + process.stderr.read()
        finally:
            process.kill()


def test_a_demo_in_the_place_of_a_run_gives_no_advice_that_it_cannot_take(trained):
    result = runner.invoke(app, ["demo", "--output", str(trained[0])])
    assert result.exception.message == f"a run exists in {trained[0]}"
    assert "--overwrite" not in result.exception.hint
    assert "Choose another --output" in result.exception.hint


def test_a_demo_expands_the_home_folder_before_it_looks_for_a_run(trained, monkeypatch):
    """A shell expands `--output ~/x`, but not `--output=~/x`."""
    monkeypatch.setenv("HOME", str(trained[0].parent))
    result = runner.invoke(app, ["demo", f"--output=~/{trained[0].name}"])
    assert result.exception.message == f"a run exists in {trained[0]}"
    assert "Choose another --output" in result.exception.hint


def test_predict_and_suspects_expand_the_home_folder(trained, tmp_path, monkeypatch):
    """As above; a folder named ~ was made in the current one, and files were not found."""
    run, data, _ = trained
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(data, tmp_path / "rows.csv")
    for command in (
        ["predict", str(run), "--file=~/rows.csv", "--output=~/predictions.csv"],
        ["suspects", str(data), "--with", str(run), "--output=~/suspects.csv"],
    ):
        assert runner.invoke(app, command).exit_code == 0
    assert {"predictions.csv", "suspects.csv"} < {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "~").exists()
    command = ["suspects", "~/rows.csv", "--output=~/rows.csv", "--overwrite"]
    assert "is the file that is read" in runner.invoke(app, command).exception.message


def test_predictions_and_suspects_have_the_form_of_the_file_that_a_spreadsheet_wrote(
    trained, tmp_path
):
    run, data, _ = trained
    rows = list(csv.reader(io.StringIO(data.read_text(encoding="utf-8"))))
    lines = [";".join(row) for row in [rows[0], [f"{rows[1][0]} schön", *rows[1][1:]], *rows[2:]]]
    (tmp_path / "rows.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    file, out = str(tmp_path / "rows.csv"), str(tmp_path / "out.csv")
    for command in (
        ["predict", str(run), "--file", file, "--output", out],
        ["suspects", file, "--with", str(run), "--output", out, "--overwrite"],
    ):
        result = runner.invoke(app, [*command, "--encoding", "cp1252"])
        assert result.exit_code == 0, result.output
        content = Path(out).read_bytes().decode("utf-8")
        assert content.startswith("\ufeffline;")
        assert ";text" in content.splitlines()[0]
    command = ["predict", str(run), "--file", str(data), "--output", out, "--overwrite"]
    assert runner.invoke(app, command).exit_code == 0
    assert Path(out).read_text(encoding="utf-8").startswith("line,text,")


def test_train_expands_the_home_folder_of_its_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "settings.toml").write_text("epochs = 0", encoding="utf-8")
    command = ["train", "rows.csv", "--output", "run", "--config=~/settings.toml"]
    told = runner.invoke(app, command).exception.message
    assert told == "file settings.toml: epochs: expected a number at least 1, got 0"


def test_a_demo_that_cannot_be_written_ends_before_anything_is_measured(tmp_path):
    (tmp_path / "runs").write_text("a file")
    result = runner.invoke(app, ["demo", "--output", str(tmp_path / "runs" / "demo")])
    assert result.exception.message == (
        f"the run folder {tmp_path / 'runs' / 'demo'} cannot be made: Not a directory"
    )
    assert result.stdout == ""


@pytest.fixture(scope="module")
def long_label():
    return "on two\nlines, " + "and so long " * 25 + "that it is cut"


@pytest.fixture(scope="module")
def run_of_long_labels(tiny_model_dir, tmp_path_factory, long_label):
    path = tmp_path_factory.mktemp("long") / "run"
    rows = [{"text": "a good film", "label": long_label}, {"text": "a bad one", "label": "b\nc"}]
    options = {"model": str(tiny_model_dir), "epochs": 1, "dtype": "float32", "baseline": False}
    bertfit.train(rows * 20, path, **options)
    return path


def test_each_text_is_one_line_whatever_the_labels_are(run_of_long_labels, long_label, tmp_path):
    texts = ["a good film", "a bad one", "anything else"]
    result = runner.invoke(app, ["predict", str(run_of_long_labels), *texts])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.partition("\t")[2] for line in lines] == texts
    shown = {"b c", "on two lines, and so long and so long a…so long that it is cut"}
    assert {line.partition(" (")[0] for line in lines} <= shown
    assert max(map(len, lines)) < 90
    files = tmp_path / "p.jsonl"
    command = ["predict", str(run_of_long_labels), *texts, "--json", "--output", str(files)]
    assert runner.invoke(app, command).exit_code == 0
    values = [json.loads(line) for line in files.read_text(encoding="utf-8").splitlines()]
    assert {value["label"] for value in values} <= {"b\nc", long_label}


def test_quotation_marks_that_readers_of_tsv_stumble_over_are_told(trained, tmp_path):
    source = tmp_path / "texts.jsonl"
    texts = ['"good" fine film', "bad awful plot", '"good']
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name, told in (("out.tsv", "2 texts begin with a quotation mark"), ("out.csv", None)):
        command = ["predict", str(trained[0]), "--file", str(source)]
        result = runner.invoke(app, [*command, "--output", str(tmp_path / name)])
        shown = " ".join(result.stderr.split())
        assert (told in shown) if told else "quotation mark" not in shown
