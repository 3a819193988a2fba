"""The layer of our own plugged into an encoder of transformers, for packs on a CUDA GPU.

A layer keeps its class, its weights and their names; its forward asks whether a pack is being
computed in half precision and nobody watches, and otherwise does what it did before.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch

from bertfit.modeling.compilation import leave_out
from bertfit.modeling.hooks import are_unwatched
from bertfit.modeling.kernels.launching import find_kernel_obstacle, on_device
from bertfit.modeling.kernels.layer import Parts, pass_layer
from bertfit.modeling.kernels.trial import find_fault
from bertfit.modeling.pack import current_pack

KERNEL_FAMILIES = frozenset(
    {"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"}
)
"""Values of `config.model_type` whose layers `find_parts` knows, if nobody has changed them."""
_MOST_NUMBERS = 4096
"""Per token: a program holds some rows of them in its registers."""
HEAD_SIZES = (32, 64, 128)
"""Numbers of a head: with 16 a kernel of the attention read wrong memory, as it was first tiled."""
_pass = leave_out(pass_layer)


def exchange_layers(model: torch.nn.Module) -> int:
    """Let every layer of BERT's family in `model` use the kernels; return how many there are."""
    layers = [module for module in model.modules() if find_parts(module) is not None]
    for layer in layers:
        layer.forward = types.MethodType(_pass_layer, layer)
    return len(layers)


def is_exchanged(layer: torch.nn.Module) -> bool:
    """Tell whether `exchange_layers` has had this layer."""
    return getattr(vars(layer).get("forward"), "__func__", None) is _pass_layer


def join_projections(model: torch.nn.Module) -> None:
    """Lay queries', keys' and values' weights one behind the other, so one product makes them.

    Only where they lie changes. For a copy that does the arithmetic: what is saved is its master.
    """
    for module in model.modules():
        parts = find_parts(module)
        if parts is None:
            continue
        of_states = (parts.query, parts.key, parts.value)
        for name in ("weight", "bias"):
            tensors = [getattr(part, name) for part in of_states]
            joined = torch.cat([tensor.detach() for tensor in tensors])
            for tensor, piece in zip(tensors, joined.split([len(t) for t in tensors]), strict=True):
                tensor.data = piece


def find_kernel_fault(model: torch.nn.Module, *, device: torch.device) -> str | None:
    """Say why the kernels do not do a model's layers, or must not; None where they do.

    Args:
        model: Takes packs.
        device: Where it will run, in bfloat16.
    """
    layers = (module for module in model.modules() if find_parts(module) is not None)
    first = next(layers, None)
    if first is None:
        return "its layers are not of a kind that the kernels know"
    with on_device(device):
        return find_fault(first, find_parts, device=device, dtype=torch.bfloat16)


def compute_by_kernels(
    layer: torch.nn.Module, hidden: torch.Tensor, *, only_firsts: bool = False
) -> torch.Tensor | None:
    """Return what a layer makes of a pack, (1, N, D) or (S, 1, D), or None where it is not theirs.

    Args:
        layer: Of BERT's family.
        hidden: (1, N, D).
        only_firsts: Whether the first token of each text is all that is asked for.
    """
    pack = current_pack()
    if pack is None or not hidden.is_cuda:
        return None
    parts = find_parts(layer)
    # Whoever watches the layer itself sees what goes in and comes out.
    if parts is None or not _takes(hidden, parts) or not are_unwatched(*layer.children()):
        return None
    with on_device(hidden.device):
        if find_fault(layer, find_parts, device=hidden.device, dtype=hidden.dtype) is not None:
            return None
        found = _pass(
            hidden.squeeze(0), parts, pack, trains=layer.training, only_firsts=only_firsts
        )
    return found.unsqueeze(1) if only_firsts else found.unsqueeze(0)


