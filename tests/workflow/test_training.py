"""`train`: the content of a run, its progress messages, and what remains after a failure."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model, T5Config, T5ForSequenceClassification

import bertfit
from bertfit import TextClassifier
from bertfit.cli.results import show_training
from bertfit.config import TrainSettings, resolve_settings
from bertfit.data.cleaning import clean_text
from bertfit.errors import (
    ConfigError,
    DataError,
    LeakError,
    ModelError,
    RunError,
    TrainingError,
)
from bertfit.evaluation.predictions import read_predictions
from bertfit.modeling import attention, compilation
from bertfit.modeling.packing import takes_packs
from bertfit.modeling.plan import Plan
from bertfit.modeling.precision import Precision
from bertfit.run_directory import Staging, read_record
from bertfit.run_files import VALIDATION_NAME
from bertfit.training import loop, measuring, trainer
from bertfit.workflow import (
    calibrating,
    judging,
    making,
    preparing,
    reporting,
    resuming,
    rows,
    training,
)
from bertfit.workflow.base_model import load_base, load_base_tokenizer
from bertfit.workflow.learned import write_digests
from bertfit.workflow.reproducing import describe_command
from tests.step_listener import Recorder

TEXTS = ["a good film", "bad", "the plot of the movie was poor and the acting was awful", ""]
SMALL = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "dropout": 0.0, "dtype": "float32"}


@pytest.fixture(scope="module")
def train(tiny_model_dir, make_reviews):
    """Give `bertfit.train` with small settings, no baselines, and 40 reviews if none are given."""

    def run(output, data=None, **options):
        data = make_reviews(40) if data is None else data
        given = {"model": str(tiny_model_dir), "baseline": False, **SMALL, **options}
        return bertfit.train(data, output, **given)

    return run


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory, make_reviews):
    """Give a result that learned something, with a test set and a baseline, and its notes."""
    listener = Recorder()
    result = train(
        tmp_path_factory.mktemp("runs") / "run",
        make_reviews(60),
        test=make_reviews(30, seed=7),
        epochs=8,
        baseline=True,
        listener=listener,
    )
    return result, listener.notes


@pytest.fixture(scope="module")
def record(finished):
    return json.loads((finished[0].run / "bertfit.json").read_text(encoding="utf-8"))


def names_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fail_at_step(monkeypatch, failing_step):
    """Make the loss of a step, counted from 0, not a number."""
    real, calls = loop.cross_entropy, []

    def cross_entropy(logits, targets, **options):
        calls.append(1)
        loss = real(logits, targets, **options)
        return loss * math.nan if len(calls) > failing_step else loss

    monkeypatch.setattr(
        "bertfit.workflow.speeding.measure_speed",
        lambda *_, **__: measuring.SpeedEstimate(1.0, 1.0, 1.0, Plan(is_on=False, reason="-")),
    )
    monkeypatch.setattr(loop, "cross_entropy", cross_entropy)


def test_a_run_is_a_model_folder_with_its_records(finished):
    assert names_in(finished[0].run) == {
        "README.md",
        "baselines.json",
        "bertfit.json",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "report.html",
        "report.json",
        "test_predictions.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
        "train.log",
        "trained_texts.npy",
        "training_history.json",
        "validation_predictions.jsonl",
        "validation_texts.npy",
    }


def test_a_training_that_starts_from_a_run_has_learned_what_that_had(
    tiny_model_dir, make_reviews, tmp_path
):
    """Its test score was that of rows learned by heart, and no leak was found."""
    options = {"epochs": 1, "baseline": False, "dtype": "float32"}
    rows, test = make_reviews(40), [*make_reviews(9, seed=5), *make_reviews(60, seed=6)[:5]]
    base = tmp_path / "base"
    bertfit.train(make_reviews(60, seed=6), base, model=str(tiny_model_dir), **options)
    digests = np.load(base / "trained_texts.npy")
    with pytest.raises(LeakError, match="learned texts: Start from another model"):
        bertfit.train(rows, tmp_path / "run", test=test, model=str(base), strict=True, **options)
    found = bertfit.check(rows, test=test, model=str(base)).report
    bertfit.train(rows, tmp_path / "run", test=test, model=str(base), **options)
    record = read_record(tmp_path / "run")
    told = [one["kind"] for one in record["data"]["findings"] if one["part"] == "test"]
    assert "learned_texts" in told
    num_leaked = record["scores"]["test_without_leaks"]["num_leaked"]
    assert 3 <= num_leaked == len(found.leaked_test_rows) <= 5  # some chose the base's epoch
    assert set(np.load(tmp_path / "run" / "trained_texts.npy")) > set(digests)
    known = bertfit.evaluate(tmp_path / "run", make_reviews(60, seed=6))
    assert len(make_reviews(60)) > known.without_learned.num_leaked >= 50


def test_rows_that_the_base_has_learned_choose_the_epoch_as_is_told(
    tiny_model_dir, make_reviews, tmp_path
):
    listener = Recorder()
    rows, options = make_reviews(60), {"epochs": 1, "baseline": False, "dtype": "float32"}
    base = tmp_path / "base"
    bertfit.train(rows, base, model=str(tiny_model_dir), keep_texts=False, **options)
    bertfit.train(rows, tmp_path / "b", model=str(base), seed=3, listener=listener, **options)
    assert any("base does not tell which texts it was trained on" in one for one in listener.notes)
    bertfit.train(rows, base, model=str(tiny_model_dir), overwrite=True, **options)
    bertfit.train(rows, tmp_path / "c", model=str(base), seed=3, **options)
    (finding,) = [
        one
        for one in read_record(tmp_path / "c")["data"]["findings"]
        if one["kind"] == "learned_texts"
    ]
    assert (finding["severity"], finding["part"]) == ("serious", "validation")


def test_a_base_whose_weights_were_changed_is_warned_of(tiny_model_dir, make_reviews, tmp_path):
    """What it had learned decides what a leak is, and that may be out of date."""
    rows, options = make_reviews(30), {"epochs": 1, "baseline": False, "dtype": "float32"}
    base, listeners = tmp_path / "base", [Recorder(), Recorder(), Recorder()]
    bertfit.train(rows, base, model=str(tiny_model_dir), **options)
    bertfit.check(rows, model=base, listener=listeners[0])
    weights = load_file(base / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    bertfit.check(rows, model=base, listener=listeners[1])
    bertfit.train(rows, tmp_path / "run", model=base, listener=listeners[2], **options)
    told = f"model.safetensors in {base} changed after that run was made"
    found = [any(told in note for note in one.notes) for one in listeners]
    assert found == [False, True, True]


@pytest.mark.parametrize("use", ["train", "check"])
def test_a_base_that_was_killed_is_told_with_what_it_left(make_reviews, tmp_path, use):
    left = tmp_path / ".base.incomplete-abc"
    left.mkdir()
    (left / "config.json").write_text("{}", encoding="utf-8")
    place = {"output": tmp_path / "run"} if use == "train" else {}
    with pytest.raises(RunError, match=r"base does not exist") as caught:
        getattr(bertfit, use)(make_reviews(20), model=tmp_path / "base", **place)
    assert str(left) in caught.value.hint


@pytest.mark.parametrize("left", [".embedded.incomplete-abc", ".tiny.incomplete-abc"])
def test_a_model_that_is_there_may_have_the_name_of_a_run_that_is_not(
    make_reviews, tiny_model_dir, tmp_path, monkeypatch, left
):
    """The embedded model, or one of the hub, and a killed training into a folder of its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / left).mkdir()
    (tmp_path / left / "config.json").write_text("{}", encoding="utf-8")
    shutil.copytree(tiny_model_dir, tmp_path / "tiny")
    name = "embedded" if "embedded" in left else "tiny"
    assert bertfit.check(make_reviews(20), model=name).model == name


def test_the_embedded_model_has_not_learned_what_a_run_of_its_name_has(
    tiny_model_dir, make_reviews, tmp_path, monkeypatch
):
    """ "embedded" is the model of that name; the folder is "./embedded", or a Path."""
    monkeypatch.chdir(tmp_path)
    rows, options = make_reviews(40), {"epochs": 1, "baseline": False, "dtype": "float32"}
    bertfit.train(rows, "embedded", model=str(tiny_model_dir), max_length=16, **options)
    kinds = [
        {one.kind for one in bertfit.check(rows, test=rows, model=model).report.findings}
        for model in ("embedded", "./embedded", Path("embedded"))
    ]
    assert ["learned_texts" in found for found in kinds] == [False, True, True]
    assert load_base_tokenizer("embedded").model_max_length == 512
    write_digests(tmp_path, ["one text"], base="embedded")
    assert len(np.load(tmp_path / "trained_texts.npy")) == 1
    write_digests(tmp_path, ["one text"], base="./embedded")
    assert len(np.load(tmp_path / "trained_texts.npy")) > 30


