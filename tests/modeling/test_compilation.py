"""Compiled layers compute the same as eager ones; when layers are compiled."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from bertfit.config import TrainSettings
from bertfit.errors import ConfigError
from bertfit.modeling import compilation
from bertfit.modeling.compilation import (
    LEAST_SECONDS,
    compile_layers,
    find_compile_obstacle,
    plan_compilation,
    run_as_written,
    undo_compiling,
)
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.kernels.exchange import exchange_layers, is_exchanged
from bertfit.modeling.precision import choose_precision
from bertfit.training.loop import TrainingData, train_steps
from bertfit.training.weights import TrainedWeights
from tests.modeling.test_fast_path import make_classifier
from tests.modeling.test_packing import (
    PACKED,
    gradients,
    make_encoded,
    make_packed,
    run_packed,
    run_padded,
)

# torch hides this warning of its own while it traces, which does not help where it is an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

CPU, GPU, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
FLOAT32 = choose_precision("cpu", "float32")
SIZES = ((24, 17, 9, 3, 3), (5, 20, 5), (13, 13))
"""Packs of several sizes: the second and third must compile nothing more."""


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compare(family, backend, monkeypatch):
    """Compare packs of several sizes; return how many graphs each made the compiler compile."""
    counter = CompileCounterWithBackend(backend)
    monkeypatch.setattr(compilation, "BACKEND", counter)
    written = make_packed(make_classifier(family), fast=True)
    compiled = copy.deepcopy(written)
    assert compile_layers(compiled) > 0
    num_graphs = []
    for lengths in SIZES:
        encoded = make_encoded(lengths)
        expected, found = run_packed(written, encoded), run_packed(compiled, encoded)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        expected_gradients = gradients(written, expected)
        for name, gradient in gradients(compiled, found).items():
            torch.testing.assert_close(
                gradient, expected_gradients[name], atol=1e-5, rtol=1e-5, msg=name
            )
        num_graphs.append(counter.frame_count)
    return num_graphs


@pytest.mark.slow  # the compiler takes most of it
@pytest.mark.parametrize("family", PACKED)
def test_traced_layers_give_the_logits_and_gradients_of_those_as_written(family, monkeypatch):
    num_graphs = compare(family, "aot_eager", monkeypatch)
    assert num_graphs[0] > 0
    assert num_graphs[2] == num_graphs[1] == num_graphs[0]  # other lengths run the same code


@pytest.mark.slow
# Of torch's own modules, which are first imported when something is compiled.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.skipif(find_compile_obstacle(CPU) is not None, reason="there is no C++ compiler")
def test_compiled_layers_give_the_logits_and_gradients_of_those_as_written(monkeypatch):
    num_graphs = compare("bert", "inductor", monkeypatch)
    assert num_graphs[2] == num_graphs[0] > 0


@pytest.mark.slow  # the compiler takes most of it
def test_padded_rows_are_compiled_too(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    written = make_classifier("bert")
    compiled = copy.deepcopy(written)
    compile_layers(compiled)
    encoded = make_encoded((9, 9, 4))
    torch.testing.assert_close(
        run_padded(compiled, encoded), run_padded(written, encoded), atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow  # the compiler takes most of it
@pytest.mark.parametrize("is_fast", [False, True])
def test_code_for_one_layer_serves_them_all(monkeypatch, is_fast):
    counts = []
    for num_layers in (6, 9):  # the first few differ in what is cached
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        monkeypatch.setattr(compilation, "BACKEND", counter)
        model = make_classifier("bert")
        layers = model.base_model.encoder.layer
        layers.extend(copy.deepcopy(layers[0]) for _ in range(num_layers - len(layers)))
        if is_fast:
            plug_in(model, CPU)
        assert compile_layers(model) == num_layers - is_fast  # the last one is short
        run_padded(model, make_encoded((9, 9)))
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] > 0


def test_as_written_nothing_is_compiled_and_it_can_be_undone(monkeypatch):
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(compilation, "BACKEND", counter)
    model = make_classifier("bert")
    names = list(model.state_dict())
    compile_layers(model)
    assert list(model.state_dict()) == names
    encoded = make_encoded((9, 4))
    with run_as_written():
        run_padded(model, encoded)
    assert counter.frame_count == 0
    undo_compiling(model)
    run_padded(model, encoded)
    assert counter.frame_count == 0
    compile_layers(model)
    run_padded(model, encoded)
    assert counter.frame_count > 0


@pytest.mark.slow  # the compiler takes most of it
def test_the_same_seed_gives_the_same_losses_compiled(monkeypatch):
    """Dropout is on; masters and working weights are apart, as in a training."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    precision = choose_precision("cpu", "bfloat16")
    encoded = make_encoded((24, 17, 9, 3))
    data = TrainingData(encoded, np.array([0, 1, 2, 0]), pad_id=0)

    def losses(state):
        model = make_packed(make_classifier("bert", dropout=0.3), fast=True)
        weights = TrainedWeights(model, TrainSettings(compile=state), precision)
        torch.manual_seed(0)
        steps = train_steps(
            weights,
            data,
            [[np.arange(4)] * 3],
            learning_rate=lambda _: 0.01,
            precision=precision,
            max_tokens=40,
        )
        found = [step.read().loss for step in steps]
        weights.release()
        assert all(layer._compiled_call_impl is None for layer in weights.working.modules())
        return found

    compiled = losses("on")
    assert losses("on") == compiled
    np.testing.assert_allclose(compiled, losses("off"), atol=0.02)


@pytest.mark.parametrize(
    ("device", "asked", "packs", "seconds", "expected"),
    [
        (CPU, "off", True, math.inf, "off (asked for)"),
        (CPU, "on", False, 0.0, "on (asked for)"),
        (CPU, "auto", True, math.inf, "off (compiled, training was slower on a CPU)"),
        (GPU, "auto", True, LEAST_SECONDS, "on (a training of at least 75 s)"),
        (GPU, "auto", True, LEAST_SECONDS - 1, "off (a training of less than 75 s)"),
        (GPU, "auto", False, math.inf, "off (texts are not packed)"),
        (
            MPS,
            "auto",
            False,
            math.inf,
            "off (this is for a CPU or a CUDA GPU, and the device is mps)",
        ),
    ],
)
def test_what_is_compiled(monkeypatch, device, asked, packs, seconds, expected):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    plan = plan_compilation(device, asked, packs=packs, has_operators=False, train_seconds=seconds)
    assert str(plan) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("auto", "off (operators do the layers, and are quicker)"), ("on", "on (asked for)")],
)
def test_layers_that_operators_do_are_compiled_where_that_is_asked_for(
    monkeypatch, asked, expected
):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    plan = plan_compilation(GPU, asked, packs=True, has_operators=True, train_seconds=math.inf)
    assert str(plan) == expected


def test_compiled_layers_are_those_that_transformers_wrote(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    model = make_classifier("bert", width=128)
    num_exchanged = exchange_layers(model)
    compile_layers(model)
    assert num_exchanged > 1
    assert not any(is_exchanged(module) for module in model.modules())


def test_without_triton_a_gpu_compiles_nothing(monkeypatch):
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    plan = plan_compilation(GPU, packs=True, has_operators=False, train_seconds=math.inf)
    assert str(plan) == "off (torch finds no Triton that works here)"
    with pytest.raises(ConfigError, match="compile: on was asked for, but torch finds no Triton"):
        plan_compilation(GPU, "on", packs=True, has_operators=False, train_seconds=math.inf)
