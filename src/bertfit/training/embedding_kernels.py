"""Triton kernels of AdamW for the rows of a token embedding that a step reads.

`gpu_embedding_rows` launches them; `embedding_rows` has the formula. Each program handles whole
rows, or some columns of one, and no two the same, so nothing depends on which program ends first.

Shapes: R rows of the step, of V in the table; WIDTH numbers each; N tokens of a pack. What the
kernels share:

    rows        (R,) int64, distinct: which rows
    weights     (V, WIDTH) float32
    copies      the same in another dtype, if HAS_COPIES
    first       (V, WIDTH) float32, first moments
    second      (V, WIDTH) float32, second moments
    gradient    (V, WIDTH) float32
    last        (V,) int32, the step that each row is up to date with
    reached     () int32, the last step that was taken
    history     (steps, 3) float32, for each step s: the sum of log(1 − lr·λ) of all steps to s; its
                lr·√(1−β2^s)/(1−β1^s); its ε·√(1−β2^s)
    BLOCK       the next power of two after WIDTH
"""

from __future__ import annotations

import triton
import triton.language as tl

from bertfit.training.adamw_kernels import advance, find_factor


@triton.jit(do_not_specialize=["num_tokens", "padding_id"])
def add_rows(
    of_tokens,
    token_ids,
    by_id,
    gradient,
    num_tokens,
    padding_id,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Add the gradients of all tokens of a pack to the rows of their ids.

    There is a program for each token and BLOCK columns. That of the first token of an id sums all
    tokens of this id, in their order in the text; the others have nothing to do.

    Args:
        of_tokens: (N, WIDTH), gradient of the embeddings that were read.
        token_ids: (N,) int64.
        by_id: (2, N) int32: tokens sorted by id; for each place in that order, where its id ends.
        gradient: Receives the sums.
        num_tokens: N.
        padding_id: Row that gets no gradient; -1 if there is none.
        WIDTH: Numbers per row.
        BLOCK: Columns of a program.
        ROWS: Tokens read at once.
    """
    place = tl.program_id(0).to(tl.int64)
    end_before = tl.load(by_id + num_tokens + place - 1, mask=place > 0, other=0)
    row = tl.load(token_ids + tl.load(by_id + place))
    if (end_before == place) & (row != padding_id):
        end = tl.load(by_id + num_tokens + place).to(tl.int64)
        columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(place, end, ROWS):
            places = start + tl.arange(0, ROWS)
            tokens = tl.load(by_id + places, mask=places < end, other=0).to(tl.int64)
            inside = (places < end)[:, None] & (columns < WIDTH)[None, :]
            values = tl.load(
                of_tokens + tokens[:, None] * WIDTH + columns[None, :], mask=inside, other=0.0
            )
            total += tl.sum(values.to(tl.float32), axis=0)
        sums = gradient + row * WIDTH + columns
        total += tl.load(sums, mask=columns < WIDTH, other=0.0)
        tl.store(sums, total, mask=columns < WIDTH)


@triton.jit(do_not_specialize=["num_rows"])
def sum_row_squares(rows, gradient, partials, num_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write sums of squares of the gradient: each program that of every P-th of the R rows.

    The output, `partials`, is (P,) float32.
    """
    columns = tl.arange(0, BLOCK)
    squares = tl.zeros((BLOCK,), tl.float32)
    for place in range(tl.program_id(0), num_rows, tl.num_programs(0)):
        values = gradient + tl.load(rows + place) * WIDTH + columns
        values = tl.load(values, mask=columns < WIDTH, other=0.0)
        squares += values * values
    tl.store(partials + tl.program_id(0), tl.sum(squares, axis=0))


@triton.jit
def catch_up_rows(
    rows,
    weights,
    copies,
    first,
    second,
    last,
    history,
    reached,
    log2_beta1,
    log2_beta2,
    HAS_COPIES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HORIZON: tl.constexpr,
):
    """Bring rows to the state that dense AdamW would have left them in.

    HORIZON is the number of missed steps, a power of two, after which the momentum is used up.
    """
    row = tl.load(rows + tl.program_id(0))
    since = tl.load(last + row)
    now = tl.load(reached)
    if since < now:
        total, epsilon, spread = _sum_missed(
            history, since, now, log2_beta1, log2_beta2, HORIZON=HORIZON
        )
        log = tl.load(history + 3 * now) - tl.load(history + 3 * since)
        # A GPU's exp may be off by more than what decays a weight in many steps.
        series = 1.0 + log * (1.0 + log * (1.0 / 2 + log * (1.0 / 6 + log * (1.0 / 24))))
        kept = tl.where(log > -0.05, series, tl.exp(log))
        num_missed = (now - since).to(tl.float32)
        columns = tl.arange(0, BLOCK)
        inside = columns < WIDTH
        places = row * WIDTH + columns
        p = tl.load(weights + places, mask=inside, other=0.0)
        m = tl.load(first + places, mask=inside, other=0.0)
        v = tl.load(second + places, mask=inside, other=0.0)
        inverse = 1.0 / (tl.sqrt(v) + epsilon)
        # The mean of 1 / (√v + ε'), to the second order.
        p = p * kept - total * m * inverse * (1.0 + spread * inverse * spread * inverse)
        tl.store(weights + places, p, mask=inside)
        tl.store(first + places, m * tl.exp2(num_missed * log2_beta1), mask=inside)
        tl.store(second + places, v * tl.exp2(num_missed * log2_beta2), mask=inside)
        if HAS_COPIES:
            tl.store(copies + places, p.to(copies.dtype.element_ty), mask=inside)
        tl.store(last + row, now)


@triton.jit
def _sum_missed(history, since, now, log2_beta1, log2_beta2, HORIZON: tl.constexpr):
    """Return the sum over the steps missed, and the mean and deviation of their ε'."""
    ages = tl.arange(0, HORIZON) + 1
    is_missed = since + ages <= now
    missed = history + 3 * (since + ages)
    # A term is decayed only by the steps after it.
    decays = tl.load(history + 3 * now) - tl.load(missed, mask=is_missed, other=0.0)
    terms = tl.load(missed + 1, mask=is_missed, other=0.0) * tl.exp(decays)
    epsilons = tl.load(missed + 2, mask=is_missed, other=0.0)
    ages = tl.where(is_missed, ages, 0).to(tl.float32)
    terms *= tl.exp2(ages * (log2_beta1 - 0.5 * log2_beta2))
    epsilons *= tl.exp2(ages * (-0.5 * log2_beta2))
    total = tl.sum(terms, axis=0)
    # Learning rates of 0 give a total of 0, and then epsilon does not matter.
    shares = terms / tl.maximum(total, 1e-30)
    mean = tl.sum(shares * epsilons, axis=0) + 1e-30
    apart = epsilons - mean
    return total, mean, tl.sqrt(tl.sum(shares * apart * apart, axis=0))


@triton.jit(do_not_specialize=["step"])
def step_rows(
    rows,
    weights,
    copies,
    first,
    second,
    gradient,
    last,
    history,
    reached,
    norm,
    halted,
    step,
    max_norm,
    decay,
    step_size,
    root_correction2,
    complement1,
    beta2,
    complement2,
    epsilon,
    log_decay,
    term,
    HAS_COPIES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Update rows that are up to date, and write the step's entry of the history.

    The gradient, of which `norm` () float32 is scaled down to `max_norm`, is set to zero also if
    `halted` () float32 is 1; nothing else changes then. The other numbers are as for
    `adamw_kernels.step_adamw`. `log_decay` and `term` are the first two entries of the history for
    `step`, counted from 1. Its third, and `reached`, are written here, too.
    """
    row = tl.load(rows + tl.program_id(0))
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    places = row * WIDTH + columns
    if tl.load(halted) == 0.0:
        factor = find_factor(norm, max_norm)
        g = tl.load(gradient + places, mask=inside, other=0.0) * factor
        p = tl.load(weights + places, mask=inside, other=0.0)
        m = tl.load(first + places, mask=inside, other=0.0)
        v = tl.load(second + places, mask=inside, other=0.0)
        p, m, v = advance(
            p, m, v, g, decay, step_size, root_correction2, complement1, beta2, complement2, epsilon
        )
        tl.store(weights + places, p, mask=inside)
        tl.store(first + places, m, mask=inside)
        tl.store(second + places, v, mask=inside)
        if HAS_COPIES:
            tl.store(copies + places, p.to(copies.dtype.element_ty), mask=inside)
        tl.store(last + row, step)
        if tl.program_id(0) == 0:
            tl.store(history + 3 * step, log_decay)
            tl.store(history + 3 * step + 1, term)
            tl.store(history + 3 * step + 2, epsilon * root_correction2)
            tl.store(reached, step)
    tl.store(gradient + places, tl.zeros((BLOCK,), tl.float32), mask=inside)
