"""AdamW's kernels are first checked against torch's AdamW."""

from __future__ import annotations

import pytest
import torch

from bertfit.config import TrainSettings
from bertfit.modeling.precision import Precision
from bertfit.training import step_trial, weights
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows
from bertfit.training.optimization import TorchAdamW
from bertfit.training.triton_adamw import TritonAdamW
from tests.modeling.kernels.on_device import DEVICE, needs_triton
from tests.modeling.test_fast_path import make_classifier

pytestmark = needs_triton


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    monkeypatch.setattr(step_trial, "_found", {})
    if DEVICE.type == "cpu":  # the interpreter takes its time
        monkeypatch.setattr(step_trial, "_SIZE", 3_000)
        monkeypatch.setattr(step_trial, "_NUM_ROWS", 8)
        monkeypatch.setattr(step_trial, "_NUM_TOKENS", 6)
        monkeypatch.setattr(step_trial, "_RATES", (1e-2, 0.0, 1e-2))


def find(*, has_copies=True, width=20):
    return step_trial.find_step_fault(DEVICE, has_copies=has_copies, width=width)


@pytest.mark.parametrize("width", [20, None])
@pytest.mark.parametrize("has_copies", [True, False])
def test_right_kernels_are_found_right_and_no_random_number_is_used_up(has_copies, width):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert find(has_copies=has_copies, width=width) is None
    assert torch.equal(torch.rand(3), expected)


def change(monkeypatch, of, name, wrong):
    """Replace a method by `wrong`, which also gets the right one."""
    right = getattr(of, name)
    monkeypatch.setattr(of, name, lambda self, *those, **more: wrong(right, self, *those, **more))


def step_too_far(right, self, rate, **more):
    right(self, rate * 1.01, **more)


def do_nothing(_right, *_, **__):
    return None


def add_twice(right, self, *those):
    right(self, *those)
    right(self, *those)


def leave_out_the_last(right, self, of_tokens, *those):
    right(self, torch.cat([of_tokens[:-1], torch.zeros_like(of_tokens[-1:])]), *those)


def spoil(right, self, of_tokens, *those):
    right(self, of_tokens * float("nan"), *those)


@pytest.mark.parametrize(
    ("of", "name", "wrong"),
    [
        (TritonAdamW, "step", step_too_far),
        (GpuEmbeddingRows, "catch_up_all", do_nothing),
        (GpuEmbeddingRows, "sum_squares", do_nothing),
        (GpuEmbeddingRows, "add", leave_out_the_last),
        pytest.param(TritonAdamW, "_launch", do_nothing, marks=pytest.mark.slow),
        pytest.param(GpuEmbeddingRows, "_catch_up", do_nothing, marks=pytest.mark.slow),
        pytest.param(GpuEmbeddingRows, "add", add_twice, marks=pytest.mark.slow),
        pytest.param(GpuEmbeddingRows, "add", spoil, marks=pytest.mark.slow),
    ],
)
def test_wrong_weights_are_found(monkeypatch, of, name, wrong):
    change(monkeypatch, of, name, wrong)
    assert find().startswith("they were tried here, and differ from torch's AdamW (by ")


def test_weights_that_are_no_numbers_are_told_as_far_apart(monkeypatch):
    def lose(_right, self, _rate, **_more):
        for weight, _ in self._pairs:
            weight.fill_(float("nan"))

    change(monkeypatch, TritonAdamW, "step", lose)
    assert "(by inf of what it changes)" in find(width=None)


def test_copies_that_are_not_written_are_found(monkeypatch):
    monkeypatch.setattr(GpuEmbeddingRows, "_has_copies", False)
    assert find() == "they were tried here, and do not write bfloat16 copies as they should"
    assert find(has_copies=False) is None


def test_a_loss_that_does_not_halt_is_found(monkeypatch):
    def take_any_loss(right, self, loss, **more):
        return right(self, torch.ones_like(loss), **more)

    change(monkeypatch, TritonAdamW, "measure_norm", take_any_loss)
    assert find() == "they were tried here, and change weights in a step that must not"


@pytest.mark.parametrize("of", [TritonAdamW, GpuEmbeddingRows])
def test_a_halt_that_is_not_heeded_is_found(monkeypatch, of):
    def step_anyway(right, self, rate, *, halted, **more):
        right(self, rate, halted=torch.zeros_like(halted), **more)

    change(monkeypatch, of, "step", step_anyway)
    assert find() == "they were tried here, and change weights in a step that must not"


class CompilationError(Exception):
    """As Triton's, which is no RuntimeError."""


def test_a_failure_is_told_and_met_once(monkeypatch):
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise CompilationError("no such instruction\nand much more")

    monkeypatch.setattr(TritonAdamW, "step", fail)
    assert find() == find() == "they fail here: CompilationError: no such instruction"
    assert len(calls) == 1


def test_memory_that_ran_out_says_nothing_of_the_kernels(monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("for now")

    with monkeypatch.context() as patched:
        patched.setattr(TritonAdamW, "step", run_out)
        with pytest.raises(torch.OutOfMemoryError):
            find()
    assert find() is None


@pytest.mark.parametrize("fault", [None, "they fail here"])
def test_kernels_with_a_fault_are_not_used(monkeypatch, fault):
    asked = []

    def find_fault(device, **options):
        asked.append((device, options))
        return fault

    monkeypatch.setattr(weights, "can_launch", lambda _pairs: True)
    monkeypatch.setattr(weights, "find_step_fault", find_fault)
    model = make_classifier("bert").to(DEVICE)
    trained = weights.TrainedWeights(
        model, TrainSettings(), Precision(DEVICE, torch.float32, "a test")
    )
    assert asked == [(DEVICE, {"has_copies": False, "width": None})]
    assert trained.kernel_fault == fault
    assert isinstance(trained._optimizer, TritonAdamW if fault is None else TorchAdamW)
    trained.release()
