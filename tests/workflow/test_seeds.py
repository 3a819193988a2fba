"""`train_seeds`: one split, several seeds, the best on validation kept as a complete run."""

from __future__ import annotations

import gc
import json
import re
import shutil
import signal
import statistics
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import GPT2Config, GPT2Model

import bertfit
from bertfit import TextClassifier
from bertfit.errors import ConfigError, RunError, TrainingError, WorkLeft
from bertfit.files import write_json
from bertfit.reporting.summary import is_cut_short
from bertfit.run_directory import Staging, read_record
from bertfit.workflow import log as log_module
from bertfit.workflow import making, preparing, reporting
from bertfit.workflow import seeds as seeds_module
from bertfit.workflow.log import LogKeeper
from tests.step_listener import Recorder

TEXTS = ["a good film", "bad", "the plot of the movie was poor and the acting was awful"]
SMALL = {"epochs": 2, "batch_size": 8, "learning_rate": 0.02, "dropout": 0.0, "dtype": "float32"}


@pytest.fixture(scope="module")
def train(tiny_model_dir, make_reviews):
    """Give `bertfit.train_seeds` with small settings on 60 reviews."""

    def run(output, data=None, *, function=bertfit.train_seeds, **options):
        data = make_reviews(60) if data is None else data
        if function is bertfit.train_seeds:
            options = {"num_seeds": 3, **options}
        return function(data, output, **{"model": str(tiny_model_dir), **SMALL, **options})

    return run


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory, make_reviews):
    """Give the result of three seeds with a test set, and what was noted."""
    listener = Recorder()
    output = tmp_path_factory.mktemp("runs") / "run"
    result = train(output, test=make_reviews(30, seed=7), seed=5, listener=listener)
    return result, listener.notes


def test_the_report_of_the_run_has_the_seeds(finished):
    """It was made before the last seed was known, and is made anew."""
    result, _ = finished
    page = (result.run / "report.html").read_text(encoding="utf-8")
    assert "Accuracy and macro F1 by seed" in page
    assert all(f">{seed}" in page for seed in (5, 6, 7))


@pytest.fixture
def fail_at_seed(monkeypatch):
    """Give a function that makes a seed fail before or after it was trained."""

    def arrange(number, error, *, after=False):
        real, calls = making.make_run, []

        def make_run(*args, **options):
            calls.append(1)
            if len(calls) != number:
                return real(*args, **options)
            if after:
                real(*args, **options)
            raise error

        monkeypatch.setattr(making, "make_run", make_run)

    return arrange


def names_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_that_several_seeds_are_not_resumed_is_told(train, tmp_path):
    listener = Recorder()
    train(tmp_path / "run", num_seeds=2, checkpoint_minutes=5, listener=listener)
    told = "checkpoint_minutes (argument) changes nothing: several seeds are not resumed."
    assert told in listener.notes
    with pytest.raises(ConfigError, match=r"train_seeds trains several, and train goes on"):
        train(tmp_path / "other", resume=True)
    with pytest.raises(ConfigError) as caught:
        bertfit.train([], tmp_path / "other", num_seeds=2)
    hint = "bertfit.train_seeds trains with several, num_seeds=N, the first of which is seed."
    assert caught.value.hint == hint


def test_the_record_has_every_seed(finished):
    seeds = read_record(finished[0].run)["seeds"]
    assert [run["seed"] for run in seeds["runs"]] == [5, 6, 7]
    assert seeds == finished[0].seeds
    assert len({json.dumps(run["validation"]) for run in seeds["runs"]}) == 3


def test_the_total_time_is_that_of_all_seeds(monkeypatch):
    """The kept seed was recorded when it ended, and others may have followed."""
    clock = [100.0]
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: clock[0])
    log = LogKeeper(Recorder())
    clock[0] = 190.0
    kept = SimpleNamespace(
        record={"training": {"train_seconds": 8.0, "total_seconds": 10.0}},
        outcome=SimpleNamespace(selection_metric="loss"),
    )
    record = seeds_module._Best(3, seed=0, finished=kept).record(log)
    assert record["training"] == {"train_seconds": 8.0, "total_seconds": 90.0}


def test_mean_and_deviation_are_those_of_the_seeds(finished):
    seeds = finished[0].seeds
    for part in ("validation", "test"):
        values = [run[part]["accuracy"] for run in seeds["runs"]]
        assert seeds[part]["mean"]["accuracy"] == pytest.approx(statistics.fmean(values))
        spread = seeds[part]["standard_deviation"]["accuracy"]
        assert spread == pytest.approx(np.std(values, ddof=1))