def find_parts(layer: Any) -> Parts | None:  # noqa: ANN401 (any module)
    """Return what a layer is made of, if it is one of BERT's or DistilBERT's kind."""
    if not type(layer).__module__.startswith("transformers.models."):
        return None
    names = set(dict(layer.named_children()))
    if names == {"attention", "intermediate", "output"}:
        return _find_of_bert(layer)
    if names == {"attention", "sa_layer_norm", "ffn", "output_layer_norm"}:
        return _find_of_distilbert(layer)
    return None


def _find_of_bert(layer: Any) -> Parts | None:  # noqa: ANN401 (BertLayer or its like)
    if set(dict(layer.attention.named_children())) != {"self", "output"}:
        return None
    own, output = layer.attention.self, layer.attention.output
    if set(dict(own.named_children())) != {"query", "key", "value", "dropout"}:
        return None
    if getattr(own, "scaling", None) != own.attention_head_size**-0.5:
        return None
    for part in (output, layer.output):
        if set(dict(part.named_children())) != {"dense", "dropout", "LayerNorm"}:
            return None
    return _check(
        Parts(
            *(own.query, own.key, own.value, output.dense, output.LayerNorm),
            *(layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm),
            own.attention_head_size,
            (own.dropout.p, output.dropout.p, layer.output.dropout.p),
        ),
        getattr(layer.intermediate, "intermediate_act_fn", None),
    )


def _find_of_distilbert(layer: Any) -> Parts | None:  # noqa: ANN401 (DistilBERT's TransformerBlock)
    own, feeding = layer.attention, layer.ffn
    if not {"q_lin", "k_lin", "v_lin", "out_lin", "dropout"} <= set(dict(own.named_children())):
        return None
    return _check(
        Parts(
            *(own.q_lin, own.k_lin, own.v_lin, own.out_lin, layer.sa_layer_norm),
            *(feeding.lin1, feeding.lin2, layer.output_layer_norm),
            own.attention_head_size,
            (own.dropout.p, 0.0, feeding.dropout.p),
        ),
        feeding.activation,
    )


def _check(parts: Parts, activation: object) -> Parts | None:
    """Return the parts if they are what the kernels take."""
    linears = (parts.query, parts.key, parts.value, parts.output, parts.inner, parts.outer)
    norms = (parts.output_norm, parts.outer_norm)
    width = parts.output_norm.weight.shape[0]
    fits = (
        all(type(part) is torch.nn.Linear and part.bias is not None for part in linears)
        and all(type(part) is torch.nn.LayerNorm and part.elementwise_affine for part in norms)
        and all(part.weight.shape == (width, width) for part in linears[:4])
        and width <= _MOST_NUMBERS
        and parts.head_size in HEAD_SIZES
        and _is_exact_gelu(activation)
    )
    return parts if fits else None


def _is_exact_gelu(activation: Any) -> bool:  # noqa: ANN401 (a module as a rule)
    if type(activation) is torch.nn.GELU:
        return bool(activation.approximate == "none")
    return getattr(activation, "act", None) is torch.nn.functional.gelu


def _takes(hidden: torch.Tensor, parts: Parts) -> bool:
    """Tell whether kernels and attention can be had for these numbers."""
    return (
        type(hidden) is torch.Tensor  # one that is only said to be there has no numbers
        and hidden.dtype == parts.query.weight.dtype == torch.bfloat16
        and hidden.is_contiguous()
        and find_kernel_obstacle(hidden.device) is None
    )


def _pass_layer(
    layer: Any,  # noqa: ANN401 (of BERT's or DistilBERT's kind)
    hidden: torch.Tensor,
    *others: Any,  # noqa: ANN401 (a mask, which a pack has none of, and what only decoders get)
    **named: Any,  # noqa: ANN401 (what transformers passes on to attention)
) -> torch.Tensor:
    found = None if named.get("output_attentions") else compute_by_kernels(layer, hidden)
    if found is not None:
        return found
    plain: Callable[..., torch.Tensor] = type(layer).forward
    return plain(layer, hidden, *others, **named)
