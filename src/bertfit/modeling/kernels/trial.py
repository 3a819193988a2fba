"""Kernels tried against transformers' own layer, on a GPU or with a Triton that nobody has tried.

Triton compiled tiles of the attention here for an H100 that gave wrong gradients, and others that
read wrong memory; those are not taken, but what another version makes of the rest on another GPU
is not known before. So a layer is computed both ways once, on random numbers, in training and in
scoring, with the code of dropout and without, and the kernels are left alone where the two are
apart.

Shapes: N tokens, D numbers per token.
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

from bertfit.modeling.gradients import keep_master
from bertfit.modeling.kernels.launching import is_known_good, on_device
from bertfit.modeling.kernels.layer import pass_layer
from bertfit.modeling.kernels.parts import Parts, find_parts
from bertfit.modeling.pack import Pack, computing
from bertfit.modeling.precision import safe_attention

_MIXES = ((128, 127, 1, 40), (300, 129, 64, 3))
"""Tokens of texts: attention goes back by one kernel where none has more than 128, else by two."""
_MOST_APART = 0.1
"""Of a gradient's norm: bfloat16 is a few hundredths off in one layer; kernels that left out a
text's last tile would be a quarter."""
_LEAST_SHARE = 2e-3
"""Of the greatest norm: smaller gradients are mostly rounding, as those of the keys' bias are."""
_RATES = (1e-9, 0.0)
"""Dropout that is computed and drops nothing, and none, which other code does."""

_Key = tuple[torch.device, torch.dtype, int, int, int]
_found: dict[_Key, str | None] = {}


def find_fault(layer: torch.nn.Module, *, device: torch.device, dtype: torch.dtype) -> str | None:
    """Say what is wrong with the kernels for such a layer on a device; None where nothing is.

    Each kind of layer is tried once.

    Args:
        layer: Takes packs as it is written (`modeling.packing.set_up_packing`).
        device: Where it will run.
        dtype: Of its weights there.

    Raises:
        torch.OutOfMemoryError: The trial needs some megabytes that are not there.
    """
    parts = find_parts(layer)
    if parts is None or is_known_good(device):
        return None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    key = (device, dtype, *parts.inner.weight.shape, parts.head_size)
    if key not in _found:
        try:
            with on_device(device):
                _found[key] = _try(layer, device, dtype)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (Triton's have no kind in common)
            first_line = str(error).strip().partition("\n")[0]
            _found[key] = f"they fail here: {type(error).__name__}: {first_line}"
    return _found[key]


@torch.inference_mode(mode=False)
@torch.enable_grad()
def _try(layer: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> str | None:
    work = copy.deepcopy(layer).to(device, dtype).eval().requires_grad_()
    parts = find_parts(work)
    assert parts is not None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), safe_attention(device):
        for lengths, only_firsts in itertools.product(_MIXES, (False, True)):
            apart = _compare(work, parts, lengths, only_firsts=only_firsts)
            if not apart <= _MOST_APART:
                return (
                    "they were tried here, and give other numbers than transformers' layer "
                    f"({apart:.2g} of their norm apart)"
                )
    return None


def _compare(work: Any, parts: Parts, lengths: tuple[int, ...], *, only_firsts: bool) -> float:  # noqa: ANN401 (a layer)
    """Return how far apart outputs and gradients are, the farthest of them, relative to norms."""
    weight = parts.output.weight
    pack = Pack.build(np.cumsum([0, *lengths], dtype=np.int32), weight.device)
    generator = torch.Generator().manual_seed(0)

    def draw(num_rows: int) -> torch.Tensor:
        return torch.randn(num_rows, len(weight), generator=generator).to(weight)

    hidden_ND = draw(sum(lengths)).requires_grad_()
    gradient = draw(len(lengths) if only_firsts else sum(lengths))
    leaves = [hidden_ND, *work.parameters()]
    with computing(pack):
        plain = type(work).forward(work, hidden_ND.unsqueeze(0)).squeeze(0)
    plain = plain.index_select(0, pack.firsts) if only_firsts else plain
    expected = [plain, *torch.autograd.grad(plain, leaves, gradient)]
    apart = 0.0
    for rate in _RATES:
        tried = dataclasses.replace(parts, rates=(rate, rate, rate))

        def run(tried: Parts = tried) -> torch.Tensor:
            return pass_layer(hidden_ND, tried, pack, trains=True, only_firsts=only_firsts)

        with torch.no_grad():
            apart = max(apart, _measure([run()], expected[:1]))
        for found in _train_twice(run, work, hidden_ND, gradient):
            apart = max(apart, _measure(found, expected))
    return apart


def _train_twice(
    run: Callable[[], torch.Tensor],
    work: torch.nn.Module,
    hidden_ND: torch.Tensor,
    gradient: torch.Tensor,
) -> Iterator[list[torch.Tensor]]:
    """Yield output and gradients of one pack, and of two, whose sums the masters get, halved."""
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
    """Return the farthest that two are apart, relative to the norm of what was expected."""
    norms = [float(wanted.detach().float().norm()) for wanted in expected]
    if len(found) != len(expected) or not all(map(math.isfinite, norms)):
        return math.inf
    ratios = [
        float((got.detach().float() - wanted.detach().float()).norm()) / norm
        for got, wanted, norm in zip(found, expected, norms, strict=True)
        if norm > _LEAST_SHARE * max(norms)
    ]
    return max(ratios, default=0.0) if all(map(math.isfinite, ratios)) else math.inf
