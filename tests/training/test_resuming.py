"""A training that goes on from a saved state ends as if it had never been interrupted."""

from __future__ import annotations

import errno
import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bertfit.config import TrainSettings
from bertfit.data.batching import PlannedEpochs
from bertfit.errors import RunError
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.precision import choose_precision
from bertfit.training import checkpoints, trainer
from bertfit.training.checkpoints import _FORMAT, Checkpoints, read_state
from bertfit.training.interruption import FirstInterrupt, catch_interrupts
from bertfit.training.outcome import History
from bertfit.training.reports import StepReport, join_reports, split_reports
from bertfit.training.state import Progress, save_state, take_up_state
from bertfit.training.trainer import fit
from tests.step_listener import StepListener

ALWAYS = 1e-9
"""Minutes after which another state is due: after each step."""
SETTINGS = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "dropout": 0.2}
STEPS_PER_EPOCH = 3


class Killed(Exception):  # noqa: N818 (what happens to a training, not a fault)
    """Ends a training at once, as far as its files are concerned."""


def read_whole(path):
    """Return a state after the check that `train(resume=True)` makes of it."""
    saved = read_state(path)
    saved.check_whole()
    return saved


@pytest.fixture(scope="module")
def model_dir(make_wider_model):
    """Give the folder of a small model that the compiled operators fit."""
    return make_wider_model(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )


@pytest.fixture
def train(model_dir, encode_reviews, make_reviews, tmp_path):
    """Give a function that trains; it returns the outcome, the model and what was heard."""

    def run(place=None, *, listener=None, **changes):
        place = place or Checkpoints(tmp_path / "whole")
        place.folder.mkdir(exist_ok=True)
        dtype = changes.pop("dtype", "float32")
        settings = TrainSettings(**{**SETTINGS, **changes})
        loaded = load_classifier(str(model_dir), ["neg", "pos"], dropout=settings.dropout)
        if settings.fast_path == "auto":
            plug_in(loaded.model, torch.device("cpu"))
        listener = listener or StepListener()
        with catch_interrupts() as interruption:
            outcome = fit(
                loaded.model,
                encode_reviews(loaded, make_reviews(24)),
                encode_reviews(loaded, make_reviews(12, seed=1)),
                settings=settings,
                precision=choose_precision("cpu", dtype),
                checkpoints=place,
                listener=listener,
                interruption=interruption,
            )
        return outcome, loaded.model, listener

    return run


@pytest.fixture
def go_on(train, tmp_path):
    """Give a function that kills a training with `listener`, and goes on with it."""

    def run(listener, *, stays=False, **changes):
        place = Checkpoints(tmp_path / "killed", minutes=ALWAYS, stays=stays)
        with pytest.raises((Killed, FirstInterrupt)):
            train(place, listener=listener, **changes)
        saved = read_whole(place.path)
        return train(Checkpoints(place.folder, minutes=ALWAYS, saved=saved), **changes)

    return run


def kill_at(step):
    def on_step(number):
        if number == step:
            raise Killed

    return StepListener(on_step)


def assert_same(found, whole):
    """Check that two trainings have the same weights and scores, to the bit."""
    (outcome, model, _), (expected, expected_model, _) = found, whole
    assert outcome.history == expected.history
    assert outcome.best_epoch == expected.best_epoch
    assert outcome.num_steps == expected.num_steps
    assert outcome.collapsed_to == expected.collapsed_to
    weights = expected_model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"fast_path": "off"}, "TorchAdamW"),
        ({}, "TorchAdamW and EmbeddingRows"),
        ({"dtype": "bfloat16"}, "TorchAdamW and EmbeddingRows"),
        ({"dtype": "bfloat16", "batch_size": 7}, "CompiledAdamW and EmbeddingRows"),
    ],
)
def test_a_killed_training_ends_like_one_that_was_not(train, go_on, changes, kind, request):
    if kind.startswith("Compiled"):
        request.getfixturevalue("operators")
    whole = train(**changes)
    found = go_on(kill_at(STEPS_PER_EPOCH + 2), **changes)
    assert_same(found, whole)
    saved = read_state(request.getfixturevalue("tmp_path") / "killed" / checkpoints.STATE_NAME)
    assert saved.progress["kind"] == kind


