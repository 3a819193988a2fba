"""Whole trainings on a GPU that is not there give the numbers of those on a CPU.

The device of `tests/pretended_gpu` is one to torch, with graphs that are recorded and replayed, and
computes on the CPU. So all that a GPU's training does otherwise is compared, but for what needs
one: races between streams, the kernels as they are compiled, and speed. Weights are compared in
float32 and without dropout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import bertfit
from bertfit.modeling.operators.loading import name_compiler
from tests.modeling.test_fast_path import make_classifier
from tests.pretended_gpu import device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.triton,
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch knows real GPUs"),
    pytest.mark.skipif(shutil.which(name_compiler("c++")) is None, reason="no C++ compiler"),
]
TRAINING = Path(device.__file__).with_name("training.py")
PADDED = ("mpnet", "deberta-v2")
OPTIONS = {
    "baseline": False,
    "batch_size": 16,
    "compile": "off",
    "dropout": 0.0,
    "dtype": "float32",
    "epochs": 2,
    "learning_rate": 1e-3,
    "max_length": 32,
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return device.build(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def model(make_wider_model):
    """Heads of 32 numbers are the smallest that the kernels take."""
    return make_wider_model(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
    )


@pytest.fixture
def train_there(library, model, make_reviews, tmp_path):
    """Train in a process that has the device; return what it printed, or its exit code."""

    def train(run, num_rows=150, *, on="cuda", with_kernels=False, options=None, **asked):
        asked |= {
            "library": str(library),
            "num_devices": 2,
            "rows": make_reviews(num_rows),
            "run": str(run),
            "with_kernels": with_kernels,
            "options": {**OPTIONS, "model": str(model), **(options or {}), "device": on},
        }
        (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        ended = subprocess.run(
            [sys.executable, str(TRAINING), str(tmp_path / "asked.json")],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode in {0, 9}, ended.stderr[-4000:]
        return ended.returncode or json.loads(ended.stdout.splitlines()[-1])

    return train


@pytest.fixture
def train_here(model, make_reviews):
    def train(run, num_rows=150, *, options=None):
        options = {**OPTIONS, "model": str(model), **(options or {}), "device": "cpu"}
        bertfit.train(make_reviews(num_rows), run, **options)

    return train


def assert_same_weights(runs):
    from safetensors.torch import load_file

    ours, theirs = (load_file(run / "model.safetensors") for run in runs)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        if name.endswith(("key.bias", "k_lin.bias")):
            continue  # it has no effect, so its gradient is what rounding leaves
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("on", ["cuda", "cuda:1"])
def test_recorded_passes_learn_what_a_cpu_learns(train_there, train_here, tmp_path, on):
    """Of two GPUs, the second is not the one that torch takes where none is named."""
    printed = train_there(tmp_path / "there", on=on)
    assert printed["num_replays"] > 10
    assert any(note.startswith("Recording: on") for note in printed["notes"])
    train_here(tmp_path / "here")
    assert_same_weights((tmp_path / "there", tmp_path / "here"))


@pytest.mark.parametrize("family", ["albert", "distilbert", "modernbert", "roberta", *PADDED])
def test_a_family_learns_what_it_learns_on_a_cpu(
    train_there, train_here, tiny_model_dir, tmp_path, family
):
    """Packed and recorded with the attention of the device, or padded on it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.save_pretrained(tmp_path / "model")
    model = make_classifier(family, width=64, num_layers=3, num_heads=2)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path / "model")

    options = {"model": str(tmp_path / "model"), "epochs": 1}
    printed = train_there(tmp_path / "there", 96, options=options)
    assert (printed["num_replays"] > 0) == (family not in PADDED)
    train_here(tmp_path / "here", 96, options=options)
    assert_same_weights((tmp_path / "there", tmp_path / "here"))


def test_kernels_learn_what_a_cpu_learns(train_there, train_here, tmp_path):
    """With AdamW and the embeddings' rows by kernels, and weight gradients of several layers."""
    options = {"epochs": 1, "batch_size": 4}
    printed = train_there(tmp_path / "there", 24, with_kernels=True, options=options)
    assert printed["num_replays"] > 2
    assert not any("they were tried here" in note for note in printed["notes"])
    train_here(tmp_path / "here", 24, options=options)
    assert_same_weights((tmp_path / "there", tmp_path / "here"))


def test_memory_that_runs_out_between_recorded_passes_changes_no_weight(
    train_there, train_here, tmp_path
):
    full = {"full_at": ["epoch 1/2", 3], "most_tokens": 100}
    printed = train_there(tmp_path / "there", **full)
    assert any(note.startswith("Out of memory at step ") for note in printed["notes"])
    train_here(tmp_path / "here")
    assert_same_weights((tmp_path / "there", tmp_path / "here"))


def test_a_killed_training_goes_on_there(train_there, train_here, tmp_path):
    options = {"checkpoint_minutes": 0.0001}
    killed = train_there(tmp_path / "there", killed_at=["epoch 2/2", 5], options=options)
    assert killed == 9
    printed = train_there(tmp_path / "there", options={**options, "resume": True})
    assert any(note.startswith("Resumed after step") for note in printed["notes"])
    train_here(tmp_path / "here")
    assert_same_weights((tmp_path / "there", tmp_path / "here"))
