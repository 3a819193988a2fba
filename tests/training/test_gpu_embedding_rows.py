"""The kernels' row-wise update of token embeddings equals dense AdamW.

On a GPU the kernels are compiled; elsewhere Triton's interpreter runs them on the CPU.
"""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from bertfit.modeling.pack import Pack, computing
from bertfit.training import gpu_embedding_rows
from bertfit.training.gpu_embedding_rows import GpuEmbeddingRows, _sort_on_device, sort_by_id
from bertfit.training.triton_adamw import TritonAdamW
from tests.modeling.kernels.on_device import DEVICE, needs_triton
from tests.training.test_no_waiting import blindfold  # noqa: F401 (a fixture)
from tests.training.test_triton_adamw import round_for_work

NUM_ROWS, WIDTH, MAX_NORM, BETAS = 12, 5, 1.0, (0.9, 0.999)
CLOSE = {"atol": 4e-6, "rtol": 2e-5}


class Dense:
    """An embedding and another weight, updated by torch."""

    def __init__(self, table, *, weight_decay, betas=BETAS):
        self.table = copy.deepcopy(table)
        self.other = torch.nn.Parameter(torch.ones(3, device=DEVICE))
        parameters = [self.table.weight, self.other]
        self.adam = torch.optim.AdamW(
            parameters, lr=0.0, betas=betas, weight_decay=weight_decay, foreach=False
        )

    def step(self, packs, slopes, rate, *, halted):
        self.adam.zero_grad()
        for token_ids, slope in zip(packs, slopes, strict=True):
            (self.table(token_ids) * slope).sum().backward()
        (self.other * slopes[0].sum()).sum().backward()
        norm = clip_grad_norm_([self.table.weight, self.other], MAX_NORM, foreach=False)
        self.adam.param_groups[0]["lr"] = rate
        if not halted:
            self.adam.step()
        return norm


class Lazy:
    """The same, with the embedding updated by rows."""

    def __init__(self, table, *, weight_decay, betas=BETAS, dtype=torch.float32):
        self.master = copy.deepcopy(table)
        self.work = self.master
        if dtype != torch.float32:
            self.work = copy.deepcopy(table).to(dtype)
        self.other = torch.nn.Parameter(torch.ones(3, device=DEVICE))
        options = {"weight_decay": weight_decay, "betas": betas}
        self.rows = GpuEmbeddingRows(self.master.weight, self.work, **options)
        adam = torch.optim.AdamW([self.other], **options)
        self.adam = TritonAdamW([(self.other, self.other)], adam, self.rows)
        self.halted = torch.zeros((), device=DEVICE)

    def step(self, packs, slopes, rate, *, halted):
        self.rows.catch_up(torch.unique(torch.cat(packs)).cpu())
        for token_ids, slope in zip(packs, slopes, strict=True):
            (self.work(token_ids) * slope).sum().backward()
        self.other.grad = slopes[0].sum().expand(3).contiguous()
        self.halted.fill_(float(halted))
        norm, _ = self.adam.measure_norm(torch.ones((), device=DEVICE), halted=self.halted)
        self.adam.clip(MAX_NORM, norm)
        self.adam.step(rate, halted=self.halted)
        self.rows.drop_gradient()
        return norm


def make_table(*, padding_idx=None):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(NUM_ROWS, WIDTH, generator=generator) * 0.05
    return torch.nn.Embedding.from_pretrained(
        values.to(DEVICE), freeze=False, padding_idx=padding_idx
    )


def choose_packs(step, num_steps):
    """Give packs with repeated tokens; rows come back after 1, 5 and nearly all steps, or never."""
    first, second = [0, 1, 1, 2, 1], [2, 1]
    if step % 2 == 0:
        first += [3]
    if step % 6 == 0:
        second += [4, 4]
    if step in {0, num_steps - 2}:
        second += [5, 0]
    return [torch.tensor(ids, device=DEVICE) for ids in (first, second)]