@pytest.mark.parametrize("step", [2, 3, 4, 7, 9])
def test_the_step_at_which_it_is_killed_does_not_matter(train, go_on, step):
    assert_same(go_on(kill_at(step)), train())


def test_it_may_be_killed_more_than_once(train, tmp_path):
    place = Checkpoints(tmp_path / "killed", minutes=ALWAYS)
    for _ in range(4):
        with pytest.raises(Killed):
            train(place, listener=kill_at(3))
        place = Checkpoints(place.folder, minutes=ALWAYS, saved=read_whole(place.path))
    found = train(place)
    assert_same(found, train())
    assert found[0].resumed_after == (2, 4, 6, 8)


def test_it_goes_on_likewise_if_no_other_state_is_due(train, tmp_path):
    place = Checkpoints(tmp_path / "killed", minutes=ALWAYS)
    with pytest.raises(Killed):
        train(place, listener=kill_at(2))
    found = train(Checkpoints(place.folder, saved=read_whole(place.path)))
    assert_same(found, train())
    assert found[0].resumed_after == (1,)


def test_a_state_is_replaced_before_the_model_of_the_best_epoch(train, tmp_path, monkeypatch):
    """Also if none is due: the earlier one would need the model that is replaced."""
    place, found, real = Checkpoints(tmp_path / "killed", minutes=60), [], trainer.save_model

    def save_and_look(model, folder, **options):
        found.append(read_state(place.path).progress["best_epoch"])
        real(model, folder, **options)

    monkeypatch.setattr(Checkpoints, "is_due", lambda place: place.num_written == 0)
    monkeypatch.setattr(trainer, "rank_epoch", lambda _history, epoch, **_: epoch)
    monkeypatch.setattr(trainer, "save_model", save_and_look)
    train(place)
    assert found == [0, 1, 2]


def test_saving_states_changes_no_step(train, tmp_path):
    saving = train(Checkpoints(tmp_path / "saving", minutes=ALWAYS))
    assert_same(saving, train())
    assert saving[2].num_steps == 3 * STEPS_PER_EPOCH


