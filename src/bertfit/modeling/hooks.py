"""Whether a module has hooks, which would not run if the module were bypassed."""

from __future__ import annotations

import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Attributes in which torch stores hooks; it has no public access to them."""


def are_unwatched(*modules: torch.nn.Module) -> bool:
    """Return whether neither these modules nor their submodules have hooks."""
    return not any(
        getattr(part, hooks) for hooks in _HOOKS for module in modules for part in module.modules()
    )
