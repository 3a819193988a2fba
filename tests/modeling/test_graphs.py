"""How work is recorded: on one stream, in order with the current one, and ended however it ends.

No GPU is asked: what it would be told is written down. That CUDA records it is not shown by this.
"""

from __future__ import annotations

import contextlib

import pytest
import torch

from bertfit.errors import TrainingError
from bertfit.modeling import graphs
from bertfit.modeling.graphs import GraphRecorder

SECOND_GPU = torch.device("cuda:1")


class StandIn:
    """Writes down what a GPU would be told."""

    def __init__(self):
        self.told = []
        self.end_fails = False

    def stream(self, name):
        gpu = self

        class Stream:
            def wait_stream(self, other):
                gpu.told.append(f"{self} waits for {other}")

            def __str__(self):
                return name

        return Stream()

    @contextlib.contextmanager
    def inside(self, what):
        before = len(self.told)
        try:
            yield
        finally:
            self.told[before:] = [(str(what), self.told[before:])]

    def graph(self):
        gpu = self

        class Graph:
            def capture_begin(self, pool):
                gpu.told.append(f"begin in {pool}")

            def capture_end(self):
                gpu.told.append("end")
                if gpu.end_fails:
                    raise RuntimeError("operation failed due to a previous error\nduring capture")

            def replay(self):
                gpu.told.append("play")

        return Graph()


@pytest.fixture
def gpu(monkeypatch):
    gpu = StandIn()
    side = gpu.stream("side")
    monkeypatch.setattr(graphs, "_side_stream", lambda _device: side)
    for name, stand_in in {
        "CUDAGraph": gpu.graph,
        "current_stream": lambda device: gpu.stream(f"stream of {device}"),
        "device": gpu.inside,
        "empty_cache": lambda: gpu.told.append("give memory back"),
        "graph_pool_handle": lambda: "the pool",
        "stream": gpu.inside,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return gpu


def test_work_as_written_is_done_in_order_with_the_current_stream(gpu):
    GraphRecorder(SECOND_GPU).run(lambda: gpu.told.append("work"))
    assert gpu.told == [
        "side waits for stream of cuda:1",
        ("side", ["work"]),
        "stream of cuda:1 waits for side",
    ]


def test_what_is_recorded_is_played_as_often_as_asked(gpu):
    recorder = GraphRecorder(SECOND_GPU)
    play = recorder.record(lambda: gpu.told.append("work"))
    recording = ["begin in the pool", "work", "end"]
    assert gpu.told == [("cuda:1", [("side", ["give memory back", *recording])])]
    gpu.told.clear()
    play()
    play()
    assert gpu.told == ["play", "play"]
    gpu.told.clear()
    recorder.record(lambda: gpu.told.append("work"))  # memory is given back once
    assert gpu.told == [("cuda:1", [("side", recording)])]


def fail():
    raise torch.OutOfMemoryError("the memory is full\nand more")


def test_a_recording_that_fails_is_ended_and_its_own_error_comes_out(gpu):
    with pytest.raises(torch.OutOfMemoryError, match="the memory is full"):
        GraphRecorder(SECOND_GPU).record(fail)
    assert gpu.told[0][1] == [("side", ["give memory back", "begin in the pool", "end"])]


@pytest.mark.parametrize(
    ("work", "why"),
    [(fail, "the memory is full"), (lambda: None, "operation failed due to a previous error")],
)
def test_one_that_cannot_be_ended_ends_the_training_and_says_the_first_cause(gpu, work, why):
    gpu.end_fails = True
    with pytest.raises(TrainingError) as caught:
        GraphRecorder(SECOND_GPU).record(work)
    assert str(caught.value) == (
        f"recording a CUDA graph failed: {why}\n--set fast_path=off trains without."
    )