def test_saving_states_changes_no_loss_that_is_told(train, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(StepListener, "progress", lambda _, *report: told.append(report))
    train(Checkpoints(tmp_path / "not saving"))
    expected, told[:] = [*told], []
    train(Checkpoints(tmp_path / "saving", minutes=ALWAYS))
    assert told == expected


def test_without_minutes_nothing_is_saved(train, tmp_path):
    train()
    assert not (tmp_path / "whole" / checkpoints.STATE_NAME).exists()


def test_a_state_that_is_not_due_is_not_saved(train, tmp_path):
    place = Checkpoints(tmp_path / "patient", minutes=10_000)
    train(place)
    assert not place.path.exists()


def test_a_state_is_due_so_many_minutes_after_the_last(tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 10**9)
    monkeypatch.setattr(checkpoints, "time", clock)
    place = Checkpoints(tmp_path, minutes=5)
    assert place.is_due()
    place.write({"a": torch.zeros(1)}, {})
    for seconds, is_due in ((0, False), (299, False), (300, True)):
        clock.monotonic = lambda seconds=seconds: 10**9 + seconds
        assert place.is_due() is is_due


def test_a_state_that_could_not_be_written_is_tried_again_as_late_as_another(tmp_path, monkeypatch):
    """A full disk would else be written to after each step."""

    def fill(_number):
        raise OSError(errno.ENOSPC, "No space left on device")

    clock = SimpleNamespace(monotonic=lambda: 10**9)
    monkeypatch.setattr(checkpoints, "time", clock)
    monkeypatch.setattr(checkpoints.os, "fsync", fill)
    place = Checkpoints(tmp_path, minutes=5)
    with pytest.raises(OSError, match="No space left"):
        place.write({"a": torch.zeros(1)}, {})
    for seconds, is_due in ((0, False), (299, False), (300, True)):
        clock.monotonic = lambda seconds=seconds: 10**9 + seconds
        assert place.is_due() is is_due


def test_the_first_state_is_told_once(train, tmp_path):
    _, _, listener = train(Checkpoints(tmp_path / "saving", minutes=ALWAYS))
    (told,) = [note for note in listener.notes if "state" in note]
    assert told.startswith(
        "The state of the training is saved every 1e-09 minutes: if it is killed"
    )


def test_the_seconds_and_the_losses_of_the_first_process_count(go_on):
    outcome, _, listener = go_on(kill_at(5))
    assert listener.num_steps == 3 * STEPS_PER_EPOCH - 4
    assert outcome.num_steps == 3 * STEPS_PER_EPOCH
    assert outcome.resumed_after == (4,)
    assert listener.notes[0].startswith("Resumed after step 4, with 1 of 3 epochs finished; until")


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_it_may_be_killed_while_the_model_of_an_epoch_is_written(
    train, go_on, epoch, monkeypatch, tmp_path
):
    whole = train()
    saves, real = [], trainer.save_model

    def save(model, folder, **options):
        saves.append(1)
        if len(saves) == epoch:
            (folder / "model.safetensors").write_bytes(b"half of it")
            raise Killed
        real(model, folder, **options)

    monkeypatch.setattr(trainer, "save_model", save)
    monkeypatch.setattr(trainer, "rank_epoch", lambda _history, epoch, **_: epoch)
    found = go_on(StepListener())
    assert found[0].best_epoch == 2
    monkeypatch.undo()
    for name, tensor in load_file(tmp_path / "killed" / "model.safetensors").items():
        assert torch.equal(tensor, found[1].state_dict()[name])
    assert found[0].history == whole[0].history


@pytest.mark.parametrize("best", [0, 1, 2])
def test_after_the_last_step_the_state_has_the_best_epoch(train, tmp_path, monkeypatch, best):
    """What follows changes the model in the folder: a temperature is folded into it."""
    monkeypatch.setattr(trainer, "rank_epoch", lambda _history, epoch, **_: -abs(epoch - best))
    place = Checkpoints(tmp_path / "killed", minutes=ALWAYS)
    outcome, model, _ = train(place)
    assert outcome.best_epoch == best
    wrong = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_file(wrong, place.folder / "model.safetensors")
    saved = read_whole(place.path)
    again, model_again, listener = train(Checkpoints(place.folder, saved=saved))
    assert listener.num_steps == 0
    assert_same((again, model_again, listener), (outcome, model, None))
    on_disk = load_file(place.folder / "model.safetensors")
    assert all(torch.equal(on_disk[name], one) for name, one in model.state_dict().items())


def test_a_training_that_stopped_early_does_not_go_on(train, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "rank_epoch", lambda _history, epoch, **_: -epoch)
    place = Checkpoints(tmp_path / "killed", minutes=ALWAYS)

    def on_note(text):
        if text.startswith("Epoch 2"):
            raise Killed

    with pytest.raises(Killed):
        train(place, listener=StepListener(on_note=on_note), patience=1)
    saved = read_whole(place.path)
    outcome, _, listener = train(Checkpoints(place.folder, saved=saved), patience=1)
    assert listener.num_steps == 0
    assert (outcome.history.num_epochs, outcome.best_epoch) == (2, 0)
    _, _, again = train(Checkpoints(place.folder, saved=read_whole(place.path)), patience=1)
    told = [listener.notes, again.notes]
    assert [any("Stopped early" in note for note in notes) for notes in told] == [True, False]


@pytest.mark.parametrize("step", [1, 4, STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH])
def test_an_interrupted_training_that_stays_goes_on(train, go_on, step):
    def on_step(number):
        if number == step:
            signal.raise_signal(signal.SIGINT)

    interrupted = StepListener(on_step)
    found = go_on(interrupted, stays=True)
    assert interrupted.notes[-1] == f"Interrupted after step {step}; the state is saved."
    assert_same(found, train())
    assert found[0].resumed_after == (step,)
    assert not found[0].interrupted


def test_an_end_that_is_requested_in_validation_comes_after_it(train, go_on):
    def on_note(text):
        if text.startswith("Epoch 1"):
            signal.raise_signal(signal.SIGINT)

    assert_same(go_on(StepListener(on_note=on_note), stays=True), train())


def test_that_the_last_state_could_not_be_saved_is_told(train, tmp_path, monkeypatch):
    """It was said to be saved, because an earlier one was there."""
    place = Checkpoints(tmp_path / "full", minutes=ALWAYS, stays=True)
    real = checkpoints.os.fsync

    def fill(number):
        if place.path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    def on_step(number):
        if number == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoints.os, "fsync", fill)
    listener = StepListener(on_step)
    with pytest.raises(FirstInterrupt):
        train(place, listener=listener)
    assert listener.notes[-1] == (
        "Interrupted after step 4; the state could not be saved, but an earlier one is."
    )


