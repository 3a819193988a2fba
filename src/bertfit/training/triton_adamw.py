"""torch's AdamW step as Triton kernels: one pass over weights, moments and gradients.

It clips, updates the float32 masters and rounds them to the bfloat16 copies, with one launch for
all tensors, and never waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bertfit.modeling.kernels.launching import LAUNCH_OPTIONS, find_kernel_obstacle, on_device
from bertfit.modeling.transfer import to_device
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows
from bertfit.training.optimization import Pair, read_decays

_BLOCK = 4096
"""Elements per program."""

_NUM_WARPS_OF_SUM = 8

_PARTIALS = 8192
"""Partial sums that one program adds up at once: three times this for the weights of BERT-base."""
_NUM_WARPS_OF_NORM = 16

_NUM_WARPS_OF_STEP = 16
"""8 elements of each tensor per thread: with 8 warps, a thread needs 127 registers, not 64."""

_ALIGNMENT = 16
"""Bytes per vectorized load or store; addresses must be multiples of it."""

_PADDING = 32
"""The moments of a tensor start at a multiple of this many elements: 128 bytes, a cache line."""

_NUM_KEPT = 4
"""Tables of gradient addresses kept on the device."""


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Addresses of the gradients of one step.

    Attributes:
        addresses: (T,) int64, 0 for a master without a gradient.
        table: The same on the device.
    """

    addresses: np.ndarray
    table: torch.Tensor


class TritonAdamW:
    """AdamW for float32 masters and their bfloat16 copies, with the interface of `TorchAdamW`.

    Only `measure_norm` differs: the kernel that ends it also does what depends on it and the loss.
    Masters and copies must not move in memory; gradients may.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        optimizer: torch.optim.AdamW,
        rows: GpuEmbeddingRows | None = None,
    ) -> None:
        """Take the settings of `optimizer`, which takes no step itself from now on.

        Args:
            pairs: Each master with its copy, or with itself, as checked by `can_launch`.
            optimizer: Holds every master; its groups differ only in weight decay.
            rows: Rows of an embedding that are to be updated, too; not one of `pairs`.
        """
        from bertfit.training import adamw_kernels  # imports Triton, which may be missing

        self._kernels = adamw_kernels
        self._pairs, self._rows = list(pairs), rows
        self._masters = [master for master, _ in self._pairs]
        self._device = self._masters[0].device
        group = optimizer.param_groups[0]
        self._betas, self._epsilon = group["betas"], float(group["eps"])
        decays = read_decays(optimizer)
        self._decays = to_device(
            np.array([decays[id(master)] for master in self._masters], np.float32), self._device
        )
        self._lay_out()
        self._num_steps = np.zeros(len(self._masters), np.int64)  # of each master
        self._kept: dict[tuple[int, ...], _Gradients] = {}
        self._norm = torch.zeros((), device=self._device)
        self._max_norm = math.inf

    def measure_norm(self, loss: torch.Tensor, *, halted: torch.Tensor) -> torch.Tensor:
        """Return the total norm of all gradients, and the loss: (2,) float32 on their device.

        Args:
            loss: () float32, of the step.
            halted: () float32, becomes 1 if norm or loss is not finite, and else stays.
        """
        gradients = self._find_gradients()
        with on_device(self._device):
            self._kernels.sum_squares[self._grid](
                gradients.table,
                self._tensors,
                self._chunks,
                self._partials[self._num_of_rows :],
                BLOCK=_BLOCK,
                num_warps=_NUM_WARPS_OF_SUM,
                **LAUNCH_OPTIONS,
            )
        if self._rows is not None:
            self._rows.sum_squares(self._partials[: self._num_of_rows])
        norm_and_loss = torch.empty(2, device=self._device)
        with on_device(self._device):
            self._kernels.finish_norm[(1,)](
                self._partials,
                loss,
                halted,
                norm_and_loss,
                len(self._partials),
                BLOCK=_PARTIALS,
                num_warps=_NUM_WARPS_OF_NORM,
                **LAUNCH_OPTIONS,
            )
        return norm_and_loss

    def clip(self, max_norm: float, norm: torch.Tensor) -> None:
        """Scale the gradients of the next step, whose norm () is `norm`, down to `max_norm`.

        The step itself does it, which saves a pass over the gradients.
        """
        self._max_norm, self._norm = float(max_norm), norm.to(self._device, torch.float32)

    def step(self, learning_rate: float, *, halted: torch.Tensor) -> None:
        """Update every master that has a gradient, unless `halted` (), a float32, is 1.

        Once halted, it must stay halted: the step is counted anyway, without reading `halted`.
        """
        gradients = self._find_gradients()
        has_gradient = gradients.addresses != 0
        self._num_steps += has_gradient
        counts = set(self._num_steps[has_gradient].tolist())
        for count in counts:
            chosen = gradients
            if len(counts) > 1:  # some had no gradient in earlier steps
                addresses = np.where(self._num_steps == count, gradients.addresses, 0)
                chosen = self._keep_gradients(tuple(addresses.tolist()))
            self._launch(chosen, learning_rate, count, halted)
        if self._rows is not None:
            self._rows.step(learning_rate, max_norm=self._max_norm, norm=self._norm, halted=halted)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what later steps depend on, as `TorchAdamW.state` does."""
        steps = torch.from_numpy(self._num_steps)
        return {"first": self._first, "second": self._second, "steps": steps}

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` returned for the same masters."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._num_steps = state["steps"].numpy().copy()

    def _launch(
        self, gradients: _Gradients, learning_rate: float, count: int, halted: torch.Tensor
    ) -> None:
        """Take step number `count` of these masters."""
        beta1, beta2 = self._betas
        # All numbers are floats: Triton specializes, and so recompiles, for an integer of 1.
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
                **LAUNCH_OPTIONS,
            )

    def _lay_out(self) -> None:
        """Allocate the moments, and the tables of everything that does not move."""
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
        self._num_of_rows = 0 if self._rows is None else self._rows.num_partials
        num_partials = self._num_of_rows + len(chunks)
        num_partials = -(-num_partials // _PARTIALS) * _PARTIALS  # the last ones stay 0
        self._partials = torch.zeros(num_partials, device=self._device)
        self._grid = (len(chunks),)

    def _find_gradients(self) -> _Gradients:
        """Return the current addresses of the gradients."""
        gradients = [master.grad for master in self._masters]
        key = tuple([0 if gradient is None else gradient.data_ptr() for gradient in gradients])
        if key not in self._kept:
            assert all(g is None or g.is_contiguous() for g in gradients), "kernels read them flat"
        return self._keep_gradients(key)

    def _keep_gradients(self, key: tuple[int, ...]) -> _Gradients:
        """Return the table of these addresses; if there are too many tables, drop the oldest."""
        if key not in self._kept:
            if len(self._kept) >= _NUM_KEPT:
                self._kept.pop(next(iter(self._kept)))
            addresses = np.array(key, np.int64)
            self._kept[key] = _Gradients(addresses, to_device(addresses, self._device))
        return self._kept[key]


def can_launch(pairs: Sequence[Pair]) -> bool:
    """Return whether Triton kernels are available and fit `pairs`."""
    if not pairs:
        return False
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
    return fits and find_kernel_obstacle(device) is None
