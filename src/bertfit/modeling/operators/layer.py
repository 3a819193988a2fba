"""A whole layer of BERT's family in training, as one autograd function.

It chains the functions of `layers` and `attention` with less overhead: inside a layer, gradients do
not pass through autograd's engine, and residual gradients are added where a product writes its
output. All tensors are bfloat16 on the CPU. The library must be loaded first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from bertfit.modeling.operators.attention import Attend, pad_mask
from bertfit.modeling.operators.layers import FeedForward, Multiply, Normalize


def pass_layer(
    hidden_BTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer: Any,  # noqa: ANN401 (BertLayer or its equivalent)
) -> torch.Tensor:
    """Return the layer's output for (B, T, D), with dropout in training mode.

    Args:
        hidden_BTD: Input; all widths are multiples of 32.
        attention_mask: Added to the scores; (1 or B, 1, 1 or T, T), or None.
        layer: A layer of BERT's family, in the mode that the caller wants.
    """
    mask = pad_mask(attention_mask, num_keys=hidden_BTD.shape[1])
    parameters = [of for module in list_modules(layer) for of in (module.weight, module.bias)]
    out: torch.Tensor = _apply_layer(hidden_BTD, mask, _Settings(layer), *parameters)
    return out


def list_modules(layer: Any) -> tuple[torch.nn.Linear | torch.nn.LayerNorm, ...]:  # noqa: ANN401 (as above)
    """Return the modules of a layer that have weights, in the order of their use."""
    own, output = layer.attention.self, layer.attention.output
    return (
        *(own.query, own.key, own.value, output.dense, output.LayerNorm),
        *(layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm),
    )


class _Settings:
    """A layer's settings besides its weights."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 (as above)
        own, output = layer.attention.self, layer.attention.output
        self.head_width, self.scaling = own.attention_head_size, own.scaling
        self.epsilons = (output.LayerNorm.eps, layer.output.LayerNorm.eps)
        self.rates = tuple(
            module.dropout.p if layer.training else 0.0 for module in (own, output, layer.output)
        )


class _Tape:
    """What a function keeps for its backward pass, in place of autograd's context."""

    def __init__(self, *, needs_input: bool = True) -> None:
        self.needs_input_grad = (needs_input,)
        self.saved_tensors: tuple[Any, ...] = ()  # tensors, or None

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None:
        self.saved_tensors = tensors


_HAS_BACKWARD = True
_ACTIVATES = False  # no GELU after the projections of attention


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's context has no public type)
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        settings: _Settings,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        needs_input = ctx.needs_input_grad[0]
        ctx.tapes = tapes = [_Tape(needs_input=needs_input), *(_Tape() for _ in range(5))]
        of_states, of_output, of_norm, of_feeding, of_last = (
            parameters[begin:end] for begin, end in ((0, 6), (6, 8), (8, 10), (10, 14), (14, 16))
        )
        in_attention, in_output, in_feeding = settings.rates
        states = (
            state.unflatten(-1, (-1, settings.head_width))
            for state in _forward(Multiply, tapes[0], hidden, _ACTIVATES, _HAS_BACKWARD, *of_states)
        )
        attended = _forward(Attend, tapes[1], *states, mask, settings.scaling, in_attention)
        (dense,) = _forward(
            Multiply, tapes[2], attended.flatten(2), _ACTIVATES, _HAS_BACKWARD, *of_output
        )
        normed = _forward(
            Normalize,
            tapes[3],
            dense,
            hidden,
            *of_norm,
            settings.epsilons[0],
            in_output,
            _HAS_BACKWARD,
        )
        fed = _forward(FeedForward, tapes[4], normed, *of_feeding)
        output: torch.Tensor = _forward(
            Normalize,
            tapes[5],
            fed,
            normed,
            *of_last,
            settings.epsilons[1],
            in_feeding,
            _HAS_BACKWARD,
        )
        ctx.save_for_backward(*(tensor for tape in tapes for tensor in tape.saved_tensors))
        ctx.sizes = [len(tape.saved_tensors) for tape in tapes]
        for tape in tapes:
            tape.saved_tensors = ()  # autograd keeps them and frees them after backward
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401 (as above)
        of_states, of_attention, of_dense, of_norm, of_feeding, of_last = _restore(ctx)
        of_fed, of_normed, *last = _backward(Normalize, of_last, gradient)[:4]
        of_normed, *feeding = _backward(FeedForward, of_feeding, of_fed, addend=of_normed)
        of_output, of_hidden, *norm = _backward(Normalize, of_norm, of_normed)[:4]
        of_attended, _, _, *output = _backward(Multiply, of_dense, of_output)
        heads = of_attended.view(of_attention.saved_tensors[3].shape)
        of_projected = (of.flatten(2) for of in _backward(Attend, of_attention, heads)[:3])
        of_hidden, _, _, *states = _backward(Multiply, of_states, *of_projected, addend=of_hidden)
        return (of_hidden, None, None, *states, *output, *norm, *feeding, *last)


def _forward(function: type[torch.autograd.Function], tape: _Tape, *arguments: Any) -> Any:  # noqa: ANN401 (as the function takes and returns them)
    return function.forward(tape, *arguments)


def _backward(
    function: type[torch.autograd.Function],
    tape: _Tape,
    *gradients: torch.Tensor,
    **more: torch.Tensor,
) -> Any:  # noqa: ANN401 (as above)
    return function.backward(tape, *gradients, **more)


def _restore(ctx: Any) -> Iterator[_Tape]:  # noqa: ANN401 (as above)
    """Yield each tape with its tensors."""
    saved = iter(ctx.saved_tensors)
    for tape, size in zip(ctx.tapes, ctx.sizes, strict=True):
        tape.saved_tensors = tuple(next(saved) for _ in range(size))
        yield tape


_apply_layer: Callable[..., torch.Tensor] = _Layer.apply