def test_on_a_full_disk_the_training_goes_on_without_a_state(train, tmp_path, monkeypatch):
    place = Checkpoints(tmp_path / "full", minutes=ALWAYS)
    real = checkpoints.os.fsync

    def fill(number):
        if place.path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    monkeypatch.setattr(checkpoints.os, "fsync", fill)
    found = train(place)
    told = [note for note in found[2].notes if "cannot be saved" in note]
    assert "No space left on device" in told[0]
    assert len(told) <= 3  # once, until one could be saved again
    assert_same(found, train())
    assert not place.path.exists()  # the model of the best epoch is not the one it had
    assert not list(place.folder.glob(".*"))


def test_a_disk_that_is_full_again_is_told_again(tmp_path, monkeypatch):
    is_full = iter([True, True, False, True])

    def sync(_number):
        if next(is_full):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", sync)
    place, weights, listener = Checkpoints(tmp_path), make_weights(), StepListener()
    options = {"progress": Progress(16), "seen": [], "listener": listener}
    saved = [save_state(place, weights, torch.device("cpu"), **options) for _ in range(4)]
    assert saved == [False, False, True, False]
    assert sum("cannot be saved" in note for note in listener.notes) == 2


def test_on_a_full_disk_neither_an_earlier_state_nor_its_model_is_lost(
    train, tmp_path, monkeypatch
):
    """The state went first, to make room, and then the model could not be written either."""
    monkeypatch.setattr(trainer, "rank_epoch", lambda _history, epoch, *, metric: epoch)
    place, saves = Checkpoints(tmp_path / "full", minutes=ALWAYS), []
    real_sync, real_save = checkpoints.os.fsync, trainer.save_model

    def sync(number):
        if saves:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_sync(number)

    def save(model, folder, *, before):
        if saves:
            raise OSError(errno.ENOSPC, "No space left on device")
        saves.append(1)
        real_save(model, folder, before=before)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "fsync", sync)
        patch.setattr(trainer, "save_model", save)
        with pytest.raises(OSError, match="No space left"):
            train(place)
    found = train(Checkpoints(place.folder, minutes=ALWAYS, saved=read_whole(place.path)))
    assert_same(found, train())


def test_an_interruption_with_a_full_disk_ends_the_training_cleanly(train, tmp_path, monkeypatch):
    def fill(_number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", fill)
    place = Checkpoints(tmp_path / "full", stays=True)
    listener = StepListener(lambda step: step == 2 and signal.raise_signal(signal.SIGINT))
    outcome, _, _ = train(place, listener=listener)
    assert outcome.interrupted
    assert outcome.history.num_epochs == 1


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    place = Checkpoints(tmp_path)
    place.write({"a": torch.zeros(2)}, {})
    assert place.path.exists()

    def fail(*_):
        message = "I/O error: No space left on device (os error 28)"
        raise SafetensorError(message)

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="No space left on device") as raised:
        place.write({"a": torch.ones(2)}, {})
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [place.path]
    assert torch.equal(read_state(place.path).read_tensors()["a"], torch.zeros(2))


def test_a_second_interrupt_while_a_state_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    place = Checkpoints(tmp_path)
    place.write({"a": torch.zeros(2)}, {})
    monkeypatch.setattr(checkpoints.os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        place.write({"a": torch.ones(2)}, {})
    assert list(tmp_path.iterdir()) == [place.path]
    assert torch.equal(read_state(place.path).read_tensors()["a"], torch.zeros(2))


def test_what_belongs_to_a_state_comes_back(tmp_path):
    place = Checkpoints(tmp_path, belongs_to={"é": [1, None]}, keep=lambda: {"lines": ["a\n"]})
    place.write({"a.b": torch.arange(3)}, {"loss": 0.1})
    saved = read_whole(place.path)
    assert (saved.belongs_to, saved.kept) == ({"é": [1, None]}, {"lines": ["a\n"]})
    assert saved.progress == {"loss": 0.1}
    assert torch.equal(saved.read_tensors()["a.b"], torch.arange(3))


@pytest.mark.parametrize("content", [b"", b"no state", b"\x10" + bytes(7) + b'{"a": {}}       '])
def test_a_damaged_state_is_explained(tmp_path, content):
    path = tmp_path / checkpoints.STATE_NAME
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"the state of a training, .* cannot be read"):
        read_state(path)


