"""Autograd functions for the layers around attention, using the compiled operators.

All tensors are bfloat16 on the CPU. The library must be loaded first.

Shapes: N tokens of width W.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch

from bertfit.modeling.gradients import draw_seed, find_gradient, has_master
from bertfit.modeling.operators.loading import call
from bertfit.modeling.operators.rooms import make_room, make_room_like

_Long = ctypes.c_int64


class _Norm(ctypes.Structure):
    """Mirrors `struct Norm` in norm.h."""

    _fields_ = (
        ("rows", _Long),
        ("width", _Long),
        ("epsilon", ctypes.c_float),
        ("rate", ctypes.c_float),
        ("seed", ctypes.c_uint64),
    )


def normalize(
    values_NW: torch.Tensor,
    residual_NW: torch.Tensor | None,
    norm: torch.nn.LayerNorm,
    *,
    dropout: float,
) -> torch.Tensor:
    """Return norm(dropout(values) + residual) for shape (..., W), W a multiple of 32."""
    out: torch.Tensor = _apply_normalize(
        values_NW, residual_NW, norm.weight, norm.bias, norm.eps, dropout, torch.is_grad_enabled()
    )
    return out


def multiply(
    values: torch.Tensor, layer: torch.nn.Linear, *, activate: bool = False
) -> torch.Tensor:
    """Return layer(values), or its GELU, for values (..., W); all widths are multiples of 32."""
    (out,) = _apply_multiply(values, activate, torch.is_grad_enabled(), layer.weight, layer.bias)
    return out


def gelu(values: torch.Tensor) -> torch.Tensor:
    """Return x Φ(x) elementwise."""
    out: torch.Tensor = _apply_gelu(values, torch.is_grad_enabled())
    return out


class Normalize(torch.autograd.Function):
    """LayerNorm of a residual sum with dropout."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        values: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        epsilon: float,
        dropout: float,
        has_backward: bool,  # noqa: FBT001 (autograd passes by position)
    ) -> torch.Tensor:
        """Run the forward pass."""
        values = values.contiguous()
        residual = None if residual is None else residual.expand_as(values).contiguous()
        width = values.shape[-1]
        sizes = _Norm(
            values.numel() // width, width, epsilon, dropout, draw_seed() if dropout else 0
        )
        statistics = make_room(sizes.rows, 2, dtype=torch.float32)
        output = make_room_like(values)
        sums = make_room_like(values) if has_backward else None
        call(
            "norm_forward", ctypes.byref(sizes), values, residual, weight, bias, sums, statistics,
            output,
        )  # fmt: skip
        ctx.save_for_backward(sums, statistics)
        ctx.weight, ctx.bias = weight, bias
        ctx.sizes, ctx.has_residual = sizes, residual is not None
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401 (as above)
        """Run the backward pass."""
        sums, statistics = ctx.saved_tensors
        of_values = make_room_like(sums)
        of_residual = make_room_like(sums) if ctx.sizes.rate else None
        of_weight, adds = find_gradient(ctx.weight)
        of_bias = None if ctx.bias is None else find_gradient(ctx.bias)[0]
        call(
            "norm_backward", ctypes.byref(ctx.sizes), gradient.contiguous(), sums, statistics,
            ctx.weight, of_values, of_residual, of_weight, of_bias, ctypes.c_bool(adds),
        )  # fmt: skip
        if ctx.has_residual and of_residual is None:
            of_residual = of_values
        if not ctx.has_residual:
            of_residual = None
        if has_master(ctx.weight):
            return of_values, of_residual, None, None, None, None, None
        return of_values, of_residual, of_weight, of_bias, None, None, None


