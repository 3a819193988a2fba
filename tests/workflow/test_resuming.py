"""`train(resume=True)`: which training it goes on with, and what a killed one leaves."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import bertfit
from bertfit import run_directory
from bertfit.config import resolve_settings
from bertfit.errors import ConfigError, RunError, TrainingError
from bertfit.leftovers import hold_folder
from bertfit.run_directory import read_record
from bertfit.run_files import (
    CHOOSING_NAME,
    STATE_NAME,
    TRAINED_NAME,
    UNCALIBRATED_NAME,
    WRITTEN_AFTER_TRAINING,
)
from bertfit.training.checkpoints import Checkpoints, read_state
from bertfit.training.interruption import TrainingLeft
from bertfit.workflow import judging, making, resuming
from tests.step_listener import StepListener

SMALL = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "dtype": "float32"}
ALWAYS = 1e-9
"""Minutes after which another state is due: after each step."""


def interrupt_at(step):
    return StepListener(lambda number: number == step and signal.raise_signal(signal.SIGINT))


@pytest.fixture
def train(tiny_model_dir, make_reviews):
    """Give `bertfit.train` with small settings and 40 reviews."""

    def run(output, data=None, **options):
        data = make_reviews(40) if data is None else data
        given = {"model": str(tiny_model_dir), "baseline": False, **SMALL, **options}
        return bertfit.train(data, output, **given)

    return run


@pytest.fixture
def left(train, tmp_path):
    """Give the place of a run whose training was interrupted after 7 of 15 steps."""
    output = tmp_path / "run"
    with pytest.raises(TrainingLeft):
        train(output, resume=True, listener=interrupt_at(7))
    assert not output.exists()
    return output


def find_state(output):
    (state,) = output.parent.glob(f".{output.name}.incomplete-*/{STATE_NAME}")
    return state


def test_an_interrupted_training_goes_on_to_the_same_run(train, left, tmp_path):
    listener = StepListener()
    result = train(left, resume=True, listener=listener)
    whole = train(tmp_path / "whole")
    assert listener.num_steps == 15 - 7
    for name in ("model.safetensors", "training_history.json", "validation_predictions.jsonl"):
        assert (left / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not result.interrupted
    training, expected = (read_record(run)["training"] for run in (left, whole.run))
    assert training["resumed_after"] == [7]
    assert expected["resumed_after"] == []
    assert training["num_steps"] == expected["num_steps"] == 15
    assert STATE_NAME not in read_record(left)["files"]
    assert not (left / STATE_NAME).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "whole"}


def test_the_log_has_both_parts_and_the_time_of_both(train, left):
    state = find_state(left)
    tensors = load_file(state)
    saved = read_state(state)
    kept = {**saved.kept, "seconds": 1000.0}
    place = Checkpoints(state.parent, belongs_to=saved.belongs_to, keep=lambda: kept)
    place.write(tensors, saved.progress, needs_model=bool(saved.model))
    train(left, resume=True)
    log = (left / "train.log").read_text()
    assert log.index("Epoch 1 (") < log.index("Resumed after step 7, with 1 of 3 epochs")
    assert log.index("Resumed after step 7") < log.index("Epoch 2 (")
    assert 1000 < read_record(left)["training"]["total_seconds"] < 1500


def test_what_is_left_says_how_to_go_on(left):
    with pytest.raises(RunError) as raised:
        read_record(left)
    assert "To go on with the training, add --resume to the command that" in raised.value.hint


def test_a_new_training_says_what_was_left_unless_it_goes_on_with_it(train, left):
    resumed, anew = StepListener(), StepListener()
    train(left.parent / "run", listener=anew, epochs=1)
    assert "add --resume to the command that began it" in anew.notes[0]
    shutil.rmtree(left)
    train(left, resume=True, listener=resumed)
    assert not [note for note in resumed.notes if "was killed" in note]


def test_with_nothing_left_it_starts_from_the_beginning(train, tmp_path):
    listener = StepListener()
    train(tmp_path / "run", resume=True, epochs=1, listener=listener)
    assert (
        "No training was left to go on with: this one starts from the beginning." in listener.notes
    )


def test_a_run_that_is_there_is_not_trained_again(train, tmp_path):
    train(tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match="a run exists in"):
        train(tmp_path / "run", epochs=1, resume=True)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"learning_rate": 0.02}, "learning_rate (0.01, here 0.02)"),
        ({"seed": 1, "epochs": 4}, "epochs (3, here 4), seed (0, here 1)"),
        ({"micro_batch_tokens": 64}, "micro_batch_tokens ("),
        ({"max_length": 16}, "max_length (64, here 16)"),
    ],
)
def test_a_training_with_other_settings_is_left_alone(train, left, changed, told):
    before = find_state(left).read_bytes()
    with pytest.raises(RunError) as raised:
        train(left, resume=True, **changed)
    assert told in raised.value.message
    assert raised.value.message.startswith(
        f"no unfinished training is this one: that in {find_state(left).parent} has other "
    )
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("Give the command that the training began with")
    assert find_state(left).read_bytes() == before


def test_a_training_of_other_rows_is_left_alone(train, left, make_reviews):
    with pytest.raises(RunError, match="has other training rows, validation rows"):
        train(left, make_reviews(40, seed=3), resume=True)
    assert find_state(left).is_file()


@pytest.mark.parametrize("changed", [{"calibration": "none"}, {"checkpoint_minutes": None}])
def test_settings_that_change_no_step_may_be_others(train, left, changed):
    train(left, resume=True, **changed)
    assert read_record(left)["training"]["resumed_after"] == [7]


def test_of_several_the_one_that_fits_is_taken(train, left):
    elsewhere = left.parent / "elsewhere"
    with pytest.raises(TrainingLeft):
        train(elsewhere / "run", seed=5, resume=True, listener=interrupt_at(2))
    find_state(elsewhere / "run").parent.rename(left.parent / ".run.incomplete-another")
    assert len(list(left.parent.glob(f".run.incomplete-*/{STATE_NAME}"))) == 2
    train(left, resume=True)
    assert read_record(left)["training"]["resumed_after"] == [7]
    assert find_state(left).is_file()


def test_a_damaged_state_is_named(train, left):
    find_state(left).write_bytes(b"no state")
    with pytest.raises(RunError, match=r"the state of a training, .*, cannot be read") as raised:
        train(left, resume=True)
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("Train from the beginning, without --resume.")
    assert find_state(left).read_bytes() == b"no state"


def test_a_state_that_another_process_holds_is_not_taken(train, left):
    hold = hold_folder(find_state(left).parent)
    assert hold is not None
    with hold, pytest.raises(RunError, match="is in use, or cannot be locked"):
        train(left, resume=True)
    train(left, resume=True)


def test_partial_files_of_the_killed_process_are_removed(train, left):
    folder = find_state(left).parent
    for name in (".tmpAbCdEf", ".report.html.0123abcd.part"):
        (folder / name).write_text("half")
    train(left, resume=True)
    assert not [path for path in left.iterdir() if path.name.startswith(".")]
    assert not [name for name in read_record(left)["files"] if name.startswith(".")]


def test_links_that_somebody_put_beside_a_state_are_removed(train, left, tmp_path):
    other = tmp_path / "other"
    (other / "folder").mkdir(parents=True)
    (other / "file").write_text("kept")
    for name, target in (("extra.txt", other / "file"), (".tmpAbCdEf", other / "folder")):
        (find_state(left).parent / name).symlink_to(target)
    train(left, resume=True)
    assert not [path for path in left.iterdir() if path.is_symlink()]
    assert sorted(path.name for path in other.iterdir()) == ["file", "folder"]


def test_the_second_interrupt_leaves_the_last_state(train, tmp_path):
    def on_step(step):
        if step == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingLeft):
        train(
            tmp_path / "run", resume=True, checkpoint_minutes=ALWAYS, listener=StepListener(on_step)
        )
    train(tmp_path / "run", resume=True)
    assert read_record(tmp_path / "run")["training"]["resumed_after"] == [4]


def test_without_resume_the_second_interrupt_keeps_nothing(train, tmp_path):
    def on_step(step):
        if step == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", checkpoint_minutes=ALWAYS, listener=StepListener(on_step))
    assert list(tmp_path.iterdir()) == []


def test_without_resume_an_interrupt_ends_the_training_with_a_run(train, tmp_path):
    result = train(tmp_path / "run", checkpoint_minutes=ALWAYS, listener=interrupt_at(5))
    assert result.interrupted
    assert not (tmp_path / "run" / STATE_NAME).exists()


def test_an_interrupt_after_the_last_step_leaves_the_trained_model(
    train, tmp_path, make_reviews, monkeypatch
):
    output, options = tmp_path / "run", {"test": make_reviews(20, seed=9), "resume": True}

    def on_note(text):
        if text.startswith("Calibration"):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingLeft):
        train(output, listener=StepListener(on_note=on_note), **options)
    assert not output.exists()
    again = StepListener()
    result = train(output, listener=again, **options)
    assert again.num_steps == 0
    assert result.test is not None
    whole = train(tmp_path / "whole", test=make_reviews(20, seed=9))
    assert (output / "model.safetensors").read_bytes() == (
        whole.run / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("resume", [False, True])
def test_a_training_that_failed_is_set_aside_and_goes_on(train, tmp_path, monkeypatch, resume):
    output, listener = tmp_path / "run", StepListener()

    def fail(*_args, **_options):
        message = "it failed"
        raise TrainingError(message)

    with monkeypatch.context() as patch:
        patch.setattr(making, "judge", fail)
        with pytest.raises(TrainingError, match="it failed"):
            train(output, checkpoint_minutes=ALWAYS, listener=listener, resume=resume)
    aside = tmp_path / "run.unfinished"
    assert listener.notes[-1] == (
        f"The best epoch so far is saved, as a plain model, in {aside}. The same command with "
        "--resume goes on from the last state saved."
    )
    again = StepListener()
    train(output, resume=True, listener=again)
    assert again.num_steps == 0
    assert not aside.exists()


def test_a_training_that_fails_twice_stays_where_it_was_set_aside(train, tmp_path, monkeypatch):
    output = tmp_path / "run"

    def fail(*_args, **_options):
        message = "it failed"
        raise TrainingError(message)

    monkeypatch.setattr(making, "judge", fail)
    for resume in (False, True):
        with pytest.raises(TrainingError, match="it failed"):
            train(output, checkpoint_minutes=ALWAYS, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["run.unfinished"]


def test_a_training_that_failed_before_its_first_epoch_ended_is_set_aside(train, tmp_path):
    def on_step(step):
        if step == 3:
            message = "it failed"
            raise TrainingError(message)

    listener = StepListener(on_step)
    with pytest.raises(TrainingError):
        train(tmp_path / "run", checkpoint_minutes=ALWAYS, listener=listener)
    assert listener.notes[-1].startswith("The training so far is saved in ")
    train(tmp_path / "run", resume=True)
    assert read_record(tmp_path / "run")["training"]["resumed_after"] == [2]


def test_other_versions_and_hardware_are_told(train, left, monkeypatch):
    here = resuming.describe_environment()
    here["versions"]["torch"] = "9.9.9"
    here["hardware"]["num_cores"] = 1000
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    monkeypatch.setattr(resuming, "describe_environment", lambda: here)
    listener = StepListener()
    train(left, resume=True, listener=listener)
    (told,) = [note for note in listener.notes if note.startswith("The training began with")]
    assert "(now 9.9.9)" in told
    assert "num_cores" in told
    assert "(now 99)" in told
    assert "may differ in the last digits" in told


def test_a_measured_token_budget_is_that_of_the_first_process(train, tmp_path, monkeypatch):
    from bertfit.workflow import settling

    output, budgets = tmp_path / "run", iter((64, 128))
    monkeypatch.setattr(settling, "measure_token_budget", lambda *_, **__: next(budgets))
    asked = {"micro_batch_tokens": "auto", "resume": True}
    with pytest.raises(TrainingLeft):
        train(output, listener=interrupt_at(4), **asked)
    train(output, **asked)
    entry = read_record(output)["settings"]["micro_batch_tokens"]
    assert entry["value"] == 64
    assert entry["origin"].endswith("measured, when the training began")


def test_resume_is_a_flag(train, tmp_path):
    with pytest.raises(ConfigError, match="resume: expected true or false, got 'yes'"):
        train(tmp_path / "run", resume="yes")


def test_several_seeds_save_no_state(tiny_model_dir, make_reviews, tmp_path):
    places = []

    def on_step(_step):
        places.extend(tmp_path.glob(f".run.incomplete-*/{STATE_NAME}"))

    bertfit.train_seeds(
        make_reviews(40),
        tmp_path / "run",
        num_seeds=2,
        model=str(tiny_model_dir),
        baseline=False,
        checkpoint_minutes=ALWAYS,
        listener=StepListener(on_step),
        **{**SMALL, "epochs": 1},
    )
    assert places == []


def test_minutes_are_above_0():
    with pytest.raises(ConfigError, match="checkpoint_minutes: expected a number above 0"):
        resolve_settings({"checkpoint_minutes": 0})


def test_baselines_that_were_not_fitted_are_fitted_when_it_goes_on(train, tmp_path, monkeypatch):
    """An interrupt while they are fitted leaves the training, not a run without them."""
    output, real = tmp_path / "run", judging.baseline_fitter

    def fitter(rows, seed):
        fit = real(rows, seed)

        def interrupted(*args, **options):
            signal.raise_signal(signal.SIGINT)
            return fit(*args, **options)

        return interrupted

    with monkeypatch.context() as patch:
        patch.setattr(judging, "baseline_fitter", fitter)
        with pytest.raises(TrainingLeft):
            train(output, resume=True, baseline=True)
    assert not output.exists()
    result = train(output, resume=True, baseline=True)
    assert result.baselines is not None


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("config.json", ('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-05'), "configuration"),
        ("tokenizer.json", ('"good": 16', '"good": 19'), "token ids"),
    ],
)
def test_a_changed_model_folder_is_noticed(
    train, tiny_model_dir, tmp_path, make_reviews, name, change, told
):
    folder, output = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_model_dir, folder)
    with pytest.raises(TrainingLeft):
        train(output, model=str(folder), resume=True, listener=interrupt_at(3))
    text = (folder / name).read_text()
    if told == "token ids":
        vocabulary = json.loads(text)["model"]["vocab"]
        here, there = vocabulary["good"], vocabulary["bad"]
        text = text.replace(f'"good": {here}', f'"good": {there}', 1)
        text = text.replace(f'"bad": {there}', f'"bad": {here}', 1)
    else:
        assert change[0] in text
        text = text.replace(*change)
    (folder / name).write_text(text)
    with pytest.raises(RunError, match=f"has other .*{told}"):
        train(output, model=str(folder), resume=True)


def test_files_that_the_run_may_have_no_more_are_not_published(
    train, tmp_path, make_reviews, monkeypatch
):
    output, test = tmp_path / "run", make_reviews(20, seed=9)

    def kill(*_args, **_options):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(making, "add_report", kill)
        patch.setattr(making.Staging, "discard", lambda self: self.hold.close())
        with pytest.raises(SystemExit):
            train(output, test=test, checkpoint_minutes=ALWAYS, baseline=True)
    left = {path.name for path in find_state(output).parent.iterdir()}
    assert {"trained_texts.npy", "test_predictions.jsonl", "baselines.json"} <= left
    train(output, resume=True, keep_texts=False)
    here = {path.name for path in output.iterdir()}
    assert not {"trained_texts.npy", "test_predictions.jsonl", "baselines.json"} & here
    assert set(read_record(output)["files"]) - {"report.html", "README.md"} <= here


def test_files_of_the_user_in_what_was_set_aside_stay(train, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        message = "it failed"
        raise TrainingError(message)

    with monkeypatch.context() as patch:
        patch.setattr(making, "judge", fail)
        with pytest.raises(TrainingError):
            train(tmp_path / "run", checkpoint_minutes=ALWAYS)
    (tmp_path / "run.unfinished" / ".gitignore").write_text("*")
    train(tmp_path / "run", resume=True)
    assert (tmp_path / "run" / ".gitignore").read_text() == "*"


def test_the_state_stays_until_the_record_is_written(train, left, monkeypatch):
    def fill(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "write_json", fill)
        with pytest.raises(OSError, match="No space left"):
            train(left, resume=True)
    again = StepListener()
    train(left, resume=True, listener=again)
    assert again.num_steps == 0
    assert not (left / STATE_NAME).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: told["belongs_to"].pop("rows"),
        lambda told: told["belongs_to"].pop("settings"),
        lambda told: told["belongs_to"].update(environment=None),
        lambda told: told["kept"].pop("lines"),
        lambda told: told["kept"].update(seconds="x"),
        lambda told: told["kept"].update(seconds=float("nan")),
    ],
    ids=["no rows", "no settings", "no environment", "no log", "words", "no number"],
)
def test_a_state_that_was_edited_is_named(train, left, damage):
    state = find_state(left)
    saved, tensors = read_state(state), load_file(state)
    told = {"belongs_to": saved.belongs_to, "progress": saved.progress, "kept": saved.kept}
    damage(told)
    place = Checkpoints(state.parent, belongs_to=told["belongs_to"], keep=lambda: told["kept"])
    place.write(tensors, told["progress"], needs_model=bool(saved.model))
    with pytest.raises(RunError, match=r"training_state\.safetensors is damaged"):
        train(left, resume=True)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["a number of the scores", "a weight", "the end"])
def test_a_state_of_which_a_bit_changed_is_refused_and_stays(train, left, place):
    state = find_state(left)
    content = state.read_bytes()
    scores = content.index(b"val_loss")
    at = {
        "a number of the scores": next(
            at for at in range(scores + 12, len(content)) if content[at : at + 1].isdigit()
        ),
        "a weight": len(content) // 2,
        "the end": -1,
    }
    flip(state, at[place])
    with pytest.raises(RunError, match="it was damaged or changed") as caught:
        train(left, resume=True)
    assert str(state) in str(caught.value)
    assert find_state(left) == state


@pytest.mark.parametrize("damage", ["zeros", "a name", "another", "none"])
def test_a_model_of_the_best_epoch_that_changed_is_refused(train, left, damage, tiny_model_dir):
    """It was published, with the scores of the right one."""
    model = find_state(left).parent / "model.safetensors"
    content = model.read_bytes()
    if damage == "zeros":
        model.write_bytes(content[:-4000] + bytes(4000))
    elif damage == "a name":
        flip(model, content.index(b"classifier.weight"))
    elif damage == "another":
        shutil.copy(tiny_model_dir / "model.safetensors", model)
    else:
        model.unlink()
    told = "the model of its best epoch, beside it, is missing, damaged or another"
    with pytest.raises(RunError, match=told) as caught:
        train(left, resume=True)
    assert str(find_state(left)) in str(caught.value)


def test_a_training_from_other_weights_is_left_alone(train, tiny_model_dir, tmp_path):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    with pytest.raises(TrainingLeft):
        train(tmp_path / "run", resume=True, model=str(base), listener=interrupt_at(7))
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file(weights | {name: weights[name] + 0.01}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="has other weights to start from"):
        train(tmp_path / "run", resume=True, model=str(base))
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    train(tmp_path / "run", resume=True, model=str(base))


def test_a_state_that_cannot_be_taken_up_stays_where_the_error_says(train, left):
    state = find_state(left)
    saved, tensors = read_state(state), load_file(state)
    place = Checkpoints(state.parent, belongs_to=saved.belongs_to, keep=lambda: saved.kept)
    place.write(tensors, saved.progress | {"kind": "another AdamW"}, needs_model=True)
    listener = StepListener()
    with pytest.raises(RunError, match="used another AdamW, and here") as caught:
        train(left, resume=True, listener=listener)
    assert str(state) in str(caught.value)
    assert state.is_file()
    assert not any("goes on from the last state" in note for note in listener.notes)


def test_a_third_interrupt_does_not_end_the_removal_of_what_was_made(train, tmp_path, monkeypatch):
    real, removed = making.Staging.discard, []

    def discard(staging):
        signal.raise_signal(signal.SIGINT)
        real(staging)
        removed.append(staging.folder)

    monkeypatch.setattr(making.Staging, "discard", discard)

    def interrupt_twice(number):
        if number == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", listener=StepListener(interrupt_twice))
    assert len(removed) == 1
    assert not list(tmp_path.iterdir())


def test_every_file_of_a_run_is_of_its_model_or_written_after_training(
    train, tmp_path, make_reviews
):
    """What is written later, and was left by an earlier process, is removed."""
    run = train(tmp_path / "run", test=make_reviews(20, seed=9), baseline=True).run
    of_model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in run.iterdir()} - of_model <= WRITTEN_AFTER_TRAINING
    assert {UNCALIBRATED_NAME, TRAINED_NAME, CHOOSING_NAME} <= WRITTEN_AFTER_TRAINING
