"""The last layer, shortened to the token that the head reads: nothing that is learned changes.

That outputs and gradients are those of the plain model, for every family, is in test_fast_path.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
)

from bertfit.modeling.first_token import can_shorten, shorten_last_layer

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "pad_token_id": 0,
}
CONFIGS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    "distilbert": DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=4, hidden_dim=24),
}


def make_classifier(family):
    torch.manual_seed(2)
    return AutoModelForSequenceClassification.from_config(CONFIGS[family]).eval()


@pytest.mark.parametrize("family", CONFIGS)
def test_only_the_first_token_leaves_the_last_layer(family):
    model = make_classifier(family)
    ids = torch.arange(24).view(2, 12) + 5
    whole = model.base_model(input_ids=ids).last_hidden_state
    assert shorten_last_layer(model)
    first = model.base_model(input_ids=ids).last_hidden_state
    assert first.shape == (2, 1, 16)
    torch.testing.assert_close(first, whole[:, :1])


@pytest.mark.parametrize("family", CONFIGS)
def test_a_copy_reads_its_own_weights(family):
    """Working weights are a copy of the model; its shortened layer must not read the masters'."""
    model = make_classifier(family)
    shorten_last_layer(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    ids = torch.arange(12).view(1, 12) + 5
    assert not torch.allclose(model(input_ids=ids).logits, other(input_ids=ids).logits)
    layers = [m.base_model.get_submodule(_last_layer_name(family)) for m in (model, other)]
    assert [layer.forward.__self__ is layer for layer in layers] == [True, True]


def _last_layer_name(family):
    return "transformer.layer.1" if family == "distilbert" else "encoder.layer.1"


def test_models_whose_head_may_read_more_are_left_alone():
    albert = AutoModelForSequenceClassification.from_config(AlbertConfig(**SMALL, embedding_size=8))
    assert not shorten_last_layer(albert)
    assert not can_shorten(BertConfig(**SMALL, is_decoder=True))
    ids = torch.arange(12).view(1, 12) + 5
    assert albert.base_model(input_ids=ids).last_hidden_state.shape == (1, 12, 16)
