"""AdamW steps by Triton kernels equal torch's with clipped gradients.

On a GPU the kernels are compiled; elsewhere Triton's interpreter runs them on the CPU.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from bertfit.training import triton_adamw
from bertfit.training.triton_adamw import TritonAdamW, can_launch
from tests.modeling.kernels.on_device import DEVICE, needs_triton

SIZES = ((1,), (2,), (5000,), (33, 129), (4096, 2))
needs_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")


def make_pairs(*, with_copies=True):
    generator = torch.Generator().manual_seed(0)
    masters = [
        torch.nn.Parameter(torch.randn(size, generator=generator).to(DEVICE)) for size in SIZES
    ]
    return [
        (master, torch.nn.Parameter(master.detach().bfloat16()) if with_copies else master)
        for master in masters
    ]


def make_optimizer(pairs):
    masters = [master for master, _ in pairs]
    groups = [
        {"params": [m for m in masters if m.ndim > 1], "weight_decay": 0.1},
        {"params": [m for m in masters if m.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, foreach=False)


def set_gradients(pairs, step, *, without=()):
    """Give gradients whose norm together is from 1 to 10,000 or so."""
    generator = torch.Generator().manual_seed(step)
    for place, (master, _) in enumerate(pairs):
        gradient = torch.randn(master.shape, generator=generator) * 10.0 ** (2 - place - step % 4)
        master.grad = None if place in without else gradient.to(DEVICE)


def take_step(stepper, rate, *, max_norm=1.0, halted=0.0):
    loss, halted = torch.tensor([0.5, halted], device=DEVICE)
    norm, _ = stepper.measure_norm(loss, halted=halted)
    stepper.clip(max_norm, norm)
    stepper.step(rate, halted=halted)
    return norm


def take_steps_of_both(expected, found, *, num_steps, without=lambda step: ()):
    """Take steps of torch with `expected` and by kernels with `found`; compare the norms."""
    optimizer, stepper = make_optimizer(expected), TritonAdamW(found, make_optimizer(found))
    for step in range(num_steps):
        rate = 1e-2 * (1 + step % 3)
        for pairs in (expected, found):
            set_gradients(pairs, step, without=without(step))
        wanted = clip_grad_norm_([master for master, _ in expected], 1.0, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        norm = take_step(stepper, rate)
        assert norm.shape == ()
        assert (norm.dtype, norm.device.type) == (torch.float32, DEVICE.type)
        torch.testing.assert_close(norm, wanted, rtol=2e-6, atol=0.0)
    return stepper


def round_for_work(master):
    """Return bfloat16 as the kernel makes it: Triton's interpreter cuts off and rounds nothing."""
    if DEVICE.type == "cuda":
        return master.detach().bfloat16()
    cut = master.detach().view(torch.int32).bitwise_and(-(2**16))
    return cut.view(torch.float32).bfloat16()


def assert_same(expected, found):
    for (wanted, _), (master, work) in zip(expected, found, strict=True):
        torch.testing.assert_close(master, wanted, rtol=4e-6, atol=4e-6)
        if work is not master:
            assert torch.equal(work, round_for_work(master))


def copy_state(pairs, stepper):
    state = [tensor.detach().clone() for pair in pairs for tensor in pair]
    return [*state, stepper._first.clone(), stepper._second.clone()]


@needs_triton
@pytest.mark.parametrize("with_copies", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_weights_are_those_of_torch_after_many_steps(with_copies):
    expected, found = make_pairs(), make_pairs(with_copies=with_copies)
    take_steps_of_both(expected, found, num_steps=15)
    assert_same(expected, found)


@pytest.mark.gpu
@needs_triton
@needs_gpu
def test_copies_are_rounded_to_the_nearest_and_to_even_between_two():
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, 1e-40, 0.0, 65504.123])
    master = torch.nn.Parameter(values.repeat(700).to(DEVICE))  # a full chunk, and some more
    pairs = [(master, torch.nn.Parameter(torch.zeros_like(master).bfloat16()))]
    stepper = TritonAdamW(pairs, make_optimizer(pairs))
    master.grad = torch.zeros_like(master)
    take_step(stepper, 0.1)
    assert torch.equal(master.detach().cpu(), values.repeat(700))
    assert torch.equal(pairs[0][1].view(torch.int16), master.detach().bfloat16().view(torch.int16))


