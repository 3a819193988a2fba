"""TextClassifier: loading, predictions, and bounded memory."""

from __future__ import annotations

import copy
import dataclasses
import errno
import itertools
import json
import pickle
import subprocess
import sys
import weakref

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    ModernBertConfig,
    ModernBertForTokenClassification,
    PreTrainedTokenizerFast,
)

from bertfit import Prediction, TextClassifier
from bertfit.data.encoding import EncodingRule
from bertfit.errors import ConfigError, DataError, ModelError, RunError
from bertfit.inference import loading, predictor, working_copy
from bertfit.inference.confidence import ConfidenceRules, UncalibratedLayer
from bertfit.modeling import attention
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.saving import save_model
from bertfit.modeling.soundness import mark_padding, reads_padding
from bertfit.run_directory import stage_run
from tests.limits import limiting_files, without_collection

TEXTS = ["a good film", "bad", "the plot of the movie was poor and the acting was awful", "fine"]


@pytest.fixture(scope="module")
def classifier(tiny_model_dir) -> TextClassifier:
    loaded = load_classifier(str(tiny_model_dir), ["bad", "fair", "good"])
    with torch.no_grad():  # the weights of a start hardly tell texts apart
        for parameter in loaded.model.parameters():
            parameter.mul_(5)
    rule = EncodingRule(max_length=10, truncation="tail")
    return TextClassifier(
        loaded.model,
        loaded.tokenizer,
        rule=rule,
        precision=choose_precision("cpu", "float32"),
    )


@pytest.fixture
def model_folder(classifier, tmp_path):
    """Give a plain Hugging Face folder of the classifier."""
    save_model(classifier.model, tmp_path / "model")
    classifier.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def run(classifier, tmp_path):
    """Give a run of the classifier."""
    staging = stage_run(tmp_path / "run", overwrite=False)
    save_model(classifier.model, staging.folder)
    classifier.tokenizer.save_pretrained(staging.folder)
    staging.publish({"encoding": classifier.encoding_record()})
    return tmp_path / "run"


def test_a_prediction_is_the_most_probable_label(classifier):
    for prediction in classifier.predict(TEXTS):
        best = max(prediction.probabilities, key=prediction.probabilities.__getitem__)
        assert prediction.label == best
        assert prediction.confidence == prediction.probabilities[best]


def test_probabilities_are_by_name_in_order_of_ids_and_sum_to_one(classifier):
    (prediction,) = classifier.predict(["good"])
    assert list(prediction.probabilities) == ["bad", "fair", "good"]
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_a_prediction_is_shown_with_its_confidence():
    assert str(Prediction("pos", 0.9977, {"neg": 0.0023, "pos": 0.9977})) == "pos (0.998)"


