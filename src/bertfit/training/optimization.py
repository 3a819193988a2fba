"""AdamW and its learning rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn.utils import get_total_norm

if TYPE_CHECKING:
    from bertfit.config import TrainSettings

Pair: TypeAlias = tuple[torch.nn.Parameter, torch.nn.Parameter]
"""A float32 master, and its working copy of another dtype, or the master itself."""


def build_optimizer(
    model: torch.nn.Module, settings: TrainSettings, *, leave_out: Collection[int] = ()
) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only.

    Norms (all one-dimensional parameters) and biases (also XLNet's, of a row for each head) are not
    decayed. Parameters whose `id` is in `leave_out` are updated elsewhere.
    Source: Devlin et al. 2019 (BERT), optimization.py of the reference implementation.
    """
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad and id(weight) not in leave_out:
            is_matrix = weight.ndim > 1 and not name.endswith("bias")
            (decayed if is_matrix else others).append(weight)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)  # `step` sets the lr


def read_decays(optimizer: torch.optim.AdamW) -> dict[int, float]:
    """Return the weight decay of each parameter, by its `id`."""
    groups = optimizer.param_groups
    return {id(of): float(group["weight_decay"]) for group in groups for of in group["params"]}


class TorchAdamW:
    """torch's AdamW for masters, which also updates their working copies."""

    def __init__(self, pairs: Sequence[Pair], optimizer: torch.optim.AdamW) -> None:
        """Take each master with its copy, or with itself, and the optimizer of the masters."""
        self._pairs, self._optimizer = pairs, optimizer

    def measure_norm(self) -> torch.Tensor:
        """Return the total norm () of all gradients."""
        return get_total_norm([m.grad for m, _ in self._pairs if m.grad is not None])

    def clip(self, max_norm: float, norm: torch.Tensor) -> None:
        """Scale the gradients of the next step, whose norm () is `norm`, down to `max_norm`.

        The step itself divides them by `grad_scale`, which saves a pass over the gradients.
        """
        excess = (norm.float() + 1e-6) / max_norm
        self._optimizer.grad_scale = excess.clamp(min=1.0)  # type: ignore[attr-defined]  # as below

    def step(self, learning_rate: float, *, halted: torch.Tensor) -> None:
        """Update every master that has a gradient, unless `halted` (), a float, is 1."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.found_inf = halted  # type: ignore[attr-defined]  # the fused step reads it
        self._optimizer.step()
        copied = [(master, work) for master, work in self._pairs if work is not master]
        if copied:
            with torch.no_grad():
                # On a GPU this is a few kernel launches; a loop would need one for each weight.
                torch._foreach_copy_([work for _, work in copied], [master for master, _ in copied])

    def state(self) -> dict[str, torch.Tensor]:
        """Return what later steps depend on, apart from the masters: moments and numbers of steps.

        The tensors are those in use, not copies.
        """
        by_place = self._optimizer.state_dict()["state"]
        return {
            f"{place}.{name}": value
            for place, values in by_place.items()
            for name, value in values.items()
        }

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` returned for the same masters."""
        by_place: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in state.items():
            place, _, name = key.partition(".")
            by_place.setdefault(int(place), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        masters = [master for group in self._optimizer.param_groups for master in group["params"]]
        for at, values in by_place.items():
            for name in ("exp_avg", "exp_avg_sq"):  # the fused step would read past their ends
                if values[name].shape != masters[at].shape:
                    message = f"moments {at} are of shape {tuple(values[name].shape)}"
                    raise ValueError(message)
        self._optimizer.load_state_dict({"state": by_place, "param_groups": groups})


def learning_rate_at(step: int, *, num_steps: int, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of 0-based `step`: up from 0 to the peak, then down to 0.

    Both parts are linear, as in BERT's reference implementation. Without warm-up the first step has
    the full rate.

    Example:
        >>> schedule = {"num_steps": 4, "peak": 0.5, "warmup_fraction": 0.0}
        >>> [learning_rate_at(step, **schedule) for step in range(4)]
        [0.5, 0.375, 0.25, 0.125]
    """
    num_warmup_steps = round(num_steps * warmup_fraction)
    if step < num_warmup_steps:
        return peak * (step + 1) / (num_warmup_steps + 1)
    remaining = (num_steps - step) / max(1, num_steps - num_warmup_steps)
    return peak * remaining
