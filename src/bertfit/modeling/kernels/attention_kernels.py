"""Attention within each text of a pack, in Triton: forward, backward, dropout of the weights.

Scores are never written to memory: a program takes a tile of queries of one text and head and loops
over that text's keys (or vice versa). In the backward pass, if one tile holds all queries of a
text, a single program computes all its gradients with five products per tile (`go_back_whole`).
Longer texts take two kernels with seven products, which avoids atomics, so results are
reproducible.

The backward pass also sums the gradients of queries and of values over tokens, for their biases:
each program writes one row of partial sums. That of the keys' bias is zero and is not computed: it
would move all scores of a query alike, which softmax ignores.

`attention` launches them. Shapes: rows are tokens; a row holds HEADS x SIZE numbers of one tensor,
and ROW is the row stride. Sums and softmax are in float32.

Source: Dao 2023, arXiv 2307.08691 (FlashAttention 2: online softmax, log-sums for the backward).
"""

from __future__ import annotations

import triton
import triton.language as tl

from bertfit.modeling.kernels.attention_dropout_kernels import draw_streams, drop

TO_BASE_2 = tl.constexpr(1.4426950408889634)
TO_BASE_E = tl.constexpr(0.6931471805599453)


@triton.jit
def _locate(starts, text):
    """Return a text's first row and number of rows."""
    first = tl.load(starts + text)
    return first, tl.load(starts + text + 1) - first


@triton.jit
def _choose_tile(num_tiles, TILE: tl.constexpr, HEADS: tl.constexpr):
    """Return a program's text and head as one number, its head, its tile's start, its row of sums.

    A text has `num_tiles` tiles of TILE queries or keys, some of them beyond its end.
    """
    place, tile = tl.program_id(0) // num_tiles, tl.program_id(0) % num_tiles
    return place, place % HEADS, tile * TILE, place // HEADS * num_tiles + tile


@triton.jit
def _find(tensor, first, head, ROW: tl.constexpr, SIZE: tl.constexpr):
    """Return a pointer to a text's first row of one head."""
    return tensor + first.to(tl.int64) * ROW + head * SIZE


@triton.jit
def _find_both(one, other, first, head, ROW: tl.constexpr, SIZE: tl.constexpr):
    """Return the pointers of `_find` for two tensors."""
    return _find(one, first, head, ROW, SIZE), _find(other, first, head, ROW, SIZE)


@triton.jit
def _load(place, rows, num_rows, ROW: tl.constexpr, SIZE: tl.constexpr):
    """Load rows of one head, (rows, SIZE), with zeros beyond the end of the text."""
    places = place + rows[:, None] * ROW + tl.arange(0, SIZE)[None, :]
    return tl.load(places, mask=rows[:, None] < num_rows, other=0.0)


@triton.jit
def _load_both(one, other, rows, num_rows, ROW: tl.constexpr, SIZE: tl.constexpr):
    """Load the same rows of two tensors."""
    return _load(one, rows, num_rows, ROW, SIZE), _load(other, rows, num_rows, ROW, SIZE)


@triton.jit
def _store(place, rows, num_rows, values, ROW: tl.constexpr, SIZE: tl.constexpr):
    """Store rows of one head, except beyond the end of the text."""
    places = place + rows[:, None] * ROW + tl.arange(0, SIZE)[None, :]
    tl.store(places, values.to(place.dtype.element_ty), mask=rows[:, None] < num_rows)


@triton.jit
def _store_with_sum(place, sums, rows, num_rows, values, ROW: tl.constexpr, SIZE: tl.constexpr):
    """Store rows as `_store` does, and their sum (SIZE,)."""
    _store(place, rows, num_rows, values, ROW, SIZE)
    within = tl.where(rows[:, None] < num_rows, values, 0.0)
    tl.store(sums + tl.arange(0, SIZE), tl.sum(within, axis=0))


@triton.jit
def _store_value_sum(sums, given, shares, SIZE: tl.constexpr):
    """Store the sum (SIZE,) of the gradients of all values.

    It is the sum of the output's gradients, (QUERIES, SIZE), each times the sum of its query's
    weights, (QUERIES,).
    """
    tl.store(sums + tl.arange(0, SIZE), tl.sum(given.to(tl.float32) * shares[:, None], axis=0))


