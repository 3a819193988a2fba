"""Training, loading and predicting give the same whatever the caller's process has set in torch."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import bertfit
from bertfit.modeling.torch_defaults import usual_torch
from tests.limits import holds_in_fork
from tests.shorter import few_resamples, undrawn

__all__ = ["few_resamples", "undrawn"]

TEXTS = ["a good film", "bad", "the plot of the movie was poor and the acting was awful"]


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


@pytest.fixture(scope="module")
def train(tiny_model_dir, make_reviews):
    # torch lists once which functions heed a default device. transformers replaces `linspace` while
    # it loads a model: listed then, the usual one would not heed it.
    with torch.device("meta"):
        torch.empty(0)

    def run(folder):
        options = {"epochs": 1, "batch_size": 8, "dtype": "float32", "baseline": False}
        return bertfit.train(make_reviews(24), folder, model=str(tiny_model_dir), **options)

    return run


@pytest.fixture(scope="module")
def expected(train, tmp_path_factory):
    """Give a run that was trained in usual surroundings, and its answers."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, train(run).classifier.predict_probabilities(TEXTS)


@pytest.mark.parametrize(
    "name",
    [
        *("inference_mode", "autocast", "float64", "meta"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("no_grad", "bfloat16")),
    ],
)
def test_a_training_and_its_answers_are_the_same(train, expected, tmp_path, name):
    run, probabilities = expected
    with SURROUNDINGS[name]():
        trained = train(tmp_path / "run").classifier
        loaded = bertfit.TextClassifier.load(run)
        found = [one.predict_probabilities(TEXTS) for one in (trained, loaded)]
    for each in found:
        np.testing.assert_allclose(each, probabilities, atol=1e-7)
    assert {weight.dtype for weight in trained.model.parameters()} == {torch.float32}


def test_what_was_set_is_set_again():
    with default_dtype(torch.float64), torch.device("meta"), torch.no_grad():
        with usual_torch():
            assert torch.is_grad_enabled()
            assert torch.empty(1).dtype == torch.float32
            assert torch.empty(1).device.type == "cpu"
        with pytest.raises(KeyError), usual_torch():
            raise KeyError
        assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
        assert torch.empty(1).device.type == "meta"


def test_the_last_of_several_threads_sets_it_back():
    first, second = usual_torch(), usual_torch()
    with default_dtype(torch.float64):
        first.__enter__()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(second.__enter__).result()
            first.__exit__(None, None, None)
            assert torch.get_default_dtype() == torch.float32
            thread.submit(second.__exit__, None, None, None).result()
        assert torch.get_default_dtype() == torch.float64


def test_what_someone_else_sets_meanwhile_stays():
    with default_dtype(torch.float64):
        with usual_torch():
            torch.set_default_dtype(torch.bfloat16)
        assert torch.get_default_dtype() == torch.bfloat16


def test_a_process_forked_meanwhile_has_what_was_set():
    with default_dtype(torch.float64), usual_torch():
        assert holds_in_fork(lambda: torch.get_default_dtype() == torch.float64)
        assert torch.get_default_dtype() == torch.float32


COMPUTE_IN_A_FORK = """
import os, signal, sys
import torch
import bertfit

torch.set_num_threads(2)
run, texts = sys.argv[1], sys.argv[2:]
classifier = bertfit.TextClassifier.load(run)
torch.ones(10**6).exp()  # on both threads, as loading a model of usual size does
child = os.fork()
if child == 0:
    signal.alarm(30)  # one that waits forever ends all the same
    torch.ones(10**6).exp()
    found = classifier.predict_probabilities(texts)
    os._exit(0 if abs(found.sum() - len(texts)) < 1e-6 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_process_forked_from_one_that_has_loaded_a_model_computes(expected):
    run, _ = expected
    command = [sys.executable, "-W", "ignore", "-c", COMPUTE_IN_A_FORK, str(run), *TEXTS]
    subprocess.run(command, check=True, timeout=100)
