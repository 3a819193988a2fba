"""Work recorded as a CUDA graph and replayed, without the CPU launching every kernel.

A fast GPU could finish a step of a few thousand tokens faster than the CPU launches its thousand
small kernels. A graph holds them all, and one call reruns them on the current content of the same
tensors.

Source: torch's notes on CUDA graphs (semantics, "whole-network capture").
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import torch

from bertfit.errors import TrainingError, find_first_line, is_out_of_memory
from bertfit.garbage import pause_collection
from bertfit.modeling.plan import Plan

_ALLOCATOR_SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

Work: TypeAlias = Callable[[], None]
"""Reads some tensors and writes to others, the same ones on every call."""


class Recorder(Protocol):
    """Runs work and records it."""

    def run(self, work: Work) -> None:
        """Run work eagerly."""

    def record(self, work: Work) -> Work:
        """Record work that was run before, without running it; return what replays it."""

    def forget(self) -> None:
        """Free what was kept for recordings; all of them must be gone, and none may follow."""


def plan_recording(device: torch.device, *, packs: bool, fast_path: bool = True) -> Plan:
    """Decide whether to record the passes of a training run.

    Args:
        device: Device the model is trained on.
        packs: Whether the model takes packs, with torch's variable-length attention.
        fast_path: Whether the setting `fast_path` allows it.
    """
    if device.type != "cuda":
        return Plan(is_on=False, reason="this is for a CUDA GPU")
    if not fast_path:
        return Plan(is_on=False, reason="asked for")
    if not packs:
        return Plan(is_on=False, reason="texts are not packed, or torch has no kernel for it")
    for name in _ALLOCATOR_SETTINGS:
        # With it, torch frees memory while it records if little is left, and cannot recover from
        # that (pytorch issue 159594).
        if "max_split_size_mb" in os.environ.get(name, ""):
            return Plan(is_on=False, reason=f"{name} sets max_split_size_mb")
    return Plan(is_on=True, reason="packs of few sizes, each recorded when it comes again")


class GraphRecorder:
    """Records work of a GPU, all on one stream and with one memory pool.

    Recordings therefore must not be replayed concurrently, and replaying one invalidates the
    results of another, except those in tensors allocated outside the recording.
    """

    def __init__(self, device: torch.device) -> None:
        """Create a recorder for `device`, which need not be the current one."""
        # Own stream: torch may free the libraries' workspaces of a stream along with its graphs.
        # Its kernels go first if work forks off another (`backlog`), which has less to wait for.
        self._device, self._stream = device, torch.cuda.Stream(device, priority=-1)
        self._pool = torch.cuda.graph_pool_handle()
        self._is_first = True
        self._failed: list[torch.cuda.CUDAGraph] = []

    def run(self, work: Work) -> None:
        """Run work eagerly, on the stream on which it would be recorded.

        Autograd nodes remember the stream of their pass. A node from another stream that outlives
        its pass would make a recording wait for that stream, which CUDA does not allow.
        """
        with self._in_order():
            work()

    def record(self, work: Work) -> Work:
        """Record work that was run before, and return what replays it.

        Raises:
            TrainingError: Recording failed, and CUDA cannot recover.
            RuntimeError: `work` failed. Earlier recordings must not be replayed any more;
                everything else is unchanged.
        """
        # Ordered, although nothing is computed: torch 2.11 writes the random number offset that
        # graphs read, and queued replays must have read it before.
        # Garbage may hold graphs and kernels of others, which CUDA does not allow freeing while
        # recording (pytorch issue 161037).
        with self._in_order(), pause_collection():
            if self._is_first:  # the pool needs what eager passes left cached
                torch.cuda.empty_cache()
                self._is_first = False
            graph = _make_graph()
            try:
                return self._capture(graph, work)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            torch.cuda.empty_cache()  # torch does not do this itself while recording
            replay = self._capture(_make_graph(), work)
            # Kept as long as the others: after torch 2.11, destroying a graph frees the matmul
            # workspace shared by all graphs of its stream (pytorch issue 193402).
            self._failed.append(graph)
            return replay

    def forget(self) -> None:
        """Free what was kept for recordings; all of them must be gone, and none may follow.

        The memory of the pool can be freed only when no graph is left, a failed one included.
        """
        self._failed.clear()

    def _capture(self, graph: torch.cuda.CUDAGraph, work: Work) -> Work:
        try:
            # By default, what other threads do meanwhile, such as copies for a prediction, would
            # make the recording fail. torch's compiler records in this mode, too.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        except RuntimeError as error:
            raise _cannot_go_on(error) from error
        try:
            work()
        except BaseException as error:
            _end(graph, because=error)
            raise
        _end(graph)
        graph.instantiate()
        replay: Work = graph.replay
        return replay

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        """Switch to the recorder's stream, ordered before and after work on the current stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)


def _make_graph() -> torch.cuda.CUDAGraph:
    """Return a graph that is not made executable when its recording ends.

    That takes memory of the GPU. If it ran out there, the recording would seem not to have ended.
    """
    return torch.cuda.CUDAGraph(keep_graph=True)


def _end(graph: torch.cuda.CUDAGraph, *, because: BaseException | None = None) -> None:
    """End a recording; if that fails, torch's generator and memory stay in recording mode."""
    try:
        graph.capture_end()
    except RuntimeError as error:
        raise _cannot_go_on(because or error) from (because or error)


def _cannot_go_on(error: BaseException) -> TrainingError:
    return TrainingError(
        f"recording a CUDA graph failed: {find_first_line(error)}",
        hint="--set fast_path=off trains without.",
    )