def take_steps(steppers, num_steps, *, num_halted=0, scale=1.0):
    """Take the same steps with each; compare what is read, and the norms before clipping."""
    generator = torch.Generator().manual_seed(1)
    excesses = []
    for step in range(num_steps):
        packs = choose_packs(step, num_steps)
        slopes = [
            (torch.randn(len(ids), WIDTH, generator=generator) * scale * 4.0 ** (step % 3 - 2)).to(
                DEVICE
            )
            for ids in packs
        ]
        rate = 2e-2 * (1.0 - step / num_steps)
        halted = step >= num_steps - num_halted
        norms = [each.step(packs, slopes, rate, halted=halted) for each in steppers]
        for norm in norms[1:]:
            torch.testing.assert_close(norm, norms[0], rtol=1e-5, atol=0.0)
        excesses.append(float(norms[0]) / MAX_NORM)
    return excesses


def train(num_steps, *, weight_decay=0.1, betas=BETAS, padding_idx=None, **options):
    table = make_table(padding_idx=padding_idx)
    dense, lazy = (kind(table, weight_decay=weight_decay, betas=betas) for kind in (Dense, Lazy))
    excesses = take_steps([dense, lazy], num_steps, **options)
    return dense, lazy, excesses


@needs_triton
@pytest.mark.parametrize(
    ("num_steps", "weight_decay"),
    [
        *((1, 0.1), (2, 0.1), (12, 0.1)),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((40, 0.0), (300, 0.1))),
    ],
)
def test_the_weights_are_those_of_the_dense_adamw(num_steps, weight_decay):
    dense, lazy, excesses = train(num_steps, weight_decay=weight_decay)
    assert num_steps < 40 or min(excesses) < 1 < max(excesses)  # some are clipped
    found = lazy.master.weight.detach()
    read = torch.unique(torch.cat(choose_packs(num_steps - 1, num_steps)))
    torch.testing.assert_close(found[read], dense.table.weight.detach()[read], **CLOSE)
    assert num_steps == 1 or not torch.allclose(found, dense.table.weight, **CLOSE)  # some are late
    lazy.rows.catch_up_all()
    torch.testing.assert_close(lazy.master.weight, dense.table.weight, **CLOSE)
    torch.testing.assert_close(lazy.other, dense.other, **CLOSE)
    state = dense.adam.state[dense.table.weight]
    for ours, theirs in ((lazy.rows._first, "exp_avg"), (lazy.rows._second, "exp_avg_sq")):
        torch.testing.assert_close(ours, state[theirs], rtol=1e-4, atol=1e-9)


@needs_triton
@pytest.mark.parametrize(
    ("beta1", "is_used_up"), [(0.01, True), pytest.param(0.9, False, marks=pytest.mark.slow)]
)
def test_momentum_after_the_horizon_is_ignored(monkeypatch, beta1, is_used_up):
    monkeypatch.setattr(gpu_embedding_rows, "_HORIZON", 4)
    dense, lazy, _ = train(12, betas=(beta1, 0.999))
    lazy.rows.catch_up_all()
    found, expected = lazy.master.weight, dense.table.weight
    assert torch.allclose(found, expected, **CLOSE) == is_used_up


@needs_triton
def test_the_row_of_padding_gets_no_gradient():
    dense, lazy, _ = train(10, padding_idx=0)
    lazy.rows.catch_up_all()
    torch.testing.assert_close(lazy.master.weight, dense.table.weight, **CLOSE)
    torch.testing.assert_close(
        lazy.master.weight[0],
        make_table().weight[0] * math.prod(1 - 0.1 * 2e-2 * (1 - step / 10) for step in range(10)),
    )


@needs_triton
@pytest.mark.parametrize("num_halted", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_halted_steps_change_nothing_also_when_rows_catch_up(num_halted):
    dense, lazy, _ = train(10, num_halted=num_halted)
    lazy.rows.catch_up_all()
    torch.testing.assert_close(lazy.master.weight, dense.table.weight, **CLOSE)
    assert int(lazy.rows._reached) == 10 - num_halted
    assert float(lazy.rows._gradient.abs().max()) == 0.0


@needs_triton
def test_a_step_that_is_not_finite_leaves_no_trace():
    _, lazy, _ = train(5)
    before = lazy.master.weight.detach().clone()
    packs = [torch.tensor([1, 2], device=DEVICE)]
    lazy.step(packs, [torch.full((2, WIDTH), torch.nan, device=DEVICE)], 0.1, halted=True)
    lazy.step(packs, [torch.ones(2, WIDTH, device=DEVICE)], 0.1, halted=True)
    assert torch.equal(lazy.master.weight[packs[0]], before[packs[0]])
    lazy.rows.catch_up_all()
    assert torch.isfinite(lazy.master.weight).all()


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-8])
def test_gradients_as_small_as_epsilon_are_met_too(scale):
    """As on a CPU: where epsilon weighs as much as the second moment, its mean must do."""
    dense, lazy, _ = train(60, weight_decay=0.0, scale=scale)
    lazy.rows.catch_up_all()
    before = make_table().weight.detach()
    moved, expected = (of.weight.detach() - before for of in (lazy.master, dense.table))
    assert float((moved - expected).norm() / expected.norm()) < 1e-3


