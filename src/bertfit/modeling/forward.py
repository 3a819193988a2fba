"""The one forward pass, for padded and packed rows.

`inference.micro_batches` calls it; `training.recorded_passes` records it.

In scoring, the last layer is always computed in float32, with weights that are not rounded: logits
in bfloat16 have eight bits of precision, so they often tie, and the order of the labels would
decide; and a calibration is folded into these weights to the last digit.

Shapes: B rows, T tokens, C classes; of a pack, S texts and N tokens.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch.nn.functional import linear

from bertfit.modeling.classifier import find_last_linear
from bertfit.modeling.first_token import wanting_logits
from bertfit.modeling.pack import Pack, computing
from bertfit.modeling.packing import number_positions
from bertfit.modeling.precision import safe_attention
from bertfit.modeling.transfer import to_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertfit.modeling.precision import Precision


_Called: TypeAlias = list[tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]]
"""A layer with its input and output."""

_turns = threading.Lock()
"""Held while a model with BigBird's attention computes."""
_EXACT = "bertfit_exact"
"""Attribute of a working copy's last layer: weight and bias of the model, not rounded."""
_FIND_LENGTHS = {"xlm", "flaubert"}
"""Types of models that take every padding token for padding if they get no mask, also one that a
text itself has."""
_MARK = "bertfit_adds_types"
"""Attribute of a model that is given token types."""


