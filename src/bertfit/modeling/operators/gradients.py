"""Where the gradients go that the compiled operators make, and the seeds that they draw from."""

from __future__ import annotations

import torch


def keep_master(work: torch.nn.Parameter, master: torch.nn.Parameter | None) -> None:
    """Let gradients of `work` that the operators make go to `master` at once, or no longer.

    They are summed in float32 there, without having been rounded; the operators then return none.
    """
    work.bertfit_master = master  # type: ignore[attr-defined]  # torch's tensors take any name


def has_master(weight: torch.Tensor) -> bool:
    """Tell whether gradients of `weight` go to a master."""
    return getattr(weight, "bertfit_master", None) is not None


def find_gradient(weight: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Return where the gradient of `weight` goes, float32, and whether to add to what is there."""
    master = getattr(weight, "bertfit_master", None)
    if master is None:
        return torch.empty(weight.shape), False
    if master.grad is None:
        master.grad = torch.empty_like(master)
        return master.grad, False
    return master.grad, True


def draw_seed() -> int:
    """Return 63 random bits of torch's generator."""
    return int(torch.randint(2**63 - 1, ()).item())
