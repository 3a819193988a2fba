"""Training with validation: the kept epoch, when it stops, and what it learns."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bertfit.config import TrainSettings
from bertfit.data import batching
from bertfit.data.batching import plan_epoch
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.errors import TrainingError
from bertfit.inference import micro_batches
from bertfit.inference.scoring import score_texts
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.training import measuring, reports, trainer, validation, weights
from bertfit.training.checkpoints import Checkpoints
from bertfit.training.choices import choose_selection_metric
from bertfit.training.interruption import catch_interrupts
from bertfit.training.loop import TrainingData
from bertfit.training.measuring import measure_speed
from bertfit.training.optimization import learning_rate_at
from bertfit.training.outcome import History, rank_epoch
from bertfit.training.trainer import fit

PRECISION, BFLOAT16 = (choose_precision("cpu", dtype) for dtype in ("float32", "bfloat16"))
LISTS = ("train_losses", "val_losses", "train_acc", "val_acc", "train_f1", "val_f1")


class Recorder:
    """A listener that keeps what it hears, and calls `on_step` after each report of an epoch."""

    def __init__(self, on_step=lambda task, done: None):
        self.notes, self.tasks, self.on_step = [], [], on_step

    def note(self, text):
        self.notes.append(text)

    def progress(self, task, done, total, detail=""):
        self.tasks.append((task, done, total, detail))
        self.on_step(task, done)


@pytest.fixture(scope="module")
def make_data(tiny_model_dir):
    tokenizer = load_classifier(str(tiny_model_dir), ["neg", "pos"]).tokenizer

    def make(rows):
        texts = [row["text"] for row in rows]
        encoded = encode_texts(texts, fast_tokenizer(tokenizer), EncodingRule(max_length=64))
        label_ids = np.array([int(row["label"] == "pos") for row in rows])
        return TrainingData(encoded, label_ids, pad_id=tokenizer.pad_token_id)

    return make


@pytest.fixture
def run_fit(tiny_model_dir, tmp_path, make_data, make_reviews):
    """Give a function that trains the tiny model; it returns the outcome and the model."""

    def run(
        train=None,
        validation=None,
        *,
        listener=None,
        seed=0,
        precision=PRECISION,
        label_names=("neg", "pos"),
        **changes,
    ):
        settings = TrainSettings(
            **{
                "epochs": 2,
                "batch_size": 8,
                "learning_rate": 0.01,
                "dropout": 0.0,
                "seed": seed,
                **changes,
            }
        )
        loaded = load_classifier(
            str(tiny_model_dir), list(label_names), dropout=settings.dropout, seed=seed
        )
        with catch_interrupts() as interruption:
            outcome = fit(
                loaded.model,
                train or make_data(make_reviews(24)),
                validation or make_data(make_reviews(12, seed=1)),
                settings=settings,
                precision=precision,
                checkpoints=Checkpoints(tmp_path / "best"),
                listener=listener or Recorder(),
                interruption=interruption,
            )
        return outcome, loaded.model

    return run


@pytest.fixture
def fix_scores(monkeypatch):
    """Give a function that makes the epochs have these validation accuracies."""

    def fix(*scores):
        left = iter(scores)
        real = trainer.accuracy_and_macro_f1
        calls = []

        def fake(predicted, targets, num_labels):
            calls.append(1)
            if len(calls) % 2:  # the training rows are scored first
                return real(predicted, targets, num_labels)
            value = next(left)
            return value, value

        monkeypatch.setattr(trainer, "accuracy_and_macro_f1", fake)

    return fix


@pytest.fixture
def fix_losses(monkeypatch):
    """Give a function that makes the epochs have these validation losses."""

    def fix(*losses):
        left = iter(losses)
        monkeypatch.setattr(trainer, "row_log_losses", lambda *_: np.array([next(left)]))

    return fix


def test_kernels_of_adamw_that_are_not_used_are_named(run_fit, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(weights, "can_launch", lambda _pairs: True)
    monkeypatch.setattr(weights, "find_step_fault", lambda *_, **__: "they fail here")
    run_fit(listener=recorder, epochs=1)
    assert "AdamW: torch's own, not the kernels; they fail here." in recorder.notes


def test_a_set_of_twenty_rows_is_learned_by_heart(run_fit, make_data, make_reviews):
    data = make_data(make_reviews(20))
    outcome, _ = run_fit(data, data, epochs=40, batch_size=10, weight_decay=0.0)
    assert outcome.history.train_acc[-1] == 1.0
    assert outcome.history.val_acc[-1] == 1.0
    assert outcome.collapsed_to is None


def test_what_is_learned_holds_for_new_rows(run_fit, make_data, make_reviews):
    validation = make_data(make_reviews(60, seed=9))
    outcome, _ = run_fit(make_data(make_reviews(120)), validation, epochs=8)
    assert max(outcome.history.val_acc) > 0.9


def test_shuffled_labels_stay_at_chance(run_fit, make_data, make_reviews):
    """What scores on labels that mean nothing has seen the answers."""
    rows = make_reviews(120)
    labels = [row["label"] for row in rows]
    random.Random(1).shuffle(labels)
    shuffled = [row | {"label": label} for row, label in zip(rows, labels, strict=True)]
    validation = make_data(make_reviews(100, seed=9))
    outcome, _ = run_fit(make_data(shuffled), validation, epochs=4)
    assert outcome.history.val_acc[-1] == pytest.approx(0.5, abs=0.2)


def test_the_same_seed_gives_the_same_losses(run_fit):
    a, b = (run_fit(seed=3, dropout=0.2)[0].history for _ in range(2))
    assert a == b


def test_another_seed_gives_other_losses(run_fit):
    a, b = (run_fit(seed=seed)[0].history.train_losses for seed in (3, 4))
    assert a != b


def test_another_seed_and_another_epoch_have_other_steps(run_fit, monkeypatch):
    real, seen = batching.plan_epoch, []

    def plan_and_look(*arguments, **options):
        steps = real(*arguments, **options)
        seen.append(tuple(np.concatenate(steps)))
        return steps

    monkeypatch.setattr(batching, "plan_epoch", plan_and_look)
    for seed in (3, 4):
        run_fit(seed=seed)
    assert len(seen) == len(set(seen)) == 4


def test_epochs_that_patience_never_reaches_are_not_planned(run_fit, monkeypatch):
    real, planned = batching.plan_epoch, []

    def plan_and_look(*arguments, epoch, **options):
        planned.append(epoch)
        return real(*arguments, epoch=epoch, **options)

    monkeypatch.setattr(batching, "plan_epoch", plan_and_look)
    outcome = run_fit(epochs=500_000, patience=1, learning_rate=1e-9)[0]
    assert planned == list(range(outcome.history.num_epochs))
    assert len(planned) < 10


def test_the_callers_random_numbers_change_no_loss(run_fit):
    histories = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            histories.append(run_fit(dropout=0.2)[0].history)
    assert histories[0] == histories[1]


def test_what_the_caller_has_set_in_torch_changes_no_loss(run_fit):
    expected = run_fit()[0].history
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = run_fit()[0].history
    assert found == expected


def test_the_learning_rate_rises_and_falls_over_all_epochs(run_fit, monkeypatch):
    real, rates = trainer.train_steps, []

    def take_and_look(*arguments, learning_rate, **options):
        def look(step):
            rates.append(learning_rate(step))
            return rates[-1]

        return real(*arguments, learning_rate=look, **options)

    monkeypatch.setattr(trainer, "train_steps", take_and_look)
    run_fit(learning_rate=0.02, warmup_fraction=0.5)
    schedule = {"num_steps": 6, "peak": 0.02, "warmup_fraction": 0.5}
    assert rates == [learning_rate_at(step, **schedule) for step in range(6)]


def test_what_is_left_open_is_chosen_for_the_training_rows_and_the_model(run_fit, monkeypatch):
    asked = {}

    def choose_epochs(_settings, num_rows, *, num_labels):
        asked.update(num_rows=num_rows, num_labels=num_labels)
        return 1

    def choose_learning_rate(_settings, hidden_size):
        asked.update(hidden_size=hidden_size)
        return 0.01

    monkeypatch.setattr(trainer, "choose_epochs", choose_epochs)
    monkeypatch.setattr(trainer, "choose_learning_rate", choose_learning_rate)
    run_fit(label_names=("neg", "pos", "other"), epochs=None, learning_rate=None)
    assert asked == {"num_rows": 24, "num_labels": 3, "hidden_size": 8}


def test_the_metric_is_chosen_for_the_training_rows(run_fit, make_data, make_reviews):
    """The validation rows are balanced."""
    outcome, _ = run_fit(make_data(make_reviews(24)[:16:2] + make_reviews(24)[1:6:2]), epochs=1)
    assert outcome.selection_metric == "macro_f1"


def test_measuring_the_speed_changes_no_loss(
    run_fit, tiny_model_dir, make_data, make_reviews, monkeypatch
):
    expected, _ = run_fit(dropout=0.2)
    real = trainer.choose_selection_metric
    data = make_data(make_reviews(24))
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"], dropout=0.2).model

    def measure_first(settings, label_ids):
        measure_speed(model, data, settings=settings, precision=PRECISION)
        return real(settings, label_ids)

    monkeypatch.setattr(trainer, "choose_selection_metric", measure_first)
    assert run_fit(dropout=0.2)[0].history == expected.history


def test_the_token_budget_changes_no_loss(run_fit):
    whole, cut = (run_fit(epochs=3, micro_batch_tokens=budget)[0].history for budget in (10**6, 20))
    np.testing.assert_allclose(whole.train_losses, cut.train_losses, atol=1e-5)
    np.testing.assert_allclose(whole.val_losses, cut.val_losses, atol=1e-5)


def test_every_epoch_has_an_entry_in_each_list(run_fit):
    outcome, _ = run_fit(epochs=3)
    assert [len(getattr(outcome.history, name)) for name in LISTS] == [3] * 6
    assert outcome.num_steps == 9
    assert outcome.train_seconds > 0


def test_the_time_of_all_steps_counts(run_fit, monkeypatch):
    monkeypatch.setattr(reports, "seconds_between", lambda *_: 60.0)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    listener = Recorder()
    outcome, _ = run_fit(listener=listener)
    assert outcome.train_seconds == 6 * 60.0
    assert [note.partition(":")[0] for note in listener.notes] == [
        "Epoch 1 (3 min)",
        "Epoch 2 (3 min)",
    ]


def test_each_list_has_the_scores_of_its_name(run_fit, monkeypatch):
    scores = iter([(0.1, 0.2), (0.3, 0.4)])  # the training rows are scored first
    monkeypatch.setattr(trainer, "accuracy_and_macro_f1", lambda *_: next(scores))
    history = run_fit(epochs=1)[0].history
    found = [history.train_acc, history.train_f1, history.val_acc, history.val_f1]
    assert found == [[0.1], [0.2], [0.3], [0.4]]


def test_epochs_are_ranked_by_the_metric():
    history = History(val_losses=[0.5, 0.4, 0.3], val_acc=[0.9, 0.8, 0.7], val_f1=[0.7, 0.9, 0.8])
    for best, metric in enumerate(("accuracy", "macro_f1", "loss")):
        ranks = [rank_epoch(history, epoch, metric) for epoch in range(3)]
        assert ranks.index(max(ranks)) == best


def test_the_epoch_with_the_highest_score_is_kept(run_fit, fix_scores):
    fix_scores(0.5, 0.9, 0.7)
    outcome, _ = run_fit(epochs=3)
    assert outcome.best_epoch == 1
    assert outcome.reason == "epoch 2 of 3 has the highest validation accuracy, 0.9000"


def test_the_kept_model_scores_what_the_history_says(run_fit, fix_scores, make_data, make_reviews):
    """The validation loss of the kept epoch is that of the weights in the model."""
    validation = make_data(make_reviews(12, seed=1))
    fix_scores(0.5, 0.9, 0.7)
    outcome, model = run_fit(validation=validation, epochs=3)
    logits = score_texts(model, validation.encoded, precision=PRECISION, pad_id=0)
    targets = torch.from_numpy(validation.label_ids)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), targets).item()
    assert loss == pytest.approx(outcome.history.val_losses[1], abs=1e-5)
    assert loss != pytest.approx(outcome.history.val_losses[2], abs=1e-5)


def test_the_folder_holds_the_weights_of_the_model(run_fit, fix_scores, tmp_path):
    from safetensors.torch import load_file

    fix_scores(0.9, 0.5)
    _, model = run_fit()
    stored = load_file(tmp_path / "best" / "model.safetensors")
    assert all(torch.equal(stored[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("losses", "best"), [((0.6, 0.2, 0.3), 2), ((0.2, 0.6, 0.2), 1)])
def test_of_equal_epochs_that_with_the_lowest_loss_is_kept(
    run_fit, fix_scores, fix_losses, losses, best
):
    """The first one, of few rows that are soon all right, answers with probabilities near 0.5."""
    fix_scores(0.8, 0.8, 0.8)
    fix_losses(*losses)
    outcome, _ = run_fit(epochs=3)
    assert outcome.best_epoch == best - 1
    assert outcome.reason == (
        f"epoch {best} of 3 has the highest validation accuracy, 0.8000 (with the lowest loss of "
        "equals)"
    )


def test_of_epochs_that_are_equal_in_all_the_first_is_kept(run_fit, fix_scores, fix_losses):
    fix_scores(0.8, 0.8)
    fix_losses(0.4, 0.4)
    outcome, _ = run_fit()
    assert outcome.best_epoch == 0
    assert outcome.reason.endswith("0.8000 (the first of equals)")


def test_an_epoch_of_another_score_is_none_of_the_equals(run_fit, fix_scores, fix_losses):
    fix_scores(0.8, 0.8, 0.5)
    fix_losses(0.4, 0.4, 0.9)
    assert run_fit(epochs=3)[0].reason.endswith("0.8000 (the first of equals)")


def test_a_trained_model_is_left_as_one_to_answer_with(run_fit):
    """Scoring switches a model that is not, and so for another thread that shares it."""
    assert not run_fit(dropout=0.5)[1].training


def test_the_callers_random_numbers_go_on(run_fit, make_data, make_reviews):
    model = run_fit()[1]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run_fit(dropout=0.5)
    first = torch.rand(1)
    data = make_data(make_reviews(24))
    model.bert.embeddings.dropout.p = 0.5
    measure_speed(model, data, settings=TrainSettings(batch_size=8), precision=PRECISION)
    assert [float(first), float(torch.rand(1))] == expected.tolist()


def test_patience_waits_as_long_as_the_loss_of_equal_epochs_falls(run_fit, fix_scores, fix_losses):
    fix_scores(*[1.0] * 6)
    fix_losses(0.6, 0.5, 0.4, 0.45, 0.41, 0.2)
    outcome, _ = run_fit(epochs=6, patience=2)
    assert (len(outcome.history.val_acc), outcome.best_epoch) == (5, 2)


def test_the_loss_is_better_when_lower(run_fit):
    outcome, _ = run_fit(epochs=3, selection_metric="loss")
    losses = outcome.history.val_losses
    assert outcome.best_epoch == losses.index(min(losses))
    assert "has the lowest validation loss, " in outcome.reason


def test_a_single_epoch_needs_no_comparison(run_fit, fix_scores):
    fix_scores(0.75)
    outcome, _ = run_fit(epochs=1)
    assert outcome.reason == "epoch 1 is the only one; its validation accuracy is 0.7500"


def test_patience_stops_the_training(run_fit, fix_scores):
    fix_scores(0.5, 0.9, 0.7, 0.8)
    listener = Recorder()
    outcome, _ = run_fit(epochs=9, patience=2, listener=listener)
    assert (len(outcome.history.val_acc), outcome.best_epoch) == (4, 1)
    assert listener.notes[-1] == "Stopped early: no better epoch in 2."
    assert not outcome.interrupted


def test_patience_that_ends_with_the_last_epoch_is_no_early_stop(run_fit, fix_scores):
    fix_scores(0.9, 0.5)
    listener = Recorder()
    run_fit(epochs=2, patience=1, listener=listener)
    assert not any("Stopped early" in note for note in listener.notes)


def test_without_patience_all_epochs_are_trained(run_fit, fix_scores):
    fix_scores(0.9, 0.5, 0.4, 0.3)
    assert len(run_fit(epochs=4)[0].history.val_acc) == 4


@pytest.mark.parametrize(
    ("counts", "metric"),
    [((50, 50), "accuracy"), ((40, 50), "accuracy"), ((39, 50), "macro_f1")],
)
def test_auto_chooses_the_metric_by_the_balance_of_classes(counts, metric):
    label_ids = np.repeat([0, 1], counts)
    assert choose_selection_metric(TrainSettings(), label_ids) == metric


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_a_metric_that_is_asked_for_is_taken(metric):
    settings = TrainSettings(selection_metric=metric)
    assert choose_selection_metric(settings, np.array([0, 1, 1, 1])) == metric


def interrupt_at(task, done, *, times=1):
    """Give a listener that raises SIGINT when it first hears of this task and count."""
    left = [times]

    def on_step(seen_task, seen_done):
        if (seen_task, seen_done) == (task, done):
            for _ in range(left.pop() if left else 0):
                signal.raise_signal(signal.SIGINT)

    return Recorder(on_step)


def test_an_interrupted_epoch_is_validated_and_counts(run_fit):
    listener = interrupt_at("epoch 2/5", 1)
    outcome, _ = run_fit(epochs=5, listener=listener)
    assert outcome.interrupted
    assert (outcome.num_steps, len(outcome.history.val_acc)) == (4, 2)
    assert outcome.unfinished == (1, 3)
    assert any(note.startswith("Epoch 2 (1 of 3 steps, 1 s): ") for note in listener.notes)
    assert (
        "Interrupted after step 4: validating on 12 rows and keeping the best model so far. "
        "Ctrl-C again gives that up."
    ) in listener.notes


def test_the_progress_of_an_interrupted_epoch_comes_to_its_end(run_fit):
    listener = interrupt_at("epoch 2/5", 1)
    run_fit(epochs=5, listener=listener)
    told = [report[1:3] for report in listener.tasks if report[0] == "epoch 2/5"]
    assert told == [(0, 3), (1, 3), (1, 1)]
    ends = [report[3] for report in listener.tasks if report[0].startswith("epoch")][-2:]
    assert ends[0].startswith("loss")
    assert ends[1] == "interrupted"


def test_an_interruption_before_the_first_step_ends_after_it(run_fit):
    """Without any there would be nothing to score."""
    outcome, _ = run_fit(listener=interrupt_at("epoch 1/2", 0))
    assert outcome.interrupted
    assert (outcome.num_steps, len(outcome.history.val_acc)) == (1, 1)
    assert outcome.unfinished == (1, 3)


def test_an_epoch_that_is_interrupted_at_its_last_step_is_finished(run_fit):
    outcome, _ = run_fit(epochs=5, listener=interrupt_at("epoch 1/5", 3))
    assert outcome.interrupted
    assert (outcome.num_steps, outcome.unfinished) == (3, None)


def test_an_interruption_while_validating_ends_after_it(run_fit):
    outcome, _ = run_fit(epochs=5, listener=interrupt_at("validating", 12))
    assert outcome.interrupted
    assert (outcome.num_steps, len(outcome.history.val_acc)) == (3, 1)
    assert outcome.unfinished is None


def test_a_second_interruption_ends_at_once(run_fit):
    with pytest.raises(KeyboardInterrupt):
        run_fit(listener=interrupt_at("epoch 1/2", 1, times=2))


def test_an_interruption_after_the_last_epoch_keeps_the_best(run_fit, fix_scores, monkeypatch):
    """The weights are being given back to the model."""
    release = trainer.TrainedWeights.release

    def interrupted(weights):
        signal.raise_signal(signal.SIGINT)
        release(weights)

    fix_scores(0.9, 0.5)
    monkeypatch.setattr(trainer.TrainedWeights, "release", interrupted)
    outcome, _ = run_fit()
    assert not outcome.interrupted  # every step was taken
    assert (outcome.best_epoch, len(outcome.history.val_acc)) == (0, 2)


def test_an_interruption_while_the_last_epoch_is_validated_cuts_nothing_short(run_fit):
    count = []

    def interrupt(task, done):
        if task == "validating":
            count.append(done)
            if count.count(12) == 2 and done == 12:
                signal.raise_signal(signal.SIGINT)

    outcome, _ = run_fit(epochs=2, listener=Recorder(interrupt))
    assert not outcome.interrupted
    assert len(outcome.history.val_acc) == 2


def test_an_interruption_of_the_epoch_that_ends_the_patience_cuts_nothing_short(
    run_fit, fix_scores
):
    fix_scores(0.9, 0.5, 0.4)
    outcome, _ = run_fit(epochs=5, patience=1, listener=interrupt_at("epoch 2/5", 3))
    assert not outcome.interrupted
    assert len(outcome.history.val_acc) == 2


def test_an_epoch_that_was_cut_short_is_not_told_as_an_early_stop(run_fit, fix_scores):
    fix_scores(0.9, 0.5)
    listener = interrupt_at("epoch 2/5", 1)
    outcome, _ = run_fit(epochs=5, patience=1, listener=listener)
    assert outcome.interrupted
    assert not any(note.startswith("Stopped early") for note in listener.notes)


def test_a_model_that_gives_one_class_for_all_is_called_collapsed(run_fit):
    outcome, _ = run_fit(epochs=1, learning_rate=1e-9)
    assert outcome.collapsed_to in {0, 1}


def test_collapse_is_that_of_the_validation_rows(run_fit, make_data, make_reviews, monkeypatch):
    asked, validation = [], make_data(make_reviews(12, seed=1))
    monkeypatch.setattr(trainer, "collapsed_class", lambda *given: asked.append(given))
    run_fit(validation=validation)
    assert [len(predicted) for predicted, _ in asked] == [12, 12]
    assert all(targets is validation.label_ids for _, targets in asked)


def test_collapse_is_that_of_the_kept_epoch(run_fit, fix_scores, monkeypatch):
    classes = iter([None, 1])
    monkeypatch.setattr(trainer, "collapsed_class", lambda *_: next(classes))
    fix_scores(0.9, 0.5)
    assert run_fit()[0].collapsed_to is None


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_in_validation_stop_the_training(run_fit, monkeypatch, number):
    def give_logits(model, encoded, **_):
        logits = np.zeros((len(encoded), 2), dtype=np.float32)
        logits[-1, 0] = number
        return logits

    monkeypatch.setattr(validation, "score_texts", give_logits)
    with pytest.raises(TrainingError) as caught:
        run_fit()
    assert str(caught.value) == (
        "the model gives logits that are not finite on the validation rows\nLower learning_rate."
    )


def test_validation_runs_as_written_with_the_padding_token_of_its_rows(
    run_fit, make_data, make_reviews, monkeypatch
):
    """Compiled layers would be compiled anew for it."""
    real, within, padding = validation.score_texts, [], []

    @contextlib.contextmanager
    def run_as_written():
        within.append("as written")
        yield
        within.pop()

    def score_and_look(*arguments, pad_id, **options):
        assert within == ["as written"]
        padding.append(pad_id)
        return real(*arguments, pad_id=pad_id, **options)

    monkeypatch.setattr(validation, "run_as_written", run_as_written)
    monkeypatch.setattr(validation, "score_texts", score_and_look)
    data = make_data(make_reviews(12, seed=1))
    run_fit(validation=dataclasses.replace(data, pad_id=3))
    assert padding == [3, 3]


def test_a_training_in_bfloat16_validates_with_its_copy_and_keeps_float32(
    run_fit, monkeypatch, tmp_path
):
    from safetensors.torch import load_file

    real, dtypes = validation.score_texts, set()

    def score_and_look(model, *arguments, **options):
        dtypes.update(parameter.dtype for parameter in model.parameters())
        return real(model, *arguments, **options)

    monkeypatch.setattr(validation, "score_texts", score_and_look)
    run_fit(epochs=1, precision=BFLOAT16)
    assert dtypes == {torch.bfloat16}
    stored = load_file(tmp_path / "best" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}


def test_each_epoch_is_told_in_a_sentence(run_fit):
    listener = Recorder()
    outcome, _ = run_fit(listener=listener)
    history = outcome.history
    assert re.fullmatch(r"Epoch 1 \(\d+ s\): .*", listener.notes[0])
    assert listener.notes[0].partition(": ")[2] == (
        f"train loss {history.train_losses[0]:.4f}, validation loss "
        f"{history.val_losses[0]:.4f}, accuracy {history.val_acc[0]:.4f}, "
        f"macro F1 {history.val_f1[0]:.4f}"
    )


def test_weights_are_given_back_after_a_training_that_fails(run_fit, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a test")

    release, released = trainer.TrainedWeights.release, []
    monkeypatch.setattr(
        trainer.TrainedWeights, "release", lambda of: released.append(of) or release(of)
    )
    monkeypatch.setattr(validation, "score_texts", fail)
    with pytest.raises(RuntimeError, match="a test"):
        run_fit()
    assert len(released) == 1


def test_memory_that_runs_out_is_told_once_and_scoring_heeds_it(run_fit, monkeypatch):
    budgets, failures = [], []
    real_scoring, real_logits = validation.score_texts, micro_batches.compute_logits

    def score_texts(*arguments, max_tokens, **options):
        budgets.append(max_tokens)
        return real_scoring(*arguments, max_tokens=max_tokens, **options)

    def compute_logits(model, token_ids, mask, **options):
        if token_ids.size > 30:
            failures.append(token_ids.size)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real_logits(model, token_ids, mask, **options)

    expected, _ = run_fit(micro_batch_tokens=25)
    monkeypatch.setattr(validation, "score_texts", score_texts)
    monkeypatch.setattr(micro_batches, "compute_logits", compute_logits)
    listener = Recorder()
    outcome, _ = run_fit(micro_batch_tokens=50, listener=listener)
    assert len(failures) == 1
    assert outcome.history.train_losses == expected.history.train_losses
    told = [note for note in listener.notes if "memory" in note]
    assert len(told) == 1
    assert told[0] == (
        "Out of memory at step 1: it was repeated in pieces of at most 25 tokens, with the "
        "same result. So are the steps to come."
    )
    assert budgets == [25, 25]


def test_progress_shows_each_step_with_the_mean_loss_so_far(run_fit):
    listener = Recorder()
    outcome, _ = run_fit(batch_size=10, listener=listener)  # the last step has four rows
    steps = [report for report in listener.tasks if report[0] == "epoch 1/2"]
    assert [report[1:3] for report in steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert steps[-1][3] == f"loss {outcome.history.train_losses[0]:.4f}"


def test_progress_names_the_number_of_epochs_that_was_chosen(run_fit, monkeypatch):
    monkeypatch.setattr(trainer, "choose_epochs", lambda *_, **__: 2)
    listener = Recorder()
    run_fit(epochs=None, listener=listener)
    assert {"epoch 1/2", "epoch 2/2"} <= {task for task, *_ in listener.tasks}


def test_measuring_the_speed_leaves_the_model_as_it_was(tiny_model_dir, make_data, make_reviews):
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = make_data(make_reviews(24))
    settings = TrainSettings(epochs=2, batch_size=8)
    speed = measure_speed(model, data, settings=settings, precision=PRECISION)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    num_tokens = int(data.encoded.lengths.sum())
    assert speed.train_seconds == pytest.approx(2 * num_tokens / speed.tokens_per_second)


def test_the_first_step_does_not_count_for_those_to_come(
    tiny_model_dir, make_data, make_reviews, monkeypatch
):
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    data, settings = make_data(make_reviews(32)), TrainSettings(batch_size=8, epochs=2)
    moments = iter([0.0, 100.0, 200.0, 203.0])
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    speed = measure_speed(model, data, settings=settings, precision=PRECISION)
    assert speed.first_step_seconds == 100.0
    assert 3 < speed.train_seconds < 15  # two epochs of four steps, each of about a second


def test_the_tokens_of_the_first_step_do_not_count_either(
    tiny_model_dir, make_data, make_reviews, monkeypatch
):
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    data, settings = make_data(make_reviews(32)), TrainSettings(batch_size=8)
    steps = plan_epoch(data.encoded.lengths, 8, seed=settings.seed, epoch=0)
    moments = iter([0.0, 100.0, 200.0, 203.0])
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    speed = measure_speed(model, data, settings=settings, precision=PRECISION)
    num_tokens = data.encoded.lengths[np.concatenate(steps[1:4])].sum()
    assert speed.tokens_per_second == pytest.approx(num_tokens / 3)


def test_the_speed_of_compiled_steps_is_that_of_one_number_of_rows(
    tiny_model_dir, make_data, make_reviews, monkeypatch
):
    """A last step of fewer rows is compiled again, which many steps would hardly notice."""
    model, sizes = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model, []
    accumulate = measuring.accumulate_within_memory

    def accumulate_and_look(weights, data, indices, **options):
        sizes.append(len(indices))
        return accumulate(weights, data, indices, **options)

    monkeypatch.setattr(measuring, "accumulate_within_memory", accumulate_and_look)
    monkeypatch.setattr("bertfit.training.weights.compile_layers", lambda _model: None)
    settings = TrainSettings(batch_size=8, compile="on")
    measure_speed(model, make_data(make_reviews(10)), settings=settings, precision=PRECISION)
    assert len(sizes) == 4
    assert len(set(sizes)) == 1


def test_the_speed_of_compiled_steps_is_that_of_the_median_in_micro_batches_as_asked(
    tiny_model_dir, make_data, make_reviews, monkeypatch
):
    model, taken = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model, []
    accumulate = measuring.accumulate_within_memory

    def accumulate_and_look(weights, data, indices, *, budget, **options):
        taken.append((int(data.encoded.lengths[indices].sum()), budget.tokens))
        return accumulate(weights, data, indices, budget=budget, **options)

    monkeypatch.setattr(measuring, "accumulate_within_memory", accumulate_and_look)
    monkeypatch.setattr("bertfit.training.weights.compile_layers", lambda _model: None)
    data = make_data(make_reviews(40))
    settings = TrainSettings(batch_size=8, compile="on", micro_batch_tokens=100)
    measure_speed(model, data, settings=settings, precision=PRECISION)
    steps = plan_epoch(data.encoded.lengths, 8, seed=settings.seed, epoch=0)
    sizes = [int(data.encoded.lengths[rows].sum()) for rows in steps]
    assert len(set(sizes)) == 5
    assert taken == [(sorted(sizes)[2], 100)] * 4


def test_the_speed_of_a_single_step_can_be_measured(tiny_model_dir, make_data, make_reviews):
    model = load_classifier(str(tiny_model_dir), ["neg", "pos"]).model
    speed = measure_speed(
        model, make_data(make_reviews(4)), settings=TrainSettings(), precision=PRECISION
    )
    assert speed.tokens_per_second > 0


def test_fragments_of_memory_are_looked_for_every_few_dozen_steps(run_fit, monkeypatch):
    looks = []
    monkeypatch.setattr(trainer, "_STEPS_PER_LOOK", 2)
    monkeypatch.setattr(trainer.Fragments, "look", lambda _self: looks.append(1))
    assert run_fit()[0].num_steps == 6
    assert len(looks) == 3


def test_what_is_kept_has_the_rows_of_embeddings_that_no_late_step_read(run_fit, tmp_path):
    """Between steps they are behind."""
    from safetensors.torch import load_file

    model = run_fit(epochs=1, weight_decay=0.1)[1]
    stored = load_file(tmp_path / "best" / "model.safetensors")
    table = model.get_input_embeddings().weight
    assert torch.equal(stored["bert.embeddings.word_embeddings.weight"], table)


def test_numbers_that_are_read_late_change_nothing(run_fit, monkeypatch):
    """As on a GPU, where more steps are queued before one is looked at."""
    expected, in_time = run_fit(dropout=0.2)[0], Recorder()
    run_fit(dropout=0.2, listener=in_time)
    real, late = reports.stay_ahead, Recorder()
    gpu = torch.device("cuda")
    monkeypatch.setattr(reports, "stay_ahead", lambda items, _, **rest: real(items, gpu, **rest))
    outcome, _ = run_fit(dropout=0.2, listener=late)
    assert outcome.history == expected.history
    assert late.tasks == in_time.tasks


def test_an_interruption_keeps_the_steps_that_were_queued(run_fit, monkeypatch):
    real, gpu = reports.stay_ahead, torch.device("cuda")
    monkeypatch.setattr(reports, "stay_ahead", lambda items, _, **rest: real(items, gpu, **rest))
    outcome, _ = run_fit(epochs=1, batch_size=3, listener=interrupt_at("epoch 1/1", 1))
    assert outcome.interrupted
    assert outcome.num_steps == 3  # of 8: the one that was read, and two more


def test_memory_that_runs_out_in_validation_is_told_once(run_fit, monkeypatch):
    expected, _ = run_fit()
    real, failed = micro_batches.compute_logits, []

    def compute_logits(model, token_ids, mask, **options):
        if not model.training and token_ids.size > 40:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, token_ids, mask, **options)

    monkeypatch.setattr(micro_batches, "compute_logits", compute_logits)
    listener = Recorder()
    outcome, _ = run_fit(micro_batch_tokens=64, listener=listener)
    np.testing.assert_allclose(outcome.history.val_losses, expected.history.val_losses, atol=1e-4)
    assert len(failed) == 1  # the second epoch's validation begins with the smaller pieces
    told = [note for note in listener.notes if "memory" in note]
    (sentence,) = told
    assert sentence == (
        "Out of memory in scoring: texts are scored in smaller pieces from here on, with the same "
        "result."
    )
