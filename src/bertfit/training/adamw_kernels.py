"""Triton kernels of AdamW: the norm of all gradients, whether it and the loss are finite, the step.

One launch handles all tensors: a program processes one chunk of one tensor, which it finds through
tables of addresses. The kernels are memory-bound, so full chunks of aligned tensors are read and
written 16 bytes at a time, without masks.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_squares(gradients, tensors, chunks, partials, BLOCK: tl.constexpr):
    """Write the sum of squares of each chunk of the gradients.

    Args:
        gradients: (T,) int64, addresses of float32 gradients; 0 if a tensor has none.
        tensors: (T, 5) int64: addresses of master, working copy, first and second moment; size.
        chunks: (C, 2) int64: index of the chunk's tensor, and of its first element in it.
        partials: (C,) float32, output.
        BLOCK: Elements per chunk.
    """
    chunk = tl.program_id(0)
    tensor = tl.load(chunks + 2 * chunk)
    start = tl.load(chunks + 2 * chunk + 1)
    address = tl.load(gradients + tensor)
    total = 0.0
    if address != 0:
        size = tl.load(tensors + 5 * tensor + 4)
        here = address + 4 * start
        if (start + BLOCK <= size) & (address % 16 == 0):
            total = _sum_chunk(here, size - start, IS_FULL=True, BLOCK=BLOCK)
        else:
            total = _sum_chunk(here, size - start, IS_FULL=False, BLOCK=BLOCK)
    tl.store(partials + chunk, total)


@triton.jit
def _sum_chunk(address, num_left, IS_FULL: tl.constexpr, BLOCK: tl.constexpr):
    """Return the sum of squares of `num_left` float32 numbers, but of at most BLOCK of them."""
    places = tl.arange(0, BLOCK)
    pointer = address.to(tl.pointer_type(tl.float32))
    if IS_FULL:
        values = tl.load(tl.multiple_of(pointer, 16) + places)
    else:
        values = tl.load(pointer + places, mask=places < num_left, other=0.0)
    return tl.sum(values * values, axis=0)


@triton.jit(do_not_specialize=["num_partials"])
def finish_norm(partials, loss, halted, norm_and_loss, num_partials, BLOCK: tl.constexpr):
    """Write the norm of the gradients and the loss, and halt if one of them is not finite.

    There is one program, so the sum is the same every time.

    Args:
        partials: (num_partials,) float32, sums of squares.
        loss: () float32.
        halted: () float32, output: set to 1 to halt, else not written.
        norm_and_loss: (2,) float32, output. The norm is first, so its address is aligned as those
            of other tensors are, and the kernels that read it are compiled once.
        num_partials: A multiple of BLOCK.
        BLOCK: Partial sums read at once.
    """
    places = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_partials, BLOCK):
        sums += tl.load(partials + start + places)
    norm = tl.sqrt(tl.sum(sums, axis=0))
    lost = tl.load(loss)
    tl.store(norm_and_loss, norm)
    tl.store(norm_and_loss + 1, lost)
    is_finite = tl.abs(lost + norm) < float("inf")  # also false for a NaN
    tl.store(halted, 1.0, mask=is_finite == 0)


@triton.jit
def step_adamw(
    gradients,
    tensors,
    decays,
    chunks,
    norm,
    halted,
    max_norm,
    learning_rate,
    step_size,
    root_correction2,
    complement1,
    beta2,
    complement2,
    epsilon,
    BLOCK: tl.constexpr,
):
    """Update every master that has a gradient, with its moments and its working copy.

    Args:
        gradients: As for `sum_squares`.
        tensors: As for `sum_squares`; a working copy of 0 means the master itself.
        decays: (T,) float32, weight decay.
        chunks: As for `sum_squares`.
        norm: () float32, of all gradients, which are scaled down to `max_norm`.
        halted: () float32: 1 if nothing may be written.
        max_norm: See `norm`.
        learning_rate: Of this step, for the decay.
        step_size: Learning rate divided by the bias correction of the first moment.
        root_correction2: Square root of the bias correction of the second moment.
        complement1: 1 − beta1.
        beta2: Decay rate of the second moment.
        complement2: 1 − beta2.
        epsilon: Added to the square root of the second moment.
        BLOCK: Elements per chunk.
    """
    chunk = tl.program_id(0)
    tensor = tl.load(chunks + 2 * chunk)
    start = tl.load(chunks + 2 * chunk + 1)
    gradient = tl.load(gradients + tensor)
    if (gradient != 0) & (tl.load(halted) == 0.0):
        row = tensors + 5 * tensor
        master, work = tl.load(row), tl.load(row + 1)
        first, second, size = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
        decay = learning_rate * tl.load(decays + tensor)
        factor = find_factor(norm, max_norm)
        if (start + BLOCK <= size) & (gradient % 16 == 0):
            _step_chunk(
                master, work, first, second, gradient, start, size, factor, decay, step_size,
                root_correction2, complement1, beta2, complement2, epsilon,
                IS_FULL=True, BLOCK=BLOCK,
            )  # fmt: skip
        else:
            _step_chunk(
                master, work, first, second, gradient, start, size, factor, decay, step_size,
                root_correction2, complement1, beta2, complement2, epsilon,
                IS_FULL=False, BLOCK=BLOCK,
            )  # fmt: skip


@triton.jit
def _step_chunk(
    master,
    work,
    first,
    second,
    gradient,
    start,
    size,
    factor,
    decay,
    step_size,
    root_correction2,
    complement1,
    beta2,
    complement2,
    epsilon,
    IS_FULL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Update one chunk; the first five arguments are addresses of whole tensors."""
    places = tl.arange(0, BLOCK)
    mask = None if IS_FULL else places < size - start
    masters = _point(master + 4 * start, IS_FULL) + places
    firsts = _point(first + 4 * start, IS_FULL) + places
    seconds = _point(second + 4 * start, IS_FULL) + places
    g = tl.load(_point(gradient + 4 * start, IS_FULL) + places, mask=mask) * factor
    p = tl.load(masters, mask=mask)
    m = tl.load(firsts, mask=mask)
    v = tl.load(seconds, mask=mask)
    p, m, v = advance(
        p, m, v, g, decay, step_size, root_correction2, complement1, beta2, complement2, epsilon
    )
    tl.store(masters, p, mask=mask)
    tl.store(firsts, m, mask=mask)
    tl.store(seconds, v, mask=mask)
    if work != 0:
        copies = (work + 2 * start).to(tl.pointer_type(tl.bfloat16))
        if IS_FULL:
            # 4 elements per thread, as for float32: 8 would need a layout conversion.
            copies = tl.multiple_of(copies, 8)
        tl.store(copies + places, p.to(tl.bfloat16), mask=mask)


@triton.jit
def find_factor(norm, max_norm):
    """Return by how much gradients with this norm () are scaled, down to `max_norm`."""
    factor = max_norm / (tl.load(norm) + 1e-6)
    return tl.where(factor > 1.0, 1.0, factor)  # unlike a minimum, this keeps a NaN


@triton.jit
def advance(
    p, m, v, g, decay, step_size, root_correction2, complement1, beta2, complement2, epsilon
):
    """Return weights and moments after a step with the gradients g."""
    p -= decay * p
    m += complement1 * (g - m)
    v = beta2 * v + complement2 * g * g
    p -= step_size * (m / (tl.sqrt(v) / root_correction2 + epsilon))
    return p, m, v


@triton.jit
def _point(address, IS_FULL: tl.constexpr):
    """Return a float32 pointer, marked as aligned if the chunk is full."""
    pointer = address.to(tl.pointer_type(tl.float32))
    if IS_FULL:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