@needs_triton
def test_weights_without_a_gradient_stay_and_count_their_own_steps():
    def without(step):
        return {0: (0, 2), 1: (2,), 3: (1, 4)}.get(step, ())

    expected, found = make_pairs(), make_pairs()
    take_steps_of_both(expected, found, num_steps=1, without=without)
    for place, (before, (master, work)) in enumerate(zip(make_pairs(), found, strict=True)):
        for old, new in zip(before, (master, work), strict=True):
            assert torch.equal(old, new) == (place in {0, 2})
    expected, found = make_pairs(), make_pairs()
    take_steps_of_both(expected, found, num_steps=6, without=without)
    assert_same(expected, found)


@needs_triton
def test_it_goes_on_from_a_state():
    whole, left = make_pairs(), make_pairs()
    steppers = [TritonAdamW(pairs, make_optimizer(pairs)) for pairs in (whole, left)]
    for step in range(3):
        for pairs, stepper in zip((whole, left), steppers, strict=True):
            set_gradients(pairs, step)
            if step == 1:
                pairs[0][0].grad = None  # so that the numbers of steps differ
            take_step(stepper, 0.1)
    state = {name: tensor.clone() for name, tensor in steppers[1].state().items()}
    taken_up = [tuple(torch.nn.Parameter(one.detach().clone()) for one in pair) for pair in left]
    steppers[1] = TritonAdamW(taken_up, make_optimizer(taken_up))
    steppers[1].set_state(state)
    for pairs, stepper in zip((whole, taken_up), steppers, strict=True):
        set_gradients(pairs, 3)
        take_step(stepper, 0.1)
    for pair, expected in zip(taken_up, whole, strict=True):
        assert all(map(torch.equal, pair, expected))


@needs_triton
def test_without_any_gradient_nothing_happens():
    pairs = make_pairs()
    stepper = TritonAdamW(pairs, make_optimizer(pairs))
    before = copy_state(pairs, stepper)
    assert float(take_step(stepper, 0.1)) == 0.0
    assert all(map(torch.equal, before, copy_state(pairs, stepper)))


@needs_triton
def test_a_halted_step_changes_nothing():
    pairs = make_pairs()
    stepper = TritonAdamW(pairs, make_optimizer(pairs))
    set_gradients(pairs, 0)
    take_step(stepper, 0.1)
    before = copy_state(pairs, stepper)
    set_gradients(pairs, 1)
    pairs[2][0].grad[17] = torch.nan
    assert torch.isnan(take_step(stepper, 0.1, halted=1.0))
    assert all(map(torch.equal, before, copy_state(pairs, stepper)))


@needs_triton
@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize(
    ("loss", "gradient", "expected"),
    [
        (0.5, 1.0, 0.0),
        (0.0, 0.0, 0.0),
        (3e38, 1.0, 0.0),
        (math.nan, 1.0, 1.0),
        (math.inf, 1.0, 1.0),
        (-math.inf, 1.0, 1.0),
        (0.5, math.nan, 1.0),
        (0.5, -math.inf, 1.0),
        (-math.inf, math.inf, 1.0),
        (0.5, 1e30, 1.0),  # its square is infinite
    ],
)
def test_steps_are_halted_from_the_first_whose_loss_or_norm_is_not_finite(loss, gradient, expected):
    pairs = make_pairs()
    stepper = TritonAdamW(pairs, make_optimizer(pairs))
    before = copy_state(pairs, stepper)
    halted = torch.zeros((), device=DEVICE)
    for number, value in ((loss, gradient), (0.5, 1.0)):  # the second is finite, and comes too late
        for master, _ in pairs:
            master.grad = torch.zeros_like(master)
        pairs[2][0].grad[4999] = value
        numbers = stepper.measure_norm(torch.tensor(number, device=DEVICE), halted=halted)
        wanted = float(torch.tensor(value).square().sqrt())
        assert numbers.tolist() == pytest.approx([wanted, number], rel=1e-6, nan_ok=True)
        stepper.clip(1.0, numbers[0])
        stepper.step(0.1, halted=halted)
        assert float(halted) == expected
    is_same = all(map(torch.equal, before, copy_state(pairs, stepper)))
    assert is_same == (expected == 1.0)


