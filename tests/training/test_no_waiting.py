"""No synchronization with the device within a step, and non-finite steps change nothing.

A CPU cannot show that there is no waiting for a GPU. It can show that no synchronizing operation is
called: none that returns a value of a tensor to Python, and none whose output size depends on such
a value; and that the passes run on tensors without data.
"""

from __future__ import annotations

import copy
import itertools
import math
import operator

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bertfit.config import TrainSettings
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.transfer import stay_ahead
from bertfit.training.loop import accumulate_gradients, train_steps
from bertfit.training.reports import NonFiniteLossError
from bertfit.training.weights import TrainedWeights
from tests.modeling.test_transfer import no_waiting

FLOAT32 = choose_precision("cpu", "float32")
GPU = torch.device("cuda")
ROWS = np.arange(12)
aten = torch.ops.aten
LOOKS = {
    aten._local_scalar_dense,
    aten._unique2,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
}
"""Operations that a GPU would have to be waited for."""


class LookError(Exception):
    """A number was looked at."""


class Blindfold(TorchDispatchMode):
    """Refuse every operation that needs a tensor's numbers on the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in LOOKS:
            raise LookError(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def blindfold(monkeypatch):
    """Give a context in which looking at a number raises `LookError`."""

    def refuse(self, *_arguments, **_options):
        raise LookError

    class Both(Blindfold):
        def __enter__(self):
            for name in ("numpy", "cpu", "tolist", "__array__"):  # these reach no operation
                monkeypatch.setattr(torch.Tensor, name, refuse)
            return super().__enter__()

        def __exit__(self, *error):
            monkeypatch.undo()
            return super().__exit__(*error)

    return Both()


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_classifier(str(tiny_model_dir), ["neg", "pos"], dropout=0.1)


@pytest.fixture(scope="module")
def data(loaded, make_reviews, encode_reviews):
    return encode_reviews(loaded, make_reviews(12))


def take(model, data, *, fast_path="off", precision=FLOAT32, num_steps=3):
    weights = TrainedWeights(model, TrainSettings(fast_path=fast_path), precision)
    return train_steps(
        weights,
        data,
        [[ROWS] * num_steps],
        learning_rate=lambda _: 0.01,
        precision=precision,
        max_tokens=64,
    )


LOOKING = [float, bool, *map(operator.methodcaller, ("cpu", "item", "nonzero", "numpy", "tolist"))]


@pytest.mark.parametrize("look", LOOKING, ids=str)
def test_the_blindfold_sees_a_look(blindfold, look):
    """Else the next test would prove nothing."""
    with pytest.raises(LookError), blindfold:
        look(torch.ones(()))


def test_a_packed_step_looks_at_no_number(loaded, data, blindfold):
    """As on a GPU, without the embedding rows of the CPU's fast path."""
    model = copy.deepcopy(loaded.model)
    assert set_up_packing(model, FLOAT32, "on").is_on
    steps = take(model, data)
    next(steps)
    before = copy.deepcopy(model.state_dict())
    with blindfold:
        second = next(steps)
    assert second.read().grad_norm > 0
    assert not torch.equal(before["classifier.weight"], model.classifier.weight)


def test_both_passes_run_on_tensors_without_numbers(loaded, data):
    meta = Precision(torch.device("meta"), torch.float32, "a test")
    model = copy.deepcopy(loaded.model)
    set_up_packing(model, FLOAT32, "on")
    model.to("meta").train()
    made = accumulate_gradients(model, data, ROWS, precision=meta, max_tokens=64)
    assert made.loss.is_meta
    assert made.predicted_ids.is_meta
    assert all(parameter.grad.is_meta for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        float(made.loss)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_step_on_a_gpu_waits_for_nothing(loaded, data):
    precision = choose_precision("cuda")
    model = copy.deepcopy(loaded.model).to("cuda")
    set_up_packing(model, precision, "on")
    steps = take(model, data, precision=precision)
    next(steps).read()
    with no_waiting():
        second = next(steps)
    assert math.isfinite(second.read().loss)


@pytest.mark.parametrize("fast_path", ["auto", "off"])
def test_after_a_step_that_is_not_finite_no_step_changes_a_weight(loaded, data, fast_path):
    """Steps that were queued before the first was looked at must do no harm either."""
    model = copy.deepcopy(loaded.model)
    steps = take(model, data, fast_path=fast_path, num_steps=4)
    next(steps).read()
    before = copy.deepcopy(model.state_dict())
    hook = model.classifier.weight.register_hook(lambda gradient: gradient * math.nan)
    spoilt = next(steps)
    hook.remove()
    later = next(steps)
    with pytest.raises(NonFiniteLossError, match=r"step 2 \(epoch 1\).*gradient norm nan"):
        spoilt.read()
    assert math.isfinite(later.read().grad_norm)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_steps_that_are_read_late_are_the_same_steps(loaded, data):
    def reports(device):
        torch.manual_seed(0)
        steps = stay_ahead(take(copy.deepcopy(loaded.model), data, num_steps=5), device)
        return [(taken.step, taken.loss, taken.grad_norm) for taken in (s.read() for s in steps)]

    in_time, late = reports(FLOAT32.device), reports(GPU)
    assert late == in_time
    assert [step for step, *_ in late] == list(itertools.islice(itertools.count(), 5))
