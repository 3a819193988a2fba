"""AdamW for an embedding table with lazy updates: a step touches only the rows that it reads.

A table of 30,000 rows holds half of a small encoder's weights, and a step reads a thousand of them.
AdamW also moves every other row a little, by its remaining momentum, and decays it. Here that is
deferred until the row is read again, and then applied in closed form: while a row has no gradient,
its moments shrink by known factors (β1, β2), so the sum of the updates it missed is

    w ← w · Π(1 − lr·λ) − m / (√v + ε') · Σ lr_j · (β1/√β2)^(j−s) · √(1−β2^j) / (1−β1^j)

with s the step of its last update, and each term of the sum decayed by the steps after it. The
weights equal those of dense AdamW up to rounding, with one exception: ε, whose effect relative to
√v changes from step to step, is replaced by its mean in the sum. This matters only if √v is as
small as ε, 1e-8, and even then the error is less than a tenth of what the row missed
(tests/training/test_embedding_rows.py).

Source: Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2 (the deferred update).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

_HORIZON = 200
"""Steps after which the remaining momentum, a share of (0.9/√0.999)^200 = 8e-10, is ignored."""
_TINY = 1e-30
"""Replaces a learning rate of 0, so that a mean is never 0 / 0."""


class EmbeddingRows:
    """The rows of one embedding table (V, D), their moments, and the step of their last update."""

    def __init__(
        self,
        master: torch.nn.Parameter,
        work: torch.nn.Embedding,
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        """Take over the table; from now on, gradients of `work` are collected as rows.

        Args:
            master: (V, D) float32, the trained weights.
            work: The embedding used in the forward pass; its weight is `master` itself or a copy
                of another dtype.
            weight_decay: Decoupled; multiplied by the learning rate at each step.
            betas: Decay rates of the two moments.
            epsilon: Added to the square root of the second moment.
        """
        self._master, self._work = master, work
        self._weight_decay, self._betas, self._epsilon = weight_decay, betas, epsilon
        self._first, self._second = torch.zeros_like(master), torch.zeros_like(master)
        self._last = np.zeros(len(master), dtype=np.int64)
        self._step = 0
        # For each step s so far: the sum in the formula above from s to now, and the same sum with
        # each term multiplied by its ε'; and the log of the product, from the start to s.
        self._momentum_since = np.zeros(1)
        self._epsilon_since = np.zeros(1)
        self._log_decay = np.zeros(1)
        self._pieces: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._rows = torch.empty(0, dtype=torch.int64)
        self._gradient = torch.empty(0, master.shape[1])
        work.sparse = True
        self._hook = work.weight.register_post_accumulate_grad_hook(self._keep_piece)

    def catch_up(self, rows: torch.Tensor) -> None:
        """Bring distinct rows to the state that dense AdamW would have left them in."""
        since = self._last[rows.numpy()]
        late = since < self._step
        if not late.any():
            return
        rows, since = rows[torch.from_numpy(late)], since[late]
        missed = self._step - since
        beta1, beta2 = self._betas
        epsilon = self._epsilon_since[since] / self._momentum_since[since]
        first, second = self._first[rows], self._second[rows]
        with torch.no_grad():
            moved = first / (second.sqrt() + _column(epsilon))
            now = self._log_decay[self._step]
            weights = self._master[rows] * _column(np.exp(now - self._log_decay[since]))
            weights -= moved * _column(self._momentum_since[since] * np.exp(now))
            self._write(rows, weights)
        self._first[rows] = first * _column(beta1**missed)
        self._second[rows] = second * _column(beta2**missed)
        self._last[rows.numpy()] = self._step

    def catch_up_all(self) -> None:
        """Bring every row up to date."""
        self.catch_up(torch.from_numpy(np.flatnonzero(self._last < self._step)))

    def gather_gradient(self) -> float:
        """Sum the rows' gradients over all micro-batches; return their total norm."""
        if not self._pieces:
            return 0.0
        places = torch.cat([place for place, _ in self._pieces])
        self._rows, inverse = torch.unique(places, return_inverse=True)
        self._gradient = self._master.new_zeros(len(self._rows), self._master.shape[1])
        values = torch.cat([value for _, value in self._pieces])
        self._gradient.index_add_(0, inverse, values)
        self._pieces.clear()
        return float(self._gradient.norm())

    def scale_gradient(self, factor: float) -> None:
        """Multiply the gathered gradient by `factor`, to clip it."""
        self._gradient *= factor

    def update(self, learning_rate: float) -> None:
        """Take one step with the gathered gradient; rows without one are deferred."""
        self.catch_up(self._rows)  # usually a no-op: the rows were caught up before being read
        self._count_step(learning_rate)
        beta1, beta2 = self._betas
        rows, gradient = self._rows, self._gradient
        first = self._first[rows].lerp_(gradient, 1.0 - beta1)
        second = self._second[rows].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        bias1, bias2 = 1.0 - beta1**self._step, 1.0 - beta2**self._step
        with torch.no_grad():
            weights = self._master[rows] * (1.0 - learning_rate * self._weight_decay)
            denominator = second.sqrt().div_(bias2**0.5).add_(self._epsilon)
            weights.addcdiv_(first, denominator, value=-learning_rate / bias1)
            self._write(rows, weights)
        self._first[rows], self._second[rows] = first, second
        self._last[rows.numpy()] = self._step
        self.drop_gradient()

    def drop_gradient(self) -> None:
        """Discard the gradients."""
        self._pieces.clear()
        self._rows = torch.empty(0, dtype=torch.int64)
        self._gradient = torch.empty(0, self._master.shape[1])

    def state(self) -> dict[str, torch.Tensor]:
        """Return what later steps depend on, apart from the table; not copies."""
        return {
            "first": self._first,
            "second": self._second,
            "last": torch.from_numpy(self._last),
            "momentum_since": torch.from_numpy(self._momentum_since),
            "epsilon_since": torch.from_numpy(self._epsilon_since),
            "log_decay": torch.from_numpy(self._log_decay),
        }

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` returned for the same table."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._last = state["last"].numpy().copy()
        self._momentum_since = state["momentum_since"].numpy().copy()
        self._epsilon_since = state["epsilon_since"].numpy().copy()
        self._log_decay = state["log_decay"].numpy().copy()
        self._step = len(self._log_decay) - 1

    def release(self) -> None:
        """Make the embedding produce dense gradients again."""
        self._hook.remove()
        self._work.sparse = False

    def _keep_piece(self, weight: torch.Tensor) -> None:
        assert weight.grad is not None  # the hook runs right after it was set
        # One entry per token read, repeats included: coalescing would already sort them here.
        piece = weight.grad.detach()
        places = piece._indices()  # noqa: SLF001 (public only on coalesced tensors)
        values = piece._values()  # noqa: SLF001 (as above)
        self._pieces.append((places[0], values.to(self._master.dtype)))
        weight.grad = None

    def _write(self, rows: torch.Tensor, weights: torch.Tensor) -> None:
        self._master[rows] = weights
        if self._work.weight is not self._master:
            self._work.weight[rows] = weights.to(self._work.weight.dtype)

    def _count_step(self, learning_rate: float) -> None:
        """Add a step to the sums, as it applies to every row without a gradient."""
        self._step += 1
        step, (beta1, beta2) = self._step, self._betas
        decay = np.log1p(-learning_rate * self._weight_decay)
        self._log_decay = np.append(self._log_decay, self._log_decay[-1] + decay)
        root_bias2 = (1.0 - beta2**step) ** 0.5
        ages = np.arange(min(step, _HORIZON), 0, -1)
        shrunk = (beta1 / beta2**0.5) ** ages.astype(float)
        # A term is decayed only by the steps after it: divided here by the decay so far, it can be
        # multiplied by the whole decay later.
        terms = max(learning_rate, _TINY) * root_bias2 / (1.0 - beta1**step) * shrunk
        terms *= np.exp(-self._log_decay[step])
        self._momentum_since[step - ages] += terms
        self._epsilon_since[step - ages] += terms * self._epsilon * root_bias2 / beta2 ** (ages / 2)
        self._momentum_since = np.append(self._momentum_since, 0.0)
        self._epsilon_since = np.append(self._epsilon_since, 0.0)


def _column(values: np.ndarray) -> torch.Tensor:
    """Return float64 values (n,) as a float32 column (n, 1)."""
    return torch.from_numpy(values).float().unsqueeze(1)