@triton.jit
def _hide(keys, num_keys):
    """Return the mask to add to the scores: minus infinity for keys beyond the end of the text."""
    return tl.where(keys < num_keys, 0.0, float("-inf"))


@triton.jit(do_not_specialize=["num_queries", "num_tiles"])
def attend(
    query,
    key,
    value,
    query_starts,
    key_starts,
    seeds,
    output,
    log_sums,
    num_queries,
    num_tiles,
    SCALE: tl.constexpr,
    QUERY_ROW: tl.constexpr,
    KEY_ROW: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WHICH: tl.constexpr,
    THRESHOLD: tl.constexpr,
):
    """Write the output of a tile of queries and the logs of its sums of exponentials."""
    place, head, start, _ = _choose_tile(num_tiles, QUERIES, HEADS)
    first_query, count = _locate(query_starts, place // HEADS)
    if start >= count:
        return
    first_key, num_keys = _locate(key_starts, place // HEADS)
    rows, columns = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    key, value = _find_both(key, value, first_key, head, KEY_ROW, SIZE)
    asked = _load(
        _find(query, first_query, head, QUERY_ROW, SIZE), start + rows, count, QUERY_ROW, SIZE
    )
    streams = draw_streams(seeds, place, WHICH, THRESHOLD)
    highest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    seen = tl.zeros((QUERIES, SIZE), tl.float32)
    for at in range(0, num_keys, KEYS):
        keys = _load(key, at + columns, num_keys, KEY_ROW, SIZE)
        scores = tl.dot(asked, tl.trans(keys)) * SCALE + _hide(at + columns, num_keys)[None, :]
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - peak[:, None])
        shrunk = tl.exp2(highest - peak)
        total = total * shrunk + tl.sum(weights, axis=1)
        kept = drop(weights, streams, start, rows[:, None], at, columns[None, :], THRESHOLD)
        values = _load(value, at + columns, num_keys, KEY_ROW, SIZE)
        seen = tl.dot(kept.to(values.dtype), values, seen * shrunk[:, None])
        highest = peak
    seen = seen / (total * (1.0 - THRESHOLD / 4294967296))[:, None]
    output = _find(output, first_query, head, HEADS * SIZE, SIZE)
    _store(output, start + rows, count, seen, HEADS * SIZE, SIZE)
    place = log_sums + head.to(tl.int64) * num_queries + first_query + start + rows
    tl.store(place, (highest + tl.log2(total)) * TO_BASE_E, mask=start + rows < count)


@triton.jit(do_not_specialize=["num_queries"])
def go_back_whole(
    gradient,
    query,
    key,
    value,
    output,
    log_sums,
    query_starts,
    key_starts,
    seeds,
    of_query,
    of_key,
    of_value,
    sums,
    num_queries,
    SCALE: tl.constexpr,
    QUERY_ROW: tl.constexpr,
    KEY_ROW: tl.constexpr,
    OF_QUERY_ROW: tl.constexpr,
    OF_KEY_ROW: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WHICH: tl.constexpr,
    THRESHOLD: tl.constexpr,
):
    """Write all gradients of one head of a text with at most QUERIES queries."""
    place, head = tl.program_id(0), tl.program_id(0) % HEADS
    first_query, count = _locate(query_starts, place // HEADS)
    first_key, num_keys = _locate(key_starts, place // HEADS)
    rows, columns = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    key, value = _find_both(key, value, first_key, head, KEY_ROW, SIZE)
    of_key, of_value = _find_both(of_key, of_value, first_key, head, OF_KEY_ROW, SIZE)
    asked = _load(_find(query, first_query, head, QUERY_ROW, SIZE), rows, count, QUERY_ROW, SIZE)
    given, level = _find_level(gradient, output, first_query, head, rows, count, HEADS, SIZE)
    log_sum = _load_log_sum(log_sums + head.to(tl.int64) * num_queries + first_query, rows, count)
    SHARE: tl.constexpr = 1.0 - THRESHOLD / 4294967296
    level *= SHARE  # like all score gradients; undone when they are stored
    streams = draw_streams(seeds, place, WHICH, THRESHOLD)
    found, shares = tl.zeros((QUERIES, SIZE), tl.float32), tl.zeros((QUERIES,), tl.float32)
    for at in range(0, num_keys, KEYS):
        keys, values = _load_both(key, value, at + columns, num_keys, KEY_ROW, SIZE)
        offset = _hide(at + columns, num_keys)[None, :] - log_sum[:, None]
        weights = tl.exp2(tl.dot(asked, tl.trans(keys)) * SCALE + offset)
        kept = drop(weights, streams, 0, rows[:, None], at, columns[None, :], THRESHOLD)
        shares += tl.sum(kept, axis=1)
        # Transposed, so that the weights are the right operand, which is read as it is.
        back = tl.trans(tl.dot(tl.trans(given), kept.to(given.dtype)) / SHARE)
        _store(of_value, at + columns, num_keys, back, OF_KEY_ROW, SIZE)
        of_weights = tl.dot(given, tl.trans(values))
        of_scores = (kept * of_weights - weights * level[:, None]).to(asked.dtype)
        back = tl.trans(tl.dot(tl.trans(asked), of_scores) * (SCALE / TO_BASE_2 / SHARE))
        _store(of_key, at + columns, num_keys, back, OF_KEY_ROW, SIZE)
        found = tl.dot(of_scores, keys, found)
    found *= SCALE / TO_BASE_2 / SHARE
    of_query = _find(of_query, first_query, head, OF_QUERY_ROW, SIZE)
    sums += place.to(tl.int64) * SIZE
    _store_with_sum(of_query, sums, rows, count, found, OF_QUERY_ROW, SIZE)
    _store_value_sum(sums + tl.num_programs(0) * SIZE, given, shares / SHARE, SIZE)


@triton.jit
def _find_level(
    gradient, output, first_query, head, rows, count, HEADS: tl.constexpr, SIZE: tl.constexpr
):
    """Return the output's gradient (rows, SIZE) and its row-wise dot product with the output."""
    given = _load(
        _find(gradient, first_query, head, HEADS * SIZE, SIZE), rows, count, HEADS * SIZE, SIZE
    )
    made = _load(
        _find(output, first_query, head, HEADS * SIZE, SIZE), rows, count, HEADS * SIZE, SIZE
    )
    return given, tl.sum(given.to(tl.float32) * made.to(tl.float32), axis=1)


@triton.jit
def _load_log_sum(place, rows, count):
    """Load log-sums in base 2; beyond the text, where gradients are 0, any value works."""
    return tl.load(place + rows, mask=rows < count, other=0.0) * TO_BASE_2


@triton.jit(do_not_specialize=["num_queries", "num_tiles"])
def go_back_to_queries(
    gradient,
    query,
    key,
    value,
    output,
    log_sums,
    query_starts,
    key_starts,
    seeds,
    of_query,
    pairs,
    sums,
    num_queries,
    num_tiles,
    SCALE: tl.constexpr,
    QUERY_ROW: tl.constexpr,
    KEY_ROW: tl.constexpr,
    OF_QUERY_ROW: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WHICH: tl.constexpr,
    THRESHOLD: tl.constexpr,
):
    """Write the gradients of a tile of queries, and two numbers per query for `go_back_to_keys`."""
    place, head, start, row_of_sums = _choose_tile(num_tiles, QUERIES, HEADS)
    first_query, count = _locate(query_starts, place // HEADS)
    sums = _find(sums, row_of_sums, head, HEADS * SIZE, SIZE)
    if start >= count:
        tl.store(sums + tl.arange(0, SIZE), tl.zeros((SIZE,), tl.float32))
        return
    first_key, num_keys = _locate(key_starts, place // HEADS)
    local, columns = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    rows = start + local
    key, value = _find_both(key, value, first_key, head, KEY_ROW, SIZE)
    query = _find(query, first_query, head, QUERY_ROW, SIZE)
    asked = _load(query, rows, count, QUERY_ROW, SIZE)
    given, level = _find_level(gradient, output, first_query, head, rows, count, HEADS, SIZE)
    skipped = head.to(tl.int64) * num_queries + first_query
    log_sum = _load_log_sum(log_sums + skipped, rows, count)
    SHARE: tl.constexpr = 1.0 - THRESHOLD / 4294967296
    level *= SHARE  # like all score gradients; undone when they are stored
    pairs += (skipped + rows) * 2
    tl.store(pairs, log_sum, mask=rows < count)
    tl.store(pairs + 1, level, mask=rows < count)
    streams = draw_streams(seeds, place, WHICH, THRESHOLD)
    found = tl.zeros((QUERIES, SIZE), tl.float32)
    for at in range(0, num_keys, KEYS):
        keys, values = _load_both(key, value, at + columns, num_keys, KEY_ROW, SIZE)
        offset = _hide(at + columns, num_keys)[None, :] - log_sum[:, None]
        weights = tl.exp2(tl.dot(asked, tl.trans(keys)) * SCALE + offset)
        kept = drop(weights, streams, start, local[:, None], at, columns[None, :], THRESHOLD)
        of_weights = tl.dot(given, tl.trans(values))
        of_scores = kept * of_weights - weights * level[:, None]
        found = tl.dot(of_scores.to(keys.dtype), keys, found)
    found *= SCALE / TO_BASE_2 / SHARE
    of_query = _find(of_query, first_query, head, OF_QUERY_ROW, SIZE)
    _store_with_sum(of_query, sums, rows, count, found, OF_QUERY_ROW, SIZE)


@triton.jit(do_not_specialize=["num_queries", "num_tiles"])
def go_back_to_keys(
    gradient,
    query,
    key,
    value,
    pairs,
    query_starts,
    key_starts,
    seeds,
    of_key,
    of_value,
    sums,
    num_queries,
    num_tiles,
    SCALE: tl.constexpr,
    QUERY_ROW: tl.constexpr,
    KEY_ROW: tl.constexpr,
    OF_KEY_ROW: tl.constexpr,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WHICH: tl.constexpr,
    THRESHOLD: tl.constexpr,
):
    """Write the gradients of a tile of keys and values, with transposed scores."""
    place, head, start, row_of_sums = _choose_tile(num_tiles, KEYS, HEADS)
    first_key, num_keys = _locate(key_starts, place // HEADS)
    sums = _find(sums, row_of_sums, head, HEADS * SIZE, SIZE)
    if start >= num_keys:
        tl.store(sums + tl.arange(0, SIZE), tl.zeros((SIZE,), tl.float32))
        return
    first_query, count = _locate(query_starts, place // HEADS)
    local, columns = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    key, value = _find_both(key, value, first_key, head, KEY_ROW, SIZE)
    query = _find(query, first_query, head, QUERY_ROW, SIZE)
    gradient = _find(gradient, first_query, head, HEADS * SIZE, SIZE)
    pairs += (head.to(tl.int64) * num_queries + first_query) * 2
    keys, values = _load_both(key, value, start + columns, num_keys, KEY_ROW, SIZE)
    streams = draw_streams(seeds, place, WHICH, THRESHOLD)
    to_keys, to_values = tl.zeros((KEYS, SIZE), tl.float32), tl.zeros((KEYS, SIZE), tl.float32)
    for at in range(0, count, QUERIES):
        rows = at + local
        asked = _load(query, rows, count, QUERY_ROW, SIZE)
        given = _load(gradient, rows, count, HEADS * SIZE, SIZE)
        # Adjacent in memory, so that one load per row serves all threads.
        log_sum, level = tl.split(_load(pairs, rows, count, 2, 2))
        # No mask: keys beyond the end only affect their own rows, which are not stored or summed.
        weights = tl.exp2(tl.dot(keys, tl.trans(asked)) * SCALE - log_sum[None, :])
        kept = drop(weights, streams, at, local[None, :], start, columns[:, None], THRESHOLD)
        of_weights = tl.dot(values, tl.trans(given))
        of_scores = kept * of_weights - weights * level[None, :]
        to_values = tl.dot(kept.to(given.dtype), given, to_values)
        to_keys = tl.dot(of_scores.to(asked.dtype), asked, to_keys)
    SHARE: tl.constexpr = 1.0 - THRESHOLD / 4294967296
    of_key, of_value = _find_both(of_key, of_value, first_key, head, OF_KEY_ROW, SIZE)
    to_keys *= SCALE / TO_BASE_2 / SHARE
    _store(of_key, start + columns, num_keys, to_keys, OF_KEY_ROW, SIZE)
    to_values /= SHARE
    _store_with_sum(of_value, sums, start + columns, num_keys, to_values, OF_KEY_ROW, SIZE)