def test_predictions_stand_in_the_order_of_the_texts(classifier):
    texts = ["good " * (number * 7 % 11) for number in range(11)]
    together = [prediction.probabilities for prediction in classifier.predict(texts)]
    alone = [classifier.predict(text)[0].probabilities for text in texts]
    for a, b in zip(together, alone, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_a_single_string_is_one_text(classifier):
    assert len(classifier.predict("a good film")) == 1


@pytest.mark.parametrize("make", [tuple, iter, pd.Series, np.array])
def test_any_iterable_of_texts_will_do(classifier, make):
    assert classifier.predict(make(TEXTS)) == classifier.predict(TEXTS)


@pytest.mark.parametrize("make", [list, np.array])
def test_a_text_may_be_a_list_of_tokens(classifier, make):
    tokens = [make(text.split()) for text in ("good film", "a bad film")]
    assert classifier.predict(tokens) == classifier.predict(["good film", "a bad film"])


@pytest.mark.parametrize("odd", [None, 1, float("nan"), ["a", 1], ("a text", "its label")])
def test_what_is_no_text_is_named_with_its_place(classifier, odd):
    with pytest.raises(DataError, match=r"texts\[1\] is .*a string or a list of strings"):
        classifier.predict(["good", odd])
    with pytest.raises(DataError, match="expected a string, strings or a table, got 5"):
        classifier.predict(5)


@pytest.mark.parametrize("columns", [["text", "label"], ["text"]])
def test_the_values_of_a_frame_are_no_texts(classifier, columns):
    """Read as lists of tokens, a label would be a part of its text."""
    rows = pd.DataFrame({"text": TEXTS, "label": "bad"})[columns].to_numpy()
    for predict in (classifier.predict, lambda texts: list(classifier.predict_stream(texts))):
        with pytest.raises(DataError, match=r"texts: expected .*, got array"):
            predict(rows)


@pytest.mark.parametrize("texts", [{"text": TEXTS * 999}, b"good" * 999, set(map(str, range(999)))])
def test_an_error_does_not_repeat_a_whole_data_set(classifier, texts):
    for predict in (classifier.predict, classifier.predict_stream):
        with pytest.raises(DataError, match="texts: expected") as caught:
            predict(texts)
        assert len(str(caught.value)) < 300
    with pytest.raises(DataError, match=r"texts\[0\] is") as caught:
        classifier.predict([list(range(10_000))])
    assert len(str(caught.value)) < 200


def test_what_is_not_encoded_is_not_scored(classifier):
    with pytest.raises(
        DataError, match=r"encoded: expected what encode\(texts\) returns, got list"
    ):
        classifier.score(["a good film"])


def test_a_classifier_shows_what_it_is(classifier):
    assert repr(classifier) == "<TextClassifier of bad, fair, good; float32 on cpu>"


def test_the_warning_of_a_changed_file_names_the_place_that_loads(run):
    with (run / "config.json").open("a") as file:
        file.write(" ")
    with pytest.warns(UserWarning, match="config.json") as caught:
        TextClassifier.load(run)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_tokenizer_may_be_saved_to_a_path_that_is_a_string(classifier, tmp_path):
    copy.deepcopy(classifier).save_tokenizer(str(tmp_path / "tokenizer"))  # which changes it
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()


LOAD_IN_THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import bertfit
with ThreadPoolExecutor(4) as threads:
    list(threads.map(lambda _: bertfit.TextClassifier.load(sys.argv[1]), range(4)))
"""


def test_the_first_models_may_be_loaded_by_several_threads(run):
    command = [sys.executable, "-W", "ignore", "-c", LOAD_IN_THREADS, str(run)]
    subprocess.run(command, check=True, timeout=100)


def test_a_data_frame_has_one_prediction_a_row(classifier):
    """Iterating over a frame gives its column names: they must not be taken for texts."""
    frame = pd.DataFrame({"text": TEXTS, "label": "bad"})
    assert classifier.predict(frame) == classifier.predict(TEXTS)


def test_a_table_is_read_by_the_text_column_of_the_training(classifier):
    other = copy.deepcopy(classifier)
    other.record = {"settings": {"text_column": {"value": "review"}}}
    table = [{"text": "bad", "review": "a good film"}]
    expected = other.predict_probabilities("a good film")
    np.testing.assert_array_equal(other.predict_probabilities(table), expected)


def test_no_texts_have_no_predictions(classifier):
    assert classifier.predict([]) == []
    assert classifier.predict_probabilities([]).shape == (0, 3)


def test_an_empty_text_is_predicted_too(classifier):
    """One in a batch must not cost the others their answers."""
    predictions = classifier.predict(["", "good", "  "])
    assert [prediction.label is not None for prediction in predictions] == [True] * 3
    assert predictions[0] == predictions[2]
    assert predictions[1].confidence == pytest.approx(classifier.predict("good")[0].confidence)


def test_an_empty_text_of_a_table_is_refused(classifier):
    for method in (classifier.predict, classifier.predict_probabilities):
        with pytest.raises(DataError, match="rows:2: the text is empty"):
            method([{"text": "good"}, {"text": " "}])


@pytest.mark.parametrize("known", [False, True])
def test_the_model_of_a_training_is_not_tried_again(run, monkeypatch, known):
    """It takes a tenth of a second, which is much for one text."""
    monkeypatch.setattr(loading, "try_model", lambda *_: pytest.fail("tried again"))
    change_json(run / "bertfit.json", training={"reads_padding": known})
    assert reads_padding(TextClassifier.load(run).model) is known


def test_a_run_named_like_the_embedded_model_is_loaded(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    run.rename("embedded")
    assert TextClassifier.load("embedded").label_names == ("bad", "fair", "good")


def test_weights_saved_over_those_of_a_run_are_noticed(run):
    weights = load_file(run / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, run / "model.safetensors")
    told = []
    TextClassifier.load(run, tell=told.append)
    (first,) = told
    assert first == (
        f"WARNING: model.safetensors in {run} was changed or removed after the run was made. The "
        "scores and the calibration in bertfit.json may not hold any more. Restore the file, or "
        "train again."
    )
    (run / "tokenizer_config.json").write_text("{}")
    TextClassifier.load(run, tell=told.append)
    assert "model.safetensors, tokenizer_config.json in" in told[1]
    assert "were changed" in told[1]


@pytest.mark.parametrize("dtype", ["int8", "bogus", 5])
def test_a_run_is_not_loaded_for_arithmetic_that_there_is_not(run, dtype):
    with pytest.raises(ConfigError, match="dtype: expected one of auto, float32, bfloat16, got"):
        TextClassifier.load(run, dtype=dtype)


def test_predict_probabilities_gives_what_predict_gives(classifier):
    probabilities = classifier.predict_probabilities(TEXTS)
    by_name = [list(prediction.probabilities.values()) for prediction in classifier.predict(TEXTS)]
    np.testing.assert_array_equal(probabilities, by_name)


def test_more_texts_than_a_chunk_stay_in_order(classifier, monkeypatch):
    expected = classifier.predict_probabilities(TEXTS * 3)
    monkeypatch.setattr(predictor, "_CHUNK", (5, 2**24))
    np.testing.assert_allclose(classifier.predict_probabilities(TEXTS * 3), expected, atol=1e-6)


def test_a_stream_takes_texts_a_chunk_at_a_time(classifier, monkeypatch):
    """A million rows must be possible: what is held never grows with their number."""
    monkeypatch.setattr(predictor, "_CHUNK", (4, 2**24))
    num_taken = 0

    def endless_texts():
        nonlocal num_taken
        for number in itertools.count():
            num_taken += 1
            yield f"film {number % 9}"

    stream = classifier.predict_stream(endless_texts())
    assert num_taken == 0
    taken_after = [num_taken for _ in itertools.islice(stream, 9)]
    needed = [4, 4, 4, 4, 8, 8, 8, 8, 12]
    # One chunk more may have been made ready meanwhile.
    ahead = [taken - least for taken, least in zip(taken_after, needed, strict=True)]
    assert all(0 <= number <= 4 for number in ahead)
    stream.close()


def test_a_run_is_loaded_with_its_rule(run):
    classifier = TextClassifier.load(run)
    assert classifier.rule == EncodingRule(max_length=10, truncation="tail")
    assert classifier.label_names == ("bad", "fair", "good")


def test_a_loaded_run_predicts_what_the_saved_model_did(run, classifier):
    trained = copy.deepcopy(classifier)
    plug_in(trained.model, torch.device("cpu"))  # as train does, before it scores and saves
    loaded = TextClassifier.load(str(run))
    np.testing.assert_array_equal(
        loaded.predict_probabilities(TEXTS), trained.predict_probabilities(TEXTS)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dropped_classifier_is_freed_without_a_search_for_garbage(run, dtype):
    classifier = TextClassifier.load(run, dtype=dtype)
    classifier.predict(["a good film"])
    models = [classifier.model, classifier._working.take(classifier.model, classifier.precision)]
    weights = [weakref.ref(weight) for model in models for weight in model.parameters()]
    del models
    with without_collection():
        del classifier
        assert [weight() for weight in weights] == [None] * len(weights)


def test_a_loaded_run_keeps_its_record(run):
    assert TextClassifier.load(run).record == json.loads((run / "bertfit.json").read_text())


def test_a_plain_model_folder_is_cut_at_the_models_limit(model_folder):
    classifier = TextClassifier.load(model_folder)
    assert classifier.rule == EncodingRule(max_length=64)
    assert classifier.record == {}


def test_a_plain_model_folder_is_scored_as_transformers_scores_it(model_folder, classifier):
    inputs = classifier.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = torch.softmax(classifier.model.eval()(**inputs).logits, dim=1)
    probabilities = TextClassifier.load(model_folder).predict_probabilities(TEXTS)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-6)


def test_float32_is_the_default(run):
    assert TextClassifier.load(run).precision.dtype_name == "float32"


@pytest.mark.parametrize(
    ("trained_with", "features", "dtype"),
    [
        ("bfloat16", {"avx512_bf16": True}, "bfloat16"),
        ("bfloat16", {}, "float32"),
        ("float32", {"avx512_bf16": True}, "float32"),
    ],
)
def test_the_type_of_the_training_is_taken_where_it_is_quick(
    run, monkeypatch, trained_with, features, dtype
):
    record = json.loads((run / "bertfit.json").read_text())
    record["training"] = {"dtype": trained_with}
    (run / "bertfit.json").write_text(json.dumps(record))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    loaded = TextClassifier.load(run, device="cpu", dtype=None)
    assert loaded.precision.dtype_name == dtype


def test_bfloat16_is_near_to_float32(run):
    fast = TextClassifier.load(run, device="cpu", dtype="bfloat16").predict_probabilities(TEXTS)
    exact = TextClassifier.load(run, device="cpu").predict_probabilities(TEXTS)
    np.testing.assert_allclose(fast, exact, atol=0.1)


def test_padding_uses_the_tokenizers_pad_token(classifier):
    assert classifier.pad_id == classifier.tokenizer.pad_token_id


def test_a_tokenizer_without_a_token_for_padding_pads_with_any(classifier):
    """What is padded is masked."""
    other = copy.deepcopy(classifier)
    other.tokenizer.pad_token = None
    assert other.pad_id == 0
    expected = classifier.predict_probabilities(TEXTS)
    np.testing.assert_allclose(other.predict_probabilities(TEXTS), expected, atol=1e-6)


def test_encode_reports_its_progress(classifier):
    seen = []
    classifier.encode(TEXTS, on_progress=lambda *report: seen.append(report))
    assert seen == [(4, 4)]


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(RunError) as caught:
        TextClassifier.load(tmp_path / "none")
    assert str(caught.value) == (
        f"the run {tmp_path / 'none'} does not exist\nbertfit train makes one."
    )


def test_a_folder_that_is_neither_run_nor_model_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a complete run: it has no bertfit"):
        TextClassifier.load(tmp_path)


def test_a_folder_of_checkpoints_is_no_killed_run(model_folder):
    """Trainer writes such folders; the advice was to train the run again."""
    with pytest.raises(ModelError, match="it has no config") as caught:
        TextClassifier.load(model_folder.parent)
    assert caught.value.hint == f"Name a model folder in it, such as {model_folder}"


def test_a_run_without_weights_is_refused(run):
    (run / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        TextClassifier.load(run)


@pytest.mark.parametrize(
    "encoding",
    [
        None,
        {},
        {"max_length": 8, "nonesuch": 1},
        {"max_length": "8"},
        {"max_length": 8, "truncation": "middle"},
        {"max_length": 8, "head_fraction": 2},
        {"max_length": 8, "text_cleaning": "auto"},
    ],
)
def test_a_record_without_a_rule_is_explained(run, encoding):
    path = run / "bertfit.json"
    record = json.loads(path.read_text())
    record.pop("encoding")
    path.write_text(json.dumps(record if encoding is None else record | {"encoding": encoding}))
    with pytest.raises(RunError, match="encoding"):
        TextClassifier.load(run)


def test_padding_asked_of_the_tokenizer_does_not_reach_predictions(classifier):
    """Calling a tokenizer of transformers switches padding on inside it, for good."""
    before = classifier.predict(TEXTS)
    classifier.tokenizer(TEXTS, padding=True, truncation=True, max_length=4)
    assert classifier.predict(TEXTS) == before


def test_abstaining_leaves_out_the_label_and_nothing_else(classifier):
    plain = classifier.predict(TEXTS)
    least = sorted(prediction.confidence for prediction in plain)[2]
    for one, other in zip(plain, classifier.predict(TEXTS, abstain_below=least), strict=True):
        label = one.label if one.confidence >= least else None
        assert other == dataclasses.replace(one, label=label)


def test_a_prediction_tells_whether_its_text_was_read_whole(classifier):
    room = classifier.rule.max_length - 2
    texts = [" ".join(["film"] * num_words) for num_words in (room + 1, room, 1)]
    told = [prediction.is_truncated for prediction in classifier.predict(texts)]
    assert told == [True, False, False]


def test_an_abstention_is_shown_with_the_confidence():
    assert str(Prediction(None, 0.6, {"neg": 0.4, "pos": 0.6})) == "abstained (0.600)"


@pytest.mark.parametrize("value", [0, 1.5, -1])
def test_a_confidence_out_of_range_is_refused_before_any_text_is_read(classifier, value):
    with pytest.raises(ConfigError, match="abstain_below: expected a confidence above 0"):
        classifier.predict_stream(iter([]), abstain_below=value)


def test_a_model_that_bertfit_did_not_train_tells_nothing_to_expect(classifier):
    assert classifier.expect_selective(0.9) is None


def test_probabilities_are_the_softmax_of_the_logits(classifier):
    encoded = classifier.encode(TEXTS)
    logits = classifier.score_logits(encoded)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.score(encoded), expected, rtol=1e-5)


def test_encoding_beside_scoring_changes_neither(classifier, monkeypatch, make_reviews):
    texts = [row["text"] for row in make_reviews(23)]
    encoded = classifier.encode(texts)
    logits = classifier.score_logits(encoded)
    monkeypatch.setattr(predictor, "_CHUNK", (5, 2**24))
    seen = []
    found, found_logits = classifier.encode_and_score(
        texts, on_progress=lambda done, total: seen.append((done, total))
    )
    for name in ("token_ids", "offsets", "full_lengths"):
        np.testing.assert_array_equal(getattr(found, name), getattr(encoded, name))
    np.testing.assert_allclose(found_logits, logits, atol=1e-6)
    assert seen[-1] == (23, 23)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_no_texts_are_encoded_and_scored_to_nothing(classifier):
    encoded, logits = classifier.encode_and_score([])
    assert (len(encoded), logits.shape) == (0, (0, len(classifier.label_names)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_worker_gets_a_classifier_by_pickle(model_folder, dtype, monkeypatch):
    classifier = TextClassifier.load(model_folder, dtype=dtype)
    classifier.record = {"settings": {}}
    classifier.confidence = ConfidenceRules(threshold=0.4)
    pickled = pickle.dumps(classifier)
    # A new process does not know bertfit's attention yet.
    monkeypatch.delitem(transformers.AttentionInterface._global_mapping, attention.NAME)
    again = pickle.loads(pickled)  # noqa: S301 (our own, as multiprocessing does)
    np.testing.assert_array_equal(
        again.predict_probabilities(TEXTS), classifier.predict_probabilities(TEXTS)
    )
    for name in ("rule", "label_names", "precision", "record", "confidence"):
        assert getattr(again, name) == getattr(classifier, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_unpickling_does_not_depend_on_what_the_process_has_set(classifier, dtype):
    pickled = pickle.dumps(classifier)
    expected = pickle.loads(pickled).predict_probabilities(TEXTS)  # noqa: S301 (as above)
    torch.manual_seed(3)
    random = torch.rand(1, dtype=torch.float32)
    torch.manual_seed(3)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"), torch.inference_mode():
            again = pickle.loads(pickled)  # noqa: S301 (as above)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.rand(1), random)
    assert {weight.dtype for weight in again.model.parameters()} == {torch.float32}
    assert not any(weight.is_inference() for weight in again.model.parameters())
    np.testing.assert_array_equal(again.predict_probabilities(TEXTS), expected)


def test_a_model_that_reads_padding_does_so_after_pickling(classifier):
    marked = copy.deepcopy(classifier)
    mark_padding(marked.model, reads_it=True)
    again = pickle.loads(pickle.dumps(marked))  # noqa: S301 (as above)
    assert reads_padding(again.model)
    assert not reads_padding(classifier.model)


def test_a_label_that_a_threshold_decided_has_its_own_probability(classifier):
    two = copy.deepcopy(classifier)
    two.model.config.id2label = {0: "bad", 1: "good"}
    scores = np.array([[0.7, 0.3], [0.9, 0.1]])
    two.score = lambda _encoded: scores
    two.confidence = ConfidenceRules(threshold=0.2)
    found = [(one.label, one.confidence) for one in two.predict(TEXTS[:2])]
    assert found == [("good", 0.3), ("bad", 0.9)]


@pytest.mark.parametrize(("truncation", "side"), [("head", "right"), ("tail", "left")])
def test_the_saved_tokenizer_cuts_at_the_same_end(classifier, tmp_path, truncation, side):
    saved = copy.deepcopy(classifier)
    saved.rule = EncodingRule(max_length=6, truncation=truncation)
    saved.save_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.truncation_side == side
    ids = tokenizer(TEXTS[2], truncation=True)["input_ids"]
    assert ids == saved.encode(TEXTS[2:3]).gather(np.array([0])).tolist()
    save_model(saved.model, tmp_path)  # as a training that failed leaves it, without a record
    plain = TextClassifier.load(tmp_path)
    assert plain.rule == saved.rule


def test_a_model_is_copied_once_and_anew_where_a_weight_changed(model_folder, monkeypatch):
    made, plain = [], working_copy.copy_for_work

    def copy_for_work(model, precision):
        made.append(model)
        return plain(model, precision)

    monkeypatch.setattr(working_copy, "copy_for_work", copy_for_work)
    classifier = TextClassifier.load(model_folder, dtype="bfloat16")
    before = classifier.predict_probabilities(TEXTS)
    np.testing.assert_array_equal(classifier.predict_probabilities(TEXTS), before)
    assert len(made) == 1
    with torch.no_grad():
        classifier.model.classifier.bias[0] += 1
    after = classifier.predict_probabilities(TEXTS)
    assert len(made) == 2
    assert (after[:, 0] > before[:, 0]).all()
    classifier.model.classifier.bias = torch.nn.Parameter(torch.zeros(3))
    classifier.predict(TEXTS)
    assert len(made) == 3


def test_a_classifier_is_in_eval_mode_whatever_its_model_was(model_folder):
    loaded = load_classifier(str(model_folder), dropout=0.5)
    loaded.model.train()
    classifier = TextClassifier(
        loaded.model,
        loaded.tokenizer,
        rule=EncodingRule(max_length=16),
        precision=choose_precision("cpu", "float32"),
    )
    assert not classifier.model.training


def test_probabilities_take_what_predictions_take(model_folder):
    classifier = TextClassifier.load(model_folder)
    expected = classifier.predict_probabilities(["good film"])
    for texts in (
        "good film",
        [["good", "film"]],
        [{"text": "good film"}],
        pa.array(["good film"]),
    ):
        np.testing.assert_array_equal(classifier.predict_probabilities(texts), expected)
        assert len(classifier.predict(texts)) == 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"text": "good"}, "expected a string, strings or a table"),
        ([None], r"texts\[0\] is None"),
        (["good", "bad \ud800"], r"texts\[1\] has a lone surrogate U\+D800 at offset 4"),
        ([{"text": "good"}, "bad"], r"texts\[0\] is \{"),
    ],
)
def test_what_is_no_text_is_refused(model_folder, texts, message):
    classifier = TextClassifier.load(model_folder)
    for method in (classifier.predict, classifier.predict_probabilities):
        with pytest.raises(DataError, match=message):
            method(texts)


def test_a_stream_is_no_string(model_folder):
    with pytest.raises(DataError, match="expected an iterable of texts, got the string 'good'"):
        TextClassifier.load(model_folder).predict_stream("good")


@pytest.mark.parametrize(
    "texts",
    [
        *(None, 5, b"good", {"text": "good"}, np.array("good"), pd.DataFrame({"text": ["a"]})),
        datasets.Dataset.from_dict({"text": ["a"]}),
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_a_stream_of_what_is_no_texts_is_refused_at_once(classifier, texts):
    """A frame gives the names of its columns, which would have been predicted."""
    with pytest.raises(
        DataError,
        match=r"texts: expected (an iterable of texts|texts in an order, such as a list), got ",
    ):
        classifier.predict_stream(texts)


@pytest.mark.parametrize(
    "table", [pd.DataFrame({"body": ["a"]}), [{"body": "a"}]], ids=["frame", "dicts"]
)
def test_a_table_without_a_column_of_texts_is_refused_with_what_to_give(classifier, table):
    with pytest.raises(DataError, match="no text column: columns are body") as caught:
        classifier.predict(table)
    assert type(caught.value) is DataError
    assert caught.value.hint == "Or give the texts themselves, such as table['body']."


def test_a_batch_of_arrow_is_a_table(classifier):
    (batch,) = pa.table({"text": ["good film", "bad film"]}).to_batches()
    assert classifier.predict(batch) == classifier.predict(["good film", "bad film"])


@pytest.mark.parametrize("odd", [None, 1, b"good", float("nan"), {"text": "good"}, "a\ud800"])
def test_a_text_of_a_stream_that_is_none_is_named_with_its_place(classifier, odd):
    with pytest.raises(DataError, match=r"^texts\[1\] "):
        list(classifier.predict_stream(["good", odd]))


@pytest.mark.parametrize("make", [pa.array, lambda texts: pa.chunked_array([texts, texts])])
def test_a_stream_takes_arrays_of_arrow(classifier, make):
    texts = make(["good film", "bad film"])
    assert list(classifier.predict_stream(texts)) == classifier.predict(texts)


def test_a_list_of_two_tokens_is_no_pair_of_texts_in_a_stream(classifier):
    tokens = [["good", "film"], ["bad", "film"]]
    assert list(classifier.predict_stream(tokens)) == classifier.predict(tokens)


@pytest.mark.parametrize("texts", [b"good", np.array("good")])
def test_what_holds_no_texts_is_told_as_what_it_is(classifier, texts):
    with pytest.raises(DataError, match="texts: expected a string, strings or a table, got "):
        classifier.predict(texts)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 32},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 4},
        {"model_type": "gpt2"},
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(run, changes):
    """transformers would make up what is missing, and answer at random."""
    change_json(run / "config.json", **changes)
    with pytest.raises(ModelError, match=r"do not fit its config|cannot be loaded"):
        TextClassifier.load(run)


def test_a_head_that_is_missing_is_refused_in_a_plain_folder_too(model_folder):
    save_model(load_classifier(str(model_folder)).model.base_model, model_folder)
    with pytest.raises(ModelError, match="New weights, trained from scratch: classifier") as caught:
        TextClassifier.load(model_folder)
    assert caught.value.message.startswith(f"{model_folder} is not a classifier: it has no ")
    assert f"bertfit train TRAIN --model {model_folder} " in caught.value.hint


def test_a_run_whose_head_was_lost_is_damaged_and_no_encoder(run):
    save_model(load_classifier(str(run)).model.base_model, run)
    change_json(run / "config.json", id2label={"0": "neg", "1": "pos"})
    with pytest.raises(ModelError, match=r"do not fit its config\.json") as caught:
        TextClassifier.load(run)
    assert "train again" in caught.value.hint


def test_half_a_head_is_no_missing_head(model_folder):
    path = model_folder / "model.safetensors"
    weights = load_file(path)
    del weights["classifier.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit its config\.json"):
        TextClassifier.load(model_folder)


def test_other_labels_than_the_record_has_are_refused(run):
    names = json.loads((run / "config.json").read_text())["id2label"]
    change_json(run / "bertfit.json", label_names=list(names.values()))
    assert TextClassifier.load(run).label_names == tuple(names.values())
    change_json(run / "bertfit.json", label_names=[*names.values()][::-1])
    with pytest.raises(RunError, match=r"names the labels .* and bertfit\.json"):
        TextClassifier.load(run)


@pytest.mark.parametrize("names", [{"0": "a", "1": "a", "2": "b"}, {"0": [], "1": [], "2": 3}])
def test_labels_must_differ(run, names):
    change_json(run / "config.json", id2label=names)
    with pytest.raises(ModelError, match="expected names that differ"):
        TextClassifier.load(run)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_model_of_another_task_is_refused(model_folder, run, kind):
    """Its outputs are no shares of one; those of a run are, whatever it started from."""
    for folder in (model_folder, run):
        change_json(folder / "config.json", problem_type=kind)
    with pytest.raises(ModelError, match=f"problem_type '{kind}': bertfit answers one label"):
        TextClassifier.load(model_folder)
    told = []
    classifier = TextClassifier.load(run, tell=told.append)
    assert len(classifier.predict("good")[0].probabilities) == 3
    assert len(told) == 1
    assert "config.json" in told[0]


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"architectures": 7}, "says architectures 7"),
        ({"architectures": [1]}, r"says architectures \[1\]"),
        ({"problem_type": ["x"]}, "problem_type"),
    ],
)
def test_entries_of_a_wrong_type_are_explained(model_folder, entries, told):
    change_json(model_folder / "config.json", **entries)
    with pytest.raises(ModelError, match=told):
        TextClassifier.load(model_folder)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_names_no_code_of_the_hub(model_folder, name):
    """Transformers gets such kernels, and runs them, if the package `kernels` is there."""
    change_json(model_folder / "config.json", **{name: "somebody/kernels"})
    classifier = TextClassifier.load(model_folder)
    assert classifier.model.config._attn_implementation != "somebody/kernels"


def test_a_classifier_of_words_is_refused(classifier, tmp_path):
    """In ModernBERT, its weights have the names and sizes of a classifier of texts."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ModernBertConfig(vocab_size=99, pad_token_id=0, num_labels=5, **sizes)
    ModernBertForTokenClassification(config).save_pretrained(tmp_path)
    classifier.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="says ModernBertForTokenClassification") as caught:
        TextClassifier.load(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path} is not a text classifier")
    assert f"bertfit train TRAIN --model {tmp_path} " in caught.value.hint


