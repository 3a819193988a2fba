"""Ahead-of-time compilation: kernels are in Triton's cache before training launches them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from bertfit.config import TrainSettings
from bertfit.training import compiling_ahead
from bertfit.training.compiling_ahead import start_compiling
from tests.modeling.kernels.on_device import needs_triton
from tests.modeling.kernels.test_layer import first_layer
from tests.modeling.test_fast_path import make_classifier

SETTINGS = TrainSettings(max_length=64)

TRAINING = """
import sys
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification
from bertfit.modeling.backlog import find_batch_fault
from bertfit.modeling.fast_path import copy_for_work
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.kernels import trial
from bertfit.modeling.kernels.layer import pass_layer
from bertfit.modeling.kernels.parts import find_parts
from bertfit.modeling.pack import Pack
from bertfit.modeling.precision import Precision
from bertfit.training import step_trial
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows
from bertfit.training.kernel_compiling import _start_nothing
from bertfit.training.triton_adamw import TritonAdamW

_start_nothing(90)
trial._measure = lambda *_: 0.0  # as if right, so that all is tried
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).train()
work = copy_for_work(model, Precision(torch.device("cuda"), torch.bfloat16, "a test"))
pairs = list(zip(model.parameters(), work.parameters(), strict=True))
for master, of in pairs:
    keep_master(of, master, stays=True)
layers = [layer for layer in work.modules() if find_parts(layer) is not None]
assert len(layers) == 2
assert trial._try(layers[0], torch.device("cpu"), torch.bfloat16, trains=True) is None
parts = find_parts(layers[0])
assert find_batch_fault(torch.device("cpu"), width=parts.width, num_columns=parts.num_columns)
texts = [[0, 3, 9, 10, 41], [0, 64], [0, 5, 11, 64, 90, 91, 92, 93, 94, 160]]
if sys.argv[2] == "long":
    texts += [[0, 300, 303, 310], [0, 129]]
for starts in texts:
    pack = Pack.build(np.array(starts, np.int32), torch.device("cpu"))
    for trains in (True, False):
        width = model.config.hidden_size
        states = torch.zeros(starts[-1], width, dtype=torch.bfloat16, requires_grad=trains)
        with torch.set_grad_enabled(trains):
            for place, layer in enumerate(layers):
                parts, last = find_parts(layer), place == 1
                states = pass_layer(states, parts, pack, trains=trains, only_firsts=last)
            if trains:
                states.sum().backward()
table, copied = model.get_input_embeddings().weight, work.get_input_embeddings()
table.data = table.data.clone()  # aligned, as on a GPU; that of a file need not be
rows = GpuEmbeddingRows(table, copied, weight_decay=0.01)
pairs = [pair for pair in pairs if pair[0] is not table]
optimizer = TritonAdamW(pairs, torch.optim.AdamW([master for master, _ in pairs]), rows)
for num_tokens in (1, 7, 16, 128):
    rows.catch_up(torch.arange(min(num_tokens, 50)))
    token_ids = torch.zeros(1, num_tokens, dtype=torch.int64)
    copied(token_ids).sum().backward()
    loss, halted = torch.zeros(()), torch.zeros(())
    optimizer.clip(1.0, optimizer.measure_norm(loss, halted=halted)[0])
    optimizer.step(1e-4, halted=halted)
rows.catch_up_all()
fault = step_trial._try(torch.device("cpu"), has_copies=True, width=model.config.hidden_size)
assert "differ from torch" in fault  # all was tried
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Triton's, empty; its interpreter, which compiles nothing, is left."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(compiling_ahead, "_ask_driver", {0: 90, 1: 75}.get)
    monkeypatch.setattr(compiling_ahead, "_started", {})
    return folder


