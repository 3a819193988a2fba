"""Plugs the compiled operators into transformers' encoder modules.

A module keeps its class, its weights and their names. Its forward uses the operators if they are
loaded and the input is bfloat16, and otherwise does what it did before, except that a norm sums its
gradients in float32 (`norm_gradients`). Larger units take precedence: all layers of an encoder in
scoring, a whole layer in training, then the parts of a layer. If anything inside a larger unit was
changed or hooked, only its parts use the operators.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bertfit.modeling.attention import NAME
from bertfit.modeling.compilation import leave_out
from bertfit.modeling.forwards import find_replacement, replace_forward
from bertfit.modeling.hooks import are_unwatched
from bertfit.modeling.layer_kinds import (
    activates,
    adds_residual,
    is_exact_gelu,
    is_of_transformers,
    is_plain_norm,
    is_whole,
)
from bertfit.modeling.norm_gradients import pass_norm
from bertfit.modeling.operators.encoder import encode
from bertfit.modeling.operators.layer import list_modules, pass_layer
from bertfit.modeling.operators.layers import gelu, multiply, normalize
from bertfit.modeling.operators.loading import BLOCK, takes

_MIN_ROWS = 512
"""With fewer tokens, products are left to torch, which is as fast up to here and faster below 256
(docs/performance.md): packing a weight only pays if it is used often."""

_encode = leave_out(encode)
_gelu = leave_out(gelu)
_multiply = leave_out(multiply)
_normalize = leave_out(normalize)
_pass = leave_out(pass_layer)


def exchange_modules(model: torch.nn.Module) -> None:
    """Make every module of `model` use the operators if it can."""
    for module in model.modules():
        forward = _find_forward(module)
        if forward is not None:
            replace_forward(module, forward)


def _find_forward(module: torch.nn.Module) -> Callable[..., Any] | None:
    exchanges = (
        (is_exact_gelu, _activate),
        (is_plain_norm, _norm),
        (adds_residual, _add_and_norm),
        (activates, _multiply_and_activate),
        (is_whole, _pass_layer),
        (_encodes, _pass_layers),
        (_is_wide_linear, _apply_layer),
    )
    return next((forward for fits, forward in exchanges if fits(module)), None)


def _is_wide_linear(module: torch.nn.Module) -> bool:
    """Return whether this is a linear layer whose widths are multiples of a block."""
    return type(module) is torch.nn.Linear and not any(n % BLOCK for n in module.weight.shape)


def _encodes(module: torch.nn.Module) -> bool:
    """Return whether this is an encoder of BERT's family: a stack of unmodified layers."""
    if not type(module).__name__.endswith("Encoder") or not is_of_transformers(module):
        return False
    if set(dict(module.named_children())) != {"layer"}:
        return False
    layers = list(module.get_submodule("layer").children())
    return bool(layers) and all(is_whole(layer) for layer in layers)


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
    module: Any,  # noqa: ANN401 (BertIntermediate or its equivalent)
    hidden: torch.Tensor,
) -> torch.Tensor:
    is_for_it = _is_worth_it(hidden) and _is_wide_linear(module.dense)
    if is_for_it and are_unwatched(*module.children()):
        return _multiply(hidden, module.dense, activate=True)
    output: torch.Tensor = type(module).forward(module, hidden)
    return output


def _norm(module: torch.nn.LayerNorm, values: torch.Tensor) -> torch.Tensor:
    if _fits(values):
        return _normalize(values, None, module, dropout=0.0)
    return pass_norm(module, values)


def _add_and_norm(
    module: Any,  # noqa: ANN401 (BertOutput, BertSelfOutput or an equivalent)
    hidden: torch.Tensor,
    residual: torch.Tensor,
) -> torch.Tensor:
    if not _fits(residual) or not are_unwatched(module.dropout, module.LayerNorm):
        output: torch.Tensor = type(module).forward(module, hidden, residual)
        return output
    rate = module.dropout.p if module.training else 0.0
    return _normalize(module.dense(hidden), residual, module.LayerNorm, dropout=rate)


def _pass_layers(
    encoder: Any,  # noqa: ANN401 (BertEncoder or its equivalent)
    hidden: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *others: Any,  # noqa: ANN401 (arguments of decoders)
    **named: Any,  # noqa: ANN401 (what transformers passes on to the layers)
) -> Any:  # noqa: ANN401 (an output of transformers)
    layers = list(encoder.layer)
    num_together = 0
    asked = (*others, *named.values())
    is_scoring = not torch.is_grad_enabled() and not encoder.training
    if is_scoring and _asks_for_no_more(encoder, hidden, attention_mask, asked):
        first = _measure(layers[0])
        together = itertools.takewhile(
            lambda layer: _is_as_exchanged(layer) and _measure(layer) == first, layers
        )
        num_together = sum(1 for _ in together)
    if not num_together:
        return type(encoder).forward(encoder, hidden, attention_mask, *others, **named)
    hidden = _encode(hidden, attention_mask, layers[:num_together])
    rest = types.SimpleNamespace(layer=layers[num_together:], config=encoder.config)
    return type(encoder).forward(rest, hidden, attention_mask, *others, **named)


def _pass_layer(
    layer: Any,  # noqa: ANN401 (BertLayer or its equivalent)
    hidden: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *others: Any,  # noqa: ANN401 (arguments of decoders)
    **named: Any,  # noqa: ANN401 (what transformers passes on to attention)
) -> torch.Tensor:
    asked = (*others, *named.values())
    own = layer.attention.self
    if (
        torch.is_grad_enabled()
        and _asks_for_no_more(own, hidden, attention_mask, asked)
        and _is_as_exchanged(layer)
    ):
        return _pass(hidden, attention_mask, layer)
    output: torch.Tensor = type(layer).forward(layer, hidden, attention_mask, *others, **named)
    return output


def _asks_for_no_more(
    module: torch.nn.Module,
    hidden: torch.Tensor,
    mask: torch.Tensor | None,
    others: Sequence[object],
) -> bool:
    """Return whether only the output is requested and the operators support the input."""
    config: Any = module.config
    return (
        _is_worth_it(hidden)
        and (mask is None or mask.shape[1] == 1)
        and getattr(config, "_attn_implementation", None) == NAME
        and not (config.output_attentions or config.output_hidden_states)
        and not any(other is not None and other is not False for other in others)
    )


def _is_as_exchanged(layer: Any) -> bool:  # noqa: ANN401 (BertLayer or its equivalent)
    """Return whether a layer is still unmodified since its forward was replaced."""
    modules = list_modules(layer)
    width = modules[0].weight.shape[-1]
    return (
        find_replacement(layer) is _pass_layer
        and all(module.weight.shape == (width, width) for module in modules[:4])
        and all(_find_forward(module) in {_apply_layer, _norm} for module in modules)
        and all(takes(weight) for weight in layer.parameters())
        and are_unwatched(layer)
    )


def _measure(layer: Any) -> tuple[object, ...]:  # noqa: ANN401 (as above)
    """Return what layers must have in common to be computed in one call."""
    own = layer.attention.self
    norms = (layer.attention.output.LayerNorm, layer.output.LayerNorm)
    inner = layer.intermediate.dense.weight.shape
    return (inner, own.attention_head_size, own.scaling, *(norm.eps for norm in norms))
