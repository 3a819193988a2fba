"""Packed models: a micro-batch as one row of tokens, text after text, without padding.

The encoder remains transformers' own and sees the row as a batch of one. This module adds what
several texts in a row need: attention within each text, through transformers' registry; positions
that restart at each text; and splitting the row into S sequences before the classification head,
which reads the first token of each (or their mean, if it pools by the mean). Without a current
pack, everything behaves as for a padded batch.

Shapes: S texts, N tokens of all texts, B rows, H heads, T tokens per row, head size D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertfit.errors import ConfigError
from bertfit.modeling import attention
from bertfit.modeling.compilation import leave_out
from bertfit.modeling.pack import current_pack, first_tokens, mean_tokens
from bertfit.modeling.packed_attention import attend_within_texts, find_gpu_obstacle
from bertfit.modeling.plan import Plan

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from bertfit.config import Packing
    from bertfit.modeling.precision import Precision

NAME = "bertfit_packed"
"""Name of attention in packs in the registry and, in memory, in `config._attn_implementation`."""

LAST_BEFORE_HEAD = {
    "albert": "encoder",
    "bert": "encoder",
    "camembert": "encoder",
    "distilbert": "transformer",
    "electra": "encoder",
    "modernbert": "final_norm",
    "roberta": "encoder",
    "xlm-roberta": "encoder",
}
"""For each `config.model_type` that can be packed, the module of the base model whose output the
head reads. Other families implement attention themselves, or theirs is not bidirectional."""


def plan_packing(config: PretrainedConfig, precision: Precision, asked: Packing = "auto") -> Plan:
    """Decide whether to pack for a model, device and dtype.

    Raises:
        ConfigError: Packing was requested, but the model cannot be packed.
    """
    if asked == "off":
        return Plan(is_on=False, reason="asked for")
    family = config.model_type
    if family not in LAST_BEFORE_HEAD or getattr(config, "is_decoder", False):
        if asked == "on":
            raise ConfigError(
                f"packing: on was asked for, but bertfit does not pack {family}: it cannot keep "
                "the texts apart",
                hint="auto packs where it can be done, and pads texts of like length elsewhere.",
            )
        return Plan(
            is_on=False,
            reason=f"bertfit does not pack {family}; texts of like length are computed together",
        )
    if asked == "on":
        return Plan(is_on=True, reason=f"asked for; {_name_kernel(config, precision)}")
    if precision.device.type == "cpu":
        return Plan(is_on=False, reason="packs were slower than padding on a CPU")
    if precision.device.type != "cuda":
        return Plan(is_on=False, reason=f"not measured on {precision.device.type}")
    obstacle = _find_obstacle(config, precision)
    if obstacle is not None:
        return Plan(is_on=False, reason=obstacle)
    return Plan(is_on=True, reason=_name_kernel(config, precision))


def set_up_packing(model: PreTrainedModel, precision: Precision, asked: Packing = "auto") -> Plan:
    """Make `model` accept packs if the plan says so; it still accepts padded batches.

    The saved model does not change.

    Raises:
        ConfigError: Packing was requested, but the model cannot be packed.
    """
    plan = plan_packing(model.config, precision, asked)
    if plan.is_on:
        register()
        model.set_attn_implementation(NAME)
        last = model.base_model.get_submodule(LAST_BEFORE_HEAD[model.config.model_type])
        last.register_forward_hook(
            _average if getattr(model.config, "classifier_pooling", "") == "mean" else _cut
        )
    return plan


def register() -> None:
    """Register the attention and its mask with transformers; may be called repeatedly."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, leave_out(_attend))
    AttentionMaskInterface.register(NAME, _make_mask)


def takes_packs(model: PreTrainedModel) -> bool:
    """Return whether `set_up_packing` has made the model accept packs."""
    return bool(model.config._attn_implementation == NAME)  # noqa: SLF001 (has no public name)


def has_kernel(model: PreTrainedModel, precision: Precision) -> bool:
    """Return whether torch's variable-length attention can compute this model's packs in one call.

    Otherwise, attention runs separately for each run of adjacent texts of equal length.
    """
    return _find_obstacle(model.config, precision) is None


