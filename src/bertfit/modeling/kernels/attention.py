"""Launches `attention_kernels`: attention within the texts of a pack, as functions of tensors.

The score of a query and a key is their dot product times K**-0.5. A text has at least one query and
one key; its rows lie between two consecutive starts.

Shapes: N tokens, M queries (N, or one per text), S texts, H heads of size K, a power of two >= 16.
The row strides of queries, keys and values may exceed the row length, in multiples of 8; the other
dimensions are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bertfit.modeling.kernels.elementwise import Dropout
from bertfit.modeling.kernels.launching import LAUNCH_OPTIONS

_TO_BASE_2 = 1.4426950408889634


class Tile(NamedTuple):
    """How a kernel tiles the scores of a text and head."""

    queries: int
    """A power of two >= 16, like `keys`."""
    keys: int
    warps: int
    stages: int
    """Number of pipeline stages of a loop."""


class Tiles(NamedTuple):
    """The tiles of all kernels."""

    forward: Tile
    whole: Tile | None
    """For the backward pass if one tile holds all queries of a text; else there are two kernels:"""
    of_queries: Tile
    of_keys: Tile


def choose_tiles(longest_query: int, longest_key: int, head_size: int) -> Tiles:
    """Return tiles for texts with at most this many queries and keys.

    For head size 64 they were the fastest of seven on an H100, with 16 and 62 texts of 128 tokens
    and with 64 texts of 20 to 512. For other head sizes the tiles are small enough that no register
    is spilled; for 64, the kernel for whole texts spills 40 bytes a thread (H100, by Triton 3.6),
    152 by 3.7.1 and 272 by 3.9, and 184 to 352 on older GPUs. As compiled there by Triton 3.6, the
    kernel for whole texts read wrong memory for head size 128 and gave wrong results with tiles
    of 64 queries and 32 keys, so neither is used. (With tiles of 16 queries, the fewest, for first
    tokens, it is correct for head size 128 too.)
    """
    if longest_query == 1:  # first tokens; as tried before (`trial`), which short texts were not
        few = Tile(16, 64 if head_size > 64 else 128, 4, 2)
        return Tiles(few, few, few, few)
    is_wide = head_size > 64
    is_whole = not is_wide and max(longest_query, longest_key) <= 128
    return Tiles(
        forward=Tile(64, 64, 4, 2),
        whole=Tile(128, 32, 4, 1) if is_whole else None,
        of_queries=Tile(128, 64, 8, 2) if is_wide else Tile(64, 64, 4, 3),
        of_keys=Tile(32, 64, 4, 2) if is_wide else Tile(64, 64, 4, 3),
    )


class OfStates(NamedTuple):
    """The gradients of queries (M, H*K), keys and values (N, H*K): columns of one tensor."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    joint: torch.Tensor
    """(N, 3*H*K), of all three, or (N, 2*H*K), of keys and values, if M is not N."""
    query_sums: torch.Tensor
    """(any, H*K) float32: rows that add up to the sum of `query` over tokens."""
    value_sums: torch.Tensor
    """The same of `value`, right behind. The sum of `key` is zero."""


class Spans(NamedTuple):
    """Where the queries and keys of each text begin and end."""

    query_starts: torch.Tensor
    """(S + 1,) int32, like `key_starts`."""
    key_starts: torch.Tensor
    longest_query: int
    """Upper bound for the number of queries per text."""
    longest_key: int


class States(NamedTuple):
    """The inputs of attention."""

    query: torch.Tensor
    """(M, H, K)."""
    key: torch.Tensor
    """(N, H, K)."""
    value: torch.Tensor
    """(N, H, K), with the same row stride as `key`."""


class Attended(NamedTuple):
    """The outputs of attention."""

    output: torch.Tensor
    """(M, H, K)."""
    log_sums: torch.Tensor
    """(H, M) float32: log of the sum of exponentials of each query's scores."""


