"""The last layer, computed only for the token that the classification head reads.

The heads of BERT's family read only the first token, so the last layer's queries, attention output,
feed-forward and norms are wasted for all other tokens. Keys and values are not needed either: a
query's scores q · (W x + b) are products of the tokens themselves with a single vector Wᵀq (plus a
constant), and the weighted mean of values is the value of the weighted mean. Skipping the rest
changes neither logits nor gradients and saves the whole layer except two passes over its input.

For a pack (`modeling.pack`), the first token of each text remains, as S rows of one token.

Shapes: B rows, T tokens, hidden size D, H heads of size K (H · K = D); for a pack, S texts and N
tokens, where B is 1 before the layer and S after it.

Source: DeepSeek-AI 2024, arXiv 2405.04434, section 2.1.2 (absorbs the key projection into the query
projection).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from bertfit.modeling.attention import attend
from bertfit.modeling.dropout import draw_mask
from bertfit.modeling.forwards import find_replacement, replace_forward
from bertfit.modeling.hooks import are_unwatched
from bertfit.modeling.kernels.exchange import compute_by_kernels
from bertfit.modeling.pack import current_pack, first_tokens
from bertfit.modeling.packed_attention import attend_within_texts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FAMILIES = frozenset({"bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Values of `config.model_type` whose classification heads read the first token of the last layer.

ALBERT shares one layer among all depths; ModernBERT may pool over all tokens.
"""


_is_for_logits: contextvars.ContextVar[bool] = contextvars.ContextVar("logits", default=False)


@contextlib.contextmanager
def wanting_logits() -> Iterator[None]:
    """Say that a model is called in this context for its logits, not for any hidden state."""
    token = _is_for_logits.set(True)
    try:
        yield
    finally:
        _is_for_logits.reset(token)


def shorten_last_layer(model: PreTrainedModel) -> bool:
    """Make the last layer of a classifier return (B, 1, D); return whether that was possible.

    It does so only while logits are wanted: whoever calls the model or its encoder for embeddings
    gets those of all tokens.
    """
    if not can_shorten(model.config):
        return False
    if model.config.model_type == "distilbert":
        layer, forward = model.base_model.transformer.layer[-1], _forward_distilbert
    else:
        layer, forward = model.base_model.encoder.layer[-1], _forward_bert
    replace_forward(layer, forward)
    return True


def is_short(layer: torch.nn.Module) -> bool:
    """Return whether a layer computes only the first tokens."""
    return find_replacement(layer) in {_forward_bert, _forward_distilbert}


def can_shorten(config: PretrainedConfig) -> bool:
    """Return whether the last layer of such a classifier can be shortened."""
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        return False
    return bool(config.num_hidden_layers > 0)  # without layers, the head reads the embeddings


def _forward_whole(
    layer: torch.nn.Module,
    *inputs: Any,  # noqa: ANN401 (what transformers gives a layer)
    **named: Any,  # noqa: ANN401 (as above)
) -> torch.Tensor:
    """Return the layer's output for every token, as transformers computes it."""
    output: torch.Tensor = type(layer).forward(layer, *inputs, **named)
    return output


def _forward_bert(
    layer: Any,  # noqa: ANN401 (BertLayer or its equivalent in another family)
    hidden_BTD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *others: Any,  # noqa: ANN401 (arguments of decoders)
    **named: Any,  # noqa: ANN401 (as above)
) -> torch.Tensor:
    if not _is_for_logits.get():
        return _forward_whole(layer, hidden_BTD, attention_mask, *others, **named)
    found = compute_by_kernels(layer, hidden_BTD, only_firsts=True)
    if found is not None:
        return found
    own = layer.attention.self
    first_B1D = first_tokens(hidden_BTD)
    query_B1D = own.query(first_B1D)
    attended_B1D = _attend_from(query_B1D, hidden_BTD, own, (own.key, own.value), attention_mask)
    output: torch.Tensor = layer.feed_forward_chunk(layer.attention.output(attended_B1D, first_B1D))
    return output


def _forward_distilbert(
    layer: Any,  # noqa: ANN401 (DistilBERT's TransformerBlock)
    hidden_BTD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **named: Any,  # noqa: ANN401 (output flags)
) -> torch.Tensor:
    if not _is_for_logits.get():
        return _forward_whole(layer, hidden_BTD, attention_mask, **named)
    found = compute_by_kernels(layer, hidden_BTD, only_firsts=True)
    if found is not None:
        return found
    own = layer.attention
    first_B1D = first_tokens(hidden_BTD)
    query_B1D = own.q_lin(first_B1D)
    attended_B1D = _attend_from(query_B1D, hidden_BTD, own, (own.k_lin, own.v_lin), attention_mask)
    normed_B1D = layer.sa_layer_norm(own.out_lin(attended_B1D) + first_B1D)
    output: torch.Tensor = layer.output_layer_norm(layer.ffn(normed_B1D) + normed_B1D)
    return output