def test_the_best_on_validation_is_kept(finished):
    seeds = finished[0].seeds
    best = max(
        seeds["runs"], key=lambda run: (run["validation"]["accuracy"], -run["validation"]["loss"])
    )
    assert seeds["best_seed"] == best["seed"]
    record = read_record(finished[0].run)
    assert record["settings"]["seed"]["value"] == best["seed"]
    assert record["scores"]["test"]["accuracy"] == best["test"]["accuracy"]


def test_the_test_rows_choose_nothing(train, tmp_path, make_reviews, finished):
    wrong = [
        {**row, "label": "pos" if row["label"] == "neg" else "neg"}
        for row in make_reviews(30, seed=7)
    ]
    other = train(tmp_path / "run", test=wrong, seed=5, baseline=False)
    assert other.baselines is None
    assert other.seeds["best_seed"] == finished[0].seeds["best_seed"]
    of_test, of_wrong = (one.seeds["test"]["mean"]["accuracy"] for one in (finished[0], other))
    assert of_wrong == pytest.approx(1 - of_test)


def test_the_run_is_whole_and_alone(finished):
    result, notes = finished
    assert names_in(result.run.parent) == {"run"}
    assert {"baselines.json", "test_predictions.jsonl"} <= names_in(result.run)
    loaded = TextClassifier.load(result.run).predict_probabilities(TEXTS)
    np.testing.assert_array_equal(loaded, result.classifier.predict_probabilities(TEXTS))
    lines = (result.run / "train.log").read_text(encoding="utf-8").splitlines()
    assert [line.partition(" ")[2] for line in lines] == notes


def test_the_rows_are_read_and_the_baselines_fitted_once(finished):
    notes = finished[1]
    assert sum(note.startswith("Rows: ") for note in notes) == 1
    assert sum(note.startswith("Text: ") for note in notes) == 1
    seconds = {note for note in notes if note.startswith("Baselines")}
    assert len(seconds) == 1
    assert [note for note in notes if note.startswith("Seed ")] == [
        "Seed 5, 1 of 3.",
        "Seed 6, 2 of 3.",
        "Seed 7, 3 of 3.",
    ]


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory):
    """Give the result of one training with the first of the seeds."""
    output = tmp_path_factory.mktemp("alone") / "run"
    return train(output, function=bertfit.train, seed=5, baseline=False)


def test_all_seeds_share_the_split_of_the_first(finished, alone):
    fingerprints = [
        read_record(run)["data"]["validation"]["fingerprint"]
        for run in (finished[0].run, alone.run)
    ]
    assert fingerprints[0] == fingerprints[1]


def test_the_first_seed_gives_what_one_training_gives(finished, alone):
    first = finished[0].seeds["runs"][0]
    assert first["validation"]["loss"] == alone.outcome.history.val_losses[alone.outcome.best_epoch]


def test_the_spread_is_noted(finished):
    told = next(note for note in finished[1] if note.startswith("Seeds, mean ±"))
    assert "validation accuracy" in told
    assert "(before calibration), test accuracy" in told
    assert told.endswith("(as saved).")
    assert "the best by validation accuracy" in finished[1][-1]


@pytest.mark.parametrize("at", [1, 2])
def test_where_only_the_last_seed_was_cut_short_its_command_trains_longer(finished, at):
    record = read_record(finished[0].run)
    assert not is_cut_short(record)
    record["seeds"]["runs"][at]["interrupted"] = True
    assert is_cut_short(record)


def test_of_whole_seeds_none_is_called_interrupted(finished):
    assert not any("nterrupted" in note for note in finished[1])


def test_the_score_that_chose_the_seed_is_called_by_its_name():
    scores = {"accuracy": 0.75, "macro_f1": 0.7, "loss": 0.5}
    for other, tied in ((0.6, ""), (0.7, "; others share it, with no lower loss")):
        runs = [
            {"seed": seed, "interrupted": False, "validation": of_seed, "test": None}
            for seed, of_seed in ((4, scores), (5, {**scores, "macro_f1": other}))
        ]
        listener = Recorder()
        summary = seeds_module._summarize(runs, best_seed=4, metric="macro_f1")
        seeds_module._note_seeds(summary, LogKeeper(listener))
        assert listener.notes[-1] == f"Kept: seed 4, the best by validation macro F1{tied}."