@needs_triton
def test_more_partial_sums_than_are_added_at_once_all_count(monkeypatch):
    monkeypatch.setattr(triton_adamw, "_PARTIALS", 4)
    pairs = make_pairs()
    take_steps_of_both(make_pairs(), pairs, num_steps=3)
    stepper = TritonAdamW(pairs, make_optimizer(pairs))
    assert len(stepper._partials) == 8
    for place, (master, _) in enumerate(pairs):
        master.grad = torch.full_like(master, 2.0**place)
    found = float(take_step(stepper, 0.0))
    squares = sum(master.numel() * 4.0**place for place, (master, _) in enumerate(pairs))
    assert found == pytest.approx(math.sqrt(squares), rel=1e-6)


@needs_triton
def test_only_the_group_with_decay_is_decayed():
    pairs = make_pairs()
    before = [master.detach().clone() for master, _ in pairs]
    stepper = TritonAdamW(pairs, make_optimizer(pairs))
    for master, _ in pairs:
        master.grad = torch.zeros_like(master)
    assert float(take_step(stepper, 0.5)) == 0.0
    for old, (master, _) in zip(before, pairs, strict=True):
        kept = 1.0 - 0.5 * 0.1 if master.ndim > 1 else 1.0
        torch.testing.assert_close(master.detach(), old * kept, rtol=2e-7, atol=0.0)


@needs_triton
def test_without_clipping_the_gradients_are_taken_as_they_are():
    expected, found = make_pairs(), make_pairs()
    for pairs in (expected, found):
        set_gradients(pairs, 0)
    optimizer = make_optimizer(expected)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    stepper = TritonAdamW(found, make_optimizer(found))
    stepper.step(0.1, halted=torch.zeros((), device=DEVICE))
    assert_same(expected, found)


@needs_triton
def test_gradients_may_move_also_to_where_no_wide_read_can_begin():
    expected, found = make_pairs(), make_pairs()
    optimizer, stepper = make_optimizer(expected), TritonAdamW(found, make_optimizer(found))
    held = []  # or memory that is free again would give the same address
    for step in range(7):
        for pairs in (expected, found):
            set_gradients(pairs, step)
        for master, _ in found:
            memory = torch.empty(master.numel() + 8, device=DEVICE)
            moved = memory[step % 3 : step % 3 + master.numel()].view(master.shape)
            held.append(memory)
            master.grad = moved.copy_(master.grad)
        clip_grad_norm_([master for master, _ in expected], 1.0, foreach=False)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        optimizer.step()
        take_step(stepper, 1e-2)
    assert_same(expected, found)
    assert len(stepper._kept) == 4


@needs_triton
def test_gradients_that_stay_are_listed_once():
    pairs = make_pairs()
    stepper = TritonAdamW(pairs, make_optimizer(pairs))
    set_gradients(pairs, 0)
    tables = set()
    for _ in range(3):
        take_step(stepper, 0.1)
        tables |= {id(gradients.table) for gradients in stepper._kept.values()}
    assert len(tables) == 1


def test_a_cpu_is_left_to_others():
    master = torch.nn.Parameter(torch.ones(3))
    assert not can_launch([(master, master)])
    assert not can_launch([])


@pytest.mark.gpu
@needs_triton
@needs_gpu
def test_a_gpu_takes_what_is_aligned_and_of_the_right_type():
    pairs = make_pairs()
    assert can_launch(pairs)
    memory = torch.zeros(9, device=DEVICE)
    shifted = torch.nn.Parameter(memory[1:])
    half = torch.nn.Parameter(torch.zeros(9, device=DEVICE, dtype=torch.float16))
    whole = torch.nn.Parameter(memory)
    for pair in ((shifted, shifted), (whole, half), (half, half)):
        assert not can_launch([pair])
