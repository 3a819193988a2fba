"""Whether somebody has hooked himself into a module and would miss it if it were passed by."""

from __future__ import annotations

import torch


def are_unwatched(*modules: torch.nn.Module) -> bool:
    """Tell whether nobody has hooked himself into these modules, or within."""
    return not any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks  # noqa: SLF001 (torch tells them nowhere else)
        for module in modules
        for part in module.modules()
    )
