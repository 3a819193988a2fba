"""Work recorded as a CUDA graph and replayed, without the CPU launching every kernel.

On a fast GPU, a step of a few thousand tokens is finished before the CPU has queued its thousand
small kernels. A graph holds them all, and one call runs them again, on whatever the same tensors
hold by then.

Source: torch's notes on CUDA graphs (semantics, "whole-network capture").
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import torch

from bertfit.errors import TrainingError
from bertfit.modeling.plan import Plan

Work: TypeAlias = Callable[[], None]
"""Reads some tensors and writes to others, the same ones at every call."""


class Recorder(Protocol):
    """What does work, and records it."""

    def run(self, work: Work) -> None:
        """Do work as it is written."""

    def record(self, work: Work) -> Work:
        """Return what does work again that was run before; it is not done by this."""


def plan_recording(device: torch.device, *, packs: bool, fast_path: bool = True) -> Plan:
    """Decide about recording a training's passes.

    Args:
        device: Where the model is trained.
        packs: Whether the model takes packs, by torch's own attention for them.
        fast_path: Whether the setting `fast_path` leaves it open.
    """
    if device.type != "cuda":
        return Plan(is_on=False, reason="this is for a CUDA GPU")
    if not fast_path:
        return Plan(is_on=False, reason="asked for")
    if not packs:
        return Plan(is_on=False, reason="texts are not packed, or torch has no kernel for it")
    return Plan(is_on=True, reason="packs of few sizes, each recorded when it comes again")


class GraphRecorder:
    """Records a GPU's work, all of it on one stream and in one pool of memory.

    So no two records may be played at once, and of what one leaves behind only that may be read
    after another was played which lies in tensors made outside.
    """

    def __init__(self, device: torch.device) -> None:
        """Record work of `device`, which need not be the current one."""
        # A stream of its own: torch may free what libraries keep for one when a graph of it goes.
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._is_first = True
        self._failed: list[torch.cuda.CUDAGraph] = []

    def run(self, work: Work) -> None:
        """Do work as it is written, on the stream on which it would be recorded.

        Autograd's nodes remember the stream of their pass. One that outlived its pass would have a
        recording wait for another stream, which CUDA refuses.
        """
        with self._in_order():
            work()

    def record(self, work: Work) -> Work:
        """Return what does work again that was run before.

        Raises:
            TrainingError: It failed, and CUDA cannot go on from where it did.
            RuntimeError: It failed, as `work` did; what was recorded before must not be played any
                more, and all else is as it was.
        """
        # In order, though nothing is computed: torch 2.11 writes where graphs find how far random
        # numbers were drawn, and those that are queued must have read it.
        with self._in_order(), _without_collection():
            if self._is_first:  # of what passes as written have left, the pool needs as much
                torch.cuda.empty_cache()
                self._is_first = False
            graph = torch.cuda.CUDAGraph()
            try:
                return self._capture(graph, work)
            except torch.OutOfMemoryError:
                pass
            torch.cuda.empty_cache()  # which torch does not do by itself inside a recording
            replay = self._capture(torch.cuda.CUDAGraph(), work)
            # Kept as long as the others: after torch 2.11 a graph that goes frees the memory in
            # which the products of all graphs of its stream work (pytorch issue 193402).
            self._failed.append(graph)
            return replay

    def _capture(self, graph: torch.cuda.CUDAGraph, work: Work) -> Work:
        try:
            graph.capture_begin(pool=self._pool)
        except RuntimeError as error:
            raise _cannot_go_on(error) from error
        try:
            work()
        except BaseException as error:
            _end(graph, because=error)
            raise
        _end(graph)
        replay: Work = graph.replay
        return replay

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        """Go to the own stream, after what the current one was given and before what it will be."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from collecting garbage.

    There may be graphs and compiled kernels in it, of whoever else is at work in this process. CUDA
    refuses to let go of them while it records, and the recording is lost (pytorch issue 161037).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _end(graph: torch.cuda.CUDAGraph, *, because: BaseException | None = None) -> None:
    """End a recording; where that fails, torch's generator and memory stay as if it went on."""
    try:
        graph.capture_end()
    except RuntimeError as error:
        raise _cannot_go_on(because or error) from (because or error)


def _cannot_go_on(error: BaseException) -> TrainingError:
    first_line = str(error).strip().partition("\n")[0]
    return TrainingError(
        f"recording a CUDA graph failed: {first_line}",
        hint="--set fast_path=off trains without.",
    )