@needs_triton
def test_learning_rates_of_zero_change_nothing():
    _, lazy, _ = train(1)
    lazy.rows.catch_up_all()
    before = lazy.master.weight.detach().clone()
    for _ in range(3):
        lazy.step([torch.tensor([7], device=DEVICE)], [torch.ones(1, WIDTH, device=DEVICE)], 0.0,
                  halted=False)  # fmt: skip
    lazy.rows.catch_up_all()
    assert torch.equal(lazy.master.weight, before)


@needs_triton
def test_it_goes_on_from_a_state():
    """Rows that are not up to date stay so, and catch up later as if nothing had happened."""
    whole, left = (Lazy(make_table(), weight_decay=0.1, betas=BETAS) for _ in range(2))
    take_steps([whole, left], 4)
    taken_up = Lazy(make_table(), weight_decay=0.1, betas=BETAS)
    with torch.no_grad():
        taken_up.master.weight.copy_(left.master.weight)
        taken_up.other.copy_(left.other)
    state = {name: tensor.clone() for name, tensor in left.rows.state().items()}
    taken_up.rows.set_state(state)
    taken_up.adam.set_state({name: one.clone() for name, one in left.adam.state().items()})
    take_steps([whole, taken_up], 3)
    for lazy in (whole, taken_up):
        lazy.rows.catch_up_all()
    assert torch.equal(taken_up.master.weight, whole.master.weight)
    assert torch.equal(taken_up.other, whole.other)
    assert all(map(torch.equal, taken_up.rows.state().values(), whole.rows.state().values()))


@needs_triton
def test_the_history_grows(monkeypatch):
    monkeypatch.setattr(gpu_embedding_rows, "_STEPS_KEPT", 2)
    dense, lazy, _ = train(9)
    lazy.rows.catch_up_all()
    assert len(lazy.rows._history) == 16
    torch.testing.assert_close(lazy.master.weight, dense.table.weight, **CLOSE)


@needs_triton
def test_a_copy_in_bfloat16_follows_its_master():
    lazy = Lazy(make_table(), weight_decay=0.1, dtype=torch.bfloat16)
    take_steps([lazy], 8)
    late = lazy.work.weight.detach().clone()
    lazy.rows.catch_up_all()
    assert torch.equal(lazy.work.weight, round_for_work(lazy.master.weight))
    assert not torch.equal(late, lazy.work.weight)