@pytest.fixture
def model(tmp_path):
    """A folder with a BERT of two layers."""
    make_classifier("bert", width=64, num_heads=2, dropout=0.1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def find_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(("max_length", "texts"), [(64, "short"), (None, "long")])
@needs_triton
def test_a_training_of_any_sizes_finds_every_kernel(cache, model, max_length, texts):
    settings = dataclasses.replace(SETTINGS, model=str(model), max_length=max_length)
    process = start_compiling(settings)
    assert process is not None
    assert process.wait() == 0
    before = find_files(cache)
    assert len([path for path in before if path.suffix == ".cubin"]) > 10
    fusion = "error:TRITON_DEFAULT_FP_FUSION"  # Triton 3.9 warns where a launch leaves it open
    subprocess.run([sys.executable, "-W", fusion, "-c", TRAINING, str(model), texts], check=True)
    assert find_files(cache) == before
    compiling_ahead._started.clear()  # as in a process that comes later
    assert start_compiling(settings) is None


@needs_triton
@pytest.mark.parametrize("can_link", [True, False])
def test_tritons_own_extension_is_built_where_that_is_possible(monkeypatch, can_link):
    from triton.backends.nvidia import driver

    from bertfit.training import kernel_compiling

    works, built = [], []

    def build():
        built.append(1)
        if not can_link:
            raise subprocess.CalledProcessError(1, "gcc")

    monkeypatch.setattr(driver, "CudaUtils", build)
    monkeypatch.setattr(kernel_compiling, "_start_nothing", lambda _capability: None)
    monkeypatch.setattr(kernel_compiling, "activate", lambda _values: None)
    monkeypatch.setattr(kernel_compiling, "_run_beside", works.extend)
    layer = first_layer(make_classifier("bert", width=64, num_heads=2))
    kernel_compiling.compile_kernels(layer, capability=90, embedding_size=8)
    works[0]()
    assert built == [1]


@pytest.mark.slow
@needs_triton
def test_a_model_that_is_not_there_leaves_no_mark(cache, tmp_path):
    settings = dataclasses.replace(SETTINGS, model=str(tmp_path / "none"))
    process = start_compiling(settings)
    assert process is not None
    assert process.wait() != 0
    assert not find_files(cache)


@needs_triton
def test_a_process_is_started_once_and_before_torch_is_imported(cache, tmp_path):
    settings = dataclasses.replace(SETTINGS, model=str(tmp_path / "none"))
    process = start_compiling(settings)
    assert process is not None
    assert start_compiling(settings) is process
    (mark,) = compiling_ahead._started
    mark.parent.mkdir()
    mark.touch()  # as the process does when all is compiled
    assert start_compiling(settings) is None
    process.kill()
    process.wait()
    code = "import sys, bertfit.training.compiling_ahead; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert said.stdout == "False\n"


@needs_triton
def test_triton_is_found_under_any_name_of_its_distribution(cache, tmp_path, monkeypatch):
    """Such as pytorch-triton, with torch's nightly builds."""

    def find_none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", find_none)
    assert compiling_ahead._find_mark("a job").parent == cache
    first = compiling_ahead._find_mark("a job")
    (tmp_path / "triton.py").write_text("__version__ = '0'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    assert compiling_ahead._find_mark("a job") != first


@needs_triton
@pytest.mark.usefixtures("cache")
def test_a_cache_that_cannot_be_used_starts_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/" + 300 * "x")
    assert start_compiling(SETTINGS) is None


@needs_triton
@pytest.mark.usefixtures("cache")
def test_a_user_without_a_home_has_a_cache_where_triton_has_it(monkeypatch):
    """As in a container that runs under a number without a name."""

    def find_none(user_id):
        raise KeyError(user_id)

    monkeypatch.setattr(pwd, "getpwuid", find_none)
    for name in ("HOME", "TRITON_HOME", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert compiling_ahead._find_mark("a job").parent == Path("~", ".triton", "cache")


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "cpu"},
        {"device": "cuda:1"},
        {"device": "cuda:2"},
        {"dtype": "float32"},
        {"fast_path": "off"},
        {"packing": "off"},
    ],
    ids=["a CPU", "an old GPU", "no such GPU", "float32", "no fast path", "no packing"],
)
@pytest.mark.usefixtures("cache")
def test_nothing_is_started_where_kernels_will_not_be_used(changed, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    settings = dataclasses.replace(SETTINGS, **changed)
    assert start_compiling(settings) is None


@pytest.mark.usefixtures("cache")
def test_in_a_program_that_is_not_python_nothing_is_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", None)
    assert start_compiling(SETTINGS) is None


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    def find_none(name):
        raise OSError(name)

    monkeypatch.setattr(compiling_ahead.ctypes, "CDLL", find_none)
    assert compiling_ahead._ask_driver.__wrapped__(0) is None


def test_the_driver_names_the_capability_of_a_gpu(monkeypatch):
    monkeypatch.setattr(compiling_ahead.ctypes, "CDLL", lambda _name: Driver())
    assert compiling_ahead._ask_driver.__wrapped__(1) == 89
    assert compiling_ahead._ask_driver.__wrapped__(2) is None


class Driver:
    """Two GPUs, as `libcuda` tells of them."""

    def cuInit(self, flags):  # noqa: N802 (the driver's name)
        return 0

    def cuDeviceGet(self, gpu, index):  # noqa: N802 (as above)
        gpu._obj.value = 1000 + index
        return 0 if index < 2 else 101

    def cuDeviceGetAttribute(self, value, attribute, gpu):  # noqa: N802 (as above)
        assert gpu.value == 1001
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0