def test_a_model_with_one_output_is_refused(tiny_model_dir, tmp_path):
    """It would be sure of everything."""
    loaded = load_classifier(str(tiny_model_dir), ["score"])
    save_model(loaded.model, tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="one output: bertfit answers one label per text, of two"):
        TextClassifier.load(tmp_path)


def test_tokens_that_the_tokenizer_alone_has_are_refused(model_folder):
    classifier = TextClassifier.load(model_folder)
    classifier.tokenizer.add_tokens(["[USER]"], special_tokens=True)
    classifier.tokenizer.save_pretrained(model_folder)
    texts = ["good", "", "so [USER] good", "bad [USER]"]
    with pytest.raises(ModelError, match=r"gives token \d+ in the text 'so \[USER\] good', but"):
        TextClassifier.load(model_folder).predict(texts)


def test_a_limit_beyond_the_models_is_refused(run):
    change_json(run / "bertfit.json", encoding={"max_length": 100_000})
    with pytest.raises(RunError, match="encoding"):
        TextClassifier.load(run)


def test_numbers_that_are_none_are_no_answer(model_folder):
    classifier = TextClassifier.load(model_folder)
    with torch.no_grad():
        classifier.model.classifier.bias[0] = float("nan")
    with pytest.raises(ModelError, match="numbers that are not finite"):
        classifier.predict(TEXTS)