def number_positions(
    model: PreTrainedModel, token_ids_N: np.ndarray, positions_N: np.ndarray
) -> np.ndarray:
    """Return the position ids that the model's family expects, (N,) int64.

    RoBERTa's family starts at its padding id + 1 and does not count padding tokens, which a text
    may well contain.

    Args:
        model: A model that takes packs.
        token_ids_N: Token ids of all texts.
        positions_N: 0, 1, 2, …, restarting at each text.
    """
    padding_id = getattr(model.base_model.embeddings, "padding_idx", None)
    if padding_id is None:
        return positions_N
    is_token = (token_ids_N != padding_id).astype(np.int64)
    counts = np.cumsum(is_token)
    # A token's text starts at index − position; subtract what was counted before that.
    firsts = np.arange(len(positions_N)) - positions_N
    counts -= counts[firsts] - is_token[firsts]
    numbered: np.ndarray = counts * is_token + int(padding_id)
    return numbered


def _attend(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,  # noqa: ANN401 (other arguments of transformers: layer types, output flags)
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend within the texts of the current pack, or within the rows of a padded batch."""
    pack = current_pack()
    if pack is None:
        return _attend_padded(
            module,
            query_BHTD,
            key_BHTD,
            value_BHTD,
            attention_mask,
            scaling=scaling,
            dropout=dropout,
            sliding_window=sliding_window,
            **others,
        )
    attended_NHD = attend_within_texts(
        module,
        # squeeze, not indexing: the backward of an index fills a tensor with zeros first.
        (
            query_BHTD.squeeze(0).transpose(0, 1),
            key_BHTD.squeeze(0).transpose(0, 1),
            value_BHTD.squeeze(0).transpose(0, 1),
        ),
        pack,
        scaling=scaling,
        dropout=dropout,
        # ModernBERT passes the allowed distance plus one.
        window=None if sliding_window is None else sliding_window - 1,
    )
    return attended_NHD.unsqueeze(0), None


def _attend_padded(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    *arguments: Any,  # noqa: ANN401 (those of `_attend`)
    **options: Any,  # noqa: ANN401 (as above)
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if query_BHTD.device.type == "cpu":
        return attention.attend(module, query_BHTD, *arguments, **options)
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query_BHTD, *arguments, **options
    )
    return attended


def _make_mask(**arguments: Any) -> torch.Tensor | None:  # noqa: ANN401 (of transformers' mask functions)
    """Return None for a pack, whose attention knows its texts, else the mask of a padded batch."""
    if current_pack() is not None:
        return None
    if torch.device(arguments["device"]).type == "cpu":
        return attention.make_mask(**arguments)
    from transformers.masking_utils import sdpa_mask

    mask: torch.Tensor | None = sdpa_mask(**arguments)
    return mask


def _cut(_module: torch.nn.Module, _inputs: object, output: Any) -> Any:  # noqa: ANN401 (a tensor or a model output)
    """Turn a pack's single row into S sequences of one token, for the head."""
    if current_pack() is None:
        return output
    if isinstance(output, torch.Tensor):
        return first_tokens(output)
    if len(output.last_hidden_state) == 1:  # else first_token's short layer has cut it already
        output.last_hidden_state = first_tokens(output.last_hidden_state)
    return output


def _average(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
    """Turn a pack into S sequences of one token, each text's mean, which the head's mean keeps."""
    pack = current_pack()
    return output if pack is None else mean_tokens(output, pack)


def _find_obstacle(config: PretrainedConfig, precision: Precision) -> str | None:
    head_size = int(config.hidden_size) // int(config.num_attention_heads)
    return find_gpu_obstacle(precision.device, precision.dtype, head_size)


def _name_kernel(config: PretrainedConfig, precision: Precision) -> str:
    if _find_obstacle(config, precision) is None:
        return "torch's variable-length flash attention"
    return "attention runs by groups of texts of one length"
