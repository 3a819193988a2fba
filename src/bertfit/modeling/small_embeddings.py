"""Gradients of position and token-type embeddings on a GPU, as a matrix product.

torch adds up the gradients of one row of a small table one token after another; there are few rows,
and 2,048 tokens of one type. Multiplying by a one-hot matrix does the same at once. The looked-up
values are the same to the bit.

How much this gains on a GPU was not measured.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import embedding

_NAMES = ("position_embeddings", "token_type_embeddings")
_MOST_ROWS = 1024
"""Larger tables would make larger products than they save."""


def exchange_small_embeddings(model: torch.nn.Module) -> None:
    """Let each small table of positions or token types have its gradient by a product."""
    for name, module in model.named_modules():
        is_one = name.rpartition(".")[2] in _NAMES and type(module) is torch.nn.Embedding
        if is_one and module.num_embeddings <= _MOST_ROWS and module.max_norm is None:
            module.forward = types.MethodType(_look_up, module)


def _look_up(table: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    apply: Callable[..., torch.Tensor] = _LookUp.apply
    return apply(table.weight, ids, table.padding_idx)


class _LookUp(torch.autograd.Function):
    """Rows of a table (R, D) by ids of any shape (..., ), as (..., D)."""

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401 (torch's own)
        weight_RD: torch.Tensor,
        ids: torch.Tensor,
        padding_id: int | None,
    ) -> torch.Tensor:
        context.save_for_backward(ids)
        context.num_rows, context.padding_id = len(weight_RD), padding_id
        return embedding(ids, weight_RD)

    @staticmethod
    def backward(
        context: Any,  # noqa: ANN401 (torch's own)
        *gradients: torch.Tensor,
    ) -> tuple[torch.Tensor, None, None]:
        (ids,), gradient_ND = context.saved_tensors, gradients[0].flatten(0, -2)
        rows = torch.arange(context.num_rows, device=ids.device)
        is_its_RN = ids.flatten() == rows[:, None]
        if context.padding_id is not None:  # which is not trained
            is_its_RN &= (rows != context.padding_id)[:, None]
        return is_its_RN.to(gradient_ND.dtype) @ gradient_ND, None, None
