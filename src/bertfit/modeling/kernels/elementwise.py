"""The kernels of `elementwise_kernels` as functions of tensors, and the sums that they leave.

All tensors are contiguous; outputs have the type of their inputs. Shapes: N rows, D numbers each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from bertfit.modeling.kernels.launching import count_programs

_ROWS = 2
_NUMBERS_OF_A_WARP = 256
"""8 for each thread, 16 bytes of bfloat16. A tile has as many warps as its columns need, so that
what is added up along the rows is added up within a thread. Of 1, 2, 4 and 8 rows a tile 2 were
the quickest on an H100."""
_ELEMENTS = 1024
_SUMMED_ROWS = 8
_FOLDED_COLUMNS, _FOLDED_ROWS, _FOLDING_WARPS = 64, 128, 8


class Dropout(NamedTuple):
    """Which elements are dropped: the same ones at every call with the same fields."""

    rate: float
    """In [0, 1)."""
    seeds: torch.Tensor
    """(any,) int64 on the device."""
    which: int
    """The seed that is taken."""


class Normed(NamedTuple):
    """What the way back through a norm needs; nothing is in it where nothing is kept."""

    total: torch.Tensor
    """(N, D), what was normed."""
    means: torch.Tensor
    """(N,) float32."""
    scales: torch.Tensor
    """(N,) float32: 1 over the standard deviation."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over rows, of which each program has written its share."""

    partials: torch.Tensor
    """(P, C) float32: P programs."""

    @classmethod
    def make(cls, num_columns: int, num_rows: int, device: torch.device) -> Sums:
        """Make room for the sums of C columns over so many rows."""
        programs = count_programs(device, num_rows)
        return cls(torch.empty(programs, num_columns, dtype=torch.float32, device=device))

    def fold(self, output: torch.Tensor, *, adds: bool) -> None:
        """Write all sums to (C,) float32, or add them to what is there."""
        programs, columns = self.partials.shape
        _kernels().fold[(-(-columns // _FOLDED_COLUMNS),)](
            self.partials,
            output,
            programs,
            COLUMNS=columns,
            BLOCK=_FOLDED_COLUMNS,
            ROWS=_FOLDED_ROWS,
            ADDS=adds,
            num_warps=_FOLDING_WARPS,
        )


def add_and_norm(
    hidden: torch.Tensor,
    residual: torch.Tensor,
    norm: torch.nn.LayerNorm,
    dropout: Dropout,
    *,
    keeps: bool,
) -> tuple[torch.Tensor, Normed]:
    """Return norm(dropout(hidden) + residual), (N, D), and for the way back what it `keeps`."""
    num_rows, width = hidden.shape
    block = _next_power(width)
    output = torch.empty_like(hidden)
    total = torch.empty_like(hidden) if keeps else output
    num_kept = num_rows if keeps else 0
    # Two tensors, not two rows of one: the second row might not start at a multiple of 16 bytes,
    # and Triton compiles a kernel anew for such addresses.
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of `residual` and `hidden`, the same tensor where nothing is dropped.

    Args:
        gradient: (N, D), of the output.
        normed: Kept on the way forward.
        weight: (D,), of the norm.
        dropout: As on the way forward.
        sums: Gets those of the norm's weight, its bias, and of `hidden`'s gradient, 3 D columns.
        at: The first of them.
    """
    num_rows, width = gradient.shape
    block = _next_power(width)
    of_residual = torch.empty_like(gradient)
    of_hidden = torch.empty_like(gradient) if dropout.rate > 0.0 else of_residual
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
    )
    return of_residual, of_hidden


def activate(values: torch.Tensor) -> torch.Tensor:
    """Return GELU of (N, D), the exact one."""
    num_rows, width = values.shape
    output = torch.empty_like(values)
    _kernels().activate[(-(-values.numel() // _ELEMENTS),)](
        values, output, num_rows, WIDTH=width, BLOCK=_ELEMENTS
    )
    return output


def activate_backward(
    gradient: torch.Tensor, values: torch.Tensor, sums: Sums, *, at: int
) -> torch.Tensor:
    """Return the gradient of GELU's input (N, D), whose sums go to D columns from `at` on."""
    num_rows, width = values.shape
    of_values = torch.empty_like(values)
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
    )
    return of_values


def sum_columns(values: torch.Tensor, sums: Sums, *, at: int) -> None:
    """Write the sums of (N, D) over its rows to D columns from `at` on."""
    num_rows, width = values.shape
    _kernels().sum_columns[(len(sums.partials), -(-width // _NUMBERS_OF_A_WARP))](
        values,
        sums.partials,
        num_rows,
        AT=at,
        COLUMNS=sums.partials.shape[1],
        WIDTH=width,
        BLOCK=_NUMBERS_OF_A_WARP,
        ROWS=_SUMMED_ROWS,
        num_warps=1,
    )


def _next_power(number: int) -> int:
    """Return the least power of two that is not less."""
    return 1 << (number - 1).bit_length()


def _count_warps(block: int) -> int:
    """Return the warps of a tile of so many columns."""
    return max(1, block // _NUMBERS_OF_A_WARP)


def _kernels() -> Any:  # noqa: ANN401 (a module; what it holds is Triton's)
    from bertfit.modeling.kernels import elementwise_kernels  # which imports Triton

    return elementwise_kernels