def test_nothing_is_left_beside_a_run(finished):
    assert names_in(finished[0].run.parent) == {"run"}


def test_a_loaded_run_gives_the_probabilities_of_the_trained_model(finished):
    result, _ = finished
    loaded = TextClassifier.load(result.run).predict_probabilities(TEXTS)
    np.testing.assert_array_equal(loaded, result.classifier.predict_probabilities(TEXTS))


def test_the_trained_classifier_knows_its_columns_like_a_loaded_one(train, make_reviews, tmp_path):
    rows = [{"body": row["text"], "stars": row["label"]} for row in make_reviews(40)]
    columns = {"text_column": "body", "label_column": "stars"}
    result = train(tmp_path / "run", rows, epochs=1, **columns)
    expected = TextClassifier.load(result.run).predict(rows[:2])
    assert [one.label for one in result.classifier.predict(rows[:2])] == [
        one.label for one in expected
    ]


def test_the_verdict_is_that_of_rows_that_did_not_leak(train, tmp_path, make_reviews):
    """Word counts know by heart what leaked."""
    rows = make_reviews(60)
    flipped = {"pos": "neg", "neg": "pos"}
    new = [{**row, "label": flipped[row["label"]]} for row in make_reviews(30, seed=9)]
    result = train(tmp_path / "run", rows, test=rows[:30] + new, baseline=True, epochs=1)
    scores = json.loads((tmp_path / "run" / "bertfit.json").read_text(encoding="utf-8"))["scores"]
    num_new, clean = scores["test_without_leaks"]["num_rows"], scores["comparison_without_leaks"]
    assert 25 <= num_new <= 30
    assert clean["baseline_accuracy"] < 0.1 < scores["comparison"]["baseline_accuracy"]
    shares = [f"{100 * clean[f'{name}_accuracy']:.1f} %" for name in ("model", "baseline")]
    told = f"On the {num_new} test rows without leaks (accuracy {' against '.join(shares)}): the "
    assert scores["comparison"]["verdict"].startswith(told)
    assert told in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert result.test.comparison_without_leaks.model_accuracy == clean["model_accuracy"]


def test_if_all_test_rows_leaked_the_verdict_says_so(train, tmp_path, make_reviews):
    rows = make_reviews(60)
    test = train(tmp_path / "run", rows, test=rows[:20], baseline=True, epochs=1).test
    assert test.comparison_without_leaks is None
    assert test.comparison.verdict.endswith(
        " All these rows leaked, so it may be otherwise with new text."
    )


def test_more_validation_rows_than_were_asked_for_are_told(train, tmp_path):
    listener = Recorder()
    rows = [{"text": f"film number {at}", "label": f"class {at // 3}"} for at in range(24)]
    train(tmp_path / "few", rows, epochs=1, listener=listener)
    told = "Validation has 33 % of these rows, more than the 10 % asked for: "
    assert sum(note.startswith(told) for note in listener.notes) == 1
    listener.notes.clear()
    train(tmp_path / "many", epochs=1, listener=listener)
    train(tmp_path / "given", rows, validation=rows[:9], epochs=1, listener=listener)
    assert not any(note.startswith("Validation has") for note in listener.notes)


@pytest.mark.parametrize("function", [bertfit.train, bertfit.train_seeds])
def test_one_of_several_processes_is_refused(monkeypatch, tmp_path, make_reviews, function):
    """Each would train on all rows."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2 ")
    options = {} if function is bertfit.train else {"num_seeds": 2}
    with pytest.raises(ConfigError, match=r"expected one process, got 2 \(WORLD_SIZE\)"):
        function(make_reviews(40), tmp_path / "run", **options)


def test_a_result_is_shown_in_a_few_words(finished):
    assert len(repr(finished[0])) < 300


def test_the_run_has_learned_something(finished):
    """Else the comparisons of probabilities here would compare one half with one half."""
    probabilities = finished[0].classifier.predict_probabilities(TEXTS)
    assert np.ptp(probabilities[:, 0]) > 0.5


def test_the_pipeline_of_transformers_gives_the_same_probabilities(finished):
    from transformers import pipeline

    result, _ = finished
    classify = pipeline("text-classification", model=str(result.run), top_k=None, device=-1)
    ours = TextClassifier.load(result.run).predict(TEXTS)
    for theirs, prediction in zip(classify(TEXTS), ours, strict=True):
        by_name = {entry["label"]: entry["score"] for entry in theirs}
        assert by_name == pytest.approx(prediction.probabilities, abs=1e-5)


@pytest.mark.parametrize(("truncation", "kept"), [("head", "good"), ("tail", "bad")])
def test_the_tokenizer_of_a_run_cuts_as_the_run_does(train, tmp_path, truncation, kept):
    from transformers import AutoTokenizer

    result = train(tmp_path / "run", truncation=truncation, max_length=6)
    tokenizer = AutoTokenizer.from_pretrained(result.run)
    text = "good " * 20 + "bad " * 20
    ids = tokenizer(text, truncation=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == [kept] * 4
    encoded = TextClassifier.load(result.run).encode([text])
    assert ids == encoded.token_ids.tolist()


@pytest.fixture(scope="module")
def cleaned(train, tmp_path_factory, make_reviews):
    """Give a run on texts with HTML line breaks, and what was noted."""
    rows = [{**row, "text": f"<br />{row['text']}<BR>"} for row in make_reviews(40)]
    listener = Recorder()
    run = tmp_path_factory.mktemp("cleaned") / "run"
    return train(run, rows, listener=listener).run, listener.notes


def test_html_breaks_are_cleaned_by_default_and_named(cleaned):
    run, notes = cleaned
    record = read_record(run)
    assert record["encoding"]["text_cleaning"] == "html_breaks"
    assert record["settings"]["text_cleaning"] == {
        "value": "html_breaks",
        "origin": "default, chosen for the texts",
    }
    assert any(note.startswith("HTML line breaks (<br />), which 100 % of") for note in notes)


def test_a_loaded_run_cleans_once_as_in_training(cleaned):
    """What is left of a tag in a tag is another, which cleaning again would remove."""
    loaded = TextClassifier.load(cleaned[0])
    plain = TextClassifier(
        loaded.model,
        load_base_tokenizer(str(cleaned[0])),
        rule=loaded.rule,
        precision=loaded.precision,
    )
    (once,), (again,) = (each.encode(["good<<br>br>"]).token_ids[None] for each in (plain, loaded))
    assert once.tolist() == again.tolist()
    assert len(once) > 3


def test_a_training_from_a_run_chooses_length_and_cleaning_anew(
    cleaned, train, tmp_path, make_reviews
):
    """The run's tokenizer cut and cleaned for it: longer texts were refused, breaks never read."""
    short = train(tmp_path / "short", model=str(cleaned[0]), epochs=1, max_length=8).run
    assert TextClassifier.load(short).rule.max_length == 8
    rule = train(tmp_path / "long", model=str(short), epochs=1, max_length=48).classifier.rule
    assert (rule.max_length, rule.text_cleaning) == (48, "none")
    again = train(tmp_path / "again", model=str(short), epochs=1).classifier
    assert again.rule.max_length == 64
    loaded = TextClassifier.load(tmp_path / "again")
    texts = ["good<br>bad", "good bad"]
    for classifier in (again, loaded):
        encoded = classifier.encode(texts)
        assert encoded.lengths[0] > encoded.lengths[1]
    bertfit.check(make_reviews(20), model=str(short), max_length=64)


def test_whoever_loads_the_run_reads_html_breaks_as_it_does(cleaned):
    from transformers import pipeline

    texts = ["a good<br />film", "bad<BR/><br>", "<br />the plot was poor"]
    classify = pipeline("text-classification", model=str(cleaned[0]), top_k=None, device=-1)
    loaded = TextClassifier.load(cleaned[0])
    plain = [clean_text(text, "html_breaks") for text in texts]
    for theirs, ours, wanted in zip(
        classify(texts), loaded.predict(texts), loaded.predict(plain), strict=True
    ):
        assert ours == wanted
        by_name = {entry["label"]: entry["score"] for entry in theirs}
        assert by_name == pytest.approx(ours.probabilities, abs=1e-6)


