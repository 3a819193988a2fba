"""Calibration, threshold and selective curve: fitted on validation, kept in weights and run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

import bertfit
from bertfit import TextClassifier
from bertfit.config import TrainSettings
from bertfit.errors import ConfigError, RunError
from bertfit.evaluation.calibration import score_calibration
from bertfit.evaluation.predictions import read_predictions
from bertfit.evaluation.scaling import Readout, Scaling, fit_cubic, no_scaling
from bertfit.evaluation.scaling_choice import ScalingChoice, choose_scaling
from bertfit.evaluation.selective import keep_curve
from bertfit.evaluation.thresholds import decide
from bertfit.run_files import UNCALIBRATED_NAME, VALIDATION_NAME
from bertfit.wording import format_count
from bertfit.workflow import calibrating
from tests.step_listener import Recorder

TEXTS = ["a good film", "bad", "the plot of the movie was poor and the acting was awful", "a film"]


@pytest.fixture(scope="module")
def noisy_reviews(make_reviews):
    """Give a function that makes reviews of which every fifth has the wrong label."""

    def make(num_rows, seed):
        rows = [dict(row) for row in make_reviews(num_rows, seed=seed)]
        for row in rows[::5]:
            row["label"] = {"pos": "neg", "neg": "pos"}[row["label"]]
        return rows

    return make


@pytest.fixture(scope="module")
def train(tiny_model_dir, make_reviews, noisy_reviews):
    """Give a training on clean rows that is judged by noisy ones: the model is over-confident."""

    def run(output, **options):
        return bertfit.train(
            make_reviews(200),
            output,
            **{
                "validation": noisy_reviews(200, seed=3),
                "test": noisy_reviews(60, seed=4),
                "baseline": False,
                "model": str(tiny_model_dir),
                "epochs": 2,
                "batch_size": 8,
                "learning_rate": 0.05,
                "dropout": 0.0,
                "dtype": "float32",
                **options,
            },
        )

    return run


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """Give the same training with and without calibration, and the notes of the first."""
    folder, listener = tmp_path_factory.mktemp("runs"), Recorder()
    calibrated = train(folder / "calibrated", listener=listener)
    return calibrated, train(folder / "plain", calibration="none"), listener.notes


@pytest.fixture(scope="module")
def decided(train, tmp_path_factory):
    """Give a run with a threshold, and its notes."""
    listener = Recorder()
    path = tmp_path_factory.mktemp("runs") / "decided"
    return train(path, threshold_aim="recall>=0.95", listener=listener), listener.notes


def read(result):
    return json.loads((result.run / "bertfit.json").read_text(encoding="utf-8"))


def test_an_over_confident_model_gets_a_temperature_above_1(runs):
    entry = read(runs[0])["calibration"]
    assert entry["kind"] == "temperature"
    assert entry["temperature"] > 1.5
    assert (entry["num_rows"], entry["layer"], entry["num_changed"]) == (200, "classifier", 0)
    before, after = entry["validation"]["before"], entry["validation"]["after"]
    assert after["log_loss"] < before["log_loss"]
    assert after["ece"] < before["ece"]
    assert after["accuracy"] == before["accuracy"]


def test_the_temperature_is_in_the_weights(runs):
    """The two runs are the same training: their logits differ by the temperature alone."""
    calibrated, plain = (TextClassifier.load(result.run) for result in runs[:2])
    encoded = plain.encode(TEXTS)
    expected = plain.score_logits(encoded) / read(runs[0])["calibration"]["temperature"]
    np.testing.assert_allclose(calibrated.score_logits(encoded), expected, rtol=1e-4, atol=1e-5)


def test_whoever_loads_the_folder_is_calibrated(runs):
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(runs[0].run), top_k=None, device=-1)
    ours = TextClassifier.load(runs[0].run).predict(TEXTS)
    for theirs, prediction in zip(classify(TEXTS), ours, strict=True):
        by_name = {entry["label"]: entry["score"] for entry in theirs}
        assert by_name == pytest.approx(prediction.probabilities, abs=1e-5)


def test_the_trained_classifier_is_the_one_on_disk(runs):
    loaded = TextClassifier.load(runs[0].run)
    np.testing.assert_array_equal(
        loaded.predict_probabilities(TEXTS), runs[0].classifier.predict_probabilities(TEXTS)
    )
    assert loaded.confidence == runs[0].classifier.confidence


def test_predictions_do_not_change(runs):
    calibrated, plain = (TextClassifier.load(result.run).predict(TEXTS) for result in runs[:2])
    assert [one.label for one in calibrated] == [one.label for one in plain]


def test_the_scores_before_are_those_of_the_uncalibrated_run(runs):
    calibrated, plain = (read(result)["scores"]["test"] for result in runs[:2])
    before = calibrated["confidence"]["uncalibrated"]
    assert before["log_loss"] == pytest.approx(plain["confidence"]["log_loss"], rel=1e-4)
    assert before["brier"] == pytest.approx(plain["confidence"]["brier"], rel=1e-4)
    assert calibrated["confidence"]["log_loss"] < before["log_loss"]
    assert calibrated["accuracy"] == plain["accuracy"]
    assert plain["confidence"]["uncalibrated"] is None


def test_evaluating_later_gives_the_scores_of_the_training(runs, noisy_reviews):
    evaluation = bertfit.evaluate(runs[0].run, noisy_reviews(60, seed=4))
    recorded = read(runs[0])["scores"]["test"]["confidence"]
    assert evaluation.confidence.to_json()["uncalibrated"] == pytest.approx(
        recorded["uncalibrated"]
    )


def test_the_temperature_is_noted(runs):
    (note,) = [note for note in runs[2] if note.startswith("Calibration: ")]
    assert note.startswith("Calibration: temperature ")
    assert "fitted on 200 validation rows and kept in the model's weights; log loss " in note


def test_no_scratch_is_left_in_the_run(runs):
    assert {path.name for path in runs[0].run.iterdir()} == {
        path.name for path in runs[1].run.iterdir()
    }


def test_the_curve_is_that_of_the_validation_rows(runs, noisy_reviews):
    rows = noisy_reviews(200, seed=3)
    predictions = TextClassifier.load(runs[0].run).predict([row["text"] for row in rows])
    hits = [p.label == row["label"] for p, row in zip(predictions, rows, strict=True)]
    answered = np.asarray([prediction.confidence >= 0.75 for prediction in predictions])
    expectation = runs[0].classifier.expect_selective(0.75)
    assert expectation.num_rows == 200
    assert expectation.coverage == pytest.approx(answered.mean())
    assert expectation.accuracy == pytest.approx(np.asarray(hits)[answered].mean())


def test_the_notebooks_recipe_is_not_calibrated(runs, tmp_path, tiny_model_dir, noisy_reviews):
    result = bertfit.train(
        noisy_reviews(40, seed=1),
        tmp_path / "run",
        validation=noisy_reviews(120, seed=3),
        model=str(tiny_model_dir),
        recipe="notebook",
        max_length=16,
        epochs=1,
    )
    entry = read(result)["calibration"]
    assert (entry["kind"], entry["reason"]) == ("none", "asked for")
    assert read(runs[1])["calibration"]["reason"] == "asked for"


def test_too_few_validation_rows_are_noted(train, tmp_path, noisy_reviews):
    listener = Recorder()
    result = train(tmp_path / "run", validation=noisy_reviews(20, seed=3), listener=listener)
    reason = "20 validation rows are too few, 100 are needed"
    assert read(result)["calibration"]["reason"] == reason
    assert f"Calibration: none; {reason}." in listener.notes


def test_a_model_without_such_a_layer_is_left_alone(train, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrating, "find_logit_layer", lambda *_: None)
    listener = Recorder()
    result = train(tmp_path / "run", listener=listener)
    assert read(result)["calibration"]["kind"] == "none"
    assert (
        "Calibration: none; no linear layer gives this model's logits, so none can carry a "
        "calibration." in listener.notes
    )


def test_changed_predictions_are_told_with_the_accuracy(train, tmp_path, monkeypatch):
    """Classes scaled apart may turn predictions round, which nobody may miss."""
    one_sided = ScalingChoice(
        Scaling("vector", (1.0, 1.0), (0.0, 50.0)), "made up", 200, {"none": 1.0, "vector": 0.5}
    )
    monkeypatch.setattr(calibrating, "choose_scaling", lambda *_, **__: one_sided)
    listener = Recorder()
    result = train(tmp_path / "run", listener=listener)
    entry = read(result)["calibration"]
    assert entry["validation"]["after"]["accuracy"] == 0.5
    assert entry["num_changed"] > 0
    before = entry["validation"]["before"]["accuracy"]
    assert (
        f"It changes {entry['num_changed']} predictions of these rows: accuracy {before:.4f} → "
        "0.5000." in listener.notes
    )
    loaded = TextClassifier.load(result.run)
    assert {prediction.label for prediction in loaded.predict(TEXTS)} == {"pos"}


def test_one_changed_prediction_is_told_in_the_singular():
    logits = np.array([[0.0, 9.0], [0.5, 0.0], [9.0, 0.0]])
    scaling = Scaling("vector", (1.0, 1.0), (0.0, 1.0))
    listener, losses = Recorder(), {"none": 1.0, "vector": 0.5}
    learned = calibrating.LearnedConfidence(
        choice=ScalingChoice(scaling, "made up", 3, losses),
        layer="classifier",
        logits=logits,
        label_ids=np.array([1, 0, 0]),
        probabilities=softmax(scaling.apply(logits), axis=1),
        threshold=None,
        curve=keep_curve([0.9, 0.6, 0.9], [True, False, True]),
        groups=None,
    )
    calibrating._note_calibration(learned, listener)
    assert "It changes 1 prediction of these rows: accuracy 1.0000 → 0.6667." in listener.notes


def test_the_chance_of_calibration_errors_is_that_of_the_groups():
    label_ids, groups = np.arange(200) // 10 % 2, np.arange(200) // 10
    logits = np.tile([0.0, 1.0], (200, 1))  # all rows of a group are right, or wrong
    learned = calibrating.LearnedConfidence(
        choice=ScalingChoice(no_scaling(2), "made up", 200, {}),
        layer=None,
        logits=logits,
        label_ids=label_ids,
        probabilities=softmax(logits, axis=1),
        threshold=None,
        curve=keep_curve(np.full(200, 0.7), label_ids == 1),
        groups=groups,
    )
    found = calibrating.record_confidence(learned)["calibration"]["validation"]
    expected = score_calibration(softmax(logits, axis=1), label_ids, groups=groups).ece_noise
    assert found["before"]["ece_noise"] == found["after"]["ece_noise"] == expected


@pytest.fixture(scope="module")
def bent(train, tmp_path_factory):
    """Give a run of the same training whose logits were bent, though a temperature would do."""
    with pytest.MonkeyPatch.context() as patch:

        def bend(logits, label_ids, *, features, with_bias, **_):
            found = fit_cubic(logits, label_ids, features, with_bias=with_bias)
            # The labels ask for no bend: it is set.
            readout = Readout(np.ones_like(found.readout.weight) * [[-1], [1]], np.array([0, 0.5]))
            scaling = dataclasses.replace(found, cube=0.25, readout=readout)
            return ScalingChoice(scaling, "made up", 200, {"none": 0.7, "cubic": 0.6})

        patch.setattr(calibrating, "choose_scaling", bend)
        listener = Recorder()
        path = tmp_path_factory.mktemp("runs") / "bent"
        return train(path, listener=listener), listener.notes


def test_a_bend_is_in_the_weights(bent):
    from transformers import pipeline

    result, notes = bent
    classify = pipeline("text-classification", model=str(result.run), top_k=None, device=-1)
    loaded = TextClassifier.load(result.run)
    for theirs, prediction in zip(classify(TEXTS), loaded.predict(TEXTS), strict=True):
        by_name = {entry["label"]: entry["score"] for entry in theirs}
        assert by_name == pytest.approx(prediction.probabilities, abs=1e-5)
    np.testing.assert_array_equal(
        loaded.predict_probabilities(TEXTS), result.classifier.predict_probabilities(TEXTS)
    )
    entry = read(result)["calibration"]
    assert (entry["kind"], entry["temperature"], entry["cube"]) == ("cubic", None, 0.25)
    told = f"Calibration: logits times {entry['weights'][0]:.3f}, and bent by their cubes, fitted"
    assert any(note.startswith(told) for note in notes)
    assert "bent by their cubes" in (result.run / "report.html").read_text(encoding="utf-8")


def test_scores_before_a_bend_are_those_of_the_uncalibrated_run(bent, runs, noisy_reviews):
    plain = read(runs[1])["scores"]["test"]["confidence"]
    recorded = read(bent[0])["scores"]["test"]["confidence"]
    assert recorded["uncalibrated"]["log_loss"] == pytest.approx(plain["log_loss"], rel=1e-4)
    assert recorded["log_loss"] != pytest.approx(plain["log_loss"], rel=0.01)
    evaluation = bertfit.evaluate(bent[0].run, noisy_reviews(60, seed=4))
    later = evaluation.confidence.to_json()["uncalibrated"]
    assert later == pytest.approx(recorded["uncalibrated"])


def test_validation_scores_of_a_bend_are_those_of_the_saved_model(bent, noisy_reviews):
    """What was learned from the features is what the folded weights give."""
    after = read(bent[0])["calibration"]["validation"]["after"]
    evaluation = bertfit.evaluate(bent[0].run, noisy_reviews(200, seed=3))
    assert evaluation.confidence.calibration.log_loss == pytest.approx(after["log_loss"], rel=1e-3)


def test_a_bend_whose_old_layer_is_gone_has_no_scores_before(bent, tmp_path, noisy_reviews):
    run = shutil.copytree(bent[0].run, tmp_path / "run")
    (run / UNCALIBRATED_NAME).unlink()
    evaluation = bertfit.evaluate(run, noisy_reviews(60, seed=4))
    assert evaluation.confidence.uncalibrated is None
    (run / UNCALIBRATED_NAME).write_bytes(b"half")
    with pytest.raises(RunError, match=rf"{UNCALIBRATED_NAME} is damaged") as caught:
        TextClassifier.load(run)
    assert caught.value.hint.startswith("Remove that file")


def test_an_old_layer_that_does_not_fit_the_model_is_told(bent, tmp_path):
    run = shutil.copytree(bent[0].run, tmp_path / "run")
    record = read(bent[0])
    record["calibration"]["layer"] = "nowhere"
    (run / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RunError, match=r"does not fit the model: a linear layer 'nowhere'"):
        TextClassifier.load(run)


def test_the_threshold_decides_and_leaves_probabilities_alone(decided, noisy_reviews):
    entry = read(decided[0])["threshold"]
    assert entry["aim"] == "recall>=0.95"
    assert entry["validation"]["recall"] >= 0.95
    predictions = TextClassifier.load(decided[0].run).predict(
        [row["text"] for row in noisy_reviews(60, seed=9)]
    )
    for prediction in predictions:
        is_positive = prediction.probabilities["pos"] >= entry["value"]
        assert prediction.label == ("pos" if is_positive else "neg")
        assert prediction.confidence == prediction.probabilities[prediction.label]


def test_evaluation_counts_what_the_threshold_answers(decided, noisy_reviews):
    rows = noisy_reviews(60, seed=4)
    evaluation = bertfit.evaluate(decided[0].run, rows)
    value = read(decided[0])["threshold"]["value"]
    answered = (evaluation.probabilities[:, 1] >= value).astype(int)
    assert evaluation.threshold == evaluation.to_json()["threshold"] == value
    np.testing.assert_array_equal(evaluation.predicted_ids, answered)
    accuracy = np.mean(answered == evaluation.label_ids)
    assert evaluation.scores.accuracy == pytest.approx(accuracy)
    assert evaluation.intervals["accuracy"].low <= accuracy <= evaluation.intervals["accuracy"].high
    assert evaluation.confidence.error_rate == pytest.approx(1 - accuracy)


def test_the_curve_is_that_of_what_the_threshold_answers(decided):
    """Its confidence may be below 0.5."""
    record = read(decided[0])
    kept = read_predictions(decided[0].run / VALIDATION_NAME, record["label_names"])
    answered = decide(kept.probabilities, record["threshold"]["value"])
    confidences = kept.probabilities[np.arange(len(answered)), answered]
    assert confidences.min() < 0.5
    curve = keep_curve(confidences, answered == kept.label_ids)
    assert record["selective"] == curve.to_json()


@pytest.mark.parametrize(
    ("calibration", "has_bias", "kind", "is_shifted"),
    [
        ("auto", True, "vector", True),
        ("auto", False, "vector", False),
        ("temperature", True, "temperature", False),
    ],
)
def test_a_layer_is_scaled_as_it_can_be_and_as_was_asked_for(
    monkeypatch, calibration, has_bias, kind, is_shifted
):
    """The log odds are four times as high as they should be, and too low for the second class."""
    rng = np.random.default_rng(0)
    log_odds = 2 * rng.normal(size=2000)
    label_ids = (rng.random(2000) < expit(log_odds)).astype(int)
    logits = np.stack([-3 * log_odds, log_odds - 1], axis=1)
    monkeypatch.setattr(calibrating, "has_bias", lambda *_: has_bias)
    model = SimpleNamespace(
        classifier=SimpleNamespace(model=None), validation=SimpleNamespace(label_ids=label_ids)
    )
    settings = SimpleNamespace(calibration=calibration, seed=0)
    choice = calibrating._choose(model, (logits, None), "layer", None, settings=settings)
    assert choice.scaling.kind == kind
    assert any(choice.scaling.biases) == is_shifted


def test_the_folds_of_a_scaling_are_those_of_the_groups_and_of_the_seed(monkeypatch):
    rng, groups = np.random.default_rng(0), np.repeat([f"g{at}" for at in range(50)], 4)
    label_ids, logits = rng.integers(2, size=200), rng.normal(size=(200, 2))
    monkeypatch.setattr(calibrating, "has_bias", lambda *_: True)
    model = SimpleNamespace(
        classifier=SimpleNamespace(model=None), validation=SimpleNamespace(label_ids=label_ids)
    )
    settings = SimpleNamespace(calibration="auto", seed=3)
    found = calibrating._choose(model, (logits, None), "layer", groups, settings=settings)
    losses = [
        choose_scaling(logits, label_ids, groups=of, seed=seed).held_out_log_losses
        for of, seed in ((groups, 3), (None, 3), (groups, 0))
    ]
    assert [found.held_out_log_losses == one for one in losses] == [True, False, False]


def test_of_too_many_features_no_cubic_is_tried(monkeypatch):
    monkeypatch.setattr(calibrating, "_MAX_FEATURES", 15)
    monkeypatch.setattr(calibrating, "read_layer", lambda *_: (np.zeros((2, 8)), np.zeros(2)))
    logits = np.eye(2)
    classifier = SimpleNamespace(model=None, score_logits=lambda *_, **__: logits)
    model = SimpleNamespace(classifier=classifier, validation=SimpleNamespace(encoded=[0, 0]))
    found = calibrating._score(model, "classifier", settings=TrainSettings(), listener=Recorder())
    assert found[0] is logits
    assert found[1] is None


def test_the_threshold_is_noted_with_what_a_pipeline_does(decided):
    assert any(
        note.startswith("Threshold: 'pos' is predicted at a probability of 0.")
        for note in decided[1]
    )
    assert (
        "transformers.pipeline does not apply the threshold; it answers the most probable class."
    ) in decided[1]


@pytest.mark.parametrize(("number", "have"), [(1, "1 has"), (2, "2 have")])
def test_of_how_few_rows_a_threshold_is_chosen_is_told_in_good_grammar(number, have):
    listener = Recorder()
    learned = SimpleNamespace(label_ids=np.array([0] * 30 + [1] * number))
    learned.probabilities = np.eye(2)[learned.label_ids]
    threshold = SimpleNamespace(aim="f1", value=0.5, validation=SimpleNamespace(num_called=5))
    calibrating._warn_of_threshold(learned, threshold, ("neg", "pos"), listener)
    told = f"of the validation rows {have} the label 'pos', fewer than 20."
    assert listener.notes[0].endswith(told)


def test_a_threshold_of_few_rows_or_of_one_answer_is_warned_of(train, tmp_path, make_reviews):
    few = [row for label in ("pos", "neg") for row in make_reviews(60) if row["label"] == label][:3]
    few += [row for row in make_reviews(60) if row["label"] == "neg"][:2]
    listener = Recorder()
    train(tmp_path / "run", threshold_aim="cost:1,1000", validation=few * 2, listener=listener)
    warnings = [note for note in listener.notes if note.startswith("WARNING: the threshold")]
    told = "of the validation rows 4 have the label 'neg', fewer than 20."
    assert warnings == [f"WARNING: the threshold is little more than a guess: {told}"]
    listener.notes.clear()
    given = {"learning_rate": 1e-9, "threshold_aim": "f1"}
    rows = [{**row, "text": "the same"} for row in make_reviews(60)]  # which nobody tells apart
    train(tmp_path / "alike", **given, validation=rows, listener=listener)
    assert any(
        note.startswith("WARNING: with this threshold 'pos' is answered for every")
        for note in listener.notes
    )


def test_a_precision_that_few_rows_cannot_show_is_warned_of(train, tmp_path, make_reviews):
    """If all of 20 rows are right, the share of right ones may still be 0.83."""
    listener = Recorder()
    options = {"validation": make_reviews(40, seed=3), "listener": listener}
    result = train(tmp_path / "run", threshold_aim="precision>=0.99", **options)
    rates = read(result)["threshold"]["validation"]
    assert 0 < rates["num_called"] <= 40
    told = f"'pos' is predicted for {format_count(rates['num_called'], 'validation row')}, too few"
    (warning,) = (note for note in listener.notes if note.startswith("WARNING: the precision"))
    assert warning == (
        f"WARNING: the precision asked for cannot be shown: {told} for 0.99 even if all are right. "
        "Expect less, or give more validation rows."
    )
    ends = rates["precision_interval"]
    shown = f"→ {rates['precision']:.4f} ({ends['low']:.4f} to {ends['high']:.4f}), recall"
    assert any(shown in note for note in listener.notes)
    listener.notes.clear()
    train(tmp_path / "low", threshold_aim="precision>=0.5", **options)
    assert not any(note.startswith("WARNING: the precision") for note in listener.notes)


@pytest.mark.parametrize(
    ("aim", "num_called", "is_warned"),
    [
        ("precision>=0.9", 36, True),
        ("precision>=0.9", 38, False),
        ("precision>=1", 1_000_000, True),  # no number of rows shows that all are right
        ("recall>=0.9", 1, False),
        ("f1", 1, False),
    ],
)
def test_only_a_precision_needs_rows_that_are_called(aim, num_called, is_warned):
    listener, high = Recorder(), np.linspace(0, 1, 100)
    learned = SimpleNamespace(
        label_ids=np.arange(100) // 50, probabilities=np.column_stack([1 - high, high])
    )
    rates = SimpleNamespace(num_called=num_called, num_rows=2_000_000)
    threshold = SimpleNamespace(value=0.5, aim=aim, validation=rates)
    calibrating._warn_of_threshold(learned, threshold, ("neg", "pos"), listener)
    assert len(listener.notes) == is_warned


def test_beside_a_baseline_the_model_answers_the_most_probable_class(train, tmp_path):
    options = {"baseline": True, "batch_size": 4, "epochs": 3, "learning_rate": 0.03}
    result = train(tmp_path / "run", threshold_aim="recall>=0.999", **options)
    comparison, judged = result.test.comparison, result.test.evaluation
    probable = judged.probabilities.argmax(axis=1) == judged.label_ids
    assert judged.scores.accuracy < probable.mean()  # else this shows nothing
    assert comparison.model_accuracy == pytest.approx(probable.mean())
    interval = comparison.model_intervals["accuracy"]
    assert interval.low <= probable.mean() <= interval.high
    page = (result.run / "report.html").read_text(encoding="utf-8")
    table = page[page.index('<section id="baselines">') :].partition("</section>")[0]
    assert f"{100 * probable.mean():.1f} %" in table
    assert f"{100 * judged.scores.accuracy:.1f} %" not in table


def test_a_precision_that_cannot_be_had_is_a_warning(train, tmp_path):
    """One text with both labels, as often: at any threshold, half of what is found is right."""
    listener = Recorder()
    halves = [{"text": "a good film", "label": label} for label in ("pos", "neg")] * 4
    options = {"threshold_aim": "precision>=1", "validation": halves, "listener": listener}
    assert read(train(tmp_path / "run", **options))["threshold"] is None
    assert (
        "WARNING: threshold_aim precision>=1: no threshold reaches precision 1; the highest is "
        "0.5000 on the validation rows. There is no threshold; the most probable class is answered."
    ) in listener.notes


@pytest.mark.parametrize(
    ("num_classes", "told"),
    [(3, "3: a, b, c"), (12, "12: a, b, c, d, e, f, g, h, i, j and 2 more")],
)
def test_a_threshold_for_many_classes_is_refused_before_training(tmp_path, num_classes, told):
    names = "abcdefghijkl"
    rows = [{"text": f"film {row}", "label": names[row % num_classes]} for row in range(48)]
    with pytest.raises(ConfigError) as caught:
        bertfit.train(rows, tmp_path / "run", threshold_aim="f1")
    assert caught.value.message == (
        f"threshold_aim: a threshold decides between two classes, the data has {told}"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_the_calibration_out(train, tmp_path):
    def interrupt(task, done):
        if (task, done) == ("calibrating", 200):
            signal.raise_signal(signal.SIGINT)

    listener = Recorder(interrupt)
    result = train(tmp_path / "run", listener=listener)
    record = read(result)
    assert [record[name] for name in ("calibration", "threshold", "selective")] == [None] * 3
    assert "Interrupted: the model's confidence was not calibrated." in listener.notes
    loaded = TextClassifier.load(result.run)
    assert loaded.expect_selective(0.9) is None
    assert len(loaded.predict(TEXTS)) == len(TEXTS)


def test_weights_that_cannot_be_written_leave_the_old_ones(train, tmp_path, monkeypatch):
    real = calibrating.save_model

    def fail(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def save(model, folder):
        monkeypatch.setattr(model, "save_pretrained", fail)
        real(model, folder)

    monkeypatch.setattr(calibrating, "save_model", save)
    with pytest.raises(OSError, match="No space"):
        train(tmp_path / "run")
    (kept,) = tmp_path.iterdir()
    assert kept.name == "run.unfinished"
    assert not [path for path in kept.iterdir() if path.name.startswith(".")]
    assert len(TextClassifier.load(kept).predict(TEXTS)) == len(TEXTS)


def test_a_scaled_layer_is_read_by_log_probabilities_too(runs):
    """Scaling is what it says: log-odds of the two runs differ by the temperature."""
    calibrated, plain = (
        log_softmax(result.classifier.score_logits(result.classifier.encode(TEXTS)), axis=1)
        for result in runs[:2]
    )
    odds = (calibrated[:, 1] - calibrated[:, 0]) / (plain[:, 1] - plain[:, 0])
    np.testing.assert_allclose(odds, 1 / read(runs[0])["calibration"]["temperature"], rtol=1e-3)