def test_the_scores_of_seeds_say_of_which_model_they_are(finished):
    """Validation: what chose, before calibration. Test: what the run answers."""
    result, seeds = finished[0], finished[0].seeds
    record = read_record(result.run)
    best = next(run for run in seeds["runs"] if run["seed"] == seeds["best_seed"])
    assert seeds["chosen_by"] == f"validation {result.outcome.selection_metric}"
    losses = result.outcome.history.val_losses
    assert best["validation"]["loss"] == losses[best["best_epoch"] - 1]
    assert best["test"]["log_loss"] == record["scores"]["test"]["log_loss"]
    page = " ".join((result.run / "report.html").read_text(encoding="utf-8").split())
    assert "of the models as trained, before any calibration and threshold." in page


def test_ctrl_c_after_the_training_of_a_seed_starts_no_other(train, tmp_path, make_reviews):
    """It leaves the test unscored, and the next seed untrained."""
    listener = Recorder(lambda task, _done: interrupt_once(task))
    heard = []

    def interrupt_once(task):
        if task == "scoring" and not heard:
            heard.append(task)
            signal.raise_signal(signal.SIGINT)

    result = train(
        tmp_path / "run", test=make_reviews(30, seed=7), baseline=False, listener=listener
    )
    assert [run["seed"] for run in result.seeds["runs"]] == [0]
    assert result.interrupted
    assert result.seeds["test"]["mean"] is None
    assert result.seeds["asked"] == 3
    for name in ("report.html", "README.md", "train.log"):
        page = (result.run / name).read_text(encoding="utf-8")
        assert "Only 1 of 3 seeds was trained." in page
    page = " ".join((result.run / "report.html").read_text(encoding="utf-8").split())
    assert "num_seeds=3" in page
    assert "This training was interrupted; the command trains to the end" in page
    assert "Only 1 of 3 seeds was trained." in listener.notes


def test_an_interruption_keeps_the_best_finished_seed(train, tmp_path):
    count = []

    def interrupt(task, done):
        if task.startswith("epoch 1") and done == 1:
            count.append(1)
            if len(count) == 2:
                signal.raise_signal(signal.SIGINT)

    listener = Recorder(interrupt)
    result = train(tmp_path / "run", baseline=False, listener=listener)
    seeds = result.seeds
    assert [run["interrupted"] for run in seeds["runs"]] == [False, True]
    kept = "Kept: seed 0, the best by validation accuracy of those that were not interrupted."
    assert listener.notes[-1] == kept
    assert seeds["best_seed"] == 0
    assert "Only 2 of 3 seeds were trained." in listener.notes
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "This training was interrupted; the command trains to the end" in page
    assert seeds["validation"]["standard_deviation"] is None
    assert names_in(tmp_path) == {"run"}


@pytest.mark.parametrize("task", ["scoring", pytest.param("calibrating", marks=pytest.mark.slow)])
def test_a_seed_that_was_not_judged_to_the_end_does_not_win(train, tmp_path, make_reviews, task):
    """Its calibration or its test score is missing, however good it is on the validation rows."""
    heard = []

    def interrupt_second(name, _done):
        if name == task:
            heard.append(name)
            if len(heard) == 2:
                signal.raise_signal(signal.SIGINT)

    result = train(
        tmp_path / "run",
        test=make_reviews(10, seed=7),  # few enough to be scored at once
        baseline=False,
        selection_metric="loss",
        listener=Recorder(interrupt_second),
    )
    first, second = result.seeds["runs"]
    assert second["validation"]["loss"] < first["validation"]["loss"]  # else it cannot win
    assert (first["interrupted"], second["interrupted"]) == (False, True)
    assert result.seeds["best_seed"] == first["seed"]
    assert (
        read_record(tmp_path / "run")["scores"]["test"] == result.test.evaluation.scores_to_json()
    )


@pytest.fixture
def interrupt_in(monkeypatch):
    """Give a function that has SIGINT raised at one call of this work, or as it has ended."""

    def arrange(place, name, *, call=1, after=False):
        work, calls = getattr(place, name), []

        def interrupted(*args, **options):
            calls.append(1)
            if len(calls) == call and not after:
                signal.raise_signal(signal.SIGINT)
            result = work(*args, **options)
            if len(calls) == call and after:
                signal.raise_signal(signal.SIGINT)
            return result

        monkeypatch.setattr(place, name, interrupted)

    return arrange


