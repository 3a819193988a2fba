"""Checks the kernels against transformers' layer on a GPU, before they are used.

For an H100, Triton compiled some attention tiles so that gradients were wrong, and others so that
they read wrong memory. Those tiles are not used, but another version may miscompile others, or
these on another GPU. Therefore a layer is computed both ways once, on random input, in training and
scoring, and the kernels are not used if the results differ.

Shapes: N tokens, hidden size D.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bertfit.modeling.forwards import restore_forwards
from bertfit.modeling.gradients import keep_master
from bertfit.modeling.kernels.launching import name_failure, on_device
from bertfit.modeling.kernels.layer import pass_layer
from bertfit.modeling.kernels.parts import Parts, find_parts, join_projections
from bertfit.modeling.pack import Pack, computing
from bertfit.modeling.precision import safe_attention

_MIXES = ((128, 127, 1, 40), (300, 129, 64, 3))
"""Text lengths: the backward pass of attention is one kernel up to 128 tokens, else two."""
_MOST_APART = 0.1
"""Maximum difference, relative to the gradient's norm. In one layer bfloat16 differs by a few
hundredths; kernels that skipped a text's last tile would differ by a quarter."""
_LEAST_SHARE = 2e-3
"""Relative to the largest norm; smaller gradients, as of the keys' bias, are mostly rounding."""
_LEAST_RATE = 1e-9
"""Of dropout that drops hardly a number; its code is compiled apart from that without dropout."""
_NUM_PASSES = 2
"""Passes with dropout of one comparison."""

_Key = tuple[torch.device, torch.dtype, int, int, int, tuple[bool, ...], bool]
_found: dict[_Key, str | None] = {}


def find_fault(
    layer: torch.nn.Module, *, device: torch.device, dtype: torch.dtype, trains: bool
) -> str | None:
    """Return what is wrong with the kernels for such a layer on a device, or None.

    Each kind of layer is tried once.

    Args:
        layer: Its own forward takes packs (`modeling.packing.set_up_packing`).
        device: Device it will run on.
        dtype: Dtype of its weights there.
        trains: Whether it will be trained. If not, kernels of the backward pass are not even
            compiled.

    Raises:
        RuntimeError: Memory ran out: the few megabytes for the trial are not available.
        ModelError: The kernels made the GPU unusable for this process.
    """
    parts = find_parts(layer)
    if parts is None:
        return None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    drops = tuple(rate > 0 for rate in parts.rates)
    key = (device, dtype, *parts.inner.weight.shape, parts.head_size, drops, trains)
    if not trains and _found.get((*key[:-1], True), "not tried") is None:
        return None  # a trial in training is one in scoring, too
    if key not in _found:
        try:
            with on_device(device):
                _found[key] = _try(layer, device, dtype, trains=trains)
        except Exception as error:  # noqa: BLE001 (Triton's have no common base class)
            _found[key] = f"they fail here: {name_failure(error, device)}"
    return _found[key]


def drop_hardly(parts: Parts) -> Parts:
    """Return parts whose dropout drops hardly a number, computed by the same code."""
    in_attention, in_output, in_outer = (min(rate, _LEAST_RATE) for rate in parts.rates)
    return dataclasses.replace(parts, rates=(in_attention, in_output, in_outer))


@torch.inference_mode(mode=False)
@torch.enable_grad()
def _try(
    layer: torch.nn.Module, device: torch.device, dtype: torch.dtype, *, trains: bool
) -> str | None:
    work = copy.deepcopy(layer).to(device, dtype).eval().requires_grad_()
    join_projections(work)  # as in the working copy of a training
    parts = find_parts(work)
    assert parts is not None
    try:
        with safe_attention(device):
            for lengths, only_firsts in itertools.product(_MIXES, (False, True)):
                apart = _compare(work, parts, lengths, trains=trains, only_firsts=only_firsts)
                if not apart <= _MOST_APART:
                    return (
                        "they were tried here, and give other numbers than transformers' layer "
                        f"({apart:.2g} of their norm apart)"
                    )
    finally:
        restore_forwards(work.modules())  # which refer to it, so that its memory would stay in use
    return None


def _compare(
    work: Any,  # noqa: ANN401 (a layer)
    parts: Parts,
    lengths: tuple[int, ...],
    *,
    trains: bool,
    only_firsts: bool,
) -> float:
    """Return the largest relative difference of outputs and, if it trains, gradients."""
    weight = parts.output.weight
    pack = Pack.build(np.cumsum([0, *lengths], dtype=np.int32), weight.device)
    pack.seeds.extend(torch.arange(4 * _NUM_PASSES, device=weight.device).view(_NUM_PASSES, 4))
    generator = torch.Generator().manual_seed(0)

    def draw(num_rows: int) -> torch.Tensor:
        return torch.randn(num_rows, len(weight), generator=generator).to(weight)

    hidden_ND = draw(sum(lengths)).requires_grad_()
    gradient = draw(len(lengths) if only_firsts else sum(lengths))
    leaves = [hidden_ND, *work.parameters()]
    with computing(pack):
        plain = type(work).forward(work, hidden_ND.unsqueeze(0)).squeeze(0)
    plain = plain.index_select(0, pack.firsts) if only_firsts else plain
    tried = drop_hardly(parts)

    def run(*, trains: bool = True) -> torch.Tensor:
        return pass_layer(hidden_ND, tried, pack, trains=trains, only_firsts=only_firsts)

    with torch.no_grad():
        apart = _measure([run(trains=False)], [plain])
    if not trains:
        return apart
    expected = [plain, *torch.autograd.grad(plain, leaves, gradient)]
    for found in _train_twice(run, work, hidden_ND, gradient):
        apart = max(apart, _measure(found, expected))
    return apart


def _train_twice(
    run: Callable[[], torch.Tensor],
    work: torch.nn.Module,
    hidden_ND: torch.Tensor,
    gradient: torch.Tensor,
) -> Iterator[list[torch.Tensor]]:
    """Yield output and gradients for one pack, then for two, with the masters' sums halved."""
    pairs = [(torch.nn.Parameter(of.detach().float()), of) for of in work.parameters()]
    for master, of in pairs:
        keep_master(of, master)
    try:
        for num_packs in (1, 2):
            output = run()
            (of_hidden,) = torch.autograd.grad(output, hidden_ND, gradient)
            sums = [master.grad for master, _ in pairs if master.grad is not None]
            yield [output, of_hidden, *(of_weight / num_packs for of_weight in sums)]
    finally:
        for _, of in pairs:
            keep_master(of, None)


def _measure(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the largest difference, relative to the norm of the expected tensor."""
    norms = [float(wanted.detach().float().norm()) for wanted in expected]
    if len(found) != len(expected) or not all(map(math.isfinite, norms)):
        return math.inf
    ratios = [
        float((got.detach().float() - wanted.detach().float()).norm()) / norm
        for got, wanted, norm in zip(found, expected, norms, strict=True)
        if norm > _LEAST_SHARE * max(norms)
    ]
    return max(ratios, default=0.0) if all(map(math.isfinite, ratios)) else math.inf
