"""Work recorded once as a CUDA graph, and done again without the CPU naming every kernel.

A step of a few thousand tokens is over on a fast GPU before the CPU has queued its thousand small
pieces of work. A graph holds them all, and one call does them again, on the numbers that the same
tensors hold by then.

Source: torch's notes on CUDA graphs (semantics, "whole-network capture").
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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
        self._device, self._stream = device, _side_stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._is_first = True

    def run(self, work: Work) -> None:
        """Do work as it is written, on the stream on which it would be recorded.

        Autograd's nodes remember the stream of their pass. One that outlived its pass would have a
        recording wait for another stream, which CUDA refuses.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        """Return what does work again that was run before.

        Raises:
            TrainingError: It failed, and CUDA cannot go on from where it did.
            RuntimeError: It failed, as `work` did; all is as it was.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            if self._is_first:  # of what passes as written have left, the pool needs as much
                torch.cuda.empty_cache()
                self._is_first = False
            graph.capture_begin(pool=self._pool)
            try:
                work()
            except BaseException as error:
                _end(graph, because=error)
                raise
            _end(graph)
        replay: Work = graph.replay
        return replay


def _end(graph: torch.cuda.CUDAGraph, *, because: BaseException | None = None) -> None:
    """End a recording; where that fails, torch's generator and memory stay as if it went on."""
    try:
        graph.capture_end()
    except RuntimeError as error:
        first_line = str(because or error).strip().partition("\n")[0]
        raise TrainingError(
            f"recording a CUDA graph failed: {first_line}",
            hint="--set fast_path=off trains without.",
        ) from (because or error)


@functools.lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all recorders: libraries keep memory for each that they have seen."""
    return torch.cuda.Stream(device)
