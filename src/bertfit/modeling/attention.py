"""Attention for encoders on a CPU, plugged into transformers through its registry.

On a CPU, torch's fused attention is fast in the forward pass but slow in the backward pass, and
with dropout it leaves its fast path altogether. Training therefore uses three plain steps (product,
softmax, product) with cheap dropout. Scoring, which has no backward pass, uses torch's fused
attention in float32; in bfloat16 the plain steps are faster there too. A padding mask stays
(B, 1, 1, T) and is broadcast; transformers would expand it to (B, 1, T, T).

Shapes: B rows, H heads, T tokens, head size D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from bertfit.modeling.compilation import leave_out
from bertfit.modeling.dropout import draw_mask
from bertfit.modeling.operators.attention import attend as attend_compiled
from bertfit.modeling.operators.loading import takes

NAME = "bertfit"
"""Name of this attention in the registry and, in memory, in `config._attn_implementation`."""


_IS_PLAIN = "computes_without_bertfits_operators"
"""Attribute of the modules of a model that `compute_plainly` was called for."""


def compute_plainly(model: torch.nn.Module) -> None:
    """Let `attend` leave compiled operators out for this model, and for copies of it.

    They may be loaded for another model in the same process.
    """
    for module in model.modules():
        setattr(module, _IS_PLAIN, True)


def attend(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_unused: Any,  # noqa: ANN401 (other arguments of transformers: layer types, output flags)
) -> tuple[torch.Tensor, None]:
    """Return softmax(Q K' · scaling + mask) V as (B, T, H, D), and None for the weights.

    Args:
        module: The calling layer; dropout applies if it is in training mode.
        query_BHTD: Queries.
        key_BHTD: Keys.
        value_BHTD: Values.
        attention_mask: Added to the scores; broadcasts to (B, H, T, T). None masks nothing.
        scaling: Factor of the scores; None means 1 / sqrt(D).
        dropout: Probability of dropping an attention weight in training, in [0, 1).

    Source:
        Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1.
    """
    if scaling is None:
        scaling = query_BHTD.shape[-1] ** -0.5
    rate = dropout if module.training else 0.0
    may_compile = takes(query_BHTD) and not getattr(module, _IS_PLAIN, False)
    if may_compile and (attention_mask is None or attention_mask.shape[1] == 1):
        states = (query_BHTD, key_BHTD, value_BHTD)
        return attend_compiled(*states, attention_mask, scaling=scaling, dropout=rate), None
    if not torch.is_grad_enabled() and query_BHTD.dtype == torch.float32:
        out = scaled_dot_product_attention(
            query_BHTD, key_BHTD, value_BHTD, attn_mask=attention_mask, scale=scaling
        )
        return out.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query_BHTD * scaling, key_BHTD.transpose(2, 3))
    if attention_mask is not None:
        # Under autocast the scores are bfloat16 and the mask is not.
        scores = scores + attention_mask.to(scores.dtype)
    weights = torch.softmax(scores, dim=-1)
    if rate > 0.0:
        # The values are scaled instead of the weights, because they are smaller.
        weights = weights * draw_mask(weights, rate)
        value_BHTD = value_BHTD * (1.0 / (1.0 - rate))
    return torch.matmul(weights, value_BHTD).transpose(1, 2).contiguous(), None


def make_mask(
    *,
    mask_function: Any,  # noqa: ANN401 (a function of transformers, of no public type)
    attention_mask: torch.Tensor | None,
    dtype: torch.dtype = torch.float32,
    **arguments: Any,  # noqa: ANN401 (other arguments of eager_mask)
) -> torch.Tensor | None:
    """Return the mask to add to the scores: (B, 1, 1, T) if only padding is masked.

    Other patterns, such as a sliding window, are left to transformers' `eager_mask`. Masked
    positions get half the lowest finite number, so that adding to it or rounding it to bfloat16
    never gives an infinity.

    Args:
        mask_function: transformers' function for which token may attend to which.
        attention_mask: (B, T), True for tokens, False for padding; None if nothing is padded.
        dtype: Dtype of the mask.
        **arguments: Passed on to `eager_mask`.
    """
    from transformers.masking_utils import bidirectional_mask_function, eager_mask

    lowest = torch.finfo(dtype).min / 2
    if mask_function is bidirectional_mask_function:
        if attention_mask is None:
            return None
        hidden = ~attention_mask.bool()[:, None, None, :]
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
            hidden, lowest
        )
    mask: torch.Tensor | None = eager_mask(
        mask_function=mask_function, attention_mask=attention_mask, dtype=dtype, **arguments
    )
    return None if mask is None else mask.clamp(min=lowest)


def register() -> None:
    """Register the attention and its mask with transformers; may be called repeatedly."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, leave_out(attend))
    AttentionMaskInterface.register(NAME, make_mask)
