"""Steps are read in order; on a GPU, more are queued before one is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bertfit.training.reports import read_steps


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
