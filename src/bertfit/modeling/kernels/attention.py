"""The kernels of `attention_kernels` as functions of tensors: attention within texts of a pack.

The score of a query and a key is their product times K**-0.5. A text has at least one query and
one key; its rows lie between two neighbouring starts.

Shapes: N tokens, M queries (N, or one for each text), S texts, H heads of K numbers, a power of two
from 16 on. Rows of queries, keys and values may lie further apart than they are long, by multiples
of 8 numbers; the rest is contiguous.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from bertfit.modeling.kernels.elementwise import Dropout

_TO_BASE_2 = 1.4426950408889634


class Tile(NamedTuple):
    """How a kernel cuts up the scores of a text and head."""

    queries: int
    """A power of two, at least 16, as is `keys`."""
    keys: int
    warps: int
    stages: int
    """How many tiles of a loop are on their way or in use at a time."""
    registers: int | None = None
    """The most that a thread may have, where the compiler is not to take as many as it likes."""


class Tiles(NamedTuple):
    """The tiles of all kernels."""

    forward: Tile
    whole: Tile | None
    """Of the way back, where one tile takes all queries of a text; else it is made in two:"""
    of_queries: Tile
    of_keys: Tile


def choose_tiles(longest_query: int, longest_key: int, head_size: int) -> Tiles:
    """Return tiles for texts of so many queries and keys at most.

    Those for heads of 64 numbers were the quickest of seven on an H100, with 16 and 62 texts of
    128 tokens and with 64 of 20 to 512. The others spill no registers. As Triton 3.6 compiled it
    there, the kernel for whole texts read wrong memory where heads had 128 numbers, and gave wrong
    numbers with tiles of 64 queries and 32 keys: neither is taken. (With tiles of 16 queries, for
    first tokens, it is right for heads of 128 too.)
    """
    if longest_query <= 16:
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
    """(N, 3*H*K), of all three; (N, 2*H*K), of keys and values, where M is not N."""


class Spans(NamedTuple):
    """Where the queries and the keys of each text lie."""

    query_starts: torch.Tensor
    """(S + 1,) int32, as are `key_starts`."""
    key_starts: torch.Tensor
    longest_query: int
    """At least the queries of any text."""
    longest_key: int


class States(NamedTuple):
    """What attention takes."""

    query: torch.Tensor
    """(M, H, K)."""
    key: torch.Tensor
    """(N, H, K)."""
    value: torch.Tensor
    """(N, H, K), its rows as far apart as those of `key`."""


class Attended(NamedTuple):
    """What attention gives."""

    output: torch.Tensor
    """(M, H, K)."""
    log_sums: torch.Tensor
    """(H, M) float32: of the exponentials of a query's scores."""


def attend(
    states: States, spans: Spans, *, dropout: Dropout, tiles: Tiles | None = None
) -> Attended:
    """Return what queries see.

    Args:
        states: Queries, keys and values.
        spans: Which of them belong together.
        dropout: Of the weights.
        tiles: Others than those that are chosen.
    """
    query = states.query
    num_queries, heads, size = query.shape
    tile = (tiles or choose_tiles(*spans[2:], size)).forward
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
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
) -> OfStates:
    """Return the gradients of queries, keys and values.

    Args:
        gradient: (M, H, K), of the output.
        states: As on the way forward, as are `spans` and `dropout`.
        attended: What came out.
        spans: See there.
        dropout: See there.
        tiles: Others than those that are chosen; not of concern to which weights are dropped.
    """
    tiles = tiles or choose_tiles(*spans[2:], states.query.shape[-1])
    found = _make_room(states)
    places, num_queries = _count_places(states, spans), len(states.query)
    given = (gradient.contiguous(), *states)
    needed = (*spans[:2], dropout.seeds)
    rows = {"OF_QUERY_ROW": found.query.stride(0), "OF_KEY_ROW": found.key.stride(0)}
    if tiles.whole is not None and spans.longest_query <= tiles.whole.queries:
        _kernels().go_back_whole[(places,)](
            *(*given, *attended, *needed, *found[:3], num_queries),
            **rows,
            **_describe(states, dropout, tiles.whole),
        )
        return found
    pairs = torch.empty(*attended.log_sums.shape, 2, dtype=torch.float32, device=found.joint.device)
    num_tiles = -(-spans.longest_query // tiles.of_queries.queries)
    _kernels().go_back_to_queries[(places * num_tiles,)](
        *(*given, *attended, *needed, found.query, pairs, num_queries, num_tiles),
        OF_QUERY_ROW=rows["OF_QUERY_ROW"],
        **_describe(states, dropout, tiles.of_queries),
    )
    num_tiles = -(-spans.longest_key // tiles.of_keys.keys)
    _kernels().go_back_to_keys[(places * num_tiles,)](
        *(*given, pairs, *needed, found.key, found.value, num_queries, num_tiles),
        OF_KEY_ROW=rows["OF_KEY_ROW"],
        **_describe(states, dropout, tiles.of_keys),
    )
    return found


def _count_places(states: States, spans: Spans) -> int:
    """Return the pairs of a text and a head."""
    return (len(spans.query_starts) - 1) * states.query.shape[1]


def _make_room(states: States) -> OfStates:
    query, key = states.query, states.key
    width = key.shape[1] * key.shape[2]
    if len(query) == len(key):
        joint = torch.empty(len(key), 3 * width, dtype=key.dtype, device=key.device)
        of_query, of_key, of_value = joint.split(width, dim=1)
        return OfStates(of_query, of_key, of_value, joint)
    of_query = torch.empty(len(query), width, dtype=query.dtype, device=query.device)
    joint = torch.empty(len(key), 2 * width, dtype=key.dtype, device=key.device)
    of_key, of_value = joint.split(width, dim=1)
    return OfStates(of_query, of_key, of_value, joint)


def _describe(states: States, dropout: Dropout, tile: Tile) -> dict[str, Any]:
    """Return what kernels are compiled for: the same for all packs of a model."""
    query, key, value = states
    heads, size = query.shape[1:]
    for state in states:
        assert state.stride()[1:] == (size, 1), "numbers of a token follow each other"
    assert key.stride(0) == value.stride(0), "keys and values lie alike"
    limit = {} if tile.registers is None else {"maxnreg": tile.registers}
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
        **limit,
    }


def _kernels() -> Any:  # noqa: ANN401 (a module; what it holds is Triton's)
    from bertfit.modeling.kernels import attention_kernels  # which imports Triton

    return attention_kernels