def test_what_the_system_says_of_a_state_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / checkpoints.STATE_NAME).mkdir()
    with pytest.raises(RunError, match=r"cannot be read: \[Errno \d+\] Is a directory"):
        read_state(tmp_path / checkpoints.STATE_NAME)


@pytest.mark.parametrize("metadata", [None, {"format": "1"}, {"format": json.dumps(_FORMAT)}])
def test_a_file_of_tensors_that_is_no_state_is_explained(tmp_path, metadata):
    path = tmp_path / checkpoints.STATE_NAME
    save_file({"a": torch.zeros(1)}, path, metadata)
    with pytest.raises(RunError, match=r"cannot be read|another version"):
        read_state(path)


def test_a_state_of_another_version_is_refused(tmp_path):
    path = tmp_path / checkpoints.STATE_NAME
    save_file({"a": torch.zeros(1)}, path, {"format": json.dumps("0")})
    with pytest.raises(RunError, match="another version of bertfit"):
        read_state(path)


def test_a_state_that_was_cut_off_after_it_was_found_is_explained(tmp_path):
    place = Checkpoints(tmp_path)
    place.write({"a": torch.zeros(1000)}, {})
    saved = read_state(place.path)
    place.path.write_bytes(place.path.read_bytes()[:1000])
    with pytest.raises(RunError, match="cannot be read"):
        saved.read_tensors()


def test_a_state_that_was_removed_after_it_was_found_is_explained(tmp_path):
    place = Checkpoints(tmp_path)
    place.write({"a": torch.zeros(1)}, {})
    saved = read_whole(place.path)
    place.path.unlink()
    with pytest.raises(RunError, match=r"the state of a training, .* cannot be read"):
        saved.read_tensors()


def test_a_state_of_other_updates_is_refused(train, tmp_path):
    place = Checkpoints(tmp_path / "killed", minutes=ALWAYS)
    with pytest.raises(Killed):
        train(place, listener=kill_at(3))
    saved = read_whole(place.path)
    with pytest.raises(RunError, match="used TorchAdamW and EmbeddingRows, and here it would use"):
        train(Checkpoints(place.folder, saved=saved), fast_path="off")


def test_a_budget_that_was_halved_stays_halved(train, tmp_path, monkeypatch):
    place = Checkpoints(tmp_path / "killed", minutes=ALWAYS)
    with pytest.raises(Killed):
        train(place, listener=kill_at(3))
    saved = read_whole(place.path)
    saved.progress["max_tokens"] = 16
    real, budgets = trainer.train_steps, []

    def train_steps(*arguments, max_tokens, **options):
        budgets.append(max_tokens)
        return real(*arguments, max_tokens=max_tokens, **options)

    monkeypatch.setattr(trainer, "train_steps", train_steps)
    _, _, listener = train(Checkpoints(place.folder, minutes=ALWAYS, saved=saved))
    assert budgets == [read_state(place.path).progress["max_tokens"]] == [16]
    assert not [note for note in listener.notes if "Out of memory" in note]


def make_weights():
    """Give weights of which nothing is saved but the time of their recordings."""
    recorded = SimpleNamespace(seconds=0.0)
    return SimpleNamespace(
        kind="a kind", recorded=recorded, state=dict, set_state=lambda state: None
    )


def plan(num_rows):
    return PlannedEpochs(np.ones(num_rows), 4, seed=0, num_epochs=1)


