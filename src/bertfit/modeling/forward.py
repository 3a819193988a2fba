"""The one forward pass, for padded and for packed rows.

`inference.micro_batches` calls it, and `training.recorded_passes` to record it.

In scoring, the last layer is computed in float32 whatever type the rest has: logits in bfloat16
have eight bits, so two of them are often equal, and the order of the labels would then decide.

Shapes: B rows, T tokens, C classes; of a pack, S texts and N tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn.functional import linear

from bertfit.modeling.pack import Pack, computing
from bertfit.modeling.packing import number_positions
from bertfit.modeling.precision import safe_attention
from bertfit.modeling.transfer import to_device

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

    from bertfit.modeling.precision import Precision


_Called: TypeAlias = list[tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]]
"""A layer with what it read and what it gave."""


def compute_logits(
    model: PreTrainedModel,
    token_ids_BT: np.ndarray,
    attention_mask_BT: np.ndarray | None,
    *,
    precision: Precision,
) -> torch.Tensor:
    """Return logits_BC in float32 on the model's device.

    Args:
        model: A sequence classifier, in the mode (train or eval) that the caller wants.
        token_ids_BT: int64 token ids.
        attention_mask_BT: 1 where a token is, or None where nothing is padded, which is faster.
        precision: Device and type of the arithmetic.
    """
    device = precision.device
    token_ids = to_device(token_ids_BT, device)
    mask = None if attention_mask_BT is None else to_device(attention_mask_BT, device)
    with precision.autocast(), safe_attention(device):
        outputs = _call(model, input_ids=token_ids, attention_mask=mask)
    return _finish(*outputs)


def compute_packed_logits(
    model: PreTrainedModel,
    token_ids_N: np.ndarray,
    cu_seqlens: np.ndarray,
    positions_N: np.ndarray,
    *,
    precision: Precision,
) -> torch.Tensor:
    """Return logits_SC in float32 on the model's device: those that the texts have one by one.

    Args:
        model: A sequence classifier that takes packs (`packing.set_up_packing`), in the mode that
            the caller wants.
        token_ids_N: int64 token ids of S texts, end to end.
        cu_seqlens: (S + 1,) int32, where each text begins, and the end.
        positions_N: int64; 0, 1, 2, … anew for each text.
        precision: Device and type of the arithmetic.
    """
    device = precision.device
    token_ids, positions = (
        to_device(values, device)
        for values in (token_ids_N, number_positions(model, token_ids_N, positions_N))
    )
    pack = Pack.build(cu_seqlens, device)
    return compute_logits_of_pack(model, token_ids, positions, pack, precision=precision)


def compute_logits_of_pack(
    model: PreTrainedModel,
    token_ids_N: torch.Tensor,
    positions_N: torch.Tensor,
    pack: Pack,
    *,
    precision: Precision,
) -> torch.Tensor:
    """As `compute_packed_logits`, of what is on the device already.

    Args:
        model: As there.
        token_ids_N: int64 token ids.
        positions_N: int64 positions as the model's family counts them.
        pack: Where the texts lie.
        precision: Device and type of the arithmetic.
    """
    inputs = {"input_ids": token_ids_N.unsqueeze(0), "position_ids": positions_N.unsqueeze(0)}
    with precision.autocast(), safe_attention(precision.device), computing(pack):
        outputs = _call(model, **inputs)
    return _finish(*outputs)


def _call(model: PreTrainedModel, **inputs: torch.Tensor | None) -> tuple[torch.Tensor, _Called]:
    """Return the logits in the type of the arithmetic, and in scoring what the last layer did."""
    called: _Called = []
    layer = None if torch.is_grad_enabled() else _find_last_linear(model)
    if layer is None:
        return model(**inputs).logits, called

    def keep(layer: torch.nn.Module, read: tuple[torch.Tensor, ...], gave: torch.Tensor) -> None:
        assert isinstance(layer, torch.nn.Linear)
        called.append((layer, read[0], gave))

    hook = layer.register_forward_hook(keep)
    try:
        return model(**inputs).logits, called
    finally:
        hook.remove()


def _finish(logits: torch.Tensor, called: _Called) -> torch.Tensor:
    """Return the logits in float32, computed anew where they are what a layer gave."""
    for layer, read, gave in called:  # other threads' calls may be among them
        if gave is logits and logits.dtype != torch.float32:
            exact = linear(read.float(), layer.weight.float())
            if layer.bias is not None:
                exact += layer.bias.float()
            return exact
    return logits.float()


def _find_last_linear(model: PreTrainedModel) -> torch.nn.Linear | None:
    """Return the last linear layer of a classifier's head, which gives the logits."""
    of_head = [child for child in model.children() if child is not model.base_model]
    modules = [module for child in of_head for module in child.modules()]
    layers = [module for module in modules if isinstance(module, torch.nn.Linear)]
    return layers[-1] if layers else None
