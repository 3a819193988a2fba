"""AdamW and its learning rate."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from bertfit.config import TrainSettings


def build_optimizer(
    model: torch.nn.Module, settings: TrainSettings, *, leave_out: Collection[int] = ()
) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only.

    Biases and norms (every parameter with one dimension) are not decayed. Parameters whose `id`
    is in `leave_out` are updated elsewhere.
    Source: Devlin et al. 2019 (BERT), optimization.py of the reference implementation.
    """
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in leave_out]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)  # each step brings its own


def learning_rate_at(step: int, *, num_steps: int, peak: float, warmup_fraction: float) -> float:
    """Return the learning rate of 0-based `step`: up from 0 to the peak, then down to 0.

    Both legs are straight lines, as in BERT's reference implementation. Without warm-up the first
    step has the full rate.

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