def test_the_time_of_recordings_counts_on(tmp_path):
    weights = make_weights()
    place, device = Checkpoints(tmp_path), torch.device("cpu")
    progress = Progress(max_tokens=16, recording_seconds=1.5)
    assert save_state(place, weights, device, progress=progress, seen=[], listener=StepListener())
    found, _ = take_up_state(read_state(place.path), weights, device, plan(num_rows=4))
    assert found == progress
    assert weights.recorded.seconds == 1.5


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
    ],
)
def test_what_fails_on_a_gpu_does_not_make_a_state_a_damaged_one(tmp_path, error):
    """The advice would be to remove it."""

    def run_out(_state):
        raise error

    weights = SimpleNamespace(kind="a kind", recorded=None, state=dict, set_state=run_out)
    place, device = Checkpoints(tmp_path), torch.device("cpu")
    progress = Progress(max_tokens=16)
    assert save_state(place, weights, device, progress=progress, seen=[], listener=StepListener())
    with pytest.raises(type(error)):
        take_up_state(read_state(place.path), weights, device, plan(num_rows=4))


@pytest.mark.parametrize("fails_once", [False, True])
def test_an_interrupted_training_on_a_full_disk_goes_on_from_an_earlier_state(
    train, tmp_path, monkeypatch, fails_once
):
    """In an epoch that was cut short no state is saved: it would count as a whole one."""
    place, real = Checkpoints(tmp_path / "full", stays=True), checkpoints.os.fsync
    failed = []

    def fill(number):
        if not (fails_once and failed):
            failed.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    def on_step(step):
        if step == STEPS_PER_EPOCH + 2:  # there is a state of the end of the first epoch
            monkeypatch.setattr(checkpoints.os, "fsync", fill)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(FirstInterrupt):
        train(place, listener=StepListener(on_step))
    monkeypatch.setattr(checkpoints.os, "fsync", real)
    saved = read_whole(place.path)
    assert saved.progress["num_steps"] == STEPS_PER_EPOCH
    assert_same(train(Checkpoints(place.folder, saved=saved)), train())


@pytest.mark.parametrize("at", ["validating", "after it", "when a better model is saved"])
def test_a_training_that_was_cut_short_leaves_no_state_that_counts_as_whole(
    train, tmp_path, monkeypatch, at
):
    """It is ended by a first signal without --resume, and killed while the run is made of it."""
    place = Checkpoints(tmp_path / "cut", minutes=ALWAYS)
    interrupt = StepListener(lambda step: step == 5 and signal.raise_signal(signal.SIGINT))

    def kill(*_args, **_options):
        raise Killed

    after_interrupt = []
    real, real_save = trainer.score_validation, trainer.save_model

    def validate(*args, **options):
        if interrupt.num_steps >= 5:
            after_interrupt.append(1)
            if at == "validating":
                raise Killed
        return real(*args, **options)

    monkeypatch.setattr(trainer, "score_validation", validate)
    if at == "after it":
        monkeypatch.setattr(trainer, "explain_choice", kill)
    if at == "when a better model is saved":
        monkeypatch.setattr(trainer, "rank_epoch", lambda _history, epoch, **_: epoch)
        monkeypatch.setattr(
            trainer,
            "save_model",
            lambda *args, **options: kill() if after_interrupt else real_save(*args, **options),
        )
    with pytest.raises(Killed):
        train(place, listener=interrupt)
    monkeypatch.setattr(trainer, "score_validation", real)
    monkeypatch.setattr(trainer, "save_model", real_save)
    if at != "after it":  # it may go on from the last step before
        saved = read_whole(place.path)
        assert_same(train(Checkpoints(place.folder, saved=saved)), train())
    else:
        assert not place.path.exists()


def test_at_an_interrupt_the_state_is_written_once(train, tmp_path, monkeypatch):
    place, written = Checkpoints(tmp_path / "left", stays=True), []
    real = Checkpoints.write

    def write(*args, **options):
        written.append(1)
        real(*args, **options)

    monkeypatch.setattr(Checkpoints, "write", write)
    for step, expected in ((2, 1), (STEPS_PER_EPOCH, 1)):
        written.clear()
        listener = StepListener(
            lambda number, step=step: number == step and signal.raise_signal(signal.SIGINT)
        )
        with pytest.raises(FirstInterrupt):
            train(place, listener=listener)
        assert len(written) == expected


