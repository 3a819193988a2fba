"""The sparse update of embedding rows equals dense AdamW, and touches fewer rows."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from bertfit.training.embedding_rows import EmbeddingRows

NUM_ROWS, WIDTH = 40, 6


def train(num_steps, *, weight_decay, seed=0, read_before=True):
    """Train two equal tables, one densely and one by rows; return both."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.nn.Embedding(NUM_ROWS, WIDTH)
    with torch.no_grad():
        dense.weight.copy_(torch.randn(NUM_ROWS, WIDTH, generator=generator) * 0.05)
    sparse = copy.deepcopy(dense)
    rows = EmbeddingRows(sparse.weight, sparse, weight_decay=weight_decay)
    adam = torch.optim.AdamW(dense.parameters(), weight_decay=weight_decay)
    for step in range(num_steps):
        rate = 1e-3 * (1 - step / num_steps)
        # Low ids are frequent, high ones rare, as words are.
        spread = torch.rand(8, generator=generator) ** 3
        token_ids = (spread * NUM_ROWS).long()
        target = torch.randn(8, WIDTH, generator=generator) * 10.0 ** float(
            -4 * torch.rand(1, generator=generator)
        )
        rows.catch_up(torch.unique(token_ids))
        if read_before:
            torch.testing.assert_close(sparse(token_ids), dense(token_ids), atol=2e-6, rtol=2e-5)
        for half in (slice(0, 5), slice(5, 8)):  # two micro-batches
            for table in (dense, sparse):
                (table(token_ids[half]) * target[half]).sum().backward()
        norm = rows.gather_gradient()
        assert norm == pytest.approx(float(dense.weight.grad.norm()), rel=1e-4)
        rows.update(rate)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        adam.zero_grad()
    return dense, sparse, rows


@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("num_steps", [1, 2, 60, pytest.param(700, marks=pytest.mark.slow)])
def test_the_weights_are_those_of_the_dense_adamw(num_steps, weight_decay):
    dense, sparse, rows = train(num_steps, weight_decay=weight_decay)
    rows.catch_up_all()
    torch.testing.assert_close(sparse.weight, dense.weight, atol=2e-6, rtol=2e-5)


def test_the_comparison_can_fail():
    """Without the step that brings rows up to date, the tables differ by far more."""
    dense, sparse, _ = train(60, weight_decay=0.0, read_before=False)
    assert float((sparse.weight - dense.weight).detach().abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("scale", "tolerance"), [(1.0, 1e-5), (1e-4, 1e-4), (1e-6, 2e-3), (1e-8, 0.1), (1e-10, 0.1)]
)
def test_gradients_as_small_as_epsilon_are_met_too(scale, tolerance):
    """Where epsilon weighs as much as the second moment, its mean in the sum must do."""
    dense = torch.nn.Embedding.from_pretrained(torch.zeros(2, 1), freeze=False)
    sparse = copy.deepcopy(dense)
    rows = EmbeddingRows(sparse.weight, sparse, weight_decay=0.0)
    adam = torch.optim.AdamW(dense.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(60):
        row = torch.tensor([0 if step in {0, 30} else 1])
        rows.catch_up(row)
        for table in (dense, sparse):
            (table(row) * scale).sum().backward()
        rows.gather_gradient()
        rows.update(1e-3)
        adam.step()
        adam.zero_grad()
    rows.catch_up_all()
    torch.testing.assert_close(sparse.weight, dense.weight, rtol=tolerance, atol=1e-9)


def test_rows_that_were_never_read_only_decay():
    table = torch.nn.Embedding(3, 2)
    before = table.weight.detach().clone()
    rows = EmbeddingRows(table.weight, table, weight_decay=0.1)
    for _ in range(5):
        table(torch.tensor([1])).sum().backward()
        rows.gather_gradient()
        rows.update(0.01)
    torch.testing.assert_close(table.weight[[0, 2]], before[[0, 2]])
    rows.catch_up_all()
    torch.testing.assert_close(table.weight[[0, 2]], before[[0, 2]] * (1 - 0.001) ** 5)


def test_the_gradient_is_scaled_before_the_update():
    def step(factor):
        table = torch.nn.Embedding.from_pretrained(torch.ones(2, 2), freeze=False)
        rows = EmbeddingRows(table.weight, table, weight_decay=0.0, epsilon=1.0)
        (table(torch.tensor([0])) * 3.0).sum().backward()
        assert rows.gather_gradient() == pytest.approx(3 * math.sqrt(2))
        rows.scale_gradient(factor)
        rows.update(0.1)
        return table.weight[0, 0].item()

    # One step of Adam moves by lr * g / (|g| + epsilon).
    assert step(1.0) == pytest.approx(1 - 0.1 * 3 / 4, rel=1e-5)
    assert step(1 / 3) == pytest.approx(1 - 0.1 * 1 / 2, rel=1e-5)


def test_a_dropped_gradient_leaves_no_trace():
    table = torch.nn.Embedding(4, 2)
    before = table.weight.detach().clone()
    rows = EmbeddingRows(table.weight, table, weight_decay=0.0)
    table(torch.tensor([2])).sum().backward()
    rows.drop_gradient()
    assert rows.gather_gradient() == 0.0
    rows.update(0.1)
    rows.catch_up_all()
    assert torch.equal(table.weight, before)


def test_a_working_copy_of_another_type_follows_its_master():
    master = torch.nn.Embedding(4, 2)
    work = copy.deepcopy(master).to(torch.bfloat16)
    rows = EmbeddingRows(master.weight, work, weight_decay=0.0)
    work(torch.tensor([[1, 3], [3, 3]])).float().sum().backward()
    assert rows.gather_gradient() == pytest.approx(math.sqrt(2 * 1 + 2 * 9))
    rows.update(0.1)
    assert torch.equal(work.weight, master.weight.to(torch.bfloat16))
    assert master.weight.dtype == torch.float32


def test_after_release_gradients_are_ordinary():
    table = torch.nn.Embedding(4, 2)
    rows = EmbeddingRows(table.weight, table, weight_decay=0.0)
    rows.release()
    table(torch.tensor([0])).sum().backward()
    assert not table.weight.grad.is_sparse
    assert np.asarray(table.weight.grad)[0].tolist() == [1.0, 1.0]