@pytest.mark.parametrize(("cleaning", "side"), [("none", "left"), ("html_breaks", "right")])
def test_a_saved_tokenizer_names_as_its_class_did_and_pads_as_was_tried(
    classifier, tmp_path, cleaning, side
):
    """BERT's names token types, and XLNet's pads on the left; what cleans does neither.

    The class of XLNet names token types in transformers 4, and does not in 5. A model that reads no
    padding was tried with that on the right; GPT-2's answers from the first padding token on.
    """
    saved = copy.deepcopy(classifier)
    mark_padding(saved.model, reads_it=side == "left")
    saved.tokenizer.padding_side = "left"  # as the class of XLNet's has it
    saved.rule = dataclasses.replace(saved.rule, text_cleaning=cleaning)
    saved.save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]
    assert again.padding_side == side


def test_a_saved_tokenizer_names_nothing_that_the_model_does_not_take(classifier, tmp_path):
    """DistilBERT's, if read as one of BERT's class, named token types: transformers 4 failed."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    saved = copy.deepcopy(classifier)
    sizes = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "vocab_size": 100}
    saved.model = DistilBertForSequenceClassification(DistilBertConfig(**sizes))
    saved.save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"local_files_only", "is_local"} & set(config)


def test_a_saved_tokenizer_is_in_words_that_transformers_4_knows(classifier, tmp_path):
    """Version 4 has no class TokenizersBackend, and fails on extra_special_tokens that are a list.

    The exporters to ONNX still ask for that version.
    """
    saved = copy.deepcopy(classifier)
    backend = saved.tokenizer.backend_tokenizer
    saved.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, extra_special_tokens=["good"]
    )
    saved.save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["good"]
    assert "extra_special_tokens" not in config
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.extra_special_tokens == ["good"]
    assert again(TEXTS)["input_ids"] == classifier.tokenizer(TEXTS)["input_ids"]


def test_a_saved_tokenizer_neither_cuts_nor_pads_by_itself(classifier, tmp_path):
    """The file of MiniLM does both, to 128 tokens, whatever the limit of the run is."""
    saved = copy.deepcopy(classifier)
    saved.tokenizer.backend_tokenizer.enable_truncation(4)
    saved.tokenizer.backend_tokenizer.enable_padding(length=6)
    saved.save_tokenizer(tmp_path)
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    read = [encoding.ids for encoding in alone.encode_batch(TEXTS)]
    assert read == classifier.tokenizer(TEXTS)["input_ids"]


def test_a_saved_tokenizer_names_the_limit_of_the_run_alone(classifier, tmp_path):
    """fastembed cut texts at the base's, which transformers keeps in tokenizer_config.json."""
    saved = copy.deepcopy(classifier)
    saved.tokenizer.backend_tokenizer.enable_truncation(4)
    saved.tokenizer.backend_tokenizer.enable_padding(length=6, pad_to_multiple_of=8)
    saved.tokenizer.save_pretrained(tmp_path / "base")
    saved.tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert saved.tokenizer.init_kwargs["max_length"] == 4
    saved.rule = dataclasses.replace(saved.rule, max_length=7)
    saved.save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 7
    others = {"max_length", "stride", "truncation_strategy", "pad_to_multiple_of"}
    assert not others & config.keys()