def test_the_history_has_the_notebooks_six_lists(finished):
    history = json.loads((finished[0].run / "training_history.json").read_text())
    assert list(history) == [
        "train_losses",
        "val_losses",
        "train_acc",
        "val_acc",
        "train_f1",
        "val_f1",
    ]
    assert {len(values) for values in history.values()} == {8}


def test_the_metrics_are_the_records_scores(finished, record):
    assert json.loads((finished[0].run / "metrics.json").read_text()) == record["scores"]


def test_the_log_has_a_line_with_the_time_for_each_note(finished):
    result, notes = finished
    lines = (result.run / "train.log").read_text(encoding="utf-8").splitlines()
    assert [line.partition(" ")[2] for line in lines] == notes
    assert all(line[:4].isdigit() and "+00:00 " in line for line in lines)


def test_the_record_names_the_labels_in_order_of_their_ids(record):
    assert record["label_names"] == ["neg", "pos"]


def test_the_record_has_every_setting_with_its_origin(record):
    assert record["settings"]["epochs"] == {"value": 8, "origin": "argument"}
    assert record["settings"]["weight_decay"] == {"value": 0.01, "origin": "default"}
    assert set(record["settings"]) == set(resolve_settings().to_json())


def test_the_learning_rate_is_settled_by_the_size_of_the_encoder(train, tmp_path):
    result = train(tmp_path / "run", epochs=1, learning_rate=None)
    assert read_record(result.run)["settings"]["learning_rate"] == {
        "value": 1e-4,
        "origin": "default for a hidden size of 8",
    }


def test_a_value_that_undoes_a_recipe_is_recorded_and_in_the_command(
    tiny_model_dir, make_reviews, tmp_path
):
    undone = ("epochs=none", "learning_rate=none", "max_length=none", "batch_size=40")
    given = {"model": str(tiny_model_dir)}
    settings = resolve_settings(given, recipe="notebook", assignments=undone)
    run = bertfit.train(make_reviews(30), tmp_path / "run", settings=settings, baseline=False).run
    record = read_record(run)
    assert {name: record["settings"][name] for name in ("epochs", "learning_rate")} == {
        "epochs": {"value": 20, "origin": "--set, chosen for 27 training rows of 2 classes"},
        "learning_rate": {"value": 1e-4, "origin": "--set, chosen for a hidden size of 8"},
    }
    command = describe_command(record, name="x", was_split="split off", with_baseline=False)
    assert command is not None
    assert "    epochs=20,\n    batch_size=40,\n    learning_rate=0.0001," in command


def test_a_setting_that_was_left_open_is_recorded_as_it_was_settled(record):
    settled = {
        name: record["settings"][name] for name in ("max_length", "selection_metric", "device")
    }
    assert settled == {
        "max_length": {
            "value": record["encoding"]["max_length"],
            "origin": "default, chosen for the model",
        },
        "selection_metric": {
            "value": record["training"]["selection_metric"],
            "origin": "default, chosen for the classes",
        },
        "device": {"value": "cpu", "origin": "default, chosen on this machine"},
    }


def test_the_record_has_the_rule_of_encoding(finished, record):
    assert record["encoding"] == {
        "max_length": 64,
        "truncation": "head",
        "head_fraction": 0.25,
        "text_cleaning": "none",
    }


def test_the_record_describes_each_part_with_its_fingerprint(record):
    data = record["data"]
    assert {name: data[name]["num_rows"] for name in ("train", "validation", "test")} == {
        "train": 54,
        "validation": 6,
        "test": 30,
    }
    fingerprints = {data[name]["fingerprint"] for name in ("train", "validation", "test")}
    assert {len(fingerprint) for fingerprint in fingerprints} == {64}
    assert len(fingerprints) == 3
    assert data["train"]["num_per_label"] == {"neg": 27, "pos": 27}


def test_the_record_has_versions_and_hardware(record):
    # PyPI calls its 2.13.0+cu130 just 2.13.0.
    assert record["versions"]["torch"] in {torch.__version__, torch.__version__.partition("+")[0]}
    assert record["hardware"]["num_cores"] >= 1


def test_the_record_has_the_scores_of_model_and_baseline(finished, record):
    history = finished[0].outcome.history
    best = finished[0].outcome.best_epoch
    scores = record["scores"]
    assert scores["validation"]["accuracy"] == history.val_acc[best]
    assert scores["test"]["num_rows"] == 30
    assert 0 <= scores["baseline"]["accuracy"] <= 1
    assert scores["comparison"]["model_accuracy"] == scores["test"]["accuracy"]


def test_the_record_says_how_the_training_went(finished, record):
    training = record["training"]
    assert training["best_epoch"] == finished[0].outcome.best_epoch + 1
    assert training["selection_metric"] == "accuracy"
    assert training["interrupted"] is False
    assert (training["dtype"], training["num_steps"]) == ("float32", 56)


def test_columns_that_were_found_are_noted_and_recorded(train, tmp_path, make_reviews):
    listener = Recorder()
    rows = [
        {"review": row["text"], "text": row["text"], "class": row["label"]}
        for row in make_reviews(40)
    ]
    run = train(tmp_path / "run", rows, listener=listener).run
    assert "Columns: text (not review) and class." in listener.notes
    settings = read_record(run)["settings"]
    origin = "default, found in the training rows"
    assert settings["text_column"] == {"value": "text", "origin": origin}
    assert settings["label_column"] == {"value": "class", "origin": origin}
    other = Recorder()
    usual = [{"sentence": row["text"], "label": row["class"]} for row in rows]
    bertfit.evaluate(run, usual, listener=other)
    assert "Columns: sentence and label." in other.notes
    assert len(TextClassifier.load(run).predict(usual)) == 40


def test_columns_that_were_named_are_not_noted(train, tmp_path):
    listener = Recorder()
    run = train(tmp_path / "run", text_column="text", label_column="label", listener=listener).run
    assert not any(note.startswith("Columns") for note in listener.notes)
    assert read_record(run)["settings"]["text_column"]["origin"] == "argument"


@pytest.mark.parametrize(
    "note",
    [
        "Labels: neg → 0, pos → 1.",
        "Rows: 54 train, 6 validation (split off, stratified), 30 test.",
        "New weights, trained from scratch: classifier.bias, classifier.weight.",
        "Text: at most 64 tokens are read; the median is 9.",
        "Arithmetic: float32 on cpu (asked for).",
    ],
)
def test_what_is_found_is_noted(finished, note):
    assert note in finished[1]


def test_the_time_to_come_is_noted_before_the_first_epoch(finished):
    notes = finished[1]
    (at,) = [index for index, note in enumerate(notes) if note.startswith("Training 8 epochs will")]
    assert "(measured here: " in notes[at]
    assert at < min(index for index, note in enumerate(notes) if note.startswith("Epoch 1"))


def test_the_kept_epoch_is_noted_with_the_reason(finished):
    assert f"Kept: {finished[0].outcome.reason}." in finished[1]


def test_the_verdict_on_the_baseline_is_noted_or_returned(finished, record):
    assert finished[0].test.comparison.verdict == record["scores"]["comparison"]["verdict"]


def test_the_record_is_written_last(train, tmp_path, monkeypatch):
    """A folder with bertfit.json is a whole run, whenever the machine stops."""
    from bertfit import run_directory

    seen = []
    real = run_directory.write_json

    def write_json(path, value):
        seen.append((path.name, names_in(path.parent)))
        real(path, value)

    monkeypatch.setattr(run_directory, "write_json", write_json)
    train(tmp_path / "run", epochs=1)
    ((name, before),) = seen
    assert name == "bertfit.json"
    assert before == names_in(tmp_path / "run") - {"bertfit.json"}


def test_the_same_seed_gives_the_same_run(train, tmp_path):
    a, b = (train(tmp_path / name, seed=4, dropout=0.2) for name in "ab")
    assert a.outcome.history == b.outcome.history
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_another_seed_gives_another_run(train, tmp_path):
    a, b = (train(tmp_path / str(seed), seed=seed) for seed in (4, 5))
    assert a.outcome.history.train_losses != b.outcome.history.train_losses