DAMAGE = {
    "no kind": lambda told, _: told.pop("kind"),
    "no history": lambda told, _: told.pop("history"),
    "unequal lists": lambda told, _: told["history"]["val_f1"].clear(),
    "words for scores": lambda told, _: told["history"].update(val_f1=["x"]),
    "no number": lambda told, _: told.update(train_seconds=float("nan")),
    "an unknown entry": lambda told, _: told.update(colour="red"),
    "a later best epoch": lambda told, _: told.update(best_epoch=7),
    "the epoch that has begun as the best": lambda told, _: told.update(best_epoch=1),
    "no best epoch that can be": lambda told, _: told.update(best_epoch=-2),
    "more steps": lambda told, _: told.update(num_steps=100),
    "fewer steps": lambda told, _: told.update(num_steps=0),
    "a step to come, after which it went on": lambda told, _: told.update(resumed_after=[100]),
    "no list of steps after which it went on": lambda told, _: told.update(resumed_after={}),
    "no tokens": lambda told, _: told.update(max_tokens=0),
    "no weight": lambda _, tensors: tensors.pop("weights.weight.classifier.weight"),
    "a weight of another shape": lambda _, tensors: tensors.update(
        {"weights.weight.classifier.bias": torch.zeros(1)}
    ),
    "a weight of another type": lambda _, tensors: tensors.update(
        {"weights.weight.classifier.bias": torch.zeros(2, dtype=torch.int8)}
    ),
    "moments of another shape": lambda _, tensors: tensors.update(
        {"weights.adamw.0.exp_avg": torch.zeros(1)}
    ),
    "second moments of another shape": lambda _, tensors: tensors.update(
        {"weights.adamw.0.exp_avg_sq": torch.zeros(1)}
    ),
    "moments of a turned shape": lambda _, tensors: tensors.update(
        {
            name: values.T.contiguous()
            for name, values in tensors.items()
            if name.startswith("weights.adamw.") and values.ndim == 2
        }
    ),
    "no random numbers": lambda _, tensors: tensors.pop("random.cpu"),
    "too few of them": lambda _, tensors: tensors.update(
        {"random.cpu": torch.zeros(3, dtype=torch.uint8)}
    ),
    "no steps of the epoch": lambda _, tensors: tensors.pop("epoch.sizes"),
    "fewer losses than steps": lambda _, tensors: tensors.update(
        {"epoch.loss": torch.zeros(0, dtype=torch.float64)}
    ),
    "other steps of the epoch": lambda _, tensors: tensors.update(
        {"epoch.sizes": torch.tensor([3])}
    ),
}


@pytest.fixture(scope="module")
def kept_state():
    """Give what the next test makes once: bytes of a state in the middle of an epoch."""
    return {}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_whatever_is_wrong_with_a_state_is_an_error_that_says_so(
    train, tmp_path, kept_state, damage
):
    place = Checkpoints(tmp_path / "damaged", minutes=ALWAYS)
    if not kept_state:
        with pytest.raises(Killed):
            train(place, listener=kill_at(STEPS_PER_EPOCH + 3))
        kept_state["state"] = place.path.read_bytes()
        kept_state["model"] = (place.folder / "model.safetensors").read_bytes()
    place.folder.mkdir(exist_ok=True)
    place.path.write_bytes(kept_state["state"])
    (place.folder / "model.safetensors").write_bytes(kept_state["model"])
    saved = read_whole(place.path)
    tensors, told = saved.read_tensors(), saved.progress
    damage(told, tensors)
    Checkpoints(place.folder).write(tensors, told)
    with pytest.raises(RunError, match=r"cannot be read|would use") as raised:
        train(Checkpoints(place.folder, saved=read_whole(place.path)))
    assert str(place.path) in str(raised.value)


def test_a_state_without_the_model_of_its_best_epoch_is_refused(train, tmp_path):
    place = Checkpoints(tmp_path / "killed", minutes=ALWAYS)
    with pytest.raises(Killed):
        train(place, listener=kill_at(STEPS_PER_EPOCH + 3))
    (place.folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="the model of its best epoch is missing beside it"):
        train(Checkpoints(place.folder, saved=read_state(place.path)))


