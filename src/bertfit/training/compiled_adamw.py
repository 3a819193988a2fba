"""torch's AdamW step as a compiled operator: one pass over weights, moments and gradients.

It clips, updates the float32 masters and rounds them to the bfloat16 copies in the same pass; torch
makes a separate pass over memory for each.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence

import torch

from bertfit.modeling.operators.loading import call, get_operators
from bertfit.training.optimization import Pair, read_decays


class _Weight(ctypes.Structure):
    """Mirrors `struct Weight` in optimizer.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("master", "gradient", "first", "second", "work")),
        ("size", ctypes.c_int64),
        ("weight_decay", ctypes.c_float),
    )


class _Step(ctypes.Structure):
    """Mirrors `struct Step` in optimizer.cpp."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in (
            "learning_rate",
            "clip",
            "beta1",
            "beta2",
            "epsilon",
            "correction1",
            "correction2",
        )
    )


class CompiledAdamW:
    """AdamW for float32 masters and their bfloat16 copies, with the interface of `TorchAdamW`."""

    def __init__(self, pairs: Sequence[Pair], optimizer: torch.optim.AdamW) -> None:
        """Take the settings of `optimizer`, which takes no step itself from now on.

        Args:
            pairs: Each master with its copy.
            optimizer: Holds every master; its groups differ only in weight decay.
        """
        self._factor = 1.0  # scales every gradient in the next step
        group = optimizer.param_groups[0]
        self._betas, self._epsilon = group["betas"], group["eps"]
        decays = read_decays(optimizer)
        self._weights = [
            (master, work, torch.zeros_like(master), torch.zeros_like(master), decays[id(master)])
            for master, work in pairs
        ]
        self._num_steps = [0] * len(self._weights)  # of each master

    def measure_norm(self) -> torch.Tensor:
        """Return the total norm () of all gradients."""
        weights = self._list_weights()
        squares = call("sum_squares", weights, ctypes.c_int64(len(weights)))
        return torch.tensor(math.sqrt(squares), dtype=torch.float64)

    def clip(self, max_norm: float, norm: torch.Tensor) -> None:
        """Scale the gradients of the next step, whose norm () is `norm`, down to `max_norm`."""
        self._factor = min(1.0, max_norm / (float(norm) + 1e-6))

    def step(self, learning_rate: float, *, halted: torch.Tensor) -> None:
        """Update every master that has a gradient, unless `halted` () is 1."""
        if halted:
            return
        counts: set[int] = set()
        for place, (master, *_) in enumerate(self._weights):
            if master.grad is not None:
                self._num_steps[place] += 1
                counts.add(self._num_steps[place])
        beta1, beta2 = self._betas
        for count in counts:  # more than one only if some had no gradient in an earlier step
            step = _Step(
                learning_rate,
                self._factor,
                beta1,
                beta2,
                self._epsilon,
                1.0 - beta1**count,
                1.0 - beta2**count,
            )
            weights = self._list_weights(count)
            call("adamw_step", ctypes.byref(step), weights, ctypes.c_int64(len(weights)))

    def state(self) -> dict[str, torch.Tensor]:
        """Return what later steps depend on, as `TorchAdamW.state` does."""
        return {"steps": torch.tensor(self._num_steps), **self._name_moments()}

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` returned for the same masters."""
        self._num_steps = state["steps"].tolist()
        for name, moments in self._name_moments().items():
            moments.copy_(state[name])

    def _name_moments(self) -> dict[str, torch.Tensor]:
        return {
            f"{place}.{name}": moments
            for place, (_, _, first, second, _) in enumerate(self._weights)
            for name, moments in (("first", first), ("second", second))
        }

    def _list_weights(self, num_steps: int | None = None) -> ctypes.Array[_Weight]:
        """Return the weights that have a gradient, or those of them with this number of steps."""
        listed = [
            _Weight(
                master.data_ptr(),
                master.grad.data_ptr(),
                first.data_ptr(),
                second.data_ptr(),
                work.data_ptr(),
                master.numel(),
                decay,
            )
            for (master, work, first, second, decay), count in zip(
                self._weights, self._num_steps, strict=True
            )
            if master.grad is not None and num_steps in {None, count}
        ]
        return (_Weight * len(listed))(*listed)


def compile_step(pairs: Sequence[Pair], optimizer: torch.optim.AdamW) -> CompiledAdamW | None:
    """Return the compiled step, or None if the operators are not loaded or do not fit `pairs`."""
    fits = get_operators() is not None and all(
        master.dtype == torch.float32
        and work.dtype == torch.bfloat16
        and master.device.type == "cpu"
        and master.is_contiguous()
        and work.is_contiguous()
        for master, work in pairs
    )
    return CompiledAdamW(pairs, optimizer) if fits else None