def test_a_given_validation_set_is_used(train, tmp_path, make_reviews):
    listener = Recorder()
    result = train(
        tmp_path / "run", validation=make_reviews(10, seed=3), epochs=1, listener=listener
    )
    assert (result.num_train, result.num_validation) == (40, 10)
    assert "Rows: 40 train, 10 validation (given), no test." in listener.notes


def test_settings_that_change_nothing_are_noted(train, tmp_path, make_reviews):
    given = {"validation_fraction": 0.2, "head_fraction": 0.5, "patience": 1, "strict": True}
    listener = Recorder()
    data = {"validation": make_reviews(10, seed=3), "listener": listener}
    train(tmp_path / "idle", **given, **data)
    idle = {note.partition(" ")[0]: note for note in listener.notes if "changes nothing" in note}
    assert idle.keys() == given.keys()
    assert idle["patience"] == (
        "patience (argument) changes nothing: with 2 epochs there is none left to save."
    )
    listener.notes.clear()
    test = {"test": make_reviews(10, seed=4), "truncation": "head+tail", "epochs": 3}
    train(tmp_path / "used", **given | test, listener=listener)
    assert not any("changes nothing" in note for note in listener.notes)


def test_a_split_by_group_is_noted_and_its_groups_are_known_to_the_calibration(
    train, tmp_path, monkeypatch
):
    listener, choose, given = Recorder(), calibrating.choose_scaling, []

    def choose_scaling(*args, groups, **options):
        given.extend(groups)
        return choose(*args, groups=groups, **options)

    monkeypatch.setattr(calibrating, "choose_scaling", choose_scaling)
    train(tmp_path / "run", group_column="movie", epochs=1, listener=listener)
    assert any("stratified, grouped by movie" in note for note in listener.notes)
    kept = read_predictions(tmp_path / "run" / VALIDATION_NAME, ("neg", "pos"))
    assert given == kept.groups
    assert given[0].startswith("movie ")


def test_the_baselines_are_given_the_groups_of_the_test_rows(monkeypatch):
    monkeypatch.setattr(judging, "run_baselines", lambda *_, **options: options)
    part = SimpleNamespace(texts=["a", "b"], labels=["n", "p"], groups=["x", "y"])
    rows = SimpleNamespace(train=part, validation=part, test=part, label_names=("n", "p"))
    given = judging.baseline_fitter(rows, 3)(Recorder())
    assert (given["test_groups"], given["seed"]) == (["x", "y"], 3)
    rows.test = None
    given = judging.baseline_fitter(rows, 3)(Recorder())
    assert given["test_groups"] is given["test"] is None


def test_what_a_baseline_counts_in_place_of_words_is_noted(train, tmp_path):
    listener = Recorder()
    rows = [{"text": text, "label": text[0]} for text in ("!! ?", "?? !", "!!!", "???") * 10]
    train(tmp_path / "run", rows, epochs=1, baseline=True, listener=listener)
    (note,) = [told for told in listener.notes if told.startswith("The baseline TF-IDF")]
    assert "characters" in note


def test_without_a_test_set_there_are_no_test_scores(train, tmp_path):
    result = train(tmp_path / "run", epochs=1)
    record = json.loads((tmp_path / "run" / "bertfit.json").read_text())
    assert result.test is None
    assert record["scores"]["test"] is None


def test_the_baseline_can_be_left_out(train, tmp_path, make_reviews):
    result = train(tmp_path / "run", test=make_reviews(10, seed=3), epochs=1, baseline=False)
    assert result.test.evaluation.scores.num_rows == 10
    assert result.test.comparison is None


def test_skipped_rows_are_counted_and_listed(train, tmp_path, make_reviews):
    listener = Recorder()
    rows = [*make_reviews(40), {"text": "", "label": "pos", "movie": ""}]
    train(tmp_path / "run", rows, on_bad_row="skip", epochs=1, listener=listener)
    at = listener.notes.index("Skipped 1 bad row:")
    assert ":41: " in listener.notes[at + 1]
    record = json.loads((tmp_path / "run" / "bertfit.json").read_text())
    assert len(record["data"]["skipped"]) == 1


def test_of_very_many_skipped_rows_the_first_are_noted(train, tmp_path, make_reviews):
    rows = [*make_reviews(40), *[{"text": "", "label": "pos"}] * 23]
    unknown = [{"text": "so so", "label": f"label {number}"} for number in range(22)]
    listener = Recorder()
    result = train(
        tmp_path / "run",
        rows,
        validation=[*make_reviews(10, seed=2), *unknown],
        epochs=1,
        on_bad_row="skip",
        listener=listener,
    )
    first = listener.notes.index("Skipped 45 bad rows:") + 1
    assert listener.notes[first] == "  rows:41, 42, 43 and 20 other rows: the text is empty"
    assert "  … and 3 more, which bertfit.json lists" in listener.notes
    assert len(read_record(result.run)["data"]["skipped"]) == 45


def test_many_labels_are_told_in_a_line():
    names = tuple(f"c{number}" for number in range(77))
    assert rows._list_labels(names[:3]) == "c0 → 0, c1 → 1, c2 → 2"
    told = rows._list_labels(names)
    assert told.endswith("c9 → 9 and 67 more, which bertfit.json lists")
    assert "c10" not in told


def test_truncated_training_rows_are_counted(train, tmp_path):
    listener = Recorder()
    train(tmp_path / "run", max_length=6, truncation="tail", epochs=1, listener=listener)
    (note,) = [note for note in listener.notes if note.startswith("Text: ")]
    assert note.startswith("Text: at most 6 tokens are read; the median is ")
    assert note.endswith(" are longer and keep their tail.")


def test_without_max_length_the_model_decides(finished):
    """The longest text did: a model trained on short texts cut all later ones as short."""
    assert finished[0].classifier.rule.max_length == 64


def test_a_model_that_is_not_there_is_told_before_the_rows_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "start_rows", None)
    with pytest.raises(ModelError, match="the model folder no/such/folder does not exist"):
        bertfit.train(tmp_path / "rows.csv", tmp_path / "run", model="no/such/folder")


def test_more_tokens_than_the_model_reads_are_refused(train, tmp_path, tiny_model_dir):
    with pytest.raises(ModelError) as caught:
        train(tmp_path / "run", max_length=65)
    assert str(caught.value) == (
        f"max_length 65 was asked for, but {tiny_model_dir} reads at most 64 tokens"
    )


def test_collapse_to_one_class_is_warned_of(train, tmp_path):
    listener = Recorder()
    result = train(tmp_path / "run", epochs=1, learning_rate=1e-9, listener=listener)
    name = result.label_names[result.outcome.collapsed_to]
    assert (
        f"WARNING: the model collapsed: it predicts {name!r} for every validation row. "
        "Train longer, lower learning_rate, or check the labels."
    ) in listener.notes


def test_an_existing_run_is_refused_before_any_work(train, tmp_path):
    train(tmp_path / "run", epochs=1)
    with pytest.raises(RunError, match="a run exists in"):
        train(tmp_path / "run", tmp_path / "no such file.csv")


def test_an_existing_run_is_replaced_when_asked(train, tmp_path):
    train(tmp_path / "run", epochs=1)
    train(tmp_path / "run", epochs=2, overwrite=True)
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())
    assert len(history["val_acc"]) == 2
    assert names_in(tmp_path) == {"run"}


def test_a_training_that_replaces_what_it_starts_from_says_so(train, tmp_path):
    run, listener = tmp_path / "run", Recorder()
    told = "The run takes the place of the one that it starts from"
    train(run, epochs=1, listener=listener)
    train(tmp_path / "other", epochs=1, model=str(run), listener=listener)
    assert not any(note.startswith(told) for note in listener.notes)
    train(run, epochs=1, model=str(run), overwrite=True, listener=listener)
    assert any(note.startswith(told) for note in listener.notes)


def test_a_folder_that_is_no_run_is_never_replaced(train, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not a run of bertfit; it will not be replaced"):
        train(tmp_path, overwrite=True)
    assert names_in(tmp_path) == {"thesis.tex"}


def test_bad_data_leaves_nothing(train, tmp_path):
    with pytest.raises(DataError):
        train(tmp_path / "run", [{"text": "a", "label": "pos"}])
    assert names_in(tmp_path) == set()


def test_settings_and_options_together_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="give settings or options, but not both; got epochs"):
        bertfit.train([], tmp_path / "run", settings=resolve_settings(), epochs=3)


