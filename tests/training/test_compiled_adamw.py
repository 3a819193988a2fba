"""AdamW steps equal torch's with clipped gradients: compiled, or by torch in one pass."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from bertfit.training.compiled_adamw import CompiledAdamW, compile_step
from bertfit.training.optimization import TorchAdamW

SIZES = ((3, 50), (1,), (33, 17), (70, 401))


def make_pairs(*, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    masters = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in SIZES]
    return [(master, torch.nn.Parameter(master.detach().to(dtype))) for master in masters]


def make_optimizer(pairs, *, fused=False):
    masters = [master for master, _ in pairs]
    groups = [
        {"params": [m for m in masters if m.ndim > 1], "weight_decay": 0.1},
        {"params": [m for m in masters if m.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, fused=fused)


def set_gradients(pairs, step):
    """Give gradients whose norm together is from 0.2 to 2,000."""
    generator = torch.Generator().manual_seed(step)
    for place, (master, _) in enumerate(pairs):
        master.grad = torch.randn(master.shape, generator=generator) * 10.0 ** (
            place - 2 - step % 5
        )


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_the_weights_are_those_of_torch_after_many_steps(kind, request):
    expected, found = make_pairs(), make_pairs()
    optimizer = make_optimizer(expected)
    if kind == "compiled":
        request.getfixturevalue("operators")
        stepper = compile_step(found, make_optimizer(found))
        assert isinstance(stepper, CompiledAdamW)
    else:
        stepper = TorchAdamW(found, make_optimizer(found, fused=True))
    for step in range(40):
        rate = 1e-2 * (1 + step % 3)
        for pairs in (expected, found):
            set_gradients(pairs, step)
        masters = [master for master, _ in expected]
        norm = get_total_norm([master.grad for master in masters])
        assert float(stepper.measure_norm()) == pytest.approx(float(norm), rel=1e-6)
        clip_grads_with_norm_(masters, 0.5, norm)
        stepper.clip(0.5, norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        stepper.step(rate, halted=torch.zeros(()))
    for (wanted, _), (master, work) in zip(expected, found, strict=True):
        torch.testing.assert_close(master, wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(work, master.detach().to(torch.bfloat16))


@pytest.mark.usefixtures("operators")
def test_weights_without_a_gradient_stay():
    pairs = make_pairs()
    compiled = compile_step(pairs, make_optimizer(pairs))
    set_gradients(pairs, 0)
    pairs[2][0].grad = None
    before = [master.detach().clone() for master, _ in pairs]
    compiled.step(0.1, halted=torch.zeros(()))
    moved = [not torch.equal(old, master) for old, (master, _) in zip(before, pairs, strict=True)]
    assert moved == [True, True, False, True]


@pytest.mark.usefixtures("operators")
def test_a_weight_counts_only_the_steps_in_which_it_had_a_gradient():
    """A layer that layerdrop skips has none; torch corrects the bias of its moments by its own."""
    expected, found = make_pairs(), make_pairs()
    optimizer = make_optimizer(expected)
    compiled = compile_step(found, make_optimizer(found))
    for step in range(6):
        for pairs in (expected, found):
            set_gradients(pairs, step)
            if step in {0, 1, 3}:
                pairs[2][0].grad = None
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        optimizer.step()
        compiled.step(1e-2, halted=torch.zeros(()))
    for (wanted, _), (master, _) in zip(expected, found, strict=True):
        torch.testing.assert_close(master, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("operators")
def test_other_types_are_left_to_torch():
    pairs = make_pairs(dtype=torch.float32)
    assert compile_step(pairs, make_optimizer(pairs)) is None


def test_without_operators_there_is_none():
    pairs = make_pairs()
    assert compile_step(pairs, make_optimizer(pairs)) is None
