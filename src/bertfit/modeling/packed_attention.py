"""Attention in a pack: each token sees the tokens of its own text and no other.

On a CUDA GPU in half precision torch's own variable-length flash attention does it in one call:
`torch.nn.attention.varlen.varlen_attn`, or, where attention weights are dropped or a window is
kept, the operator beneath it, which takes both and has a derivative. Everywhere else a plain
fallback does it: neighbours of one length are a batch without padding, attended to by itself.

The calls for a GPU were run on an H100 with torch 2.11. Layers that kernels of our own compute
(`modeling.kernels`) do not come here.

Shapes: S texts, N tokens of all texts, H heads, D numbers per head; R texts of one length T.
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
"""Flash attention's limits: numbers per head, in steps of 8, and Ampere or later."""


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
        module: The layer that asks; its mode decides about dropout.
        states: Queries, keys and values, (N, H, D) each; queries may be those of the S first
            tokens alone.
        pack: Where the texts lie.
        scaling: Factor of the scores; None is 1 / sqrt(D).
        dropout: Share of the attention weights that is dropped in training, in [0, 1).
        window: The farthest that a token sees to either side; None sees the whole text.
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
    """Say why torch's flash attention cannot be had; None where it can.

    Args:
        device: Where the model runs.
        dtype: Type of the products.
        head_size: Numbers per head.
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
    # Of fewer queries than keys the last ones would be taken to meet at the end, not at the start.
    assert window is None or not only_firsts
    query_starts, longest_query = pack.cu_seqlens, pack.longest
    if only_firsts:
        query_starts = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
        longest_query = 1
    places = (query_starts, pack.cu_seqlens, longest_query, pack.longest)
    if dropout == 0.0 and window is None and scaling in {None, query.shape[-1] ** -0.5}:
        from torch.nn.attention.varlen import varlen_attn

        # Scale and window are named otherwise, or missing, in other versions of torch.
        attended = varlen_attn(query, key, value, *places)
        assert isinstance(attended, torch.Tensor)  # a pair only where more is asked for
        return attended
    found: torch.Tensor = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 (it alone drops)
        query,
        key,
        value,
        *places,
        dropout,
        False,  # noqa: FBT003 (not causal; the operator takes it by place)
        False,  # noqa: FBT003 (no mask to look at)
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
    # Split, not sliced: the derivative of a slice is a tensor of the whole pack's size.
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
    """Return (T, T) to add to the scores, or (1, T) of the first token: far places are hidden."""
    places = torch.arange(length, device=query_RHTD.device)
    is_hidden = (places[: query_RHTD.shape[2], None] - places[None, :]).abs() > window
    lowest = torch.finfo(query_RHTD.dtype).min / 2
    return torch.zeros(
        is_hidden.shape, dtype=query_RHTD.dtype, device=is_hidden.device
    ).masked_fill_(is_hidden, lowest)
