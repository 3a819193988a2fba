"""The operations between a layer's products, in Triton: dropout, residual, norm, GELU, and sums.

Each kernel takes one pass over memory; torch would take one per operation. Gradients of biases and
norms are sums over all rows: each program sums its own rows in float32 and writes one row of
`partials`; `fold` sums those in a fixed order, so results are reproducible. Arithmetic is in
float32, whatever the dtype of the tensors.

`elementwise` launches them. Shapes: N rows (tokens) of WIDTH numbers.

Source: Ba et al. 2016, arXiv 1607.06450 (layer normalization); the finalizer of MurmurHash3 (A.
Appleby, 2011), with a key between its rounds; Abramowitz and Stegun 1964, 7.1.26 (normal tail).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _is_kept(seed, places, rate):
    """Return whether dropout keeps the elements at these indices of a tensor.

    Each element gets a 32-bit hash of its index, keyed by both halves of the seed: ten
    instructions. Philox, which torch's dropout uses, takes about sixty for four numbers.
    """
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    bits = (places.to(tl.uint32) * 0x9E3779B1) ^ low
    bits ^= bits >> 16
    bits = (bits * 0x85EBCA6B) ^ high
    bits ^= bits >> 13
    bits *= 0xC2B2AE35
    bits ^= bits >> 16
    return (bits >> 8).to(tl.float32) * (1.0 / 16777216.0) >= rate


@triton.jit(do_not_specialize=["num_rows"])
def add_and_norm(
    hidden,
    residual,
    weight,
    bias,
    seeds,
    total,
    output,
    means,
    scales,
    num_rows,
    epsilon,
    rate,
    WHICH: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    DROPS: tl.constexpr,
    KEEPS: tl.constexpr,
):
    """Write norm(dropout(hidden) + residual), and if KEEPS what the backward pass needs."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = (rows < num_rows) & (columns < WIDTH)
    places = rows.to(tl.int64) * WIDTH + columns
    values = tl.load(hidden + places, mask=inside, other=0.0).to(tl.float32)
    if DROPS:
        is_kept = _is_kept(tl.load(seeds + WHICH), places, rate)
        values = tl.where(is_kept, values / (1.0 - rate), 0.0)
    values += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    # Rounded before the norm, so that the backward pass, which rereads it, sees the same values.
    values = values.to(output.dtype.element_ty)
    if KEEPS:
        tl.store(total + places, values, mask=inside)
    values = values.to(tl.float32)
    mean = tl.sum(values, axis=1, keep_dims=True) / WIDTH
    centered = tl.where(inside, values - mean, 0.0)
    variance = tl.sum(centered * centered, axis=1, keep_dims=True) / WIDTH
    scale = tl.rsqrt(variance + epsilon)
    if KEEPS:
        tl.store(means + rows, mean, mask=rows < num_rows)
        tl.store(scales + rows, scale, mask=rows < num_rows)
    is_column = columns < WIDTH
    factor = tl.load(weight + columns, mask=is_column, other=0.0).to(tl.float32)
    addend = tl.load(bias + columns, mask=is_column, other=0.0).to(tl.float32)
    normed = centered * scale * factor + addend
    tl.store(output + places, normed.to(output.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def add_and_norm_backward(
    gradient,
    total,
    weight,
    means,
    scales,
    seeds,
    of_residual,
    of_hidden,
    partials,
    num_rows,
    rate,
    WHICH: tl.constexpr,
    AT: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    DROPS: tl.constexpr,
):
    """Write both inputs' gradients, and the sums for the norm's weight and bias and of `hidden`'s.

    Without dropout, both inputs have the same gradient, `of_residual`.
    """
    columns = tl.arange(0, BLOCK)[None, :]
    is_column = columns < WIDTH
    factor = tl.load(weight + columns, mask=is_column, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK,), tl.float32)
    of_bias = tl.zeros((BLOCK,), tl.float32)
    of_dense = tl.zeros((BLOCK,), tl.float32)
    for start in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        is_row = rows < num_rows
        inside = is_row & is_column
        places = rows.to(tl.int64) * WIDTH + columns
        given = tl.load(gradient + places, mask=inside, other=0.0).to(tl.float32)
        values = tl.load(total + places, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(means + rows, mask=is_row, other=0.0)
        scale = tl.load(scales + rows, mask=is_row, other=0.0)
        normed = tl.where(inside, (values - mean) * scale, 0.0)
        weighted = given * factor
        along = tl.sum(weighted * normed, axis=1, keep_dims=True) / WIDTH
        level = tl.sum(weighted, axis=1, keep_dims=True) / WIDTH
        found = tl.where(inside, (weighted - normed * along - level) * scale, 0.0)
        tl.store(of_residual + places, found.to(of_residual.dtype.element_ty), mask=inside)
        if DROPS:
            is_kept = _is_kept(tl.load(seeds + WHICH), places, rate)
            found = tl.where(is_kept, found / (1.0 - rate), 0.0)
            tl.store(of_hidden + places, found.to(of_hidden.dtype.element_ty), mask=inside)
        of_weight += tl.sum(given * normed, axis=0)
        of_bias += tl.sum(given, axis=0)
        of_dense += tl.sum(found, axis=0)
    flat = tl.arange(0, BLOCK)
    row = partials + tl.program_id(0) * COLUMNS + AT + flat
    tl.store(row, of_weight, mask=flat < WIDTH)
    tl.store(row + WIDTH, of_bias, mask=flat < WIDTH)
    tl.store(row + 2 * WIDTH, of_dense, mask=flat < WIDTH)


@triton.jit
def _share_and_peak(values):
    """Return the normal distribution's share below each value, and exp(-values² / 2).

    GELU is the value times this share. Computed from the smaller tail, to within 8e-8, it does not
    cancel, as 1 + erf does, and it takes half the instructions, for which these kernels wait.
    """
    near = 1.0 / (1.0 + 0.2316419 * tl.abs(values))
    peak = tl.exp2(-0.72134752 * values * values)
    tail = -0.7265760135 + near * 0.5307027145
    tail = near * (0.127414796 + near * (-0.142248368 + near * (0.7107068705 + near * tail)))
    tail *= peak
    return tl.where(values < 0.0, tail, 1.0 - tail), peak


@triton.jit(do_not_specialize=["num_rows"])
def activate(values, output, num_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write the exact GELU of values."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < num_rows.to(tl.int64) * WIDTH
    given = tl.load(values + places, mask=inside, other=0.0).to(tl.float32)
    share, _ = _share_and_peak(given)
    found = given * share
    tl.store(output + places, found.to(output.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def activate_backward(
    gradient,
    values,
    of_values,
    partials,
    num_rows,
    AT: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write the gradient of GELU's input and its sums over rows."""
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    sums = tl.zeros((BLOCK,), tl.float32)
    step = tl.num_programs(0) * ROWS
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    inside = (rows < num_rows) & (columns < WIDTH)
    next_given = tl.load(gradient + rows.to(tl.int64) * WIDTH + columns, mask=inside, other=0.0)
    next_at = tl.load(values + rows.to(tl.int64) * WIDTH + columns, mask=inside, other=0.0)
    for start in range(tl.program_id(0) * ROWS, num_rows, step):
        rows = start + tl.arange(0, ROWS)[:, None]
        inside = (rows < num_rows) & (columns < WIDTH)
        places = rows.to(tl.int64) * WIDTH + columns
        given = next_given.to(tl.float32)
        at = next_at.to(tl.float32)
        # Loaded before this tile is computed, so memory is waited for once, not for each tile.
        later = rows + step
        is_inside = (later < num_rows) & (columns < WIDTH)
        places_later = later.to(tl.int64) * WIDTH + columns
        next_given = tl.load(gradient + places_later, mask=is_inside, other=0.0)
        next_at = tl.load(values + places_later, mask=is_inside, other=0.0)
        share, peak = _share_and_peak(at)
        found = given * (share + at * peak * 0.3989422804014327)
        tl.store(of_values + places, found.to(of_values.dtype.element_ty), mask=inside)
        sums += tl.sum(found, axis=0)
    flat = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = partials + tl.program_id(0) * COLUMNS + AT + flat
    tl.store(row, sums, mask=flat < WIDTH)


@triton.jit(do_not_specialize=["num_partials", "num_of_queries", "num_of_values"])
def fold(
    partials,
    query_sums,
    value_sums,
    output,
    num_partials,
    num_of_queries,
    num_of_values,
    to_partials,
    to_queries,
    to_values,
    to_output,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ADDS: tl.constexpr,
):
    """Write the sums of all rows of partial sums, or add them to the output's content.

    The output has WIDTH sums of queries, as many zeros for the keys, WIDTH sums of values, and
    COLUMNS sums of the other partials. The second axis of programs are layers, whose tensors are so
    many numbers apart. If these are 0 or multiples of 16, four numbers are read at once.
    """
    layer = tl.program_id(1).to(tl.int64)
    partials += layer * to_partials
    query_sums += layer * to_queries
    value_sums += layer * to_values
    output += layer * to_output
    BLOCKS: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    block = tl.program_id(0)
    if block >= 3 * BLOCKS:
        output += 3 * WIDTH
        block -= 3 * BLOCKS
        _fold_block(partials, output, num_partials, block, COLUMNS, BLOCK, ROWS, ADDS)
    elif block >= 2 * BLOCKS:
        output += 2 * WIDTH
        block -= 2 * BLOCKS
        _fold_block(value_sums, output, num_of_values, block, WIDTH, BLOCK, ROWS, ADDS)
    elif block >= BLOCKS:
        if not ADDS:
            flat = (block - BLOCKS) * BLOCK + tl.arange(0, BLOCK)
            tl.store(output + WIDTH + flat, tl.zeros((BLOCK,), tl.float32), mask=flat < WIDTH)
    else:
        _fold_block(query_sums, output, num_of_queries, block, WIDTH, BLOCK, ROWS, ADDS)


@triton.jit
def _fold_block(
    partials,
    output,
    num_partials,
    block,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ADDS: tl.constexpr,
):
    """Sum one block of columns over all rows."""
    flat = block * BLOCK + tl.arange(0, BLOCK)
    columns = flat[None, :]
    tile = tl.zeros((ROWS, BLOCK), tl.float32)  # reduced once, at the end
    for start in range(0, num_partials, ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        inside = (rows < num_partials) & (columns < COLUMNS)
        tile += tl.load(partials + rows * COLUMNS + columns, mask=inside, other=0.0)
    sums = tl.sum(tile, axis=0)
    if ADDS:
        sums += tl.load(output + flat, mask=flat < COLUMNS, other=0.0)
    tl.store(output + flat, sums, mask=flat < COLUMNS)
