"""Whether anybody has put hooks on a module, which would be lost if it were bypassed."""

from __future__ import annotations

import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where torch keeps them; it tells them nowhere else."""


def are_unwatched(*modules: torch.nn.Module) -> bool:
    """Tell whether nobody has hooked himself into these modules, or within."""
    return not any(
        getattr(part, hooks) for hooks in _HOOKS for module in modules for part in module.modules()
    )
