"""Scoring: input order, any micro-batching, and an unchanged model."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch

from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.errors import ModelError
from bertfit.inference import micro_batches, scoring
from bertfit.inference.predictor import TextClassifier
from bertfit.inference.scoring import score_texts, softmax
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.tokenizer_files import fast_tokenizer

PRECISION = choose_precision("cpu", "float32")
TEXTS = ["good " * length for length in (9, 1, 30, 4, 4, 17, 2, 60)] + ["bad", "a bad film"]


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    loaded = load_classifier(str(tiny_model_dir), ["neg", "pos"])
    with torch.no_grad():  # the weights of a start hardly tell texts apart
        for parameter in loaded.model.parameters():
            parameter.mul_(5)
    return loaded


@pytest.fixture(scope="module")
def encoded(loaded):
    return encode_texts(TEXTS, fast_tokenizer(loaded.tokenizer), EncodingRule(max_length=64))


def score(loaded, encoded, **options):
    return score_texts(loaded.model, encoded, precision=PRECISION, pad_id=0, **options)


def test_row_i_is_text_i_and_what_transformers_gives(loaded, encoded):
    loaded.model.eval()
    with torch.no_grad():
        expected = [
            loaded.model(**loaded.tokenizer(text, return_tensors="pt", truncation=True)).logits[0]
            for text in TEXTS
        ]
    np.testing.assert_allclose(score(loaded, encoded), torch.stack(expected).numpy(), atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 7, 64, 200, 10**6])
def test_the_token_budget_changes_nothing(loaded, encoded, max_tokens):
    logits = score(loaded, encoded, max_tokens=max_tokens)
    np.testing.assert_allclose(logits, score(loaded, encoded), atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 40, 10**6])
def test_packed_texts_have_the_same_logits_in_the_same_order(loaded, encoded, max_tokens):
    packed = copy.deepcopy(loaded.model)
    set_up_packing(packed, PRECISION, "on")
    logits = score_texts(packed, encoded, precision=PRECISION, pad_id=0, max_tokens=max_tokens)
    np.testing.assert_allclose(logits, score(loaded, encoded), atol=1e-5)
    assert len(np.unique(logits.round(4), axis=0)) > 5  # else any order would do


@pytest.mark.parametrize("was_training", [False, True])
def test_the_model_is_scored_without_dropout_and_left_in_its_mode(loaded, encoded, was_training):
    loaded.model.train(was_training)
    first = score(loaded, encoded)
    assert loaded.model.training is was_training
    np.testing.assert_array_equal(first, score(loaded, encoded))


def test_a_model_that_is_to_answer_is_switched_for_no_moment(loaded, encoded, monkeypatch):
    """Another thread may be scoring with it."""
    loaded.model.eval()
    monkeypatch.setattr(loaded.model, "train", None)
    score(loaded, encoded)


def test_the_mode_is_restored_after_an_error(loaded, encoded):
    def fail(done, total):
        raise RuntimeError

    loaded.model.train()
    with pytest.raises(RuntimeError):
        score(loaded, encoded, on_progress=fail)
    assert loaded.model.training


def test_progress_counts_rows_up_to_all(loaded, encoded):
    seen = []
    score(loaded, encoded, max_tokens=64, on_progress=lambda *report: seen.append(report))
    done = [report[0] for report in seen]
    assert done == sorted(set(done))
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def test_no_texts_have_no_logits(loaded):
    nothing = encode_texts([], fast_tokenizer(loaded.tokenizer), EncodingRule(max_length=64))
    assert score(loaded, nothing).shape == (0, 2)


@pytest.mark.parametrize(("worth", "builds"), [(len(TEXTS), True), (len(TEXTS) + 1, False)])
def test_operators_are_built_for_many_texts_and_not_for_few(
    loaded, encoded, monkeypatch, worth, builds
):
    """Building takes seconds, and would be done before the answer to a single text."""
    asked = []
    monkeypatch.setattr(scoring, "takes_operators", lambda *_: True)
    monkeypatch.setattr(scoring, "load_operators", lambda *, build: asked.append(build))
    monkeypatch.setattr(scoring, "_ROWS_WORTH_BUILDING", worth)
    score(loaded, encoded)
    assert asked == [builds]


def test_softmax_gives_rows_that_sum_to_one():
    probabilities = softmax(np.array([[0.0, 1.0, 2.0], [-5.0, 0.0, 5.0]], dtype=np.float32))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-15)
    assert probabilities.dtype == np.float64


def test_softmax_is_that_of_torch():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    expected = torch.softmax(torch.from_numpy(logits), dim=1).numpy()
    np.testing.assert_allclose(softmax(logits), expected)


def test_softmax_of_huge_logits_does_not_overflow():
    np.testing.assert_array_equal(softmax(np.array([[1e30, -1e30]])), [[1.0, 0.0]])


def test_softmax_of_no_rows_is_no_rows():
    assert softmax(np.empty((0, 2))).shape == (0, 2)


CUDA_IS_FULL = torch.OutOfMemoryError("CUDA out of memory")
TRITON_IS_FULL = RuntimeError("Triton Error [CUDA]: out of memory")


def run_out_of_memory(monkeypatch, *, most_tokens, error=CUDA_IS_FULL):
    """Let a larger micro-batch fail, as a GPU does whose memory has ended."""
    real, failures = micro_batches.compute_logits, []

    def compute_logits(model, token_ids, mask, **options):
        if token_ids.size > most_tokens:
            failures.append(token_ids.size)
            raise error
        return real(model, token_ids, mask, **options)

    monkeypatch.setattr(micro_batches, "compute_logits", compute_logits)
    return failures


@pytest.mark.parametrize("error", [CUDA_IS_FULL, TRITON_IS_FULL])
def test_what_does_not_fit_is_scored_in_smaller_pieces(loaded, encoded, monkeypatch, error):
    expected = score(loaded, encoded)
    failures = run_out_of_memory(monkeypatch, most_tokens=62, error=error)
    told, seen = [], []
    logits = score(
        loaded,
        encoded,
        max_tokens=260,
        on_halved=told.append,
        on_progress=lambda done, _: seen.append(done),
    )
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    # The longest text has 62 tokens, and fits alone; then two of 32 do not fit together.
    assert told == [130, 65, 32]
    assert len(failures) == 3
    assert seen == sorted(set(seen))
    assert seen[-1] == len(TEXTS)


def test_scoring_that_fails_for_another_reason_is_not_tried_again(loaded, encoded, monkeypatch):
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    failures = run_out_of_memory(monkeypatch, most_tokens=62, error=error)
    with pytest.raises(ModelError) as caught:
        score(loaded, encoded, max_tokens=260)
    assert caught.value.message.endswith(f"cannot be computed: RuntimeError: {error}")
    assert len(failures) == 1


def test_a_copy_for_scoring_is_freed_without_a_search_for_garbage(loaded, encoded, monkeypatch):
    model, copies = copy.deepcopy(loaded.model), []
    plug_in(model, torch.device("cpu"))
    make_copy = scoring.copy_for_work

    def copy_and_look(*arguments):
        made = make_copy(*arguments)
        copies.extend(weakref.ref(parameter) for parameter in made.parameters())
        return made

    monkeypatch.setattr(scoring, "copy_for_work", copy_and_look)
    gc.collect()
    gc.disable()
    try:
        bfloat16 = choose_precision("cpu", "bfloat16")
        score_texts(model, encoded, precision=bfloat16, pad_id=0)
        assert copies
        assert not any(parameter() is not None for parameter in copies)
    finally:
        gc.enable()


def test_a_text_that_does_not_fit_alone_is_an_error(loaded, encoded, monkeypatch):
    run_out_of_memory(monkeypatch, most_tokens=30)
    with pytest.raises(torch.OutOfMemoryError):
        score(loaded, encoded, max_tokens=130)


def test_a_classifier_says_once_that_memory_ran_out(loaded, encoded, monkeypatch):
    told = []
    classifier = TextClassifier(
        loaded.model,
        loaded.tokenizer,
        rule=EncodingRule(max_length=64),
        precision=PRECISION,
        tell=told.append,
    )
    expected = classifier.score(encoded)
    failures = run_out_of_memory(monkeypatch, most_tokens=128)
    for _ in range(2):
        np.testing.assert_allclose(classifier.score(encoded), expected, atol=1e-5)
    (sentence,) = told
    assert sentence == (
        "Out of memory in scoring: texts are scored in smaller pieces from here on, with the same "
        "result."
    )
    assert len(failures) == 3  # at 1,024, 512 and 256 tokens, and then no more


def test_from_python_the_same_is_a_warning(loaded, encoded, monkeypatch):
    classifier = TextClassifier(
        loaded.model, loaded.tokenizer, rule=EncodingRule(max_length=64), precision=PRECISION
    )
    run_out_of_memory(monkeypatch, most_tokens=128)
    with pytest.warns(UserWarning, match="Out of memory in scoring: texts are scored in smaller"):
        classifier.score(encoded)
