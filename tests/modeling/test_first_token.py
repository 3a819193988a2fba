"""The last layer, limited to the token that the head reads: learning does not change.

test_fast_path compares outputs and gradients with the plain model, for every family.
"""

from __future__ import annotations

import contextvars
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

from bertfit.modeling import first_token
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.first_token import can_shorten, shorten_last_layer
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import choose_precision
from tests.modeling.test_packing import make_encoded, run_one_by_one, run_packed

pytestmark = pytest.mark.usefixtures("for_logits")

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
def test_who_asks_for_hidden_states_gets_those_of_all_tokens(family):
    """Embeddings are taken from a trained classifier, too."""
    plain = make_classifier(family)
    fast = copy.deepcopy(plain)
    plug_in(fast, torch.device("cpu"))
    ids = torch.arange(24).view(2, 12) + 5
    for model in (fast, fast.base_model):
        other = plain if model is fast else plain.base_model
        found = contextvars.Context().run(model, input_ids=ids, output_hidden_states=True)
        expected = other(input_ids=ids, output_hidden_states=True)
        assert len(found.hidden_states) == 3
        for one, its in zip(found.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(one, its)
    assert fast.base_model(input_ids=ids).last_hidden_state.shape == (2, 1, 16)


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
    assert [layer.forward.module is layer for layer in layers] == [True, True]


def _last_layer_name(family):
    return "transformer.layer.1" if family == "distilbert" else "encoder.layer.1"


@pytest.mark.parametrize("family", CONFIGS)
def test_without_layers_there_is_none_to_shorten(family):
    """The head reads the embeddings: what the layers add can be measured with such a model."""
    config = copy.deepcopy(CONFIGS[family])
    config.num_hidden_layers = 0
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.arange(24).view(2, 12) + 5
    expected = model(input_ids=ids).logits
    plan = plug_in(model, torch.device("cpu"))
    assert plan.last_layer == "every token"
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_models_whose_head_may_read_more_are_left_alone():
    albert = AutoModelForSequenceClassification.from_config(AlbertConfig(**SMALL, embedding_size=8))
    assert not shorten_last_layer(albert)
    assert not can_shorten(BertConfig(**SMALL, is_decoder=True))
    ids = torch.arange(12).view(1, 12) + 5
    assert albert.base_model(input_ids=ids).last_hidden_state.shape == (1, 12, 16)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("is_padded", [False, True])
def test_what_a_gpu_runs_gives_the_same_first_tokens_and_gradients(family, is_padded, monkeypatch):
    """Torch's own attention, in the place of the one for a CPU, and transformers' own masks."""
    model = make_classifier(family)
    ids = torch.arange(24).view(2, 12) + 5
    mask = torch.ones_like(ids)
    if is_padded:
        mask[1, 7:] = 0

    def run():
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits.square().sum().backward()
        return logits, {name: p.grad.clone() for name, p in model.named_parameters()}

    expected, expected_gradients = run()
    calls, real = [], first_token._attend_by_torch

    def attend(own, *arguments, **options):
        states = [state.contiguous() for state in arguments[:3]]
        calls.append(1)
        return real(own, states, arguments[3]), None

    monkeypatch.setattr(first_token, "attend", attend)
    monkeypatch.setattr(first_token, "_are_linear", lambda *_modules: False)
    shorten_last_layer(model)
    found, found_gradients = run()
    assert calls
    torch.testing.assert_close(found, expected)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("has_biases", [True, False])
def test_no_key_and_no_value_is_made_and_nothing_else_changes(family, has_biases):
    """With dropout, whose mask is the same where the same weights are drawn for."""
    model = make_classifier(family).train()
    shorten_last_layer(model)
    layer = model.base_model.get_submodule(_last_layer_name(family))
    of_tokens = [
        m for name, m in layer.named_modules() if name.endswith(("key", "value", "k_lin", "v_lin"))
    ]
    for module in of_tokens:
        torch.nn.init.normal_(module.bias)
        if not has_biases:
            module.bias = None
    ids = torch.arange(24).view(2, 12) + 5
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0

    def run():
        model.zero_grad()
        torch.manual_seed(3)
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits.square().sum().backward()
        return logits, [parameter.grad.clone() for parameter in model.parameters()]

    plug_in(model, torch.device("cpu"))
    found, found_gradients = run()
    calls = []
    for module in of_tokens:
        module.register_forward_hook(lambda *_: calls.append(1))
    expected, expected_gradients = run()
    assert len(calls) == 2, "whoever watches keys and values sees them"
    torch.testing.assert_close(found, expected)
    for gradient, other in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-5)


def test_on_a_gpu_the_last_layer_is_short_and_nothing_else_is_exchanged():
    """No GPU is needed to plug parts in."""
    model = make_classifier("bert")
    plan = plug_in(model, torch.device("cuda"))
    assert plan.last_layer == "the first token, which the head reads"
    assert "forward" in vars(model.base_model.encoder.layer[-1])
    assert {type(m) for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {
        torch.nn.Dropout
    }
    assert plug_in(make_classifier("bert"), torch.device("mps")).last_layer == "every token"


def test_a_packed_model_for_a_gpu_gives_the_gradients_of_the_plain_one():
    """Plugged in as for a GPU, run on tensors of a CPU, whose packs attend by length."""
    plain = make_classifier("bert")
    packed = copy.deepcopy(plain)
    plug_in(packed, torch.device("cuda"))
    set_up_packing(packed, choose_precision("cpu", "float32"), "on")
    encoded = make_encoded((9, 4, 4, 1))
    encoded.token_ids[:] = encoded.token_ids % 35 + 5
    expected, found = run_one_by_one(plain, encoded), run_packed(packed, encoded)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for logits in (expected, found):
        logits.square().sum().backward()
    for (name, parameter), other in zip(plain.named_parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, atol=1e-5, rtol=1e-5, msg=name)
