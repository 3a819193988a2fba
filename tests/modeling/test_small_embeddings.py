"""Small embedding tables: the same rows, and gradients summed in float32."""

from __future__ import annotations

import copy

import pytest
import torch

from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.forwards import find_replacement
from bertfit.modeling.small_embeddings import exchange_small_embeddings, sum_by_product
from tests.modeling.test_fast_path import FAMILIES, make_batch, make_classifier, run

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Tables(torch.nn.ModuleDict):
    """Tables of embeddings by name."""

    def get_input_embeddings(self):
        return dict(self.items()).get("word_embeddings")


def find_exchanged(model):
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if find_replacement(module) is not None
    }


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_same_to_the_bit_and_gradients_to_rounding(family, padded):
    plain = make_classifier(family)
    other = copy.deepcopy(plain)
    exchange_small_embeddings(other, CPU)
    batch = make_batch(padded=padded)
    expected, expected_gradients = run(plain, batch)
    found, gradients = run(other, batch)
    assert torch.equal(found, expected)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("family", "tables"),
    [
        ("bert", {"position_embeddings", "token_type_embeddings"}),
        ("distilbert", {"position_embeddings"}),
        ("modernbert", set()),
        ("mpnet", {"position_embeddings", "relative_attention_bias"}),
    ],
)
def test_the_tables_of_a_family_are_exchanged(family, tables):
    model = make_classifier(family)
    exchange_small_embeddings(model, CPU)
    assert find_exchanged(model) == tables


def test_a_gpu_gets_no_product_for_pairs_of_tokens():
    model = make_classifier("mpnet")
    exchange_small_embeddings(model, GPU)
    assert find_exchanged(model) == {"position_embeddings"}


def test_both_token_types_are_learned():
    """bertfit gives no types, but whoever calls the model may."""
    plain = make_classifier("bert")
    other = copy.deepcopy(plain)
    exchange_small_embeddings(other, CPU)
    batch = make_batch(padded=False)
    batch["token_type_ids"] = (torch.arange(24) > 11).long().expand(4, 24)
    name = "bert.embeddings.token_type_embeddings.weight"
    expected, gradients = (run(model, batch)[1][name] for model in (plain, other))
    assert (expected.abs().max(dim=1).values > 1e-4).all()
    torch.testing.assert_close(gradients, expected, atol=1e-6, rtol=1e-5)


def test_a_row_of_padding_is_not_trained():
    model = Tables({"position_embeddings": torch.nn.Embedding(4, 3, padding_idx=1)})
    exchange_small_embeddings(model, CPU)
    table = model["position_embeddings"]
    table(torch.tensor([[1, 2], [1, 2]])).sum().backward()
    assert table.weight.grad.tolist() == [[0.0] * 3, [0.0] * 3, [2.0] * 3, [0.0] * 3]


def test_a_sum_over_many_tokens_in_bfloat16_does_not_stop_growing():
    model = make_classifier("bert")
    plug_in(model, torch.device("cpu"))
    table = model.bert.embeddings.token_type_embeddings.bfloat16()
    table(torch.zeros(8, 1024, dtype=torch.int64)).sum().backward()
    assert (table.weight.grad[0] == 8192).all()
    assert (table.weight.grad[1] == 0).all()


def test_a_sum_over_pairs_of_tokens_does_not_stop_growing():
    model = make_classifier("mpnet")
    plug_in(model, CPU)
    table = model.mpnet.encoder.relative_attention_bias.bfloat16()
    table(torch.full((128, 128), 3)).sum().backward()
    assert (table.weight.grad[3] == 128 * 128).all()


def test_large_tables_and_other_kinds_stay():
    model = Tables(
        {
            "position_embeddings": torch.nn.Embedding(8192, 3),
            "token_type_embeddings": torch.nn.Embedding(4, 3, max_norm=1.0),
            "bias": torch.nn.Embedding(4, 3, scale_grad_by_freq=True),
            "word_embeddings": torch.nn.Embedding(4, 3),
        }
    )
    exchange_small_embeddings(model, CPU)
    assert find_exchanged(model) == set()


@pytest.mark.parametrize("padding_id", [None, 0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_of_a_gpu_has_the_same_sums(dtype, padding_id):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 4, (30,), generator=generator)  # none has id 4
    gradient = torch.randn(30, 3, generator=generator).to(dtype)
    expected = torch.zeros(5, 3).index_add_(0, ids, gradient.float())
    if padding_id is not None:
        expected[padding_id] = 0.0
    found = sum_by_product(gradient, ids, 5, padding_id=padding_id)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-2)
