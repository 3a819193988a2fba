"""Gradients of a LayerNorm's weight and bias, summed in float32.

On a CPU, torch sums them over all tokens in bfloat16, even if the weights are float32. Such a sum
stops growing: gradients of one sign become far too small (a bias's by half for 4,096 tokens in
tests/modeling/test_norm_gradients.py), and those of MiniLM's norms are off by 9 % in steps of 32
reviews (docs/performance.md). The output and the gradient of the input are torch's own, bitwise
identical.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import layer_norm

from bertfit.modeling.compilation import leave_out


def pass_norm(module: torch.nn.LayerNorm, values: torch.Tensor) -> torch.Tensor:
    """Return the module's output; its gradients are summed as above if the values need it.

    Args:
        module: A LayerNorm over the last dimension, with a weight and perhaps a bias.
        values: (..., D).
    """
    is_summed_in_bfloat16 = values.dtype == torch.bfloat16 and values.device.type == "cpu"
    if not is_summed_in_bfloat16 or not torch.is_grad_enabled():
        return torch.nn.LayerNorm.forward(module, values)
    return _apply(values, module.weight, module.bias, module.eps)


class _PassNorm(torch.autograd.Function):
    """LayerNorm of values (..., D)."""

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401 (torch's own)
        values: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        epsilon: float,
    ) -> torch.Tensor:
        output, means, scales = torch.native_layer_norm(
            values, weight_D.shape, weight_D, bias_D, epsilon
        )
        context.save_for_backward(values, weight_D, bias_D, means, scales)
        context.epsilon = epsilon
        return output

    @staticmethod
    def backward(
        context: Any,  # noqa: ANN401 (torch's own)
        *gradients: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        values, weight_D, bias_D, means, scales = context.saved_tensors
        (gradient,) = gradients
        of_values, of_weight, of_bias = None, None, None
        needs_values, needs_weight, needs_bias, _ = context.needs_input_grad
        if needs_values:
            of_values, _, _ = torch.ops.aten.native_layer_norm_backward(
                gradient, values, weight_D.shape, means, scales, weight_D, bias_D,
                [True, False, False],
            )  # fmt: skip
        rows = tuple(range(gradient.ndim - 1))
        if needs_weight:
            normed = layer_norm(values.float(), weight_D.shape, eps=context.epsilon)
            of_weight = normed.mul_(gradient).sum(rows).to(weight_D.dtype)
        if needs_bias:
            of_bias = gradient.sum(rows, dtype=torch.float32).to(bias_D.dtype)
        return of_values, of_weight, of_bias, None


_apply: Callable[..., torch.Tensor] = leave_out(_PassNorm.apply)