def mark_token_types(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set whether `compute_logits` gives the model token types, all 0, as transformers does.

    To BERT's family, none means 0. But GPT-2 and its relatives, whose Chinese checkpoints have
    BERT's tokenizer, add the embedding of token 0 for type 0, and nothing for none.
    """
    is_named = "token_type_ids" in tokenizer.model_input_names
    takes_them = "token_type_ids" in inspect.signature(model.forward).parameters
    has_table = any(name.endswith("token_type_embeddings") for name, _ in model.named_modules())
    setattr(model, _MARK, is_named and takes_them and not has_table)


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
        attention_mask_BT: 1 for tokens, 0 for padding; None if nothing is padded, which is faster.
        precision: Device and dtype.
    """
    # BigBird's is exchanged in place, which other threads with the same model must not see.
    turn = _turns if _has_block_attention(model) else contextlib.nullcontext()
    with turn:
        return _compute_padded(model, token_ids_BT, attention_mask_BT, precision=precision)


def _compute_padded(
    model: PreTrainedModel,
    token_ids_BT: np.ndarray,
    attention_mask_BT: np.ndarray | None,
    *,
    precision: Precision,
) -> torch.Tensor:
    if attention_mask_BT is None and model.config.model_type in _FIND_LENGTHS:
        attention_mask_BT = np.ones_like(token_ids_BT)
    is_sparse = _has_block_attention(model) and _settle_attention(model, token_ids_BT.shape[1])
    is_padded = attention_mask_BT is not None
    if _differ_in_ends(model, token_ids_BT) or (is_sparse and is_padded and len(token_ids_BT) > 1):
        kept_BT = np.ones_like(token_ids_BT) if attention_mask_BT is None else attention_mask_BT
        rows = [ids_T[kept_T == 1] for ids_T, kept_T in zip(token_ids_BT, kept_BT, strict=True)]
        each = [_compute_padded(model, ids_T[None], None, precision=precision) for ids_T in rows]
        return torch.cat(each)
    device = precision.device
    token_ids = to_device(token_ids_BT, device)
    mask = None if attention_mask_BT is None else to_device(attention_mask_BT, device)
    inputs = {"input_ids": token_ids, "attention_mask": mask}
    if getattr(model, _MARK, False):
        inputs["token_type_ids"] = torch.zeros_like(token_ids)
    with precision.autocast(), safe_attention(device):
        outputs = _call(model, **inputs)
    return _finish(*outputs)


def compute_packed_logits(
    model: PreTrainedModel,
    token_ids_N: np.ndarray,
    cu_seqlens: np.ndarray,
    positions_N: np.ndarray,
    *,
    precision: Precision,
) -> torch.Tensor:
    """Return logits_SC in float32 on the model's device, the same as for each text on its own.

    Args:
        model: A sequence classifier that takes packs (`packing.set_up_packing`), in the mode that
            the caller wants.
        token_ids_N: int64 token ids of S texts, concatenated.
        cu_seqlens: (S + 1,) int32, the start of each text, and the end.
        positions_N: int64; 0, 1, 2, …, restarting at each text.
        precision: Device and dtype.
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
    """Return the same as `compute_packed_logits`, from tensors that are already on the device.

    Args:
        model: As for `compute_packed_logits`.
        token_ids_N: int64 token ids.
        positions_N: int64 position ids as the model's family expects them.
        pack: Where the texts begin and end.
        precision: Device and dtype.
    """
    inputs = {"input_ids": token_ids_N.unsqueeze(0), "position_ids": positions_N.unsqueeze(0)}
    with precision.autocast(), safe_attention(precision.device), computing(pack):
        outputs = _call(model, **inputs)
    return _finish(*outputs)


def _has_block_attention(model: PreTrainedModel) -> bool:
    return getattr(model.config, "attention_type", None) == "block_sparse"  # BigBird's


def _settle_attention(model: PreTrainedModel, num_tokens: int) -> bool:
    """Give BigBird the attention that it has for texts of this length; return whether it is sparse.

    transformers gives it full attention for good with the first short text, so its answer to a long
    one would depend on the texts before it. Sparse attention reads the last block, so also padding.
    """
    config = model.config
    is_sparse = bool(num_tokens > (5 + 2 * config.num_random_blocks) * config.block_size)
    base = model.base_model
    holder = base if hasattr(base, "set_attention_type") else base.encoder  # BigBirdPegasus
    with torch.device("meta"):  # new modules, which get the weights of the old ones
        holder.set_attention_type("block_sparse" if is_sparse else "original_full")
    return is_sparse


def _differ_in_ends(model: PreTrainedModel, token_ids_BT: np.ndarray) -> bool:
    """Return whether the head refuses these rows together.

    T5, BART and the like read the last token that ends a text, and want as many of these in each
    row. A text may well contain one: `</s>` ends struck-out text in HTML, too.
    """
    end_id = getattr(model.config, "eos_token_id", None)
    if not getattr(model.config, "is_encoder_decoder", False) or not isinstance(end_id, int):
        return False
    counts_B = (token_ids_BT == end_id).sum(axis=1)
    return bool((counts_B != counts_B[0]).any())


def _call(model: PreTrainedModel, **inputs: torch.Tensor | None) -> tuple[torch.Tensor, _Called]:
    """Return the logits in the model's dtype and, in scoring, the calls of the last layer."""
    called: _Called = []
    layer = None if torch.is_grad_enabled() else find_last_linear(model)
    if layer is None:
        with wanting_logits():
            return model(**inputs).logits, called

    def keep(
        layer: torch.nn.Module, read: tuple[torch.Tensor, ...], gave: torch.Tensor
    ) -> torch.Tensor | None:
        assert isinstance(layer, torch.nn.Linear)
        if gave.ndim == 3 and gave.dtype != torch.float32:
            return _compute_exactly(layer, read[0])  # of a decoder's tokens, whose model takes one
        called.append((layer, read[0], gave))
        return None

    hook = layer.register_forward_hook(keep)
    try:
        with wanting_logits():
            return model(**inputs).logits, called
    finally:
        hook.remove()


def _finish(logits: torch.Tensor, called: _Called) -> torch.Tensor:
    """Return the logits in float32, recomputed if they are the output of a recorded call."""
    for layer, read, gave in called:  # may include calls from other threads
        if gave is logits and logits.dtype != torch.float32:
            return _compute_exactly(layer, read)
    return logits.float()


def _compute_exactly(layer: torch.nn.Linear, read: torch.Tensor) -> torch.Tensor:
    """Return a layer's output in float32."""
    weight, bias = vars(layer).get(_EXACT, (layer.weight, layer.bias))
    exact_bias = None if bias is None else bias.float()
    with torch.autocast(read.device.type, enabled=False):
        return linear(read.float(), weight.float(), exact_bias)


def keep_exact(model: torch.nn.Module, working: torch.nn.Module) -> None:
    """Let the last layer of a working copy, in scoring, use the weights of the model itself."""
    layer, copied = find_last_linear(model), find_last_linear(working)
    if layer is not None and copied is not None:
        vars(copied)[_EXACT] = (layer.weight, layer.bias)  # past torch, which would register them
