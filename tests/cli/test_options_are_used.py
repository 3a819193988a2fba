"""Each option of a command reaches the work."""

from __future__ import annotations

import csv
import json
import re
import typing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bertfit.cli.main import _VERBS, app
from bertfit.cli.options import read_path
from bertfit.cli.terminal import _OPTIONS

runner = CliRunner()


def call(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal_of(*arguments: object) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code != 0, result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def trained(tiny_model_dir, make_reviews, write_csv, tmp_path_factory):
    """Give a run of three epochs, and what was shown."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_csv(folder / "train.csv", make_reviews(40))
    command = ["train", data, "--model", tiny_model_dir, "--output", folder / "run"]
    options = ["--epochs", "3", "--batch-size", "16", "--dtype", "float32", "--no-baseline"]
    return folder / "run", call(*command, *options)


def command_of(verb, run, data) -> list[object]:
    return {
        "evaluate": ["evaluate", run, data, "--json"],
        "compare": ["compare", run, run, "--data", data, "--json"],
        "predict": ["predict", run, "--file", data, "--json"],
    }[verb]


def test_the_kept_epoch_is_marked_in_the_table_of_a_training(trained):
    run, shown = trained
    record = json.loads((run / "bertfit.json").read_text(encoding="utf-8"))
    assert re.findall(r"best (\d+) ", shown) == [str(record["training"]["best_epoch"])]


def test_without_a_test_set_the_best_baseline_is_named_at_the_end(
    tiny_model_dir, make_reviews, write_csv, tmp_path
):
    data, run = write_csv(tmp_path / "a.csv", make_reviews(40)), tmp_path / "run"
    told = call("train", data, "--model", tiny_model_dir, "--epochs", "1", "--output", run)
    best = json.loads((run / "baselines.json").read_text(encoding="utf-8"))["best"]
    shown = " ".join(told.split())
    (share,) = re.findall(r"On the validation rows.* the model classifies ([\d.]+ %)", shown)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert f"| this model | {share} |" in card
    assert f", and the best baseline, {best}, " in shown
    assert "--test FILE scores new rows. The run is in " in shown


@pytest.mark.parametrize("verb", ["evaluate", "compare", "predict"])
def test_device_and_dtype_are_used(trained, make_reviews, write_csv, tmp_path, verb):
    data = write_csv(tmp_path / "a.csv", make_reviews(12, seed=7))
    command = command_of(verb, trained[0], data)
    assert "expected auto, cpu, cuda" in refusal_of(*command, "--device", "gpu")
    exact, again, rounded = (
        call(*command, "--dtype", dtype) for dtype in ("float32", "float32", "bfloat16")
    )
    assert exact == again
    assert exact != rounded
    if verb == "evaluate":
        assert json.loads(rounded)["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("verb", "keys"),
    [
        ("evaluate", ("accuracy", "log_loss", "intervals", "num_interval_units")),
        ("compare", ("scores", "num_units")),
    ],
)
def test_named_columns_are_used(trained, make_reviews, write_csv, tmp_path, verb, keys):
    rows = make_reviews(20, seed=7)
    decoy = {"text": "a film", "label": "pos"}
    renamed = [{**row, "words": row["text"], "kind": row["label"], **decoy} for row in rows]
    plain, other = write_csv(tmp_path / "a.csv", rows), write_csv(tmp_path / "b.csv", renamed)
    named = ["--text-column", "words", "--label-column", "kind"]
    expected, found = (
        json.loads(call(*command_of(verb, trained[0], data), *options, "--group-column", "movie"))
        for data, options in ((plain, []), (other, named))
    )
    assert [found[key] for key in keys] == [expected[key] for key in keys]
    assert found[keys[-1]] == 4


def test_slices_allow_for_groups_where_these_are_named(
    trained, tiny_model_dir, make_reviews, write_csv, tmp_path
):
    train = write_csv(tmp_path / "train.csv", make_reviews(40))
    rows = [{**row, "movie": "ab"[at % 3 == 0]} for at, row in enumerate(make_reviews(40, seed=7))]
    test = write_csv(tmp_path / "test.csv", rows)
    small = ["--epochs", "1", "--batch-size", "16", "--dtype", "float32", "--no-baseline"]
    training = ["train", train, "--test", test, "--model", tiny_model_dir, *small]
    for named in (["--group-column", "movie"], []):
        output = ["--output", tmp_path / f"run{len(named)}"]
        for command in (["evaluate", trained[0], test], [*training, *output]):
            shown = " ".join(call(*command, "--slice", "movie", *named).split())
            assert "(Benjamini-Hochberg)" in shown
            assert ("rows of one group" in shown.lower()) == bool(named)
            assert ("group: a " in shown) == bool(named)


def test_kept_columns_stand_over_their_values(trained, make_reviews, write_csv, tmp_path):
    rows = make_reviews(4)
    data, path = write_csv(tmp_path / "a.csv", rows), tmp_path / "p.csv"
    kept = ["--keep", "movie", "--keep", "label"]
    call("predict", trained[0], "--file", data, *kept, "--output", path)
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["movie"], row["column label"], row["text"]) for row in found] == [
        (row["movie"], row["label"], row["text"]) for row in rows
    ]


def test_suspects_replace_their_file_when_asked(make_reviews, write_csv, tmp_path):
    data, path = write_csv(tmp_path / "a.csv", make_reviews(20)), tmp_path / "s.csv"
    path.write_text("old", encoding="utf-8")
    call("suspects", data, "--folds", "2", "--output", path, "--overwrite")
    assert path.read_text(encoding="utf-8").startswith("line,label,")


def test_as_many_suspects_are_shown_as_asked_for(make_reviews, write_csv, tmp_path):
    rows = [dict(row) for row in make_reviews(60)]
    for row in rows[::6]:
        row["label"] = "pos"
    command = ["suspects", write_csv(tmp_path / "a.csv", rows), "--folds", "3"]
    by_default, asked = (
        re.findall(r"^line \d+: ", call(*command, *options), re.MULTILINE)
        for options in ([], ["--top", "2"])
    )
    assert asked == by_default[:2]
    assert len(by_default) > 2


def test_a_device_for_suspects_reaches_the_work(make_reviews, write_csv, tmp_path):
    data = write_csv(tmp_path / "a.csv", make_reviews(20))
    told = refusal_of("suspects", data, "--device", "cpu")
    assert "device: cpu is for a run that judges" in told


def test_as_many_levels_of_a_model_are_shown_as_asked_for(tiny_model_dir):
    whole, cut = (call("inspect", tiny_model_dir, *one) for one in ([], ["--depth", "1"]))
    assert len(cut.splitlines()) < len(whole.splitlines())


def test_a_model_is_inspected_with_as_many_classes_as_asked_for(tiny_model_dir):
    two, five = (
        json.loads(call("inspect", tiny_model_dir, "--num-labels", count, "--json"))
        for count in (2, 5)
    )
    weights_of_a_class = 8 + 1
    assert five["num_parameters"] - two["num_parameters"] == 3 * weights_of_a_class


def test_the_runtime_is_described_for_the_device(tiny_model_dir):
    told = refusal_of("inspect", tiny_model_dir, "--runtime", "--device", "gpu")
    assert "expected auto, cpu, cuda" in told


def list_path_options():
    for verb, command in _VERBS.items():
        for name, hint in typing.get_type_hints(command, include_extras=True).items():
            kind, *marks = typing.get_args(hint) or (hint,)
            if Path in {kind, *typing.get_args(kind)}:
                yield pytest.param(*marks, id=f"{verb} {name}")


@pytest.mark.parametrize("option", [*list_path_options()])
def test_an_empty_path_is_not_taken_for_the_current_folder(option):
    assert option.parser is read_path


def test_options_that_errors_name_exist():
    group = typer.main.get_command(app)
    commands = [group, *group.commands.values()]
    commands += [
        each for command in commands[1:] for each in getattr(command, "commands", {}).values()
    ]
    known = {option for command in commands for param in command.params for option in param.opts}
    named = {option for names in _OPTIONS.values() for option in names.split(" and ")}
    assert named <= known
