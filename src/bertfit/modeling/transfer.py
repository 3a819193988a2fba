"""Moves data to a device and back without making the CPU wait.

A GPU works through a queue. If the CPU reads a value in the middle of a step, it waits until the
queue is empty, and then the GPU waits for the CPU. To avoid that, arrays are sent from pinned
memory, which torch keeps until they have been read; results are copied to pinned memory and read
only after more work has been queued; and times are measured by events on the GPU. Keeping the token
ids on the GPU would save the copy, a few hundred kilobytes per step that overlap with the previous
step, but would need memory for all texts and a second way to build packs, and would not work for
streamed texts.

On other devices nothing is deferred.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, TypeAlias, TypeVar

import numpy as np
import torch

_LEAST_AHEAD, _MOST_AHEAD = 2, 32
"""Steps queued beyond the one whose results are read: one can run while the other waits, and more
keep the GPU busy while the CPU takes longer over a step than the GPU."""
_SECONDS_AHEAD = 0.5
"""Work that is queued at most if steps are long: an interruption waits for it."""

Moment: TypeAlias = float | torch.cuda.Event
"""A CPU time in seconds, or an event in a GPU's queue."""

_Item = TypeVar("_Item")


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on a device; the copy to a GPU is asynchronous."""
    return _make_readable(values, device).to(device, non_blocking=device.type == "cuda")


def write_to(tensor: torch.Tensor, values: np.ndarray) -> None:
    """Write an array into a tensor of the same shape; the copy to a GPU is asynchronous."""
    tensor.copy_(_make_readable(values, tensor.device), non_blocking=tensor.is_cuda)


def _make_readable(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array as a CPU tensor, pinned if the device is a GPU."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor


@dataclass(frozen=True, slots=True)
class LateValues:
    """Tensors being copied to the CPU."""

    tensors: tuple[torch.Tensor, ...]
    arrived: torch.cuda.Event | None

    @classmethod
    def send(cls, *tensors: torch.Tensor) -> Self:
        """Queue copies of tensors that are all on one device."""
        if not tensors[0].is_cuda:
            return cls(tuple(tensor.to("cpu") for tensor in tensors), None)
        copies = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
        arrived = torch.cuda.Event()
        # The stream of their device, which need not be the current one.
        arrived.record(torch.cuda.current_stream(tensors[0].device))
        return cls(copies, arrived)

    def wait(self) -> tuple[np.ndarray, ...]:
        """Wait for the values and return them."""
        if self.arrived is None:
            return tuple(tensor.numpy() for tensor in self.tensors)
        self.arrived.synchronize()
        # Copied, so that callers who keep them do not hold on to pinned memory, costly to allocate.
        return tuple(tensor.numpy().copy() for tensor in self.tensors)


def stay_ahead(
    items: Iterator[_Item],
    device: torch.device,
    *,
    is_over: Callable[[], bool] = lambda: False,
    num_ahead: Callable[[], int] = lambda: _LEAST_AHEAD,
) -> Iterator[_Item]:
    """Yield all items; on a GPU, each only after the next ones are drawn, to keep it busy.

    Args:
        items: Drawing an item queues its work.
        device: Device that does the work.
        is_over: Called before each item is drawn; once it returns True, no more are drawn.
        num_ahead: Returns how many items are drawn before one is yielded, on a GPU.
    """
    waiting: deque[_Item] = deque()
    while not is_over():
        try:
            waiting.append(next(items))
        except StopIteration:
            break
        while len(waiting) > (num_ahead() if device.type == "cuda" else 0):
            yield waiting.popleft()
    yield from waiting


def count_ahead(seconds: float) -> int:
    """Return how many steps should be queued on a GPU that takes so long for one.

    The CPU takes as long as ten or twenty steps to take one of a new size, or to record it
    (docs/decisions/0012-recorded-passes.md), and the GPU would wait.

    Example:
        >>> count_ahead(0.004), count_ahead(0.05), count_ahead(1.0)
        (32, 10, 2)
    """
    return int(max(_LEAST_AHEAD, min(_MOST_AHEAD, _SECONDS_AHEAD / max(seconds, 1e-6))))


def mark_moment(device: torch.device) -> Moment:
    """Return the moment at which a device has finished all work queued so far."""
    if device.type != "cuda":
        return time.perf_counter()
    moment = torch.cuda.Event(enable_timing=True)
    moment.record(torch.cuda.current_stream(device))
    return moment


def seconds_between(start: Moment, end: Moment) -> float:
    """Return the seconds between two past moments of a device."""
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start
    return float(start.elapsed_time(end)) / 1000.0


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
