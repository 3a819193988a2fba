"""Plugs the custom layer into transformers' encoder modules, for packs on a CUDA GPU.

A layer keeps its class, its weights and their names. Its forward uses the kernels for a pack in
bfloat16 if its parts have no hooks, and otherwise does what it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bertfit.modeling.compilation import leave_out
from bertfit.modeling.forwards import find_replacement, replace_forward
from bertfit.modeling.gradients import lay_out_rooms
from bertfit.modeling.hooks import are_unwatched
from bertfit.modeling.kernels.launching import find_kernel_obstacle, on_device
from bertfit.modeling.kernels.layer import pass_layer
from bertfit.modeling.kernels.parts import Parts, find_parts
from bertfit.modeling.kernels.trial import find_fault
from bertfit.modeling.pack import current_pack

_pass = leave_out(pass_layer)


def exchange_layers(model: torch.nn.Module) -> int:
    """Make every layer of BERT's family in `model` use the kernels; return their number."""
    layers = [module for module in model.modules() if find_parts(module) is not None]
    for layer in layers:
        replace_forward(layer, _pass_layer)
    return len(layers)


def is_exchanged(layer: torch.nn.Module) -> bool:
    """Return whether `exchange_layers` has replaced this layer's forward."""
    return find_replacement(layer) is _pass_layer


def list_exchanged(model: torch.nn.Module) -> list[Parts]:
    """Return the parts of each layer that uses the kernels."""
    layers = [find_parts(module) for module in model.modules() if is_exchanged(module)]
    return [parts for parts in layers if parts is not None]


def lay_out_gradients(layers: Sequence[Parts]) -> None:
    """Space the gradients of layers evenly, for a backlog, if they go to masters."""
    groups = [(*parts.products, parts.vectors) for parts in layers]
    for of_one_kind in zip(*groups, strict=True):
        lay_out_rooms(of_one_kind)


def find_kernel_fault(model: torch.nn.Module, *, device: torch.device) -> str | None:
    """Return why the kernels cannot or must not train a model's layers, or None if they can.

    Args:
        model: A model that takes packs.
        device: Device it will run on, in bfloat16.
    """
    layers = (module for module in model.modules() if find_parts(module) is not None)
    first = next(layers, None)
    if first is None:
        return "its layers are not of a kind that the kernels know"
    return find_fault(first, device=device, dtype=torch.bfloat16, trains=True)


def compute_by_kernels(
    layer: torch.nn.Module, hidden: torch.Tensor, *, only_firsts: bool = False
) -> torch.Tensor | None:
    """Return a layer's output for a pack, (1, N, D) or (S, 1, D), or None if not supported.

    Args:
        layer: Of BERT's family.
        hidden: (1, N, D).
        only_firsts: Whether to compute only the first token of each text.
    """
    pack = current_pack()
    if pack is None or not hidden.is_cuda:
        return None
    parts = find_parts(layer)
    # Hooks on the layer itself still run and see its input and output.
    if parts is None or not _takes(hidden, parts) or not are_unwatched(*layer.children()):
        return None
    trains = layer.training or torch.is_grad_enabled()
    if find_fault(layer, device=hidden.device, dtype=hidden.dtype, trains=trains) is not None:
        return None
    with on_device(hidden.device):
        found = _pass(
            hidden.squeeze(0), parts, pack, trains=layer.training, only_firsts=only_firsts
        )
    return found.unsqueeze(1) if only_firsts else found.unsqueeze(0)


def _takes(hidden: torch.Tensor, parts: Parts) -> bool:
    """Return whether the kernels support this input."""
    return (
        type(hidden) is torch.Tensor  # tensor subclasses, such as fake tensors, may have no data
        and hidden.dtype == parts.query.weight.dtype == torch.bfloat16
        and hidden.is_contiguous()
        and find_kernel_obstacle(hidden.device) is None
    )


def _pass_layer(
    layer: Any,  # noqa: ANN401 (of BERT's or DistilBERT's kind)
    hidden: torch.Tensor,
    *others: Any,  # noqa: ANN401 (a mask, None for a pack, and arguments of decoders)
    **named: Any,  # noqa: ANN401 (what transformers passes on to attention)
) -> torch.Tensor:
    found = None if named.get("output_attentions") else compute_by_kernels(layer, hidden)
    if found is not None:
        return found
    plain: Callable[..., torch.Tensor] = type(layer).forward
    return plain(layer, hidden, *others, **named)