def test_the_model_of_a_losing_seed_does_not_stay_in_memory(train, tmp_path, monkeypatch):
    fit, models, numbers_alive = making.fit, [], []

    def watch(model, *arguments, **options):
        gc.collect()
        numbers_alive.append(sum(model() is not None for model in models))
        models.append(weakref.ref(model))
        return fit(model, *arguments, **options)

    monkeypatch.setattr(making, "fit", watch)
    train(tmp_path / "run", num_seeds=5, epochs=1, baseline=False)
    assert numbers_alive == [0, 1, 1, 1, 1]  # the best so far


BEFORE_AND_AFTER = [pytest.param(False, marks=pytest.mark.slow), True]
"""Before a call is hardly elsewhere than after the one before it."""


@pytest.mark.parametrize("after", BEFORE_AND_AFTER)
@pytest.mark.parametrize(
    ("place", "name", "call"),
    [
        (seeds_module._Best, "offer", 1),
        (seeds_module, "stage_run", 2),
        pytest.param(preparing, "renew_model", 1, marks=pytest.mark.slow),
        pytest.param(TextClassifier, "save_tokenizer", 2, marks=pytest.mark.slow),
        (making, "settle_speed", 2),
    ],
)
def test_an_interruption_between_seeds_ends_with_the_finished_ones(
    train_on, tmp_path, interrupt_in, place, name, call, after
):
    interrupt_in(place, name, call=call, after=after)
    listener = Recorder()
    result = train_on(tmp_path / "run", baseline=False, listener=listener)
    assert [run["seed"] for run in result.seeds["runs"]] == [0]
    assert read_record(tmp_path / "run")["seeds"] == result.seeds
    assert "Only 1 of 3 seeds was trained." in listener.notes
    assert names_in(tmp_path) == {"run"}


@pytest.mark.parametrize("after", BEFORE_AND_AFTER)
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (seeds_module._Best, "record"),
        pytest.param(seeds_module, "write_log", marks=pytest.mark.slow),
        (reporting, "renew_report"),
        (Staging, "publish"),
    ],
)
def test_an_interruption_after_the_last_seed_keeps_all(
    train_on, tmp_path, interrupt_in, place, name, after
):
    interrupt_in(place, name, after=after)
    result = train_on(tmp_path / "run", num_seeds=2, epochs=1, baseline=False)
    assert [run["seed"] for run in result.seeds["runs"]] == [0, 1]
    assert names_in(tmp_path) == {"run"}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("place", "name"), [(seeds_module, "stage_run"), (making, "settle_speed")])
def test_an_interruption_before_the_first_seed_leaves_nothing(
    train, tmp_path, interrupt_in, place, name, after
):
    interrupt_in(place, name, after=after)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", baseline=False)
    assert names_in(tmp_path) == set()


def test_a_second_interruption_sets_the_best_finished_seed_aside(train, tmp_path, interrupt_in):
    interrupt_in(preparing, "renew_model")
    interrupt_in(reporting, "renew_report")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", baseline=False)
    assert names_in(tmp_path) == {"run.unfinished"}
    assert read_record(tmp_path / "run.unfinished")["seeds"]["best_seed"] == 0


def test_what_a_killed_training_left_is_told_once_and_stays(train, tmp_path):
    """The folders of seeds before are none: their training goes on."""
    left = tmp_path / ".run.incomplete-abcd1234"
    left.mkdir()
    (left / "config.json").write_text("{}")
    listener = Recorder()
    train(tmp_path / "run", epochs=1, baseline=False, listener=listener)
    told = [note for note in listener.notes if "killed" in note]
    assert [note.partition(" (")[0] for note in told] == [f"A training that was killed left {left}"]
    assert names_in(tmp_path) == {"run", left.name}
    logged = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert told[0].replace("\n", "\n    ") in logged


def test_a_best_seed_whose_folder_was_removed_is_not_said_to_be_kept(train, tmp_path, monkeypatch):
    def remove(staging, *_args, **_options):
        shutil.rmtree(staging.folder)
        write_json(staging.folder / "metrics.json", {})  # what writes there makes missing folders

    monkeypatch.setattr(reporting, "renew_report", remove)
    listener = Recorder()
    with pytest.raises(RunError, match="was removed meanwhile"):
        train(tmp_path / "run", epochs=1, baseline=False, listener=listener)
    assert not (tmp_path / "run").exists()
    assert not [note for note in listener.notes if "is kept in" in note]