def test_packs_without_the_fast_path_use_no_operators_loaded_earlier(train, tmp_path, monkeypatch):
    """Else a run would depend on what the process had computed before it."""
    asked = []
    monkeypatch.setattr(attention, "takes", lambda _: asked.append(1) or True)
    monkeypatch.setattr(attention, "attend_compiled", lambda *_, **__: pytest.fail("an operator"))
    train(tmp_path / "run", fast_path="off", packing="on", epochs=1)
    assert asked


@pytest.mark.parametrize("settings", [TrainSettings(), {"epochs": 3}])
def test_settings_that_are_not_resolved_are_refused(tmp_path, settings):
    with pytest.raises(ConfigError, match="settings: expected ResolvedSettings, got ") as caught:
        bertfit.train([], tmp_path / "run", settings=settings)
    assert "bertfit.config.resolve_settings makes" in (caught.value.hint or "")


def test_resolved_settings_may_be_given(tmp_path, tiny_model_dir, make_reviews):
    settings = resolve_settings({**SMALL, "model": str(tiny_model_dir)})
    result = bertfit.train(make_reviews(40), tmp_path / "run", settings=settings)
    assert len(result.outcome.history.val_acc) == SMALL["epochs"]


def test_an_unknown_option_names_the_near_one(train, tmp_path):
    with pytest.raises(ConfigError, match="argument: there is no setting 'epoch'"):
        train(tmp_path / "run", epoch=3)


def test_the_notebook_recipe_can_be_named(tmp_path, tiny_model_dir, make_reviews):
    options = {"model": str(tiny_model_dir), "recipe": "notebook", "max_length": 32, "epochs": 1}
    bertfit.train(make_reviews(40), tmp_path / "run", **options)
    settings = json.loads((tmp_path / "run" / "bertfit.json").read_text())["settings"]
    assert settings["batch_size"] == {"value": 16, "origin": "recipe notebook"}
    assert settings["max_length"] == {"value": 32, "origin": "argument"}


def test_a_loss_that_is_not_finite_names_the_lines_of_its_rows(train, tmp_path, monkeypatch):
    fail_at_step(monkeypatch, 0)
    with pytest.raises(TrainingError) as caught:
        train(tmp_path / "run")
    message = caught.value.message
    place = "training stopped at step 1 (epoch 1): loss nan, gradient norm nan"
    assert message.startswith(f"{place}; the step's rows are lines ")
    lines = message.partition(" lines ")[2].partition(" of ")[0].split(", ")
    assert len(lines) == SMALL["batch_size"]
    assert {int(line) for line in lines} <= set(range(1, 41))


def test_of_many_rows_of_a_failed_step_the_number_of_those_not_named_is_told():
    error = SimpleNamespace(message="stopped", hint="", indices=np.arange(100)[::-1])
    rows = SimpleNamespace(train=SimpleNamespace(lines=range(2, 102), source="a.csv"))
    message = making._name_lines(error, rows).message
    assert message.startswith("stopped; the step's rows are lines 2, 3, ")
    assert message.endswith(", 64, 65 and 36 more of a.csv")


def test_a_failure_in_the_first_epoch_leaves_nothing(train, tmp_path, monkeypatch):
    fail_at_step(monkeypatch, 2)
    with pytest.raises(TrainingError):
        train(tmp_path / "run")
    assert names_in(tmp_path) == set()


