"""Attention in a pack: each token attends only to the tokens of its own text.

On a CUDA GPU in half precision, torch's variable-length flash attention computes it in one call:
`torch.nn.attention.varlen.varlen_attn` or, for dropout or a window, the operator beneath it, which
supports both and is differentiable. Elsewhere a plain fallback treats each run of adjacent texts of
equal length as a batch without padding.

The GPU calls were run on an H100 with torch 2.11. Layers that custom kernels compute
(`modeling.kernels`) do not use this module.

Shapes: S texts, N tokens of all texts, H heads of size D; R texts of one length T.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

from bertfit.modeling.attention import attend

if TYPE_CHECKING:
    from bertfit.modeling.pack import Pack

_HALF = (torch.bfloat16, torch.float16)
_MOST_HEAD_NUMBERS = 256
_LEAST_CAPABILITY = (8, 0)
"""Limits of flash attention: head size (a multiple of 8), and Ampere or later."""


def attend_within_texts(
    module: torch.nn.Module,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    pack: Pack,
    *,
    scaling: float | None,
    dropout: float,
    window: int | None = None,
) -> torch.Tensor:
    """Return softmax(Q K' · scaling) V within each text, (N, H, D), or (S, H, D) of first tokens.

    Args:
        module: The calling layer; dropout applies if it is in training mode.
        states: Queries, keys and values, (N, H, D) each; queries may be only those of the S first
            tokens.
        pack: Where the texts begin and end.
        scaling: Factor of the scores; None means 1 / sqrt(D).
        dropout: Probability of dropping an attention weight in training, in [0, 1).
        window: Maximum distance of attended tokens on either side; None for no limit.
    """
    query = states[0]
    rate = dropout if module.training else 0.0
    if pack.runs is None or (
        query.is_cuda and find_gpu_obstacle(query.device, query.dtype, query.shape[-1]) is None
    ):
        return _attend_by_flash(states, pack, scaling=scaling, dropout=rate, window=window)
    return _attend_by_length(
        module, states, pack.runs, scaling=scaling, dropout=rate, window=window
    )


@functools.lru_cache
def find_gpu_obstacle(device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """Return why torch's flash attention is not available, or None if it is.

    Args:
        device: Device the model runs on.
        dtype: Dtype of the products.
        head_size: Size of a head.
    """
    if device.type != "cuda":
        return "there is no CUDA GPU"
    if torch.version.cuda is None:
        return "this build of torch is not one for CUDA"
    if dtype not in _HALF:
        return "torch's flash attention takes bfloat16 and float16 alone"
    if head_size % 8 != 0 or head_size > _MOST_HEAD_NUMBERS:
        return (
            f"torch's flash attention takes heads of up to {_MOST_HEAD_NUMBERS} numbers in steps "
            f"of 8, and this model's have {head_size}"
        )
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "this GPU is older than torch's flash attention asks for (Ampere)"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no flash attention"
    return None


def _attend_by_flash(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    pack: Pack,
    *,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    query, key, value = states
    only_firsts = len(query) != len(key)
    # With fewer queries than keys, a window would be aligned to the end of a text, not the start.
    assert window is None or not only_firsts
    query_starts, longest_query = pack.cu_seqlens, pack.longest
    if only_firsts:
        query_starts = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
        longest_query = 1
    places = (query_starts, pack.cu_seqlens, longest_query, pack.longest)
    if dropout == 0.0 and window is None and scaling in {None, query.shape[-1] ** -0.5}:
        from torch.nn.attention.varlen import varlen_attn

        # Scale and window have other names, or do not exist, in other versions of torch.
        attended = varlen_attn(query, key, value, *places)
        assert isinstance(attended, torch.Tensor)  # a tuple only if more is requested
        return attended
    found: torch.Tensor = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 (only it has dropout)
        query,
        key,
        value,
        *places,
        dropout,
        False,  # noqa: FBT003 (not causal; a positional argument)
        False,  # noqa: FBT003 (no debug mask)
        scale=scaling,
        window_size_left=window,
        window_size_right=window,
    )[0]
    return found


def _attend_by_length(
    module: torch.nn.Module,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    runs: tuple[tuple[int, int], ...],
    *,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    query, key, value = states
    sizes = [count * length for count, length in runs]
    query_sizes = [count for count, _ in runs] if len(query) != len(key) else sizes
    # split, not slices: the backward of a slice allocates a tensor of the whole pack's size.
    pieces = zip(query.split(query_sizes), key.split(sizes), value.split(sizes), strict=True)
    attended = []
    for (count, length), run in zip(runs, pieces, strict=True):
        query_RHTD, key_RHTD, value_RHTD = (
            part.unflatten(0, (count, -1)).transpose(1, 2) for part in run
        )
        mask = None
        if window is not None and length > window + 1:
            mask = _window_mask(query_RHTD, length, window)
        if query.device.type == "cpu":
            out_RTHD, _ = attend(
                module, query_RHTD, key_RHTD, value_RHTD, mask, scaling=scaling, dropout=dropout
            )
        else:
            out_RTHD = scaled_dot_product_attention(
                query_RHTD,
                key_RHTD,
                value_RHTD,
                attn_mask=mask,
                dropout_p=dropout,
                scale=scaling,
            ).transpose(1, 2)
        attended.append(out_RTHD.flatten(0, 1))
    return torch.cat(attended)


def _window_mask(query_RHTD: torch.Tensor, length: int, window: int) -> torch.Tensor:
    """Return a mask to add to the scores, (T, T), or (1, T) for first tokens only."""
    places = torch.arange(length, device=query_RHTD.device)
    is_hidden = (places[: query_RHTD.shape[2], None] - places[None, :]).abs() > window
    lowest = torch.finfo(query_RHTD.dtype).min / 2
    return torch.zeros(
        is_hidden.shape, dtype=query_RHTD.dtype, device=is_hidden.device
    ).masked_fill_(is_hidden, lowest)
