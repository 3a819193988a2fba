"""Recording of graphs: on one stream, in order with the current one, and always ended.

Uses a stand-in for the GPU that logs the calls, so recording by CUDA itself is not tested.
"""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch

from bertfit.errors import TrainingError
from bertfit.modeling.graphs import GraphRecorder

SECOND_GPU = torch.device("cuda:1")


class StandIn:
    """Writes down what a GPU would be told."""

    def __init__(self):
        self.told = []
        self.graphs = []
        self.begin_fails = self.end_fails = False
        self.errors_of_instantiation = []

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

    def graph(self, *, keep_graph):
        gpu = self
        assert keep_graph  # else its recording would not end if there is no memory to execute it

        class Graph:
            def capture_begin(self, pool, capture_error_mode):
                assert capture_error_mode == "thread_local"  # else others' predictions break it
                gpu.told.append(f"begin in {pool}")
                if gpu.begin_fails:
                    raise RuntimeError("another recording is on")

            def capture_end(self):
                gpu.told.append("end")
                if gpu.end_fails:
                    raise RuntimeError("operation failed due to a previous error\nduring capture")

            def instantiate(self):
                gpu.told.append("instantiate")
                if gpu.errors_of_instantiation:
                    raise gpu.errors_of_instantiation.pop()

            def replay(self):
                gpu.told.append("play")

        graph = Graph()
        self.graphs.append(weakref.ref(graph))
        return graph


@pytest.fixture
def gpu(monkeypatch):
    gpu = StandIn()
    for name, stand_in in {
        "CUDAGraph": gpu.graph,
        "current_stream": lambda device: gpu.stream(f"stream of {device}"),
        "device": gpu.inside,
        "empty_cache": lambda: gpu.told.append("give memory back"),
        "graph_pool_handle": lambda: "the pool",
        "Stream": lambda _device, **_priority: gpu.stream("side"),
        "stream": gpu.inside,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return gpu


def in_order(*told):
    """Return what is told where this is done on the side, in order with the current stream."""
    return [
        "side waits for stream of cuda:1",
        ("cuda:1", [("side", list(told))]),
        "stream of cuda:1 waits for side",
    ]


RECORDED = ("begin in the pool", "work", "end")
RECORDING = (*RECORDED, "instantiate")


def test_work_as_written_is_done_in_order_with_the_current_stream(gpu):
    GraphRecorder(SECOND_GPU).run(lambda: gpu.told.append("work"))
    assert gpu.told == in_order("work")


def test_streams_are_in_order_after_work_that_failed_as_well(gpu):
    with pytest.raises(torch.OutOfMemoryError):
        GraphRecorder(SECOND_GPU).run(fail)
    assert gpu.told == in_order()


def test_what_is_recorded_is_played_as_often_as_asked(gpu):
    recorder = GraphRecorder(SECOND_GPU)
    play = recorder.record(lambda: gpu.told.append("work"))
    assert gpu.told == in_order("give memory back", *RECORDING)
    gpu.told.clear()
    play()
    play()
    assert gpu.told == ["play", "play"]
    gpu.told.clear()
    recorder.record(lambda: gpu.told.append("work"))  # memory is given back once
    assert gpu.told == in_order(*RECORDING)


def fail():
    raise torch.OutOfMemoryError("the memory is full\nand more")


def test_where_memory_runs_out_what_is_cached_is_given_back_and_it_is_tried_again(gpu):
    failures = [1]

    def work():
        gpu.told.append("work")
        if failures:
            failures.pop()
            fail()

    GraphRecorder(SECOND_GPU).record(work)
    assert gpu.told == in_order("give memory back", *RECORDED, "give memory back", *RECORDING)


def test_memory_that_runs_out_after_the_recording_is_given_back_too(gpu):
    gpu.errors_of_instantiation = [RuntimeError("CUDA error: out of memory")]
    play = GraphRecorder(SECOND_GPU).record(lambda: gpu.told.append("work"))
    assert gpu.told == in_order("give memory back", *RECORDING, "give memory back", *RECORDING)
    play()
    assert gpu.told[-1] == "play"


def test_a_recording_that_cannot_be_executed_is_a_failure_of_its_own(gpu):
    gpu.errors_of_instantiation = [RuntimeError("no such instruction")]
    with pytest.raises(RuntimeError, match="no such instruction") as caught:
        GraphRecorder(SECOND_GPU).record(lambda: None)
    assert not isinstance(caught.value, TrainingError)  # the training goes on without


def test_a_recording_that_failed_is_kept_as_long_as_the_others(gpu):
    """After torch 2.11 it would take along memory that they work in."""
    failures = []

    def work():
        if failures:
            failures.pop()
            fail()

    def are_there():
        return [graph() is not None for graph in gpu.graphs]

    recorder = GraphRecorder(SECOND_GPU)
    records = [recorder.record(work)]
    failures.append(1)
    records.append(recorder.record(work))
    assert are_there() == [True, True, True]
    records.clear()
    recorder.forget()
    assert are_there() == [False, False, False]


@pytest.mark.parametrize("switch", [gc.enable, gc.disable])
@pytest.mark.parametrize("work", [lambda: None, fail])
def test_no_garbage_is_collected_inside_a_recording(gpu, switch, work):
    """What of it CUDA is to destroy would end the recording."""
    seen = []

    def look():
        seen.append(gc.isenabled())
        work()

    switch()
    before = gc.isenabled()
    try:
        with contextlib.suppress(torch.OutOfMemoryError):
            GraphRecorder(SECOND_GPU).record(look)
        assert gc.isenabled() is before
    finally:
        gc.enable()
    assert not any(seen)


def test_a_recording_that_fails_is_ended_and_its_own_error_comes_out(gpu):
    with pytest.raises(torch.OutOfMemoryError, match="the memory is full"):
        GraphRecorder(SECOND_GPU).record(fail)
    assert gpu.told == in_order(*["give memory back", "begin in the pool", "end"] * 2)


@pytest.mark.parametrize(
    ("fails", "work", "why"),
    [
        ("begin_fails", lambda: None, "another recording is on"),
        ("end_fails", fail, "the memory is full"),
        ("end_fails", lambda: None, "operation failed due to a previous error"),
    ],
)
def test_one_that_cannot_be_begun_or_ended_ends_the_training_and_says_the_first_cause(
    gpu, fails, work, why
):
    setattr(gpu, fails, True)
    with pytest.raises(TrainingError) as caught:
        GraphRecorder(SECOND_GPU).record(work)
    assert str(caught.value) == (
        f"recording a CUDA graph failed: {why}\n--set fast_path=off trains without."
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("num_failures", [0, 1])
def test_recordings_that_are_given_up_leave_no_memory_behind(num_failures):
    device = torch.device("cuda")
    numbers = torch.zeros(2**22, device=device)
    failures = [1] * num_failures

    def work():
        more = numbers + 1
        if failures and torch.cuda.is_current_stream_capturing():
            failures.pop()
            raise torch.OutOfMemoryError("a test")
        numbers.copy_(more)

    recorder = GraphRecorder(device)
    recorder.run(work)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    play = recorder.record(work)
    play()
    assert numbers.unique().tolist() == [2.0]
    assert not failures
    assert torch.cuda.memory_reserved() > before
    del play
    recorder.forget()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == before
