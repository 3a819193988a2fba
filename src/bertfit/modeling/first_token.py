"""The last layer, computed only for the token that the classification head reads.

The heads of BERT's family read the first token and nothing else. So of the last layer's queries,
attention, feed-forward and norms, all but the first token's are computed for nothing; keys and
values alone are needed of every token. Leaving the rest out changes neither a logit nor a gradient
and saves most of a layer: a seventh of the products of a model of 6 layers, a fourteenth of 12.

Of a pack (`modeling.pack`) the first token of each text is left, as S rows of one token.

Shapes: B rows, T tokens, D numbers per token, H heads, K numbers per head (H · K = D); of a pack, S
texts and N tokens, and B is 1 before the layer and S after it.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from bertfit.modeling.attention import attend
from bertfit.modeling.pack import current_pack, first_tokens
from bertfit.modeling.packed_attention import attend_within_texts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FAMILIES = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Values of `config.model_type` whose classification heads read the first token of the last layer.

ALBERT has one layer that stands for all, ModernBERT may pool over every token.
"""


def shorten_last_layer(model: PreTrainedModel) -> bool:
    """Let the last layer of a classifier give (B, 1, D); return whether that could be done.

    What `model.base_model` gives is then good for the head alone.
    """
    if not can_shorten(model.config):
        return False
    if model.config.model_type == "distilbert":
        layer, forward = model.base_model.transformer.layer[-1], _forward_distilbert
    else:
        layer, forward = model.base_model.encoder.layer[-1], _forward_bert
    layer.forward = types.MethodType(forward, layer)
    return True


def is_short(layer: torch.nn.Module) -> bool:
    """Tell whether a layer computes the first tokens alone."""
    forward = getattr(vars(layer).get("forward"), "__func__", None)
    return forward in {_forward_bert, _forward_distilbert}


def can_shorten(config: PretrainedConfig) -> bool:
    """Tell whether the last layer of a classifier of this kind can be shortened."""
    return config.model_type in FAMILIES and not getattr(config, "is_decoder", False)


def _forward_bert(
    layer: Any,  # noqa: ANN401 (BertLayer or its like in another family)
    hidden_BTD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *_unused: Any,  # noqa: ANN401 (what only decoders get)
    **_unused_too: Any,  # noqa: ANN401 (as above)
) -> torch.Tensor:
    own = layer.attention.self
    first_B1D = first_tokens(hidden_BTD)
    attended_B1D = _attend_from_first(
        own, (own.query(first_B1D), own.key(hidden_BTD), own.value(hidden_BTD)), attention_mask
    )
    output: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(attended_B1D, first_B1D))
    return output


def _forward_distilbert(
    layer: Any,  # noqa: ANN401 (DistilBERT's TransformerBlock)
    hidden_BTD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **_unused: Any,  # noqa: ANN401 (output flags)
) -> torch.Tensor:
    own = layer.attention
    first_B1D = first_tokens(hidden_BTD)
    attended_B1D = _attend_from_first(
        own, (own.q_lin(first_B1D), own.k_lin(hidden_BTD), own.v_lin(hidden_BTD)), attention_mask
    )
    normed_B1D = layer.sa_layer_norm(own.out_lin(attended_B1D) + first_B1D)
    output: torch.Tensor = layer.output_layer_norm(layer.ffn(normed_B1D) + normed_B1D)
    return output


def _attend_from_first(
    own: Any,  # noqa: ANN401 (the attention module of a family)
    projected: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return what the first token attends to, (B, 1, D), of query (B, 1, D), keys and values."""
    if (pack := current_pack()) is not None:
        query_SHK, key_NHK, value_NHK = (
            states.flatten(0, 1).unflatten(-1, (-1, own.attention_head_size))
            for states in projected
        )
        attended_SHK = attend_within_texts(
            own,
            (query_SHK, key_NHK, value_NHK),
            pack,
            scaling=own.scaling,
            dropout=own.dropout.p,
        )
        return attended_SHK.flatten(1).unsqueeze(1)
    query_BH1K, key_BHTK, value_BHTK = (
        states.unflatten(-1, (-1, own.attention_head_size)).transpose(1, 2) for states in projected
    )
    if query_BH1K.device.type != "cpu":
        states = (query_BH1K, key_BHTK, value_BHTK)
        return _attend_by_torch(own, states, attention_mask).flatten(2)
    attended_B1HK, _ = attend(
        own,
        query_BH1K,
        key_BHTK,
        value_BHTK,
        attention_mask,
        scaling=own.scaling,
        dropout=own.dropout.p,
    )
    return attended_B1HK.flatten(2)


def _attend_by_torch(
    own: Any,  # noqa: ANN401 (as above)
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return (B, 1, H, K) by torch's own attention, which drops weights on every device."""
    # A mask of all queries (B, 1, T, T) is cut down to the first; one for all of them stays.
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    attended_BH1K = scaled_dot_product_attention(
        *states,
        attn_mask=mask,
        dropout_p=own.dropout.p if own.training else 0.0,
        scale=own.scaling,
    )
    return attended_BH1K.transpose(1, 2)
