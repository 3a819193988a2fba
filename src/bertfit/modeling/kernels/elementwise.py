"""Launches `elementwise_kernels`, as functions of tensors, and folds the sums that they write.

All tensors are contiguous; outputs have the dtype of their inputs. Shapes: N rows of D numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from bertfit.modeling.kernels.launching import FOLDED_ROWS, LAUNCH_OPTIONS, count_programs

_ROWS = 2
_NUMBERS_OF_A_WARP = 256
"""8 per thread, 16 bytes of bfloat16. A tile has as many warps as its columns need, so that sums
over rows stay within a thread. Of 1, 2, 4 and 8 rows per tile, 2 were fastest on an H100."""
_ELEMENTS = 1024
_FOLDED_COLUMNS, _FOLDING_WARPS = 64, 8


class Dropout(NamedTuple):
    """Which elements are dropped: the same ones in every call with the same fields."""

    rate: float
    """In [0, 1)."""
    seeds: torch.Tensor
    """(any,) int64 on the device."""
    which: int
    """Index of the seed to use."""


class Normed(NamedTuple):
    """What the backward pass of a norm needs; not filled if nothing is kept."""

    total: torch.Tensor
    """(N, D), the input of the norm."""
    means: torch.Tensor
    """(N,) float32."""
    scales: torch.Tensor
    """(N,) float32: 1 over the standard deviation."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over rows, as partial sums of each program."""

    partials: torch.Tensor
    """(P, C) float32: P programs, C columns."""

    @classmethod
    def make(
        cls,
        num_columns: int,
        num_rows: int,
        device: torch.device,
        allocate: Callable[[int, int], torch.Tensor] | None = None,
    ) -> Sums:
        """Allocate the partial sums of C columns over this many rows.

        Args:
            num_columns: C.
            num_rows: Rows that are summed.
            device: Their device.
            allocate: Returns memory for so many rows and columns of float32.
        """
        shape = count_programs(device, num_rows), num_columns
        if allocate is not None:
            return cls(allocate(*shape))
        return cls(torch.empty(*shape, dtype=torch.float32, device=device))


class Fold(NamedTuple):
    """Sums over rows of partial sums, still to be computed, and where they go.

    Before the sums of other gradients come those of queries, zeros for the keys, and those of
    values.
    """

    output: torch.Tensor
    """(3 D + C,) float32, receives the sums."""
    partials: torch.Tensor
    """(any, C) float32, as `Sums` has them."""
    of_queries: torch.Tensor
    """(any, D) float32, of the gradients of queries; D is 0 if there are none."""
    of_values: torch.Tensor
    """The same of values."""