def test_a_failure_leaves_the_old_run_as_it_was(train, tmp_path, monkeypatch):
    train(tmp_path / "run", epochs=1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    fail_at_step(monkeypatch, 0)
    with pytest.raises(TrainingError):
        train(tmp_path / "run", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_failure_in_a_later_epoch_keeps_the_best_model_so_far(train, tmp_path, monkeypatch):
    fail_at_step(monkeypatch, 6)  # five steps an epoch
    listener = Recorder()
    with pytest.raises(TrainingError, match=r"step 7 \(epoch 2\)"):
        train(tmp_path / "run", listener=listener)
    kept = tmp_path / "run.unfinished"
    assert names_in(tmp_path) == {"run.unfinished"}
    assert "bertfit.json" not in names_in(kept)
    assert len(TextClassifier.load(kept).predict(TEXTS)) == len(TEXTS)
    assert listener.notes[-1] == (f"The best epoch so far is saved, as a plain model, in {kept}.")


def test_a_finished_run_that_cannot_be_moved_to_its_place_is_said_to_be_whole(
    train, tmp_path, monkeypatch
):
    rename = Path.rename

    def fail(path, target):
        if Path(target).name == "run":
            raise OSError(errno.EBUSY, "Device or resource busy", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    listener = Recorder()
    with pytest.raises(OSError, match="busy"):
        train(tmp_path / "run", epochs=1, listener=listener)
    kept = tmp_path / "run.unfinished"
    assert listener.notes[-1] == f"The finished run is in {kept}."
    assert read_record(kept)["training"]["interrupted"] is False


def test_a_second_failure_does_not_overwrite_what_the_first_kept(train, tmp_path, monkeypatch):
    fail_at_step(monkeypatch, 6)
    with pytest.raises(TrainingError):
        train(tmp_path / "run")
    monkeypatch.undo()
    fail_at_step(monkeypatch, 6)
    with pytest.raises(TrainingError):
        train(tmp_path / "run")
    assert names_in(tmp_path) == {"run.unfinished", "run.unfinished-2"}


def test_what_a_kill_would_leave_after_an_epoch_can_be_loaded_and_is_told(train, tmp_path):
    """A killed training runs nothing of its own, so all that a model needs must be there before."""
    (tmp_path / "killed").mkdir()
    seen = []

    def copy_as_it_is(task, done):
        if (task, done) == ("epoch 2/2", 1):
            (folder,) = tmp_path.glob(".run.incomplete-*")
            seen.append(shutil.copytree(folder, tmp_path / "killed" / folder.name))

    listener = Recorder(copy_as_it_is)
    train(tmp_path / "run", epochs=2, listener=listener)
    assert not any("killed" in note for note in listener.notes)  # it does not speak of itself
    assert len(TextClassifier.load(seen[0]).predict(TEXTS)) == len(TEXTS)
    again = Recorder()
    with pytest.raises(DataError):  # the note comes before the data are read
        train(tmp_path / "killed" / "run", [], listener=again)
    assert again.notes[0].startswith(f"A training that was killed left {seen[0]} (")
    assert "the model of its best epoch so far" in again.notes[0]
    with pytest.raises(RunError) as caught:
        TextClassifier.load(tmp_path / "killed" / "run")
    assert caught.value.hint == again.notes[0]


def interrupt_at(task, done, *, times=1):
    """Give a listener that raises SIGINT when it first hears of this task and count."""
    left = [times]

    def on_progress(seen_task, seen_done):
        if (seen_task, seen_done) == (task, done):
            for _ in range(left.pop() if left else 0):
                signal.raise_signal(signal.SIGINT)

    return Recorder(on_progress)


def test_an_interruption_leaves_a_whole_run_that_says_so(train, tmp_path):
    result = train(tmp_path / "run", epochs=5, listener=interrupt_at("epoch 2/5", 2))
    record = json.loads((tmp_path / "run" / "bertfit.json").read_text())
    assert record["training"]["interrupted"] is True
    assert record["training"]["num_steps"] == 7
    assert record["training"]["unfinished_epoch"] == [2, 5]
    card = " ".join((tmp_path / "run" / "README.md").read_text(encoding="utf-8").split())
    assert "The training was interrupted after 2 of 5 steps of its last epoch." in card
    shown = io.StringIO()
    show_training(Console(file=shown, width=80), result)
    assert "The last epoch was interrupted after 2 of 5 steps." in shown.getvalue()
    assert names_in(tmp_path) == {"run"}
    assert len(TextClassifier.load(tmp_path / "run").predict(TEXTS)) == len(TEXTS)


def test_a_second_interruption_leaves_nothing(train, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", epochs=5, listener=interrupt_at("epoch 2/5", 2, times=2))
    assert names_in(tmp_path) == set()


def test_a_second_interruption_leaves_the_old_run(train, tmp_path):
    train(tmp_path / "run", epochs=1)
    listener = interrupt_at("epoch 1/5", 1, times=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", epochs=5, overwrite=True, listener=listener)
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())
    assert len(history["val_acc"]) == 1
    assert names_in(tmp_path) == {"run"}


@pytest.mark.parametrize(
    ("task", "done", "message"),
    [
        ("scoring", 10, "the test rows were not scored; bertfit evaluate does that."),
        ("baselines", 0, "the baselines were not fitted."),
    ],
)
def test_an_interruption_while_judging_keeps_the_model(
    train, tmp_path, make_reviews, task, done, message
):
    listener = interrupt_at(task, done)
    given = {"test": make_reviews(10, seed=3), "epochs": 1, "baseline": True}
    train(tmp_path / "run", **given, listener=listener)
    assert len(TextClassifier.load(tmp_path / "run").predict(TEXTS)) == len(TEXTS)
    assert listener.notes[-1] == f"Interrupted: {message}"
    card = " ".join((tmp_path / "run" / "README.md").read_text(encoding="utf-8").split())
    assert ("before the test rows were scored" in card) == (task == "scoring")
    assert "There was no test set" not in card
    # The baselines were asked for, so they belong to what makes the run again.
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "bertfit.train(" in page
    assert "baseline=False" not in page


@pytest.fixture
def interrupt_in(monkeypatch):
    """Give a function that has SIGINT raised once, as this work begins or as it has ended.

    It takes a listener and gives it back: none is raised before that one hears of a validation.
    """

    def arrange(place, name, *, after=False, listener=None):
        work, state = getattr(place, name), ["waiting"]
        listener = Recorder() if listener is None else listener
        hear = listener.on_progress

        def on_progress(task, done):
            if task == "validating" and state == ["waiting"]:
                state[:] = ["armed"]
            hear(task, done)

        def interrupt():
            if state == ["armed"]:
                state[:] = ["done"]
                signal.raise_signal(signal.SIGINT)

        def interrupted(*args, **options):
            if not after:
                interrupt()
            result = work(*args, **options)
            if after:
                interrupt()
            return result

        listener.on_progress = on_progress
        monkeypatch.setattr(place, name, interrupted)
        return listener

    return arrange


WHILE_FITTING = [
    (trainer.TrainedWeights, "release"),
    (trainer._Run, "keep_best"),
]
AFTER_FITTING = [
    (trainer._Run, "outcome"),
    (making, "_fit"),
    (making, "calibrate"),
    (calibrating, "_learn"),
    (calibrating, "_fold"),
    (calibrating, "_note_calibration"),
    (making, "judge"),
]
WHILE_FINISHING = [
    (making, "compare_on_test"),
    (making, "make_record"),
    (making, "keep_predictions"),
    (making, "write_side_files"),
    (making, "add_report"),
    (reporting, "_keep"),
    (reporting, "_write_pages"),
    (making, "make_run"),
]
# Before a call is hardly elsewhere than after the one before it.
OFTEN = {
    *((name, True) for name in ("release", "_fit", "_fold", "judge", "make_record", "add_report")),
    *(("publish", after) for after in (False, True)),
}


@pytest.mark.parametrize(
    ("place", "name", "after"),
    [
        pytest.param(*where, after, marks=[] if (where[1], after) in OFTEN else pytest.mark.slow)
        for where in (*WHILE_FITTING, *AFTER_FITTING, *WHILE_FINISHING, (Staging, "publish"))
        for after in (False, True)
        if after or where[1] not in {"_fit", "make_run"}  # no epoch is over then
    ],
)
def test_an_interruption_after_the_last_epoch_keeps_the_run(
    train_on, tmp_path, make_reviews, interrupt_in, place, name, after
):
    listener = interrupt_in(place, name, after=after)
    result = train_on(tmp_path / "run", test=make_reviews(10, seed=3), listener=listener)
    record = read_record(tmp_path / "run")
    assert names_in(tmp_path) == {"run"}
    assert len(record["training"]["reason"]) > 0
    assert len(TextClassifier.load(tmp_path / "run").predict(TEXTS)) == len(TEXTS)
    assert record["training"]["interrupted"] is False  # every step was taken
    is_scored = (place, name) not in [*WHILE_FITTING, *AFTER_FITTING] or (name == "judge" and after)
    assert (result.test is not None) == is_scored
    told = "Interrupted: the test rows were not scored; bertfit evaluate does that."
    assert (told in listener.notes) == (not is_scored)
    assert result.interrupted == (place is not Staging)  # nothing was left out


@pytest.mark.parametrize(
    ("place", "name"),
    [
        pytest.param(*where, marks=[] if (where[1], True) in OFTEN else pytest.mark.slow)
        for where in (*WHILE_FITTING, *AFTER_FITTING, *WHILE_FINISHING[1:])
    ],
)
def test_a_second_interruption_gives_everything_up(train, tmp_path, interrupt_in, place, name):
    """The first came in the training, and was obeyed."""
    listener = interrupt_in(place, name, after=True, listener=interrupt_at("epoch 1/2", 1))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", listener=listener)
    assert names_in(tmp_path) == set()


def test_a_second_interruption_while_the_run_is_published_waits(train_on, tmp_path, interrupt_in):
    """Between two renames neither the old run nor the new one stands."""
    train_on(tmp_path / "run")
    listener = interrupt_in(Staging, "_replace", listener=interrupt_at("epoch 1/2", 1))
    train_on(tmp_path / "run", overwrite=True, seed=5, listener=listener)
    record = read_record(tmp_path / "run")
    assert record["training"]["interrupted"] is True
    assert record["settings"]["seed"]["value"] == 5
    assert names_in(tmp_path) == {"run"}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("place", "name"), [(resuming, "stage_run"), (making, "settle_speed")])
def test_an_interruption_before_the_first_step_leaves_nothing(
    train, tmp_path, monkeypatch, place, name, after
):
    work = getattr(place, name)

    def interrupted(*args, **options):
        if not after:
            signal.raise_signal(signal.SIGINT)
        result = work(*args, **options)
        if after:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(place, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")
    assert names_in(tmp_path) == set()


def test_what_was_scored_before_an_interruption_is_kept(train, tmp_path, make_reviews):
    listener = interrupt_at("baselines", 0)
    result = train(tmp_path / "run", test=make_reviews(10, seed=3), epochs=1, listener=listener)
    assert result.test.comparison is None
    assert result.baselines is None
    assert {"test_predictions.jsonl", "validation_predictions.jsonl"} <= names_in(tmp_path / "run")


def test_every_run_keeps_predictions_and_baselines(finished, record):
    run = finished[0].run
    kept = read_predictions(run / "test_predictions.jsonl", record["label_names"])
    np.testing.assert_array_equal(kept.probabilities, finished[0].test.evaluation.probabilities)
    validation = read_predictions(run / "validation_predictions.jsonl", record["label_names"])
    assert len(validation) == 6
    hits = (validation.probabilities.argmax(axis=1) == validation.label_ids).mean()
    assert hits == pytest.approx(record["scores"]["validation"]["accuracy"])
    baselines = json.loads((run / "baselines.json").read_text(encoding="utf-8"))
    names = {entry["name"] for entry in baselines["baselines"]}
    assert names == {"majority class", "TF-IDF + logistic regression", "NB-SVM"}
    assert baselines["best"] == record["scores"]["comparison"]["baseline_name"]
    assert all(entry["test"]["num_rows"] == 30 for entry in baselines["baselines"])


def test_without_test_rows_the_baselines_are_scored_on_validation(train, tmp_path):
    result = train(tmp_path / "run", epochs=1, baseline=True)
    assert result.baselines.best.test is None
    baselines = json.loads((tmp_path / "run" / "baselines.json").read_text(encoding="utf-8"))
    assert {entry["test"] for entry in baselines["baselines"]} == {None}


@pytest.mark.parametrize(
    ("labels", "metric"),
    [(("neg", "pos") * 20, "accuracy"), (("neg",) * 30 + ("pos",) * 10, "macro_f1")],
)
def test_the_selection_metric_follows_the_balance_of_classes(train, tmp_path, labels, metric):
    rows = [{"text": f"film {row}", "label": label} for row, label in enumerate(labels)]
    assert train(tmp_path / "run", rows, epochs=1).outcome.selection_metric == metric


def test_three_classes_are_trained_and_named(train, tmp_path):
    words = {"good": "good", "fair": "plot", "bad": "awful"}
    rows = [
        {"text": f"{words[label]} film {row}", "label": label}
        for row, label in enumerate(["good", "fair", "bad"] * 10)
    ]
    result = train(tmp_path / "run", rows, epochs=1)
    assert result.label_names == ("bad", "fair", "good")
    assert list(TextClassifier.load(tmp_path / "run").predict("x")[0].probabilities) == [
        "bad",
        "fair",
        "good",
    ]


def test_packing_that_is_asked_for_trains_the_same_model(train, tmp_path, make_reviews):
    """From the rows to the test score, packs give what padding gives."""
    listener = Recorder()
    results = [
        train(
            tmp_path / packing,
            test=make_reviews(20, seed=7),
            packing=packing,
            baseline=False,
            listener=listener,
        )
        for packing in ("on", "off")
    ]
    assert [note for note in listener.notes if note.startswith("Packing")] == [
        "Packing: on (asked for; attention runs by groups of texts of one length).",
        "Packing: off (asked for).",
    ]
    packed, padded = (result.outcome.history for result in results)
    np.testing.assert_allclose(packed.train_losses, padded.train_losses, atol=1e-4)
    np.testing.assert_allclose(packed.val_losses, padded.val_losses, atol=1e-4)
    probabilities = [result.classifier.predict_probabilities(TEXTS) for result in results]
    np.testing.assert_allclose(*probabilities, atol=1e-4)
    assert takes_packs(results[0].classifier.model)
    record = json.loads((tmp_path / "on" / "bertfit.json").read_text(encoding="utf-8"))
    assert record["settings"]["packing"] == {"value": "on", "origin": "argument"}
    assert record["settings"]["micro_batch_tokens"] == {"value": 2048, "origin": "default on cpu"}


def test_packing_is_refused_where_the_model_cannot_do_it(train, tmp_path, tiny_model_dir):
    config = json.loads((tiny_model_dir / "config.json").read_text(encoding="utf-8"))
    other = tmp_path / "mpnet"
    shutil.copytree(tiny_model_dir, other)
    (other / "config.json").write_text(json.dumps(config | {"model_type": "mpnet"}))
    with pytest.raises(
        ConfigError, match="packing: on was asked for, but bertfit does not pack mpnet"
    ):
        train(tmp_path / "run", model=str(other), packing="on")


# torch hides this warning of its own while it traces, which does not help where it is an error.
quiet_tracing = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)


@pytest.fixture
def compile_quickly(monkeypatch):
    """Let torch trace and run the traced operations: what a compiler makes of them is its own."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@quiet_tracing
@pytest.mark.slow  # the compiler takes most of it
def test_compiling_that_is_asked_for_trains_the_same_model(train, tmp_path, compile_quickly):
    listener = Recorder()
    names, histories = [], []
    for state in ("on", "off"):
        result = train(tmp_path / state, compile=state, listener=listener)
        histories.append(result.outcome.history)
        names.append(sorted(load_file(tmp_path / state / "model.safetensors")))
    np.testing.assert_allclose(histories[0].train_losses, histories[1].train_losses, atol=1e-4)
    np.testing.assert_allclose(histories[0].val_losses, histories[1].val_losses, atol=1e-4)
    assert names[0] == names[1]  # an ordinary folder: no name tells of compiling
    told = [note for note in listener.notes if note.startswith("Compiling")]
    assert re.fullmatch(
        r"Compiling: on \(asked for\)\. The first step took .+, then [\d,]+ tokens a second; "
        r"without, [\d,]+\.",
        told[0],
    )
    assert told[1] == "Compiling: off (asked for)."
    compiled, written = (
        json.loads((tmp_path / state / "bertfit.json").read_text(encoding="utf-8"))["training"]
        for state in ("on", "off")
    )
    assert compiled["compile"] == "on (asked for)"
    assert compiled["cold_start_seconds"] > 0
    assert written["cold_start_seconds"] is None
    assert compiled["tokens_per_second"] > 0


def test_on_a_cpu_nothing_is_compiled_unless_asked_or_recorded(finished):
    record = json.loads((finished[0].run / "bertfit.json").read_text(encoding="utf-8"))
    assert record["settings"]["compile"] == {
        "value": "off",
        "origin": "default: compiled, training was slower on a CPU",
    }
    assert record["training"]["recording"] == "off (this is for a CUDA GPU)"


def test_who_left_it_open_whether_layers_are_compiled_is_kept(train, tmp_path):
    train(tmp_path / "run", epochs=1, compile="auto")
    compiled = read_record(tmp_path / "run")["settings"]["compile"]
    assert compiled["origin"] == "argument: compiled, training was slower on a CPU"


def test_where_passes_are_recorded_the_speed_without_is_told_beside_it(
    train, tmp_path, monkeypatch
):
    """As on a GPU."""

    def measure(*_, settings, **__):
        assert settings.compile == "off"
        is_on = settings.fast_path == "auto"
        plan = Plan(is_on=is_on, reason="a test")
        return measuring.SpeedEstimate(2400.0 if is_on else 800.0, 1.0, 0.5, plan)

    monkeypatch.setattr("bertfit.workflow.speeding.measure_speed", measure)
    listener = Recorder()
    result = train(tmp_path / "run", listener=listener)
    told = "Recording: on (a test). 2,400 tokens a second; without it, and with torch's AdamW, 800."
    assert told in listener.notes
    assert any("2,400 tokens a second)" in note for note in listener.notes)
    record = json.loads((result.run / "bertfit.json").read_text(encoding="utf-8"))["training"]
    assert record["tokens_per_second"] == 2400.0
    assert record["tokens_per_second_as_written"] == 800.0


def fail_to_compile(monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("this compiler is broken")

    monkeypatch.setattr(compilation, "BACKEND", backend)
    monkeypatch.setenv("CXX", sys.executable)  # this backend needs no compiler, but there is one
    torch._dynamo.reset()


@pytest.mark.usefixtures("measured")
@quiet_tracing
def test_a_compiler_that_fails_is_named_where_it_was_asked_for(train, tmp_path, monkeypatch):
    fail_to_compile(monkeypatch)
    with pytest.raises(ConfigError) as caught:
        train(tmp_path / "run", compile="on")
    assert "compile: on was asked for, but torch failed to compile: " in str(caught.value)
    assert "this compiler is broken" in str(caught.value)
    assert "--compile off trains without" in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("measured")
@quiet_tracing
def test_a_compiler_that_fails_is_left_where_bertfit_chose_it(train, tmp_path, monkeypatch):
    """As on a GPU, for a long training."""
    fail_to_compile(monkeypatch)
    plan = Plan(is_on=True, reason="a test")
    monkeypatch.setattr("bertfit.workflow.speeding.plan_compilation", lambda *_, **__: plan)
    result = train(tmp_path / "run")
    record = json.loads((result.run / "bertfit.json").read_text(encoding="utf-8"))
    assert record["training"]["compile"].startswith("off (torch failed to compile: ")
    assert record["settings"]["compile"]["value"] == "off"


@pytest.mark.parametrize("name", ["no-such-compiler", "g++ 'not closed"])
def test_compiling_without_a_compiler_is_refused_before_the_first_step(
    train, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("CXX", name)
    with pytest.raises(ConfigError) as caught:
        train(tmp_path / "run", compile="on")
    assert str(caught.value) == (
        f"compile: on was asked for, but there is no C++ compiler {name!r}\n"
        "--compile off trains without; auto compiles where it can be done and pays."
    )
    assert not list(tmp_path.glob("*run*"))


def test_a_budget_that_shall_be_measured_is_not_if_the_default_holds_every_step(train, tmp_path):
    listener = Recorder()
    result = train(tmp_path / "run", micro_batch_tokens="auto", epochs=1, listener=listener)
    record = json.loads((result.run / "bertfit.json").read_text(encoding="utf-8"))
    expected = {"value": 2048, "origin": "argument, as no step has more"}
    assert record["settings"]["micro_batch_tokens"] == expected
    assert "Micro-batches: at most 2,048 tokens, and no step has more." in listener.notes


def test_a_measured_budget_is_said_and_kept(train, tmp_path, monkeypatch):
    monkeypatch.setattr("bertfit.workflow.settling.measure_token_budget", lambda *_, **__: 4096)
    listener = Recorder()
    result = train(tmp_path / "run", micro_batch_tokens="auto", epochs=1, listener=listener)
    record = json.loads((result.run / "bertfit.json").read_text(encoding="utf-8"))
    expected = {"value": 4096, "origin": "argument, measured"}
    assert record["settings"]["micro_batch_tokens"] == expected
    assert "Micro-batches: at most 4,096 tokens, the quickest that was measured." in listener.notes


def test_without_texts_a_text_in_a_wrong_column_is_not_kept_either(train, tmp_path, make_reviews):
    # Shortened, neither the dict nor the list is closed any more.
    long = "secret " * 20
    wrong = [{"body": long}, ["good", {"by": long}], 5551234567]
    rows = [
        *make_reviews(40),
        {"text": "fine", "label": 'it\'s "my" secret'},
        *({"text": text, "label": "pos"} for text in wrong),
        *({"text": "good", "label": label} for label in (["secret", *range(100)], 5551234567.5)),
    ]
    test = [*make_reviews(20, seed=3), {"text": "good", "label": "another secret"}]
    listener = Recorder()
    result = train(
        tmp_path / "run",
        [row for row in rows if "my" not in str(row["label"])],
        test=[*test, rows[40]],
        on_bad_row="skip",
        keep_texts=False,
        listener=listener,
    )
    kept = [path for path in result.run.iterdir() if path.suffix not in {".safetensors", ".npy"}]
    written = {path.name: path.read_text(encoding="utf-8") for path in kept}
    assert not [name for name, text in written.items() if "secret" in text or "55512" in text]
    told = "\n".join(listener.notes)
    assert "  rows:21: label '…' does not occur" in told
    for what in ("dict '…'; a string", "a list with dict '…'; all", "int '…'; a string or a list"):
        assert f": the text is {what}" in told
    for what in ("list", "float"):
        assert f": the label is {what} '…'; a string, an integer or a boolean" in told


@pytest.mark.usefixtures("measured")
def test_a_model_that_has_no_arithmetic_in_the_type_of_the_training_is_explained(
    fnet, make_reviews, tmp_path
):
    """FNet's Fourier transform cannot be computed in bfloat16 on a CPU."""
    with pytest.raises(ModelError, match=r"cannot be computed: \w+Error: ") as caught:
        bertfit.train(make_reviews(20), tmp_path / "run", model=str(fnet), dtype="bfloat16")
    assert caught.value.hint == "It was computed in bfloat16. Try --dtype float32."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fnet"]


def test_a_model_without_arithmetic_in_16_bits_is_trained_in_32_unless_asked(
    fnet, make_reviews, tmp_path, monkeypatch
):
    """With all defaults, it failed on processors with bfloat16."""
    chosen = Precision(torch.device("cpu"), torch.bfloat16, "a test")
    monkeypatch.setattr(preparing, "choose_precision", lambda *_: chosen)
    listener = Recorder()
    options = {"epochs": 1, "baseline": False, "listener": listener}
    bertfit.train(make_reviews(20), tmp_path / "run", model=str(fnet), **options)
    told = r"Arithmetic: float32 on cpu \(this model cannot be computed in bfloat16: \w+Error: "
    assert any(re.match(told, note) for note in listener.notes)
    assert read_record(tmp_path / "run")["settings"]["dtype"]["value"] == "float32"


def test_a_run_of_a_base_that_pads_on_the_left_is_read_by_others_as_it_was_trained(
    tiny_model_dir, make_reviews, tmp_path
):
    """In batches, plain transformers gave other answers: its positions count the padding too."""
    from transformers import pipeline

    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100}
    torch.manual_seed(0)
    GPT2Model(GPT2Config(**sizes, pad_token_id=0)).save_pretrained(base)
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["padding_side"] = "left"
    (base / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    options = {"model": str(base), "epochs": 2, "baseline": False, "dtype": "float32"}
    run = bertfit.train(make_reviews(40), tmp_path / "run", learning_rate=0.01, **options).run
    classify = pipeline("text-classification", model=str(run), top_k=None, device=-1)
    for theirs, ours in zip(
        classify(TEXTS, batch_size=4), TextClassifier.load(run).predict(TEXTS), strict=True
    ):
        for one in theirs:
            assert one["score"] == pytest.approx(ours.probabilities[one["label"]], abs=1e-5)


def test_a_training_from_a_run_reads_as_much_as_the_model_that_the_run_began_with(
    tiny_model_dir, make_reviews, tmp_path
):
    """Relative positions have no limit, and the tokenizer's was forgotten: 8,192 were read."""
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    sizes = {"vocab_size": 100, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    config = T5Config(**sizes, decoder_start_token_id=0, eos_token_id=3, pad_token_id=0)
    T5ForSequenceClassification(config).save_pretrained(base)
    options = {"epochs": 1, "baseline": False, "dtype": "float32"}
    limits = []
    for model, name, asked in (
        ("base", "a", None),
        ("a", "b", None),
        ("b", "c", 9),
        ("c", "d", 20),
        ("d", "e", None),
    ):
        result = bertfit.train(
            make_reviews(20),
            tmp_path / name,
            model=str(tmp_path / model),
            max_length=asked,
            **options,
        )
        limits.append(result.classifier.rule.max_length)
    assert limits == [64, 64, 9, 20, 64]


@pytest.mark.usefixtures("measured")
def test_a_model_that_fails_only_in_training_is_not_blamed_on_float32(
    tiny_model_dir, make_reviews, tmp_path
):
    """Reformer's positions are factored, and then each text must have as many tokens as these."""
    from transformers import AutoTokenizer, ReformerConfig, ReformerModel

    vocabulary = AutoTokenizer.from_pretrained(tiny_model_dir)
    config = ReformerConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_attention_heads=2,
        attention_head_size=4,
        feed_forward_size=8,
        attn_layers=["local"],
        axial_pos_shape=[8, 8],
        axial_pos_embds_dim=[4, 4],
        max_position_embeddings=64,
        is_decoder=False,
    )
    ReformerModel(config).save_pretrained(tmp_path / "reformer")
    vocabulary.save_pretrained(tmp_path / "reformer")
    with pytest.raises(ModelError, match=r"cannot be computed: .*axial_pos_shape") as caught:
        bertfit.train(
            make_reviews(20), tmp_path / "run", model=str(tmp_path / "reformer"), dtype="float32"
        )
    assert caught.value.hint.startswith("bertfit is for encoders such as BERT.")


def test_the_head_is_drawn_by_the_seed_of_the_settings(tiny_model_dir):
    def draw(seed):
        settings = TrainSettings(model=str(tiny_model_dir), seed=seed)
        return load_base(settings, ["neg", "pos"]).model.classifier.weight

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_labels_that_are_left_out_are_told_recorded_and_a_limit(train_on, tmp_path, make_reviews):
    rows = [*make_reviews(40), {"text": "so so", "label": "meh"}]
    test = [*make_reviews(10, seed=3), {"text": "well", "label": "meh"}]
    listener = Recorder()
    with pytest.raises(DataError, match="--set min_label_rows=2: those of one row"):
        train_on(tmp_path / "run", data=rows)
    train_on(tmp_path / "run", data=rows, test=test, min_label_rows=2, epochs=1, listener=listener)
    told = "Left out: 1 label with fewer than 2 training rows (meh); rows: 1 train, 1 test."
    assert told in listener.notes
    record = read_record(tmp_path / "run")
    assert record["label_names"] == ["neg", "pos"]
    assert record["data"]["left_out"] == {"labels": ["meh"], "rows": {"train": 1, "test": 1}}
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "were left out: meh. Texts of these get another one." in " ".join(card.split())
    assert "So the scores are without 1 test row." in " ".join(card.split())


def test_rows_that_are_dropped_do_not_count_for_labels_to_be_left_out(
    train_on, tmp_path, make_reviews
):
    rows = [*make_reviews(40), *[{"text": "so so", "label": "meh"}] * 3]
    listener = Recorder()
    options = {"min_label_rows": 2, "drop_duplicates": True, "epochs": 1, "listener": listener}
    train_on(tmp_path / "run", data=rows, **options)
    told = "Left out: 1 label with fewer than 2 training rows (meh); rows: 1 train."
    assert told in listener.notes
    test = [*make_reviews(10, seed=3), {"text": "so so", "label": "meh"}]
    train_on(tmp_path / "other", data=rows, test=test, **options)  # then none is left
    assert read_record(tmp_path / "other")["data"]["left_out"]["rows"] == {"test": 1}
