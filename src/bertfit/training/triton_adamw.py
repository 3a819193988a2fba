"""The step of torch's AdamW by Triton kernels: one pass over weights, moments and gradients.

It clips, moves the float32 masters and rounds them to the bfloat16 copies on the way, with one
launch for all of them, and never waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bertfit.modeling.kernels.launching import find_kernel_obstacle, on_device
from bertfit.modeling.transfer import to_device
from bertfit.training.optimization import Pair

_BLOCK = 4096
"""Elements that one program takes."""

_NUM_WARPS_OF_SUM = 8

_NUM_WARPS_OF_STEP = 16
"""8 elements of each tensor for a thread: with 8 warps it would need 127 registers, not 64."""

_ALIGNMENT = 16
"""Bytes that a GPU reads or writes at once, and what addresses must be a multiple of."""

_PADDING = 32
"""The moments of a tensor begin at a multiple of so many elements: 128 bytes, a line of cache."""

_NUM_KEPT = 4
"""Tables of gradients that stay on the device."""


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Where the gradients of one step are.

    Attributes:
        addresses: (T,) int64, 0 for a master without gradient.
        table: The same on the device.
    """

    addresses: np.ndarray
    table: torch.Tensor


class TritonAdamW:
    """Steps of AdamW for float32 masters and their bfloat16 copies, as `TorchAdamW` takes them.

    Masters and copies must stay where they are in memory; gradients may move.
    """

    def __init__(self, pairs: Sequence[Pair], optimizer: torch.optim.AdamW) -> None:
        """Take the settings of `optimizer`, which takes no step itself from now on.

        Args:
            pairs: Each master with its copy, or with itself, as `launch_step` checks them.
            optimizer: Holds every master; its groups differ in weight decay alone.
        """
        from bertfit.training import adamw_kernels  # it imports Triton, which some lack

        self._kernels = adamw_kernels
        self._pairs = list(pairs)
        self._masters = [master for master, _ in self._pairs]
        self._device = self._masters[0].device
        group = optimizer.param_groups[0]
        self._betas, self._epsilon = group["betas"], float(group["eps"])
        decays = {
            id(master): float(group["weight_decay"])
            for group in optimizer.param_groups
            for master in group["params"]
        }
        self._decays = to_device(
            np.array([decays[id(master)] for master in self._masters], np.float32), self._device
        )
        self._lay_out()
        self._num_steps = np.zeros(len(self._masters), np.int64)  # those of each master
        self._kept: dict[tuple[int, ...], _Gradients] = {}
        self._norm = torch.zeros((), device=self._device)
        self._max_norm = math.inf

    def measure_norm(self) -> torch.Tensor:
        """Return the norm () of all gradients together, float32 on their device."""
        gradients = self._find_gradients()
        with on_device(self._device):
            self._kernels.sum_squares[self._grid](
                gradients.table,
                self._tensors,
                self._chunks,
                self._partials,
                BLOCK=_BLOCK,
                num_warps=_NUM_WARPS_OF_SUM,
            )
        return self._partials.sum().sqrt_()

    def clip(self, max_norm: float, norm: torch.Tensor) -> None:
        """Scale the gradients of the next step, of that norm (), down to `max_norm`.

        The step itself does it, which saves a pass over all of them.
        """
        self._max_norm, self._norm = float(max_norm), norm.to(self._device, torch.float32)

    def step(self, learning_rate: float, *, halted: torch.Tensor) -> None:
        """Move every master that has a gradient, unless `halted` (), a float32, is 1.

        What was halted once must stay so: the step is counted, as nobody waits to see whether.
        """
        gradients = self._find_gradients()
        has_gradient = gradients.addresses != 0
        self._num_steps += has_gradient
        counts = set(self._num_steps[has_gradient].tolist())
        for count in counts:
            chosen = gradients
            if len(counts) > 1:  # some had no gradient in steps before
                addresses = np.where(self._num_steps == count, gradients.addresses, 0)
                chosen = self._keep_gradients(tuple(addresses.tolist()))
            self._launch(chosen, learning_rate, count, halted)

    def _launch(
        self, gradients: _Gradients, learning_rate: float, count: int, halted: torch.Tensor
    ) -> None:
        """Take the step number `count` of these masters."""
        beta1, beta2 = self._betas
        # All numbers are floats: Triton would compile anew for an integer that is 1.
        with on_device(self._device):
            self._kernels.step_adamw[self._grid](
                gradients.table,
                self._tensors,
                self._decays,
                self._chunks,
                self._norm,
                halted,
                self._max_norm,
                float(learning_rate),
                float(learning_rate) / (1.0 - beta1**count),
                math.sqrt(1.0 - beta2**count),
                1.0 - beta1,
                float(beta2),
                1.0 - beta2,
                self._epsilon,
                BLOCK=_BLOCK,
                num_warps=_NUM_WARPS_OF_STEP,
            )

    def _lay_out(self) -> None:
        """Make the moments, and tables of all that stays where it is."""
        sizes = np.array([master.numel() for master in self._masters], np.int64)
        ends = np.cumsum(-(-sizes // _PADDING) * _PADDING)
        self._first, self._second = (torch.zeros(int(ends[-1]), device=self._device) for _ in "12")
        places = np.concatenate([[0], ends[:-1]]) * self._first.element_size()
        tensors = np.stack(
            [
                [master.data_ptr() for master in self._masters],
                [0 if work is master else work.data_ptr() for master, work in self._pairs],
                self._first.data_ptr() + places,
                self._second.data_ptr() + places,
                sizes,
            ],
            axis=1,
        )
        chunks = [
            (place, start) for place, size in enumerate(sizes) for start in range(0, size, _BLOCK)
        ]
        self._tensors = to_device(tensors.astype(np.int64), self._device)
        self._chunks = to_device(np.array(chunks, np.int64), self._device)
        self._partials = torch.zeros(len(chunks), device=self._device)
        self._grid = (len(chunks),)

    def _find_gradients(self) -> _Gradients:
        """Return where the gradients are now."""
        gradients = [master.grad for master in self._masters]
        key = tuple([0 if gradient is None else gradient.data_ptr() for gradient in gradients])
        if key not in self._kept:
            assert all(g is None or g.is_contiguous() for g in gradients), "kernels read them flat"
        return self._keep_gradients(key)

    def _keep_gradients(self, key: tuple[int, ...]) -> _Gradients:
        """Return the table of these addresses; the one that was made first goes."""
        if key not in self._kept:
            if len(self._kept) >= _NUM_KEPT:
                self._kept.pop(next(iter(self._kept)))
            addresses = np.array(key, np.int64)
            self._kept[key] = _Gradients(addresses, to_device(addresses, self._device))
        return self._kept[key]


def launch_step(pairs: Sequence[Pair], optimizer: torch.optim.AdamW) -> TritonAdamW | None:
    """Return the step by kernels where a GPU has Triton and they take these masters and copies."""
    if not pairs:
        return None
    device = pairs[0][0].device
    fits = device.type == "cuda" and all(
        master.device == work.device == device
        and master.dtype == torch.float32
        and (work is master or work.dtype == torch.bfloat16)
        and all(
            tensor.is_contiguous() and tensor.data_ptr() % _ALIGNMENT == 0
            for tensor in (master, work)
        )
        for master, work in pairs
    )
    if not fits or find_kernel_obstacle(device) is not None:
        return None
    return TritonAdamW(pairs, optimizer)
