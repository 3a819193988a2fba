"""torch's flash attention for packs, on a CPU: the same operators, with dense kernels.

Runs the callers, `varlen_attn` and torch's derivative of it without a GPU. Does not test the
kernels of a GPU.

Shapes: S texts, N query tokens, M key tokens, H heads, D dimensions per head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def flash_on_cpu() -> Iterator[None]:
    """Let `aten::_flash_attention_forward` and its derivative run on a CPU."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", _forward, "CPU")
    library.impl("_flash_attention_backward", _backward, "CPU")
    try:
        yield
    finally:
        library._destroy()


def _forward(  # noqa: PLR0913, PLR0917 (the operator's arguments)
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_query: int,
    longest_key: int,
    dropout: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, ...]:
    assert not is_causal
    assert not return_debug_mask
    assert all(other is None for other in others.values())
    assert query_starts.dtype == key_starts.dtype == torch.int32
    assert int(query_starts.diff().max()) <= longest_query
    assert int(key_starts.diff().min()) > 0  # rows without a token are nothing to rely on
    assert int(key_starts.diff().max()) <= longest_key
    seed = torch.randint(2**62, (2,))
    window = (window_size_left, window_size_right)
    scores = _score(query, key, (query_starts, key_starts), scale=scale, window=window)
    weights = scores.softmax(dim=-1) * _keep(scores, dropout, seed)
    out = (weights @ _by_head(value)).transpose(0, 1).to(query.dtype)
    state, nothing = seed.to(torch.uint64), torch.empty(0)
    return out.contiguous(), scores.logsumexp(dim=-1), state, nothing, nothing.clone()


def _backward(  # noqa: PLR0913, PLR0917 (as above)
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    logsumexp: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_query: int,
    longest_key: int,
    dropout: float,
    is_causal: bool,
    rng_state: torch.Tensor,
    unused: torch.Tensor,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of queries, keys and values."""
    window = (window_size_left, window_size_right)
    scores = _score(query, key, (query_starts, key_starts), scale=scale, window=window)
    torch.testing.assert_close(scores.logsumexp(dim=-1), logsumexp)
    weights, kept = scores.softmax(dim=-1), _keep(scores, dropout, rng_state.to(torch.int64))
    grad_out_HND = _by_head(grad_out)
    grad_value = (weights * kept).transpose(1, 2) @ grad_out_HND
    grad_weights = grad_out_HND @ _by_head(value).transpose(1, 2) * kept
    grad_scores = weights * (grad_weights - (grad_weights * weights).sum(dim=-1, keepdim=True))
    grad_scores = grad_scores * _factor(query, scale)
    grad_query = grad_scores @ _by_head(key)
    grad_key = grad_scores.transpose(1, 2) @ _by_head(query)
    found = (grad_query, grad_key, grad_value)
    return tuple(part.transpose(0, 1).to(query.dtype).contiguous() for part in found)


def _by_head(state_NHD: torch.Tensor) -> torch.Tensor:
    return state_NHD.transpose(0, 1).float()


def _factor(query: torch.Tensor, scale: float | None) -> float:
    return float(query.shape[-1] ** -0.5 if scale is None else scale)


def _score(
    query: torch.Tensor,
    key: torch.Tensor,
    starts: tuple[torch.Tensor, torch.Tensor],
    *,
    scale: float | None,
    window: tuple[int | None, int | None],
) -> torch.Tensor:
    """Return scores (H, N, M), minus infinity where a query does not see a key."""
    text_N, place_N = _locate(starts[0], len(query))
    text_M, place_M = _locate(starts[1], len(key))
    is_hidden = text_N[:, None] != text_M[None, :]
    left, right = (-1 if side is None else side for side in window)
    if left >= 0:
        is_hidden = is_hidden | (place_M[None, :] < place_N[:, None] - left)
    if right >= 0:
        is_hidden = is_hidden | (place_M[None, :] > place_N[:, None] + right)
    scores = _by_head(query) @ _by_head(key).transpose(1, 2) * _factor(query, scale)
    return scores.masked_fill(is_hidden, -torch.inf)


def _keep(scores: torch.Tensor, dropout: float, seed: torch.Tensor) -> torch.Tensor:
    """Return the factors of dropout, (H, N, M)."""
    if dropout == 0.0:
        return torch.ones(())
    generator = torch.Generator().manual_seed(int(seed[0]))
    is_kept = torch.rand(scores.shape, generator=generator) >= dropout
    return is_kept / (1.0 - dropout)


def _locate(starts: torch.Tensor, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the text of each token, and its place there."""
    assert int(starts[-1]) == num_tokens
    tokens = torch.arange(num_tokens)
    texts = torch.searchsorted(starts[1:].contiguous(), tokens, right=True)
    return texts, tokens - starts[texts]
