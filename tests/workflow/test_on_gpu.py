"""From rows to predictions on a CUDA GPU: several trainings in one process, then their answers."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch

from bertfit import TextClassifier, evaluate, train, train_seeds

DEVICE = "cuda"
PRECISION_OF_BFLOAT16 = 0.03
"""Of a probability."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(scope="module")
def model_dir(make_wider_model):
    """A model with heads of 32 numbers, the fewest that the kernels take."""
    return make_wider_model(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256
    )


@pytest.fixture(scope="module")
def trained(model_dir, make_reviews, tmp_path_factory):
    """Two seeds, trained one after the other, the better of which became a run."""
    return train_seeds(
        make_reviews(200),
        tmp_path_factory.mktemp("runs") / "run",
        num_seeds=2,
        test=make_reviews(60, seed=1),
        model=str(model_dir),
        device=DEVICE,
        epochs=6,
        patience=3,
        batch_size=16,
        learning_rate=1e-3,
        max_length=32,
    )


def read_record(trained):
    return json.loads((trained.run / "bertfit.json").read_text(encoding="utf-8"))


def test_a_training_on_a_gpu_packs_records_and_learns(trained):
    record = read_record(trained)
    assert record["training"]["dtype"] == "bfloat16"
    assert record["training"]["recording"].startswith("on (packs of few sizes")
    assert min(seed["test"]["accuracy"] for seed in trained.seeds["runs"]) > 0.9


def test_scores_of_a_run_are_found_again(trained, make_reviews):
    again = evaluate(trained.run, make_reviews(60, seed=1), device=DEVICE)
    kept = read_record(trained)["scores"]["test"]
    assert again.scores.accuracy == pytest.approx(kept["accuracy"], abs=0.02)
    assert again.scores.log_loss == pytest.approx(kept["log_loss"], abs=0.02)


def test_answers_of_a_gpu_are_those_of_a_cpu(trained, make_reviews):
    texts = [row["text"] for row in make_reviews(50, seed=2)] + ["", "good"]
    expected = TextClassifier.load(trained.run, device="cpu").predict_probabilities(texts)
    for dtype, tolerance in (("float32", 1e-3), ("bfloat16", PRECISION_OF_BFLOAT16)):
        classifier = TextClassifier.load(trained.run, device=DEVICE, dtype=dtype)
        found = classifier.predict_probabilities(texts)
        np.testing.assert_allclose(found, expected, atol=tolerance)
        one = classifier.predict_probabilities(texts[:1])
        np.testing.assert_allclose(one, expected[:1], atol=tolerance)


def test_two_classifiers_answer_two_threads_as_one_would(trained, make_reviews):
    texts = [row["text"] for row in make_reviews(100, seed=3)]
    classifiers = [
        TextClassifier.load(trained.run, device=DEVICE, dtype=dtype)
        for dtype in ("float32", "bfloat16")
    ]
    expected = [classifier.predict_probabilities(texts) for classifier in classifiers]
    found = {}

    def answer(number, place):
        for _ in range(5):
            found[number] = classifiers[place].predict_probabilities(texts)

    threads = [threading.Thread(target=answer, args=(n, n % 2)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_allclose(found[number], expected[number % 2], atol=1e-5)


def test_another_thread_may_predict_while_a_training_is_recorded(
    trained, model_dir, make_reviews, tmp_path
):
    texts = [row["text"] for row in make_reviews(100, seed=3)]
    classifier = TextClassifier.load(trained.run, device=DEVICE)
    expected = classifier.predict_probabilities(texts)
    found, is_over = [], threading.Event()

    def answer():
        while not is_over.is_set():
            found.append(classifier.predict_probabilities(texts))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        again = train(
            make_reviews(200),
            tmp_path / "run",
            model=str(model_dir),
            device=DEVICE,
            epochs=2,
            batch_size=16,
            max_length=32,
        )
    finally:
        is_over.set()
        thread.join()
    assert read_record(again)["training"]["recording"].startswith("on (")
    assert found
    for one in found:
        np.testing.assert_allclose(one, expected, atol=1e-5)
