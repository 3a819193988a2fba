"""Moves data to a device and back without making the CPU wait.

A GPU works through a queue. A CPU that asks it for a number in the middle of a step waits until the
queue is empty, and then the GPU waits for the CPU. So arrays are sent from page-locked memory,
which torch keeps until they have been read; numbers are fetched into such memory and read only when
some more work has been queued; and the GPU itself takes the times. Keeping the ids on the GPU would
save the copy, a few hundred kilobytes per step that overlap with the step before; but it would need
memory for all texts and a second way of making packs, and would not work for texts that stream.

On other devices nothing is deferred, and all of this does what it would do without.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, TypeAlias, TypeVar

import numpy as np
import torch

_AHEAD_OF_GPU = 2
"""Steps queued beside the one whose numbers are looked at: one may run while one waits."""

Moment: TypeAlias = float | torch.cuda.Event
"""A time of the CPU in seconds, or an event in a GPU's queue."""

_Item = TypeVar("_Item")


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor on a device; a GPU reads it when it gets there."""
    return _make_readable(values, device).to(device, non_blocking=device.type == "cuda")


def write_to(tensor: torch.Tensor, values: np.ndarray) -> None:
    """Write an array of the same shape into a tensor that stays; a GPU reads it in its turn."""
    tensor.copy_(_make_readable(values, tensor.device), non_blocking=tensor.is_cuda)


def _make_readable(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return an array as a tensor of the CPU that a GPU can read by itself."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory() if device.type == "cuda" else tensor


@dataclass(frozen=True, slots=True)
class LateValues:
    """Tensors on their way to the CPU."""

    tensors: tuple[torch.Tensor, ...]
    arrived: torch.cuda.Event | None

    @classmethod
    def send(cls, *tensors: torch.Tensor) -> Self:
        """Queue the copies of tensors of one device."""
        if not tensors[0].is_cuda:
            return cls(tuple(tensor.to("cpu") for tensor in tensors), None)
        copies = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
        arrived = torch.cuda.Event()
        # Of their device, which need not be the current one.
        arrived.record(torch.cuda.current_stream(tensors[0].device))
        return cls(copies, arrived)

    def wait(self) -> tuple[np.ndarray, ...]:
        """Return the values as soon as they are there."""
        if self.arrived is None:
            return tuple(tensor.numpy() for tensor in self.tensors)
        self.arrived.synchronize()
        # Copied, or whoever keeps them would keep page-locked memory, which is dear to get anew.
        return tuple(tensor.numpy().copy() for tensor in self.tensors)


def stay_ahead(
    items: Iterator[_Item],
    device: torch.device,
    *,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[_Item]:
    """Yield all items, each after the next ones have been drawn, where that keeps a GPU busy.

    Args:
        items: Drawing one queues its work.
        device: Where that is done.
        is_over: Asked before an item is drawn; where it is True no other one is.
    """
    num_ahead = _AHEAD_OF_GPU if device.type == "cuda" else 0
    waiting: deque[_Item] = deque()
    while not is_over():
        try:
            waiting.append(next(items))
        except StopIteration:
            break
        if len(waiting) > num_ahead:
            yield waiting.popleft()
    yield from waiting


def mark_moment(device: torch.device) -> Moment:
    """Return the moment at which a device has done all that it was given before."""
    if device.type != "cuda":
        return time.perf_counter()
    moment = torch.cuda.Event(enable_timing=True)
    moment.record(torch.cuda.current_stream(device))
    return moment


def seconds_between(start: Moment, end: Moment) -> float:
    """Return the seconds from one moment of a device to another, both of them past."""
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float)
        assert isinstance(end, float)
        return end - start
    return float(start.elapsed_time(end)) / 1000.0


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
