"""Steps are read in order; on a GPU, more are queued before one is read."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bertfit.modeling.precision import choose_precision
from bertfit.modeling.transfer import mark_moment
from bertfit.training.reports import NonFiniteLossError, StepReport, TakenStep, read_steps


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        ([1.0] * 5 + [0.01] + [1.0] * 60, 3),
        ([0.004, 0.2, *[0.004] * 60], 33),
        ([0.2, *[0.004] * 8] * 8, 33),
        ([0.1] * 40, 6),
    ],
    ids=["a short one among long ones", "a recording among short ones", "one in nine", "alike"],
)
def test_as_many_are_queued_as_take_half_a_second(seconds, most):
    """An interruption waits for them. The device is asked nothing: no GPU is needed."""
    taken = []

    def take():
        for number, duration in enumerate(seconds):
            taken.append(number)
            report = SimpleNamespace(number=number, seconds=duration)
            yield SimpleNamespace(read=lambda report=report: report)

    reports = read_steps(take(), torch.device("cuda"))
    queued = [len(taken) - report.number for report in reports]
    assert taken == list(range(len(seconds)))
    assert max(queued) == most


@pytest.mark.parametrize(
    ("grad_norm", "loss"), [(math.inf, 0.5), (math.nan, 0.5), (0.5, math.inf), (0.5, math.nan)]
)
def test_a_loss_or_a_gradient_that_alone_is_not_finite_is_an_error(grad_norm, loss):
    counts = {"num_tokens": 5, "num_pad_tokens": 0, "max_tokens": 16}
    known = functools.partial(
        StepReport, step=1, epoch=0, learning_rate=0.1, indices=np.array([7]), **counts
    )
    moment = mark_moment(torch.device("cpu"))
    numbers = SimpleNamespace(wait=lambda: ((grad_norm, loss), np.array([0])))
    step = TakenStep(known, numbers, (moment, moment), choose_precision("cpu", "float32"))
    told = rf"step 2 \(epoch 1\): loss {loss}, gradient norm {grad_norm}"
    with pytest.raises(NonFiniteLossError, match=told) as caught:
        step.read()
    assert caught.value.indices.tolist() == [7]