@pytest.mark.parametrize(
    "error",
    [
        *(TrainingError("no"), KeyboardInterrupt()),
        pytest.param(OSError("no"), marks=pytest.mark.slow),
    ],
)
def test_a_failing_seed_leaves_the_best_finished_one_as_a_run(train, tmp_path, fail_at_seed, error):
    fail_at_seed(3, error)
    listener = Recorder()
    is_interrupt = isinstance(error, KeyboardInterrupt)
    with pytest.raises(WorkLeft if is_interrupt else type(error)) as caught:
        train(tmp_path / "run", baseline=False, listener=listener)
    assert names_in(tmp_path) == {"run.unfinished"}
    record = read_record(tmp_path / "run.unfinished")
    assert [run["seed"] for run in record["seeds"]["runs"]] == [0, 1]
    assert set(record["files"]) == names_in(tmp_path / "run.unfinished")  # else a user's get lost
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(record["sha256"])
    assert len(TextClassifier.load(tmp_path / "run.unfinished").predict(TEXTS)) == 3
    told = str(caught.value) if is_interrupt else listener.notes[-1]
    assert re.match(f"[Tt]he best finished seed, [01], is kept in {tmp_path}", told)
    assert record["seeds"]["asked"] == 3


def test_a_first_seed_that_fails_leaves_nothing(train, tmp_path, fail_at_seed):
    fail_at_seed(1, TrainingError("no"))
    with pytest.raises(TrainingError):
        train(tmp_path / "run")
    assert names_in(tmp_path) == set()


def test_an_old_run_stays_until_the_new_one_is_whole(train, tmp_path, fail_at_seed):
    train(tmp_path / "run", function=bertfit.train, baseline=False, epochs=1)
    before = (tmp_path / "run" / "bertfit.json").read_bytes()
    with pytest.raises(RunError, match="a run exists"):
        train(tmp_path / "run")
    fail_at_seed(2, TrainingError("no"), after=True)
    with pytest.raises(TrainingError):
        train(tmp_path / "run", overwrite=True, baseline=False)
    assert (tmp_path / "run" / "bertfit.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_seeds": 1}, "num_seeds: expected a whole number, at least 2, got 1"),
        (
            {"seed": 2**32 - 2},
            "num_seeds: 3 seeds from 4294967294 end at 4294967296; seeds are below 2\\*\\*32",
        ),
        ({"epochs": 0}, "epochs: expected a number at least 1"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(train, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", "no such file.csv", **options)


def test_every_seed_of_a_model_that_reads_padding_is_given_texts_of_equal_length(
    train, tmp_path, fnet
):
    listener = Recorder()
    result = train(tmp_path / "run", model=str(fnet), num_seeds=2, listener=listener)
    told = [note for note in listener.notes if "reads padding" in note]
    assert told == ["This model reads padding: only texts of equal length are computed together."]
    for classifier in (result.classifier, TextClassifier.load(result.run)):
        together = classifier.predict_probabilities(TEXTS)
        alone = [classifier.predict_probabilities([text])[0] for text in TEXTS]
        np.testing.assert_allclose(together, alone, atol=1e-6)


def test_every_seed_of_a_decoder_looks_for_the_padding_token_of_its_tokenizer(
    train, tmp_path, tiny_model_dir, monkeypatch
):
    """Its configuration names another one, which the first seed alone is tried with."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "gpt2")
    GPT2Model(
        GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=2, n_positions=64, pad_token_id=7)
    ).save_pretrained(folder)
    padded_with, renew_model = [], preparing.renew_model

    def renew(*arguments, **options):
        renewed = renew_model(*arguments, **options)
        padded_with.append(renewed.classifier.model.config.pad_token_id)
        return renewed

    monkeypatch.setattr(preparing, "renew_model", renew)
    result = train(tmp_path / "run", model=str(folder), num_seeds=2)
    assert padded_with == [result.classifier.pad_id] == [0]


def test_the_card_says_which_of_several_seeds_it_is(finished):
    result = finished[0]
    card = (result.run / "README.md").read_text(encoding="utf-8")
    mean, deviation = (
        f"{100 * result.seeds['test'][key]['accuracy']:.2f} %"
        for key in ("mean", "standard_deviation")
    )
    assert (
        f"Seed {result.seeds['best_seed']}, the best of 3 on the validation rows. Test accuracy "
        f"of all seeds: {mean} with a standard deviation of {deviation}."
    ) in card
