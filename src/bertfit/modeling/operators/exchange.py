"""The compiled operators plugged into an encoder of transformers, module by module.

A module keeps its class, its weights and their names; its forward asks whether the operators are
loaded and the numbers bfloat16, and otherwise does what it did before.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from bertfit.modeling.compilation import leave_out
from bertfit.modeling.operators.layers import gelu, multiply, normalize
from bertfit.modeling.operators.loading import BLOCK, takes

_MIN_ROWS = 64
"""Of fewer tokens the products are left to torch: packing a weight pays by being used often."""

_gelu = leave_out(gelu)
_multiply = leave_out(multiply)
_normalize = leave_out(normalize)


def exchange_modules(model: torch.nn.Module) -> None:
    """Let every LayerNorm, GELU and residual sum of `model` use the operators where it can."""
    for module in model.modules():
        forward = _find_forward(module)
        if forward is not None:
            module.forward = types.MethodType(forward, module)


def _find_forward(module: torch.nn.Module) -> Callable[..., torch.Tensor] | None:
    if _is_exact_gelu(module):
        return _activate
    if type(module) is torch.nn.LayerNorm and _is_plain_norm(module):
        return _norm
    if _adds_residual(module):
        return _add_and_norm
    if _activates(module):
        return _multiply_and_activate
    if type(module) is torch.nn.Linear and not any(n % BLOCK for n in module.weight.shape):
        return _apply_layer
    return None


def _is_exact_gelu(module: torch.nn.Module) -> bool:
    if type(module) is torch.nn.GELU:
        return module.approximate == "none"
    return type(module).__name__ == "GELUActivation" and (
        getattr(module, "act", None) is torch.nn.functional.gelu
    )


def _is_plain_norm(module: torch.nn.LayerNorm) -> bool:
    """Tell whether it has weights, over one dimension."""
    return module.elementwise_affine and len(module.normalized_shape) == 1


def _is_of_transformers(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.models.")


def _adds_residual(module: torch.nn.Module) -> bool:
    """Tell whether this is the output of attention or of the feed-forward, as BERT's family has it.

    LayerNorm(dropout(dense(hidden)) + input): three parts of these names and no other.
    """
    return (
        type(module).__name__.endswith("Output")
        and _is_of_transformers(module)
        and set(dict(module.named_children())) == {"dense", "dropout", "LayerNorm"}
    )


def _activates(module: torch.nn.Module) -> bool:
    """Tell whether this is the first half of the feed-forward, as BERT's family has it."""
    parts = dict(module.named_children())
    return (
        type(module).__name__.endswith("Intermediate")
        and _is_of_transformers(module)
        and set(parts) == {"dense", "intermediate_act_fn"}
        and _is_exact_gelu(parts["intermediate_act_fn"])
    )


def _fits(values: torch.Tensor) -> bool:
    return takes(values) and values.shape[-1] % BLOCK == 0


def _is_worth_it(values: torch.Tensor) -> bool:
    return _fits(values) and values.numel() >= _MIN_ROWS * values.shape[-1]


def _activate(module: torch.nn.Module, values: torch.Tensor) -> torch.Tensor:
    if _fits(values):
        return _gelu(values)
    output: torch.Tensor = type(module).forward(module, values)
    return output


def _apply_layer(module: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
    if _is_worth_it(values):
        return _multiply(values, module)
    return torch.nn.Linear.forward(module, values)


def _multiply_and_activate(
    module: Any,  # noqa: ANN401 (BertIntermediate or its like)
    hidden: torch.Tensor,
) -> torch.Tensor:
    if _is_worth_it(hidden):
        return _multiply(hidden, module.dense, activate=True)
    output: torch.Tensor = type(module).forward(module, hidden)
    return output


def _norm(module: torch.nn.LayerNorm, values: torch.Tensor) -> torch.Tensor:
    if _fits(values):
        return _normalize(values, None, module, dropout=0.0)
    return torch.nn.LayerNorm.forward(module, values)


def _add_and_norm(
    module: Any,  # noqa: ANN401 (BertOutput, BertSelfOutput or their like)
    hidden: torch.Tensor,
    residual: torch.Tensor,
) -> torch.Tensor:
    if not _fits(residual):
        output: torch.Tensor = type(module).forward(module, hidden, residual)
        return output
    rate = module.dropout.p if module.training else 0.0
    return _normalize(module.dense(hidden), residual, module.LayerNorm, dropout=rate)