def count_by_torch(token_ids, of_tokens):
    gradient = torch.zeros(NUM_ROWS, of_tokens.shape[-1], device=DEVICE)
    return gradient.index_add_(0, token_ids, of_tokens.float())


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [5, 300])
def test_the_gradients_of_all_tokens_are_summed(width, dtype):
    """Of ids that occur once, more often than a tile has rows, and not at all; packs add up."""
    table = torch.nn.Embedding(NUM_ROWS, width, device=DEVICE)
    work = table if dtype == torch.float32 else copy.deepcopy(table).to(dtype)
    rows = GpuEmbeddingRows(table.weight, work, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.tensor([3, 11, *[4] * 21, 0, 3, 7, *[5] * 8])
    token_ids = token_ids[torch.randperm(len(token_ids), generator=generator)]
    slopes = torch.randn(len(token_ids), width, generator=generator).to(DEVICE, dtype)
    pack = Pack.build(np.array([0, len(token_ids)], np.int32), DEVICE)
    by_id = torch.from_numpy(sort_by_id(token_ids.numpy())).to(DEVICE)
    token_ids = token_ids.to(DEVICE)
    known = Pack(pack.cu_seqlens, pack.longest, None, by_id)
    expected = count_by_torch(token_ids, slopes)
    for num_packs, each in enumerate((known, pack, known), start=1):  # sorted on the host or here
        with computing(each):
            found = work(token_ids.unsqueeze(0))
        assert torch.equal(found.squeeze(0), work.weight[token_ids])
        found.backward(slopes.unsqueeze(0))
        assert work.weight.grad is table.weight.grad or work.weight.grad is None
        torch.testing.assert_close(table.weight.grad, num_packs * expected, atol=1e-5, rtol=1e-5)
    rows.drop_gradient()
    assert table.weight.grad is None
    assert float(rows._gradient.abs().max()) == 0.0
    rows.release()
    work(token_ids).backward(slopes)
    torch.testing.assert_close(work.weight.grad.float(), expected, atol=0.1, rtol=0.02)


def test_tokens_are_sorted_alike_on_the_host_and_on_the_device():
    """Also in type: the kernel is compiled ahead for one."""
    token_ids = np.array([7, 3, 7, 5, 0, 3])
    found = _sort_on_device(torch.from_numpy(token_ids).to(DEVICE)).cpu()
    assert found.dtype == torch.int32
    assert torch.equal(found, torch.from_numpy(sort_by_id(token_ids)))


@needs_triton
def test_the_same_sums_come_every_time():
    table = torch.nn.Embedding(NUM_ROWS, 40, device=DEVICE)
    rows = GpuEmbeddingRows(table.weight, table, weight_decay=0.0)
    token_ids = torch.arange(60, device=DEVICE) % 3
    slopes = torch.randn(60, 40, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    sums = []
    for _ in range(3):
        table(token_ids).backward(slopes)
        sums.append(table.weight.grad.clone())
        rows.drop_gradient()
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@needs_triton
def test_without_a_gradient_rows_stay_and_no_step_is_counted():
    _, lazy, _ = train(3)
    before = lazy.master.weight.detach().clone()
    lazy.rows.step(0.1, max_norm=1.0, norm=torch.zeros(()), halted=lazy.halted)
    assert torch.equal(lazy.master.weight, before)
    assert lazy.rows._step == 3


@needs_triton
def test_no_number_is_looked_at(blindfold):  # noqa: F811 (the fixture)
    """The kernels, which the interpreter runs by looking, are left out."""

    class Nothing:
        def __getitem__(self, grid):
            return lambda *_arguments, **_options: None

    lazy = Lazy(make_table(), weight_decay=0.1)
    names = ("add_rows", "sum_row_squares", "catch_up_rows", "step_rows", "sum_squares")
    nothing = SimpleNamespace(**dict.fromkeys((*names, "finish_norm", "step_adamw"), Nothing()))
    lazy.rows._kernels = lazy.adam._kernels = nothing
    token_ids, slopes = torch.tensor([1, 2, 1], device=DEVICE), torch.ones(3, 5, device=DEVICE)
    lazy.other.grad, loss = torch.ones(3, device=DEVICE), torch.ones((), device=DEVICE)

    def take_step():
        lazy.work(token_ids).backward(slopes)
        lazy.adam.clip(1.0, lazy.adam.measure_norm(loss, halted=lazy.halted)[0])
        lazy.adam.step(0.1, halted=lazy.halted)
        lazy.work(token_ids).backward(slopes)
        lazy.rows.drop_gradient()
        lazy.rows.catch_up_all()

    lazy.rows.catch_up(torch.tensor([1, 2]))
    with blindfold:
        take_step()


@needs_triton
def test_a_gradient_is_dropped_for_token_ids_of_32_bits_too():
    """Encoded texts have those, and a step that ran out of memory drops its gradient."""
    lazy = Lazy(make_table(), weight_decay=0.0)
    lazy.rows.catch_up(torch.tensor([1, 2], dtype=torch.int32))
    lazy.work(torch.tensor([1, 2, 1], device=DEVICE)).sum().backward()
    assert lazy.master.weight.grad is not None
    assert lazy.master.weight.grad.any()
    kept = lazy.master.weight.grad
    lazy.rows.drop_gradient()
    assert lazy.master.weight.grad is None
    assert not kept.any()