def fold_together(folds: Sequence[Fold], *, adds: bool = False) -> None:
    """Compute evenly spaced sums of the same shapes at once, or add them to what is there."""
    first = folds[0]
    spacings = [0] * len(first)
    if len(folds) > 1:
        spacings = [
            (here[1].data_ptr() - here[0].data_ptr()) // here[0].element_size()
            for here in zip(*folds, strict=True)
        ]
    output, partials, of_queries, of_values = first
    columns, width = partials.shape[1], of_queries.shape[1]
    num_blocks = 3 * -(-width // _FOLDED_COLUMNS) - (-columns // _FOLDED_COLUMNS)
    _kernels().fold[(num_blocks, len(folds))](
        partials,
        of_queries,
        of_values,
        output,
        len(partials),
        len(of_queries),
        len(of_values),
        *(spacings[1], spacings[2], spacings[3], spacings[0]),
        WIDTH=width,
        COLUMNS=columns,
        BLOCK=_FOLDED_COLUMNS,
        ROWS=FOLDED_ROWS,
        ADDS=adds,
        num_warps=_FOLDING_WARPS,
        **LAUNCH_OPTIONS,
    )


def add_and_norm(
    hidden: torch.Tensor,
    residual: torch.Tensor,
    norm: torch.nn.LayerNorm,
    dropout: Dropout,
    *,
    keeps: bool,
    output: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Normed]:
    """Return norm(dropout(hidden) + residual), (N, D), and, if it `keeps`, what backward needs.

    If `output` is given, the first is written there.
    """
    num_rows, width = hidden.shape
    block = _next_power(width)
    output = torch.empty_like(hidden) if output is None else output
    total = torch.empty_like(hidden) if keeps else output
    num_kept = num_rows if keeps else 0
    # Two tensors, not two rows of one: the second row might not be aligned to 16 bytes, and Triton
    # compiles a kernel again for such addresses.
    means, scales = (
        torch.empty(num_kept, dtype=torch.float32, device=hidden.device) for _ in range(2)
    )
    _kernels().add_and_norm[(-(-num_rows // _ROWS),)](
        hidden,
        residual,
        norm.weight,
        norm.bias,
        dropout.seeds,
        total,
        output,
        means,
        scales,
        num_rows,
        norm.eps,
        dropout.rate,
        WHICH=dropout.which,
        WIDTH=width,
        BLOCK=block,
        ROWS=_ROWS,
        DROPS=dropout.rate > 0.0,
        KEEPS=keeps,
        num_warps=_count_warps(block),
        **LAUNCH_OPTIONS,
    )
    return output, Normed(total, means, scales)


def add_and_norm_backward(
    gradient: torch.Tensor,
    normed: Normed,
    weight: torch.Tensor,
    dropout: Dropout,
    sums: Sums,
    *,
    at: int,
    of_hidden: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of `residual` and `hidden`, the same tensor without dropout.

    Args:
        gradient: (N, D), of the output.
        normed: As returned by `add_and_norm`.
        weight: (D,), of the norm.
        dropout: As in the forward pass.
        sums: Receives the sums for the norm's weight and bias and of `hidden`'s gradient, 3 D
            columns.
        at: The first of these columns.
        of_hidden: Receives the second gradient, if there is dropout.
    """
    num_rows, width = gradient.shape
    block = _next_power(width)
    of_residual = torch.empty_like(gradient)
    if dropout.rate == 0.0:
        of_hidden = of_residual
    elif of_hidden is None:
        of_hidden = torch.empty_like(gradient)
    _kernels().add_and_norm_backward[(len(sums.partials),)](
        gradient,
        normed.total,
        weight,
        normed.means,
        normed.scales,
        dropout.seeds,
        of_residual,
        of_hidden,
        sums.partials,
        num_rows,
        dropout.rate,
        WHICH=dropout.which,
        AT=at,
        COLUMNS=sums.partials.shape[1],
        WIDTH=width,
        BLOCK=block,
        ROWS=_ROWS,
        DROPS=dropout.rate > 0.0,
        num_warps=_count_warps(block),
        **LAUNCH_OPTIONS,
    )
    return of_residual, of_hidden


def activate(values: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
    """Return the exact GELU of (N, D), in `output` if given."""
    num_rows, width = values.shape
    output = torch.empty_like(values) if output is None else output
    _kernels().activate[(-(-values.numel() // _ELEMENTS),)](
        values, output, num_rows, WIDTH=width, BLOCK=_ELEMENTS, **LAUNCH_OPTIONS
    )
    return output


def activate_backward(
    gradient: torch.Tensor,
    values: torch.Tensor,
    sums: Sums,
    *,
    at: int,
    of_values: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the gradient of GELU's input (N, D), in `of_values` if given.

    Its sums go to D columns starting at `at`.
    """
    num_rows, width = values.shape
    of_values = torch.empty_like(values) if of_values is None else of_values
    _kernels().activate_backward[(len(sums.partials), -(-width // _NUMBERS_OF_A_WARP))](
        gradient,
        values,
        of_values,
        sums.partials,
        num_rows,
        AT=at,
        COLUMNS=sums.partials.shape[1],
        WIDTH=width,
        BLOCK=_NUMBERS_OF_A_WARP,
        ROWS=_ROWS,
        num_warps=1,
        **LAUNCH_OPTIONS,
    )
    return of_values


def _next_power(number: int) -> int:
    """Return the smallest power of two >= number."""
    return 1 << (number - 1).bit_length()


def _count_warps(block: int) -> int:
    """Return the number of warps for a tile of `block` columns."""
    return max(1, block // _NUMBERS_OF_A_WARP)


def _kernels() -> Any:  # noqa: ANN401 (a module of Triton functions)
    from bertfit.modeling.kernels import elementwise_kernels  # imports Triton

    return elementwise_kernels
