"""Kernels tried against transformers' own layer, on a GPU or with a Triton that nobody has tried.

Triton compiled tiles of the attention here for an H100 that gave wrong gradients, and others that
read wrong memory; those are not taken, but what another version makes of the rest on another GPU
is not known before. So a layer is computed both ways once, on random numbers, and the kernels are
left alone where the two are apart.

Shapes: N tokens, D numbers per token.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bertfit.modeling.kernels.launching import is_known_good
from bertfit.modeling.kernels.layer import Parts, pass_layer
from bertfit.modeling.pack import Pack, computing

_MIXES = ((128, 127, 1, 40), (300, 129, 64, 3))
"""Tokens of texts: attention goes back by one kernel where none has more than 128, else by two."""
_MOST_APART = 0.3
"""Of a gradient's norm: bfloat16 is a few hundredths off, wrong kernels were 1 and more."""
_RATE = 1e-9
"""Dropout that is computed and drops nothing."""

_Key = tuple[torch.device, torch.dtype, int, int, int]
_found: dict[_Key, str | None] = {}


def find_fault(
    layer: torch.nn.Module,
    take_apart: Callable[[torch.nn.Module], Parts | None],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> str | None:
    """Say what is wrong with the kernels for such a layer on a device; None where nothing is.

    Each kind of layer is tried once.

    Args:
        layer: Takes packs as it is written (`modeling.packing.set_up_packing`).
        take_apart: Returns its parts.
        device: Where it will run.
        dtype: Of its weights there.
    """
    parts = take_apart(layer)
    if parts is None or is_known_good(device):
        return None
    key = (device, dtype, *parts.inner.weight.shape, parts.head_size)
    if key not in _found:
        try:
            _found[key] = _try(layer, take_apart, device, dtype)
        except RuntimeError as error:
            first_line = str(error).strip().partition("\n")[0]
            _found[key] = f"they fail here: {first_line}"
    return _found[key]


@torch.inference_mode(mode=False)
@torch.enable_grad()
def _try(
    layer: torch.nn.Module,
    take_apart: Callable[[torch.nn.Module], Parts | None],
    device: torch.device,
    dtype: torch.dtype,
) -> str | None:
    work = copy.deepcopy(layer).to(device, dtype).eval()
    parts = take_apart(work)
    assert parts is not None
    parts = dataclasses.replace(parts, rates=(_RATE, _RATE, _RATE))
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for lengths in _MIXES:
            for only_firsts in (False, True):
                apart = _compare(work, parts, lengths, only_firsts=only_firsts)
                if not apart <= _MOST_APART:
                    return (
                        "they were tried here, and give other gradients than transformers' layer "
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
    output = pass_layer(hidden_ND, parts, pack, trains=True, only_firsts=only_firsts)
    found = [output, *torch.autograd.grad(output, leaves, gradient)]
    norms = [float(wanted.detach().float().norm()) for wanted in expected]
    ratios = [
        float((got.detach().float() - wanted.detach().float()).norm()) / norm
        for got, wanted, norm in zip(found, expected, norms, strict=True)
        if norm > 1e-2 * max(norms)  # the bias of keys has no gradient but for rounding
    ]
    return max(ratios) if all(map(math.isfinite, ratios)) else math.inf
