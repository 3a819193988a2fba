"""The compiled operators as functions of tensors that autograd knows.

All tensors are bfloat16 on the CPU. `get_operators()` must have given a library before.

Shapes: B texts, H heads, Q queries, T keys, D numbers per head; N tokens of width W.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from bertfit.modeling.operators.library import get_operators

BLOCK = 32
"""Numbers that the operators take at once; widths are multiples of it."""
_LOWEST = -1e38

_Long = ctypes.c_int64


class _Strides(ctypes.Structure):
    _fields_ = (("text", _Long), ("head", _Long), ("token", _Long))


class _Sizes(ctypes.Structure):
    _fields_ = tuple((name, _Long) for name in ("texts", "heads", "queries", "keys", "width"))


class _Mask(ctypes.Structure):
    _fields_ = (("numbers", ctypes.c_void_p), ("text", _Long), ("query", _Long))


class _Attention(ctypes.Structure):
    """As `struct Attention` of attention.cpp."""

    _fields_ = (
        ("sizes", _Sizes),
        ("query", _Strides),
        ("key", _Strides),
        ("value", _Strides),
        ("output", _Strides),
        ("mask", _Mask),
        ("scale", ctypes.c_float),
        ("rate", ctypes.c_float),
        ("seed", ctypes.c_uint64),
    )


class _Norm(ctypes.Structure):
    """As `struct Norm` of norm.cpp."""

    _fields_ = (
        ("rows", _Long),
        ("width", _Long),
        ("epsilon", ctypes.c_float),
        ("rate", ctypes.c_float),
        ("seed", ctypes.c_uint64),
    )


def attend(
    query_BHQD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float,
) -> torch.Tensor:
    """Return softmax(Q K' · scaling + mask) V as (B, Q, H, D), with dropout of the weights.

    Args:
        query_BHQD: Queries.
        key_BHTD: Keys.
        value_BHTD: Values.
        mask: Added to the scores; (1 or B, 1, 1 or Q, T).
        scaling: Factor of the scores.
        dropout: Share of the weights that is dropped, in [0, 1).
    """
    states = (states.transpose(1, 2) for states in (query_BHQD, key_BHTD, value_BHTD))
    padded = _pad_mask(mask, num_keys=key_BHTD.shape[2])
    attended: torch.Tensor = _Attend.apply(*states, padded, scaling, dropout)
    return attended


def normalize(
    values_NW: torch.Tensor,
    residual_NW: torch.Tensor | None,
    norm: torch.nn.LayerNorm,
    *,
    dropout: float,
) -> torch.Tensor:
    """Return norm(dropout(values) + residual), of any shape (..., W) with W a multiple of 32."""
    out: torch.Tensor = _Normalize.apply(
        values_NW, residual_NW, norm.weight, norm.bias, norm.eps, dropout
    )
    return out


def multiply(
    values: torch.Tensor, layer: torch.nn.Linear, *, activate: bool = False
) -> torch.Tensor:
    """Return layer(values), or the GELU of it, for values (..., W); all widths multiples of 32."""
    out: torch.Tensor = _Multiply.apply(values, layer.weight, layer.bias, activate)
    return out


def gelu(values: torch.Tensor) -> torch.Tensor:
    """Return x Φ(x) of each number."""
    out: torch.Tensor = _Gelu.apply(values)
    return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        output = torch.empty_like(query)
        num_texts, num_queries, num_heads, width = query.shape
        log_sums = torch.empty(num_texts, num_heads, num_queries)
        call = _Attention(
            _Sizes(num_texts, num_heads, num_queries, key.shape[1], width),
            *(_strides(states) for states in (query, key, value, output)),
            _describe_mask(mask),
            scaling,
            dropout,
            draw_seed() if dropout else 0,
        )
        _run("attention_forward", ctypes.byref(call), query, key, value, output, log_sums)
        ctx.save_for_backward(query, key, value, output, log_sums, mask)
        ctx.call = call
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401 (as above)
        query, key, value, output, log_sums, _mask = ctx.saved_tensors
        gradients = [torch.empty_like(states) for states in (query, key, value)]
        _run(
            "attention_backward",
            ctypes.byref(ctx.call),
            query,
            key,
            value,
            output,
            gradient.contiguous(),
            log_sums,
            *gradients,
        )
        return (*gradients, None, None, None)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        values: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        epsilon: float,
        dropout: float,
    ) -> torch.Tensor:
        values = values.contiguous()
        residual = None if residual is None else residual.expand_as(values).contiguous()
        width = values.shape[-1]
        call = _Norm(
            values.numel() // width, width, epsilon, dropout, draw_seed() if dropout else 0
        )
        statistics = torch.empty(call.rows, 2)
        output = torch.empty_like(values)
        needs_gradient = any(ctx.needs_input_grad)
        sums = torch.empty_like(values) if needs_gradient else None
        _run(
            "norm_forward", ctypes.byref(call), values, residual, weight, bias, sums, statistics,
            output,
        )  # fmt: skip
        ctx.save_for_backward(sums, statistics)
        ctx.weight, ctx.bias = weight, bias
        ctx.call, ctx.has_residual = call, residual is not None
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401 (as above)
        sums, statistics = ctx.saved_tensors
        of_values = torch.empty_like(sums)
        of_residual = torch.empty_like(sums) if ctx.call.rate else None
        (of_weight, adds), (of_bias, _) = map(find_gradient, (ctx.weight, ctx.bias))
        _run(
            "norm_backward", ctypes.byref(ctx.call), gradient.contiguous(), sums, statistics,
            ctx.weight, of_values, of_residual, of_weight, of_bias, ctypes.c_bool(adds),
        )  # fmt: skip
        if ctx.has_residual and of_residual is None:
            of_residual = of_values
        if not ctx.has_residual:
            of_residual = None
        if has_master(ctx.weight):
            return of_values, of_residual, None, None, None, None
        return of_values, of_residual, of_weight, of_bias, None, None


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        values: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        activate: bool,  # noqa: FBT001 (autograd passes by position)
    ) -> torch.Tensor:
        values = values.contiguous()
        num_outputs, num_inputs = weight.shape
        output = values.new_empty(*values.shape[:-1], num_outputs)
        slopes = torch.empty_like(output) if activate and any(ctx.needs_input_grad) else None
        num_rows = values.numel() // num_inputs
        _run(
            "linear_forward", values, weight, bias, ctypes.c_bool(activate), output, slopes,
            torch.empty_like(weight), *map(_Long, (num_rows, num_outputs, num_inputs)),
        )  # fmt: skip
        ctx.save_for_backward(values, slopes)
        ctx.weight, ctx.bias = weight, bias
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401 (as above)
        values, slopes = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        gradient = gradient.contiguous() if slopes is None else _times(gradient, slopes)
        num_outputs, num_inputs = weight.shape
        num_rows = values.numel() // num_inputs
        of_values = None
        if ctx.needs_input_grad[0]:
            of_values = gradient.view(num_rows, num_outputs).mm(weight).view(values.shape)
        if not ctx.needs_input_grad[1]:
            return of_values, None, None, None
        of_weight, adds = find_gradient(weight)
        of_bias = None if bias is None else find_gradient(bias)[0]
        padded = num_rows + -num_rows % BLOCK
        _run(
            "linear_backward_weight", gradient, values, of_weight, of_bias, ctypes.c_bool(adds),
            values.new_empty(padded, num_inputs),
            *map(_Long, (num_rows, num_outputs, num_inputs)),
        )  # fmt: skip
        is_kept = has_master(weight)
        return (
            of_values,
            None if is_kept else of_weight,
            None if is_kept else of_bias,
            None,
        )


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 (as above)
        values = values.contiguous()
        output = torch.empty_like(values)
        slopes = torch.empty_like(values) if ctx.needs_input_grad[0] else None
        _run("gelu_forward", values, output, slopes, _Long(values.numel()))
        ctx.save_for_backward(slopes)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 (as above)
        (slopes,) = ctx.saved_tensors
        return _times(gradient, slopes)


def _times(gradient: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    product = torch.empty_like(slopes)
    _run("multiply_numbers", gradient.contiguous(), slopes, product, _Long(slopes.numel()))
    return product


def keep_master(work: torch.nn.Parameter, master: torch.nn.Parameter | None) -> None:
    """Let gradients of `work` that the operators make go to `master` at once, or no longer.

    They are summed in float32 there, without having been rounded; the operators then return none.
    """
    work.bertfit_master = master  # type: ignore[attr-defined]  # torch's tensors take any name


def has_master(weight: torch.Tensor) -> bool:
    """Tell whether gradients of `weight` go to a master."""
    return getattr(weight, "bertfit_master", None) is not None


def find_gradient(weight: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """Return where the gradient of `weight` goes, float32, and whether it is added to what is there."""
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


def _pad_mask(mask: torch.Tensor | None, *, num_keys: int) -> torch.Tensor | None:
    """Return the mask in float32 as (1 or B, 1 or Q, T rounded up to 32), or None for no mask."""
    num_missing = -num_keys % BLOCK
    if mask is None:
        if not num_missing:
            return None
        mask = torch.zeros(1, 1, 1, num_keys)
    rows = mask.float().squeeze(1)
    return torch.nn.functional.pad(rows, (0, num_missing), value=_LOWEST).contiguous()


def _describe_mask(mask: torch.Tensor | None) -> _Mask:
    if mask is None:
        return _Mask(None, 0, 0)
    text, query = (stride if size > 1 else 0 for size, stride in zip(mask.shape, mask.stride()[:2]))
    return _Mask(mask.data_ptr(), text, query)


def _strides(states_BTHD: torch.Tensor) -> _Strides:
    text, token, head, _ = states_BTHD.stride()
    return _Strides(text, head, token)


def _run(name: str, *arguments: torch.Tensor | Any | None) -> None:  # noqa: ANN401 (ctypes' values)
    operators = get_operators()
    assert operators is not None  # who calls has looked
    getattr(operators, name)(
        *(
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a
            for a in arguments
        )
    )