class Multiply(torch.autograd.Function):
    """Up to 4 linear layers of the same shape on the same input, or one followed by GELU."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        values: torch.Tensor,
        activate: bool,  # noqa: FBT001 (autograd passes by position)
        has_backward: bool,  # noqa: FBT001 (as above)
        *parameters: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """Run the forward pass."""
        values = values.contiguous()
        weights = [weight for weight in parameters[::2] if weight is not None]  # no weight is None
        biases = list(parameters[1::2])
        outputs, slopes = _multiply(
            values, weights, biases, activate=activate, has_backward=has_backward
        )
        ctx.save_for_backward(values, slopes)
        ctx.weights, ctx.biases = weights, biases
        return tuple(outputs)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 (as above)
        *gradients: torch.Tensor,
        addend: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """Run the backward pass; `addend` is added to the gradient of the values."""
        values, slopes = ctx.saved_tensors
        if slopes is None:
            of_outputs = [gradient.contiguous() for gradient in gradients]
        else:
            of_outputs = [_times(gradients[0], slopes)]
        of_values = None
        if ctx.needs_input_grad[0]:
            of_values = _backpropagate_input(of_outputs, ctx.weights, addend=addend)
        of_parameters = [
            of
            for gradient, weight, bias in zip(of_outputs, ctx.weights, ctx.biases, strict=True)
            for of in backpropagate_layer(gradient, values, weight, bias)
        ]
        return (of_values, None, None, *of_parameters)


class FeedForward(torch.autograd.Function):
    """Linear layer, GELU and linear layer, for training."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        values: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """Run the forward pass."""
        weight, bias, next_weight, next_bias = parameters
        (hidden,), slopes = _multiply(values, [weight], [bias], activate=True, has_backward=True)
        (output,), _ = _multiply(hidden, [next_weight], [next_bias])
        ctx.save_for_backward(values, hidden, slopes)
        ctx.parameters = parameters
        return output

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 (as above)
        gradient: torch.Tensor,
        addend: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """Run the backward pass; `addend` is added to the gradient of the values."""
        values, hidden, slopes = ctx.saved_tensors
        weight, bias, next_weight, next_bias = ctx.parameters
        gradient = gradient.contiguous()
        of_hidden = _backpropagate_input([gradient], [next_weight], factors=slopes)
        of_next = backpropagate_layer(gradient, hidden, next_weight, next_bias)
        of_values = None
        if ctx.needs_input_grad[0]:
            of_values = _backpropagate_input([of_hidden], [weight], addend=addend)
        of_first = backpropagate_layer(of_hidden, values, weight, bias)
        return (of_values, *of_first, *of_next)


def _multiply(
    values: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor | None],
    *,
    activate: bool = False,
    has_backward: bool = False,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Return each layer's output and, if activated, GELU's derivatives for the backward pass."""
    num_outputs, num_inputs = weights[0].shape
    outputs = [make_room(*values.shape[:-1], num_outputs) for _ in weights]
    slopes = make_room_like(outputs[0]) if activate and has_backward else None
    num_rows = values.numel() // num_inputs
    call(
        "linear_forward", values, weights, biases, ctypes.c_bool(activate), outputs, slopes,
        make_room(len(weights), *weights[0].shape),
        *map(_Long, (len(weights), num_rows, num_outputs, num_inputs)),
    )  # fmt: skip
    return outputs, slopes


def _backpropagate_input(
    gradients: list[torch.Tensor],
    weights: list[torch.Tensor],
    *,
    factors: torch.Tensor | None = None,
    addend: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the gradient of the layers' shared input, times `factors`, plus `addend`."""
    num_outputs, num_inputs = weights[0].shape
    of_values = make_room(*gradients[0].shape[:-1], num_inputs)
    num_rows = of_values.numel() // num_inputs
    call(
        "linear_backward_input", gradients, weights, factors, addend, of_values,
        make_room(len(weights), *weights[0].shape),
        *map(_Long, (len(weights), num_rows, num_outputs, num_inputs)),
    )  # fmt: skip
    return of_values


def backpropagate_layer(
    gradient: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the gradients of a layer's weight and bias, or None if they went to their masters.

    Args:
        gradient: (..., outputs), of the layer's output.
        values: (..., inputs), the layer's input.
        weight: (outputs, inputs).
        bias: (outputs,), or None.
    """
    if not weight.requires_grad:
        return None, None
    num_inputs = values.shape[-1]
    num_rows = values.numel() // num_inputs
    of_weight, adds = find_gradient(weight)
    of_bias = None if bias is None else find_gradient(bias)[0]
    call(
        "linear_backward_weight", gradient, values, of_weight, of_bias,
        ctypes.c_bool(adds), *map(_Long, (num_rows, len(weight), num_inputs)),
    )  # fmt: skip
    return (None, None) if has_master(weight) else (of_weight, of_bias)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        values: torch.Tensor,
        has_backward: bool,  # noqa: FBT001 (autograd passes by position)
    ) -> torch.Tensor:
        values = values.contiguous()
        output = make_room_like(values)
        slopes = make_room_like(values) if has_backward else None
        call("gelu_forward", values, output, slopes, _Long(values.numel()))
        ctx.save_for_backward(slopes)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401 (as above)
        (slopes,) = ctx.saved_tensors
        return _times(gradient, slopes), None


def _times(gradient: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    product = make_room_like(slopes)
    call("multiply_numbers", gradient.contiguous(), slopes, product, _Long(slopes.numel()))
    return product


_apply_normalize: Callable[..., torch.Tensor] = Normalize.apply
_apply_multiply: Callable[..., tuple[torch.Tensor, ...]] = Multiply.apply
_apply_gelu: Callable[..., torch.Tensor] = _Gelu.apply
