"""All layers of an encoder in one call, for scoring: no backward pass and no dropout.

The weights come from modules of BERT's family. The library must be loaded first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from bertfit.modeling.operators.attention import Attention, describe_attention, pad_mask
from bertfit.modeling.operators.layer import list_modules
from bertfit.modeling.operators.loading import call
from bertfit.modeling.operators.rooms import make_room

_Affine = ctypes.c_void_p * 2
_Layer = _Affine * 8
"""Mirrors `struct Layer` in encoder.cpp, in the order of `list_modules`."""


class _Encoder(ctypes.Structure):
    """Mirrors `struct Encoder` in encoder.cpp."""

    _fields_ = (
        ("attention", Attention),
        ("inner", ctypes.c_int64),
        ("layers", ctypes.c_int64),
        ("epsilons", ctypes.c_float * 2),
    )


def encode(
    hidden_BTD: torch.Tensor, attention_mask: torch.Tensor | None, layers: Sequence[Any]
) -> torch.Tensor:
    """Return the layers' output for (B, T, D), equal to their own forward in eval mode.

    Args:
        hidden_BTD: bfloat16 on the CPU, D a multiple of 32.
        attention_mask: Added to the scores; (1 or B, 1, 1 or T, T), or None.
        layers: Layers of BERT's family, all of the same shape.
    """
    own = layers[0].attention.self
    norms = (layers[0].attention.output.LayerNorm, layers[0].output.LayerNorm)
    num_texts, num_tokens, width = hidden_BTD.shape
    num_inner = len(layers[0].intermediate.dense.weight)
    mask = pad_mask(attention_mask, num_keys=num_tokens)
    heads = (num_texts, width // own.attention_head_size, num_tokens, num_tokens)
    asked = _Encoder(
        describe_attention((*heads, own.attention_head_size), mask, scaling=own.scaling),
        num_inner,
        len(layers),
        (ctypes.c_float * 2)(*(norm.eps for norm in norms)),
    )
    output = hidden_BTD.clone(memory_format=torch.contiguous_format)
    packed = make_room(len(layers), 4 * width + 2 * num_inner, width)
    described = (_Layer * len(layers))(
        *(_Layer(*map(_point_at, list_modules(layer))) for layer in layers)
    )
    call("encoder_forward", ctypes.byref(asked), described, packed, output)
    return output


def _point_at(
    module: torch.nn.Linear | torch.nn.LayerNorm,
) -> ctypes.Array[ctypes.c_void_p]:
    bias: torch.Tensor | None = module.bias  # torch's stub declares it non-optional
    return _Affine(module.weight.data_ptr(), None if bias is None else bias.data_ptr())