def attend(
    states: States,
    spans: Spans,
    *,
    dropout: Dropout,
    tiles: Tiles | None = None,
    output: torch.Tensor | None = None,
) -> Attended:
    """Return the attention output.

    Args:
        states: Queries, keys and values.
        spans: Which of them belong to the same text.
        dropout: Dropout of the weights.
        tiles: Overrides `choose_tiles`.
        output: (M, H * K), receives the output.
    """
    query = states.query
    num_queries, heads, size = query.shape
    tile = (tiles or choose_tiles(*spans[2:], size)).forward
    if output is None:
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    output = output.view(query.shape)
    log_sums = torch.empty(heads, num_queries, dtype=torch.float32, device=query.device)
    num_tiles = -(-spans.longest_query // tile.queries)
    _kernels().attend[(_count_places(states, spans) * num_tiles,)](
        *(*states, *spans[:2], dropout.seeds, output, log_sums, num_queries, num_tiles),
        **_describe(states, dropout, tile),
    )
    return Attended(output, log_sums)


def attend_backward(
    gradient: torch.Tensor,
    states: States,
    attended: Attended,
    spans: Spans,
    *,
    dropout: Dropout,
    tiles: Tiles | None = None,
    joint: torch.Tensor | None = None,
    make_sums: Callable[[int, int], torch.Tensor] | None = None,
) -> OfStates:
    """Return the gradients of queries, keys and values.

    Args:
        gradient: (M, H, K), of the output.
        states: As in the forward pass.
        attended: The outputs of the forward pass.
        spans: As in the forward pass.
        dropout: As in the forward pass.
        tiles: Overrides `choose_tiles`; does not affect which weights are dropped.
        joint: (N, 3 * H * K), receives the gradients if all tokens are queries.
        make_sums: Returns memory for so many rows and columns of float32, for partial sums.
    """
    tiles = tiles or choose_tiles(*spans[2:], states.query.shape[-1])
    places, num_queries = _count_places(states, spans), len(states.query)
    whole = tiles.whole
    if whole is not None and spans.longest_query > whole.queries:
        whole = None
    query_tiles = 1 if whole else -(-spans.longest_query // tiles.of_queries.queries)
    key_tiles = 1 if whole else -(-spans.longest_key // tiles.of_keys.keys)
    num_texts = len(spans.query_starts) - 1
    rows_of_sums = num_texts * query_tiles, num_texts * key_tiles
    found = _make_room(states, rows_of_sums, joint, make_sums)
    given = (gradient.contiguous(), *states)
    needed = (*spans[:2], dropout.seeds)
    rows = {"OF_QUERY_ROW": found.query.stride(0), "OF_KEY_ROW": found.key.stride(0)}
    if whole is not None:
        _kernels().go_back_whole[(places,)](
            *(*given, *attended, *needed, *found[:3], found.query_sums, num_queries),
            **rows,
            **_describe(states, dropout, whole),
        )
        return found
    pairs = torch.empty(*attended.log_sums.shape, 2, dtype=torch.float32, device=found.joint.device)
    _kernels().go_back_to_queries[(places * query_tiles,)](
        *(*given, *attended, *needed, found.query, pairs, found.query_sums),
        *(num_queries, query_tiles),
        OF_QUERY_ROW=rows["OF_QUERY_ROW"],
        **_describe(states, dropout, tiles.of_queries),
    )
    _kernels().go_back_to_keys[(places * key_tiles,)](
        *(*given, pairs, *needed, found.key, found.value, found.value_sums),
        *(num_queries, key_tiles),
        OF_KEY_ROW=rows["OF_KEY_ROW"],
        **_describe(states, dropout, tiles.of_keys),
    )
    return found


def _count_places(states: States, spans: Spans) -> int:
    """Return the number of pairs of a text and a head."""
    return (len(spans.query_starts) - 1) * states.query.shape[1]


def _make_room(
    states: States,
    rows_of_sums: tuple[int, int],
    joint: torch.Tensor | None,
    make_sums: Callable[[int, int], torch.Tensor] | None,
) -> OfStates:
    """Allocate the gradients, with so many rows of partial sums for queries and for values."""
    query, key = states.query, states.key
    width = key.shape[1] * key.shape[2]
    if make_sums is None:
        block = torch.empty(sum(rows_of_sums), width, dtype=torch.float32, device=key.device)
    else:
        block = make_sums(sum(rows_of_sums), width)
    sums = block.split(rows_of_sums)
    if len(query) == len(key):
        if joint is None:
            joint = torch.empty(len(key), 3 * width, dtype=key.dtype, device=key.device)
        of_query, of_key, of_value = joint.split(width, dim=1)
        return OfStates(of_query, of_key, of_value, joint, *sums)
    of_query = torch.empty(len(query), width, dtype=query.dtype, device=query.device)
    joint = torch.empty(len(key), 2 * width, dtype=key.dtype, device=key.device)
    of_key, of_value = joint.split(width, dim=1)
    return OfStates(of_query, of_key, of_value, joint, *sums)


def _describe(states: States, dropout: Dropout, tile: Tile) -> dict[str, Any]:
    """Return the compile-time arguments of kernels, the same for all packs of a model."""
    query, key, value = states
    heads, size = query.shape[1:]
    for state in states:
        assert state.stride()[1:] == (size, 1), "numbers of a token follow each other"
    assert key.stride(0) == value.stride(0), "keys and values lie alike"
    return {
        "SCALE": size**-0.5 * _TO_BASE_2,
        "QUERY_ROW": query.stride(0),
        "KEY_ROW": key.stride(0),
        "HEADS": heads,
        "SIZE": size,
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        "WHICH": dropout.which,
        "THRESHOLD": round(dropout.rate * 2**32),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        **LAUNCH_OPTIONS,
    }


def _kernels() -> Any:  # noqa: ANN401 (a module of Triton functions)
    from bertfit.modeling.kernels import attention_kernels  # imports Triton

    return attention_kernels
