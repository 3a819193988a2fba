"""The lazy updates of `embedding_rows`, by Triton kernels: the CPU never waits for the GPU.

The formula for what a row has missed is the same, except that the effect of ε is replaced by that
of its mean and its deviation in the sum, not by its mean alone. The sum is computed anew for each
row from the history of the learning rates, which stays on the device, as does the number of steps
taken: a step that was halted does not count, and only the device knows.

The gradient has a whole table's memory, at a fixed address, so recorded passes can add to it. It is
zero except for the rows of a step between its first backward pass and its update. `master.grad` is
this table from that first pass on, and None before.

Shapes: V rows of D numbers in the table, N tokens of a pack.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import embedding

from bertfit.modeling.kernels.launching import LAUNCH_OPTIONS, on_device
from bertfit.modeling.pack import current_pack
from bertfit.modeling.transfer import to_device

_PROGRAMS, _PROGRAMS_ON_A_CPU = 512, 4
"""Programs that sum squares; multiples of 4, because what follows their sums is to be aligned."""
_HORIZON = 256
"""As in `embedding_rows`, but a power of two."""
_STEPS_KEPT = 4096
"""Length of the history at first."""
_COLUMNS, _TOKENS, _WARPS_OF_SUM = 256, 8, 1
"""A tile of the sum over the tokens of an id; a thread has 8 columns, so it sums on its own."""


class GpuEmbeddingRows:
    """The rows of one embedding table, with what `TrainedWeights` uses of `EmbeddingRows`."""

    def __init__(
        self,
        master: torch.nn.Parameter,
        work: torch.nn.Embedding,
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        """Take over the table; from now on, gradients of `work` go to `master.grad`.

        Args:
            master: (V, D) float32, the trained weights.
            work: The embedding used in the forward pass; its weight is `master` itself or a copy
                of another dtype.
            weight_decay: Decoupled; multiplied by the learning rate at each step.
            betas: Decay rates of the two moments.
            epsilon: Added to the square root of the second moment.
        """
        from bertfit.training import embedding_kernels  # imports Triton, which may be missing

        self._kernels = embedding_kernels
        self._master, self._work = master, work
        self._weight_decay, self._betas, self._epsilon = weight_decay, betas, epsilon
        num_rows, width = master.shape
        self._device = device = master.device
        self.num_partials = _PROGRAMS if master.is_cuda else _PROGRAMS_ON_A_CPU
        self._shape = {"WIDTH": width, "BLOCK": 1 << (width - 1).bit_length(), **LAUNCH_OPTIONS}
        self._first, self._second, self._gradient = (
            torch.zeros(num_rows, width, device=device) for _ in range(3)
        )
        self._last = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self._reached = torch.zeros((), dtype=torch.int32, device=device)
        self._history = torch.zeros(_STEPS_KEPT, 3, device=device)
        self._step, self._log_decay = 0, 0.0
        self._all = torch.arange(num_rows, device=device)
        self._rows = self._all  # of this step
        work.forward = types.MethodType(self._look_up, work)  # type: ignore[method-assign]  # of this one

    def catch_up(self, rows: torch.Tensor) -> None:
        """Bring distinct rows, integers on the CPU, up to date; the next step reads no others."""
        self._rows = to_device(rows.numpy().astype(np.int64), self._device)
        self._catch_up(self._rows)

    def catch_up_all(self) -> None:
        """Bring every row up to date."""
        self._catch_up(self._all)

    def sum_squares(self, partials: torch.Tensor) -> None:
        """Write the sum of squares of the gradient as `num_partials` partial sums."""
        with on_device(self._device):
            self._kernels.sum_row_squares[(self.num_partials,)](
                self._rows, self._gradient, partials, len(self._rows), **self._shape
            )

    def step(
        self, learning_rate: float, *, max_norm: float, norm: torch.Tensor, halted: torch.Tensor
    ) -> None:
        """Take one step with the gradient, and clear it; rows that were not read are deferred.

        Args:
            learning_rate: Of this step.
            max_norm: The gradient is scaled down so that `norm` becomes this.
            norm: () float32, of all gradients.
            halted: () float32. Once it is 1, neither this nor a later step changes a weight.
        """
        if self._master.grad is None:
            return
        self._master.grad = None
        self._step += 1
        if self._step == len(self._history):
            self._history = torch.cat([self._history, torch.zeros_like(self._history)])
        beta1, beta2 = self._betas
        decay = learning_rate * self._weight_decay
        self._log_decay += math.log1p(-decay)
        step_size = learning_rate / (1.0 - beta1**self._step)
        root_correction2 = math.sqrt(1.0 - beta2**self._step)
        with on_device(self._device):
            self._kernels.step_rows[(len(self._rows),)](
                self._rows,
                *self._tables(),
                self._gradient,
                self._last,
                self._history,
                self._reached,
                norm,
                halted,
                self._step,
                max_norm,
                decay,
                step_size,
                root_correction2,
                1.0 - beta1,
                beta2,
                1.0 - beta2,
                self._epsilon,
                self._log_decay,
                step_size * root_correction2,
                HAS_COPIES=self._has_copies,
                **self._shape,
            )

    def drop_gradient(self) -> None:
        """Discard the gradient."""
        if self._master.grad is not None:
            self._master.grad = None
            self._gradient.index_fill_(0, self._rows, 0.0)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what later steps depend on, apart from the table; not copies, but for numbers."""
        return {
            "first": self._first,
            "second": self._second,
            "last": self._last,
            "history": self._history,
            "reached": self._reached,
            "step": torch.tensor(self._step),
            "log_decay": torch.tensor(self._log_decay, dtype=torch.float64),
        }

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` returned for the same table."""
        self._history = state["history"].clone().to(self._device)  # of any length
        for name in ("first", "second", "last", "reached"):
            self.state()[name].copy_(state[name])
        self._step, self._log_decay = int(state["step"]), float(state["log_decay"])

    def release(self) -> None:
        """Make the embedding produce ordinary gradients again."""
        vars(self._work).pop("forward", None)
        torch.autograd.graph.increment_version(self._master)

    def add(self, of_tokens: torch.Tensor, token_ids: torch.Tensor, by_id: torch.Tensor) -> None:
        """Add the gradient of the embeddings (N, D) that were read for token ids (N,).

        Args:
            of_tokens: The gradient.
            token_ids: int64, on the device.
            by_id: As `sort_by_id` returns it, on the device.
        """
        self._master.grad = self._gradient
        num_tokens, width = of_tokens.shape
        padding_id = -1 if self._work.padding_idx is None else self._work.padding_idx
        with on_device(self._device):
            self._kernels.add_rows[(num_tokens, -(-width // _COLUMNS))](
                of_tokens,
                token_ids,
                by_id,
                self._gradient,
                num_tokens,
                padding_id,
                WIDTH=width,
                BLOCK=_COLUMNS,
                ROWS=_TOKENS,
                num_warps=_WARPS_OF_SUM,
                **LAUNCH_OPTIONS,
            )

    @property
    def _has_copies(self) -> bool:
        return self._work.weight is not self._master

    def _tables(self) -> tuple[torch.Tensor, ...]:
        return self._master, self._work.weight, self._first, self._second

    def _catch_up(self, rows: torch.Tensor) -> None:
        beta1, beta2 = self._betas
        with on_device(self._device):
            self._kernels.catch_up_rows[(len(rows),)](
                rows,
                *self._tables(),
                self._last,
                self._history,
                self._reached,
                math.log2(beta1),
                math.log2(beta2),
                HAS_COPIES=self._has_copies,
                HORIZON=_HORIZON,
                **self._shape,
            )

    def _look_up(self, work: torch.nn.Embedding, token_ids: torch.Tensor) -> torch.Tensor:
        """Replace the forward of the embedding."""
        if not torch.is_grad_enabled():
            return embedding(token_ids, work.weight)
        apply: Callable[..., torch.Tensor] = _LookUp.apply
        return apply(work.weight, token_ids, self)


class _LookUp(torch.autograd.Function):
    """Look up rows of a table (V, D) by token ids of any shape (...), giving (..., D)."""

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401 (torch's own)
        weight_VD: torch.Tensor,
        token_ids: torch.Tensor,
        rows: GpuEmbeddingRows,
    ) -> torch.Tensor:
        context.save_for_backward(token_ids)
        pack = current_pack()
        context.by_id = None if pack is None else pack.by_id
        context.rows = rows
        return embedding(token_ids, weight_VD)

    @staticmethod
    def backward(
        context: Any,  # noqa: ANN401 (torch's own)
        *gradients: torch.Tensor,
    ) -> tuple[None, None, None]:
        token_ids_N = context.saved_tensors[0].flatten()
        by_id = context.by_id
        if by_id is None:
            by_id = _sort_on_device(token_ids_N)
        context.rows.add(gradients[0].flatten(0, -2).contiguous(), token_ids_N, by_id)
        return None, None, None


def sort_by_id(token_ids_N: np.ndarray) -> np.ndarray:
    """Return the tokens sorted by id, and for each place in that order, where its id ends.

    They are (2, N) int32, half of what int64 would take to copy to a GPU.

    Example:
        >>> sort_by_id(np.array([7, 3, 7, 5]))
        array([[1, 3, 0, 2],
               [1, 2, 4, 4]], dtype=int32)
    """
    order = np.argsort(token_ids_N, kind="stable")
    ids = token_ids_N[order]
    ends = np.append(np.flatnonzero(ids[1:] != ids[:-1]) + 1, len(ids))
    return np.stack([order, np.repeat(ends, np.diff(ends, prepend=0))], dtype=np.int32)


def _sort_on_device(token_ids_N: torch.Tensor) -> torch.Tensor:
    """Return the same as `sort_by_id`."""
    ids, order = torch.sort(token_ids_N, stable=True)
    return torch.stack([order, torch.searchsorted(ids, ids, right=True)]).int()