def test_a_tokenizer_that_cannot_be_written_is_an_error_of_the_system(classifier, tmp_path):
    """The library that writes it raises a plain Exception, which ended commands in a traceback."""
    saved = copy.deepcopy(classifier)
    with limiting_files(1000), pytest.raises(OSError, match="File too large") as caught:
        saved.save_tokenizer(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path))


def test_an_uncalibrated_layer_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    layer = UncalibratedLayer("classifier", np.zeros((2, 8), np.float32), np.zeros(2, np.float32))
    with limiting_files(10), pytest.raises(OSError, match="File too large") as caught:
        layer.save(tmp_path)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("use", ["encode", "encode_and_score"])
@pytest.mark.parametrize("texts", ["good film", [None], ["\ud800"], {"good film", "bad"}])
def test_what_are_no_texts_is_refused_before_they_are_encoded(classifier, use, texts):
    with pytest.raises(DataError, match=r"^texts"):
        getattr(classifier, use)(texts)


def test_texts_without_an_order_are_refused(classifier):
    for texts in ({"good", "bad"}, frozenset({"good"}), bytearray(b"good"), memoryview(b"good")):
        with pytest.raises(DataError, match="expected a string, strings or a table"):
            classifier.predict(texts)
    by_text = {"good film": 1, "bad film": 2}
    assert classifier.predict(by_text.keys()) == classifier.predict(list(by_text))


def test_predictions_can_be_counted(classifier):
    (one,) = classifier.predict("good film")
    assert {one: 1}[classifier.predict("good film")[0]] == 1


def test_a_wrong_tell_is_refused_before_there_is_anything_to_tell(run):
    with pytest.raises(ConfigError, match=r"^tell: expected a function of a sentence, got None$"):
        TextClassifier.load(run, tell=None)


def test_fewer_long_texts_are_held_at_once(classifier, monkeypatch):
    read, texts = [], [f"good film {at} " * 20 for at in range(30)]

    def watch():
        for text in texts:
            read.append(text)
            yield text

    monkeypatch.setattr(predictor, "_CHUNK", (2048, 1_000))
    stream = classifier.predict_stream(watch())
    first = next(stream)
    assert len(read) < 15
    assert [first, *stream] == classifier.predict(texts)