def _attend_from(
    query_B1D: torch.Tensor,
    hidden_BTD: torch.Tensor,
    own: Any,  # noqa: ANN401 (the attention module of a family)
    of_tokens: tuple[Any, Any],  # modules, usually linear layers
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return the attention output of the first token, (B, 1, D).

    Args:
        query_B1D: Query of the first token; (S, 1, D) for a pack.
        hidden_BTD: All tokens; (1, N, D) for a pack.
        own: The attention module, for its head size, scale and dropout.
        of_tokens: The modules that compute keys and values.
        attention_mask: Added to the scores; (B, 1, 1 or T, T) or None.
    """
    key, value = of_tokens
    is_on_cpu = hidden_BTD.device.type == "cpu"
    pack = current_pack()
    if pack is None and is_on_cpu and _are_linear(key, value):
        return _attend_to_tokens(query_B1D, hidden_BTD, own, (key, value), attention_mask)
    projected = (query_B1D, key(hidden_BTD), value(hidden_BTD))
    if pack is not None:
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
    if not is_on_cpu:
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


def _are_linear(*modules: Any) -> bool:  # noqa: ANN401 (any modules)
    """Return whether these are plain linear layers without hooks."""
    return all(type(module) is torch.nn.Linear for module in modules) and are_unwatched(*modules)


def _attend_to_tokens(
    query_B1D: torch.Tensor,
    hidden_BTD: torch.Tensor,
    own: Any,  # noqa: ANN401 (as above)
    of_tokens: tuple[torch.nn.Linear, torch.nn.Linear],
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return the same as `_attend_from`, without computing any token's key or value.

    `attend` could do it with one head of size D and H queries, but it does not return the sum of
    the weights after dropout, by which the bias of the values is multiplied.
    """
    key, value = of_tokens
    heads = (-1, own.attention_head_size)
    key_HKD, value_HKD = key.weight.unflatten(0, heads), value.weight.unflatten(0, heads)
    query_HBK = query_B1D.squeeze(1).unflatten(-1, heads).transpose(0, 1)
    asked_BHD = torch.bmm(query_HBK, key_HKD).transpose(0, 1)
    scores_BHT = torch.bmm(asked_BHD, hidden_BTD.transpose(1, 2))
    if key.bias is not None:
        of_bias_HB1 = torch.bmm(query_HBK, key.bias.view(*heads, 1))
        scores_BHT = scores_BHT + of_bias_HB1.transpose(0, 1)
    scores_BHT = scores_BHT * own.scaling
    if attention_mask is not None:
        scores_BHT = scores_BHT + attention_mask[:, 0, :1].to(scores_BHT.dtype)
    weights_BHT = torch.softmax(scores_BHT, dim=-1)
    rate = own.dropout.p if own.training else 0.0
    if rate > 0.0:
        weights_BHT = weights_BHT * draw_mask(weights_BHT, rate) * (1.0 / (1.0 - rate))
    mean_HBD = torch.bmm(weights_BHT, hidden_BTD).transpose(0, 1)
    attended_HBK = torch.bmm(mean_HBD, value_HKD.transpose(1, 2))
    if value.bias is not None:
        total_HB1 = weights_BHT.sum(dim=-1, keepdim=True).transpose(0, 1)  # not 1 with dropout
        attended_HBK = attended_HBK + total_HB1 * value.bias.unflatten(0, heads).unsqueeze(1)
    attended_BHK: torch.Tensor = attended_HBK.transpose(0, 1)
    return attended_BHK.flatten(1).unsqueeze(1)


def _attend_by_torch(
    own: Any,  # noqa: ANN401 (as above)
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return (B, 1, H, K) by torch's attention, which supports dropout on every device."""
    # A mask for each query (B, 1, T, T) is cut to the first; one shared by all stays as it is.
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    attended_BH1K = scaled_dot_product_attention(
        *states,
        attn_mask=mask,
        dropout_p=own.dropout.p if own.training else 0.0,
        scale=own.scaling,
    )
    return attended_BH1K.transpose(1, 2)