@pytest.mark.parametrize("wrong", ["belongs_to", "progress", "kept", "model", "digest"])
def test_entries_of_a_wrong_type_are_explained(tmp_path, wrong):
    entries = {"format": _FORMAT, "belongs_to": {}, "progress": {}, "kept": {}}
    entries |= {"model": {}, "digest": ""} | {wrong: 1}
    path = tmp_path / checkpoints.STATE_NAME
    save_file({"a": torch.zeros(1)}, path, {name: json.dumps(e) for name, e in entries.items()})
    with pytest.raises(RunError, match="its entries are of a wrong type"):
        read_state(path)


def make_report(step, num_rows):
    numbers = {"loss": 0.1 + step, "grad_norm": 1 / 3, "learning_rate": 2e-5, "seconds": 0.7}
    counts = {"epoch": 1, "num_tokens": 99, "num_pad_tokens": 0, "max_tokens": 2048}
    rows = np.arange(num_rows) + 10 * step
    return StepReport(step=step, indices=rows, predicted_ids=rows % 2, **numbers, **counts)


@pytest.mark.parametrize(
    ("seen", "num_epochs", "num_steps"),
    [([make_report(0, 3)], 0, 1), ([], 2, 2), ([], 1, 2), ([make_report(0, 4)] * 2, 0, 2)],
    ids=["of other rows", "of more epochs", "of other steps", "of more steps in an epoch"],
)
def test_a_state_of_another_plan_is_refused(tmp_path, seen, num_epochs, num_steps):
    place, weights, device = Checkpoints(tmp_path), make_weights(), torch.device("cpu")
    history = History(*([0.5] * num_epochs for _ in range(6)))
    progress = Progress(16, history=history, best_epoch=num_epochs - 1, num_steps=num_steps)
    assert save_state(place, weights, device, progress=progress, seen=seen, listener=StepListener())
    with pytest.raises(RunError, match="its steps or scores are not those of such a training"):
        take_up_state(read_state(place.path), weights, device, plan(num_rows=4))


def test_the_steps_of_an_epoch_are_those_of_its_own_plan(tmp_path):
    """One step is smaller, and at another place in each epoch."""
    place, weights, device = Checkpoints(tmp_path), make_weights(), torch.device("cpu")
    epochs = PlannedEpochs(np.ones(6), 4, seed=0, num_epochs=5)
    firsts = [len(epoch[0]) for epoch in epochs]
    number = next(number for number in range(1, 5) if firsts[number] != firsts[number - 1])
    history = History(*([0.5] * number for _ in range(6)))
    progress = Progress(16, history=history, best_epoch=0, num_steps=2 * number + 1)
    seen = [make_report(2 * number, firsts[number])]
    assert save_state(place, weights, device, progress=progress, seen=seen, listener=StepListener())
    found, begun = take_up_state(read_state(place.path), weights, device, epochs)
    assert (found, len(begun)) == (progress, 1)


def test_how_to_go_on_is_not_told_of_a_training_that_has_ended(tmp_path):
    place, listener = Checkpoints(tmp_path, minutes=5), StepListener()
    options = {"progress": Progress(16, has_ended=True), "seen": [], "listener": listener}
    assert save_state(place, make_weights(), torch.device("cpu"), **options)
    assert listener.notes == []


@pytest.mark.parametrize("stays", [False, True])
def test_how_to_go_on_is_told_unless_an_interrupted_training_does_so_anyway(tmp_path, stays):
    place, listener = Checkpoints(tmp_path, minutes=5, stays=stays), StepListener()
    options = {"progress": Progress(16), "seen": [], "listener": listener}
    assert save_state(place, make_weights(), torch.device("cpu"), **options)
    assert len(listener.notes) == (not stays)


@pytest.mark.parametrize("sizes", [(), (3,), (8, 8, 1)])
def test_reports_come_back_from_arrays(sizes):
    reports = [make_report(step, num_rows) for step, num_rows in enumerate(sizes)]
    found = split_reports(join_reports(reports))
    assert len(found) == len(reports)
    for one, expected in zip(found, reports, strict=True):
        for name in StepReport.__dataclass_fields__:
            value = getattr(one, name)
            assert type(value) is type(getattr(expected, name))
            assert np.array_equal(value, getattr(expected, name))
