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
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def learning_rate_at(step: int, *, num_steps: int, settings: TrainSettings) -> float:
    """Return the learning rate of 0-based `step`: up from 0 in the warm-up, then down to 0.

    Both legs are straight lines, as in BERT's reference implementation. Without warm-up the first
    step has the full rate.

    Example:
        >>> from bertfit.config import TrainSettings
        >>> settings = TrainSettings(learning_rate=0.5, warmup_fraction=0.0)
        >>> [learning_rate_at(step, num_steps=4, settings=settings) for step in range(4)]
        [0.5, 0.375, 0.25, 0.125]
    """
    num_warmup_steps = round(num_steps * settings.warmup_fraction)
    if step < num_warmup_steps:
        return settings.learning_rate * (step + 1) / (num_warmup_steps + 1)
    remaining = (num_steps - step) / max(1, num_steps - num_warmup_steps)
    return settings.learning_rate * remaining
