"""Transfers queued for a device: in order, nothing lost, and no delay on a CPU."""

from __future__ import annotations

import contextlib
import math
import time
import warnings

import numpy as np
import pytest
import torch

from bertfit.modeling.transfer import (
    LateValues,
    count_ahead,
    mark_moment,
    seconds_between,
    stay_ahead,
    to_device,
    wait_for,
    write_to,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@contextlib.contextmanager
def no_waiting():
    """Have torch raise wherever a GPU would be waited for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def draw(drawn, count=6):
    for item in range(count):
        drawn.append(item)
        yield item


def test_on_a_cpu_each_item_comes_before_the_next_is_drawn():
    drawn = []
    assert [(item, len(drawn)) for item in stay_ahead(draw(drawn, 3), CPU)] == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]


def test_a_gpu_is_given_two_more_before_the_first_is_looked_at():
    """No GPU is needed for this: it is asked nothing."""
    drawn = []
    seen = [(item, len(drawn)) for item in stay_ahead(draw(drawn), GPU)]
    assert seen == [(0, 3), (1, 4), (2, 5), (3, 6), (4, 6), (5, 6)]


@pytest.mark.parametrize(("device", "most"), [(CPU, 1), (GPU, 5)])
def test_a_gpu_is_given_as_many_more_as_is_asked_for(device, most):
    """They grow in number, as once the steps of a training are known to be short."""
    drawn = []
    items = stay_ahead(draw(drawn, 12), device, num_ahead=lambda: min(4, 1 + len(drawn) // 3))
    seen = [(item, len(drawn)) for item in items]
    assert [item for item, _ in seen] == list(range(12))
    assert max(num_drawn - item for item, num_drawn in seen) == most
    assert seen[0] == (0, min(2, most))


def test_as_many_steps_are_queued_as_take_half_a_second():
    assert [count_ahead(seconds) for seconds in (math.inf, 9.0, 0.1, 0.004, 0.0)] == [
        *(2, 2, 5),
        *(32, 32),
    ]


@pytest.mark.parametrize(("device", "num_drawn"), [(CPU, 2), (GPU, 4)])
def test_once_it_is_over_what_was_drawn_still_comes(device, num_drawn):
    drawn, over = [], []
    items = stay_ahead(draw(drawn), device, is_over=lambda: bool(over))
    seen = [next(items), next(items)]
    over.append(True)
    seen.extend(items)
    assert seen == drawn == list(range(num_drawn))


def test_values_come_as_they_were():
    late = LateValues.send(torch.tensor(2.5), torch.tensor([1, 2]))
    number, numbers = late.wait()
    assert float(number) == 2.5
    assert numbers.tolist() == [1, 2]


def test_an_array_is_the_same_on_a_cpu():
    values = np.array([[1, 2], [3, 4]])
    assert to_device(values, CPU).tolist() == values.tolist()


def test_seconds_are_those_that_passed():
    start = mark_moment(CPU)
    time.sleep(0.01)
    assert seconds_between(start, mark_moment(CPU)) >= 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_back_what_it_was_sent_without_being_waited_for():
    values = np.arange(1000).reshape(10, 100)
    start = mark_moment(GPU)
    with no_waiting():
        late = LateValues.send(to_device(values, GPU) * 2)
    end = mark_moment(GPU)
    (doubled,) = late.wait()
    np.testing.assert_array_equal(doubled, values * 2)
    wait_for(GPU)
    assert seconds_between(start, end) > 0


def test_what_is_waited_for_is_of_the_device_in_question(monkeypatch):
    """The current GPU may be another one: what it has done says nothing."""

    class Event:
        def __init__(self, **_options):
            self.stream = None

        def record(self, stream):
            self.stream = stream

    class OnSecondGpu:
        is_cuda, device = True, torch.device("cuda:1")

        def to(self, *_arguments, **_options):
            return torch.zeros(())

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    assert mark_moment(torch.device("cuda:1")).stream == "stream of cuda:1"
    assert LateValues.send(OnSecondGpu()).arrived.stream == "stream of cuda:1"


def test_an_array_is_written_into_a_tensor_that_stays():
    tensor = torch.zeros(3, dtype=torch.int32)
    place = tensor.data_ptr()
    write_to(tensor, np.array([1, 2, 3], dtype=np.int32))
    assert tensor.tolist() == [1, 2, 3]
    assert tensor.data_ptr() == place
