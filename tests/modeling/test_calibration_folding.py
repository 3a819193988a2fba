"""Folding: for every family, the folded model's logits are the scaled logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from bertfit.modeling.calibration_folding import (
    find_logit_layer,
    fold_scaling,
    has_bias,
    has_layer,
    read_layer,
    widened,
)
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.saving import save_model

NUM_LABELS = 3
TOKEN_IDS = np.array([2, 9, 30, 41, 7, 3], dtype=np.int32)
_COMMON: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": NUM_LABELS,
}
_FAMILIES: dict[str, tuple[PretrainedConfig, str]] = {
    "bert": (BertConfig(**_COMMON), "classifier"),
    "roberta": (RobertaConfig(**_COMMON), "classifier.out_proj"),
    "electra": (ElectraConfig(**_COMMON, embedding_size=8), "classifier.out_proj"),
    "distilbert": (
        DistilBertConfig(
            vocab_size=60, dim=16, n_layers=2, n_heads=4, hidden_dim=24, num_labels=NUM_LABELS
        ),
        "classifier",
    ),
    "albert": (AlbertConfig(**_COMMON, embedding_size=8), "classifier"),
    "mpnet": (MPNetConfig(**_COMMON), "classifier.out_proj"),
    "deberta-v2": (
        DebertaV2Config(
            **_COMMON, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8
        ),
        "classifier",
    ),
    "modernbert": (
        ModernBertConfig(
            **_COMMON,
            local_attention=8,
            global_attn_every_n_layers=2,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        ),
        "classifier",
    ),
    # Its head has no bias and gives logits at every token, of which the last are taken.
    "gpt2": (
        GPT2Config(
            vocab_size=60,
            n_embd=16,
            n_layer=2,
            n_head=4,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
            num_labels=NUM_LABELS,
        ),
        "score",
    ),
}


def build(config: PretrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():  # zeros would hide what is not scaled
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def logits_of(model: PreTrainedModel) -> np.ndarray:
    batch = torch.tensor([[2, 9, 30, 41, 7, 3], [2, 5, 5, 8, 13, 3]])
    with torch.no_grad():
        return model(input_ids=batch).logits.double().numpy()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_default_device_of_the_caller_does_not_matter(device):
    model = build(_FAMILIES["bert"][0])
    before = logits_of(model)
    added = (np.zeros((3, 16)), np.ones(3))
    with torch.device(device):
        layer = find_logit_layer(model, TOKEN_IDS)
        fold_scaling(model, layer, weights=[0.5] * 3, biases=[1.0] * 3, added=added)
        with widened(model, layer, np.ones((1, 16)), np.zeros(1)):
            pass
    np.testing.assert_allclose(logits_of(model), before * 0.5 + 2.0, rtol=1e-5, atol=1e-5)


class _WithoutFloat64(TorchFunctionMode):
    """As on Apple's GPU: only what was made on the CPU, or brought there, may be float64."""

    def __init__(self):
        super().__init__()
        self.on_cpu = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        result = function(*arguments, **options)
        if function is torch.Tensor.cpu:
            result = result.clone()
        given = [one for one in arguments if isinstance(one, torch.Tensor)]
        # A device that is named by a tensor's own stands for the one without float64.
        is_moved = function is torch.Tensor.to or options.get("device", "cpu") != "cpu"
        is_on_cpu = not is_moved and all(any(one is own for own in self.on_cpu) for one in given)
        if isinstance(result, torch.Tensor) and (function is torch.Tensor.cpu or is_on_cpu):
            self.on_cpu.append(result)
        elif isinstance(result, torch.Tensor):
            assert result.dtype is not torch.float64 or function is torch.Tensor.copy_
        return result


def test_a_device_without_float64_is_not_asked_for_it():
    """Each training with a calibration ended so on Apple's GPU, after its last epoch."""
    model = build(_FAMILIES["bert"][0])
    before = logits_of(model)
    with _WithoutFloat64():
        layer = find_logit_layer(model, TOKEN_IDS)
        with widened(model, layer, np.eye(16), np.zeros(16)):
            pass
        fold_scaling(model, layer, weights=[0.5] * 3, biases=[1.0] * 3)
    np.testing.assert_allclose(logits_of(model), before * 0.5 + 1.0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_logits_after_folding_are_the_scaled_logits_from_before(family, kind, tmp_path):
    config, expected_layer = _FAMILIES[family]
    model = build(config)
    before = logits_of(model)
    layer = find_logit_layer(model, TOKEN_IDS)
    assert layer == expected_layer
    weights = np.array([0.5] * 3 if kind == "temperature" else [0.5, 1.5, 0.9])
    biases = np.array(
        [0.0, -1.0, 0.7] if kind == "vector" and has_bias(model, layer) else [0.0] * 3
    )
    fold_scaling(model, layer, weights=weights.tolist(), biases=biases.tolist())
    np.testing.assert_allclose(logits_of(model), before * weights + biases, rtol=1e-5, atol=1e-5)
    save_model(model, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(logits_of(loaded), before * weights + biases, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_widened_layer_gives_its_inputs_behind_the_logits(family):
    """And folding what a linear function makes of them gives the logits that it was added to."""
    model = build(_FAMILIES[family][0])
    layer = find_logit_layer(model, TOKEN_IDS)
    before, (weight, bias) = logits_of(model), read_layer(model, layer)
    width, drawn = weight.shape[1], torch.get_rng_state()
    with widened(model, layer, np.eye(width), np.zeros(width)):
        outputs = logits_of(model)
    assert torch.equal(torch.get_rng_state(), drawn)  # what is drawn afterwards stays the same
    np.testing.assert_allclose(outputs[:, :NUM_LABELS], before, rtol=1e-5, atol=1e-6)
    features = outputs[:, NUM_LABELS:]
    np.testing.assert_allclose(features @ weight.T + bias, before, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.as_tensor(logits_of(model)), torch.as_tensor(before))
    rng = np.random.default_rng(0)
    added = (rng.normal(size=weight.shape), rng.normal(size=NUM_LABELS) * has_bias(model, layer))
    fold_scaling(model, layer, weights=[0.5] * 3, biases=[0.0] * 3, added=added)
    expected = before * 0.5 + features @ added[0].T + added[1]
    np.testing.assert_allclose(logits_of(model), expected, rtol=1e-4, atol=1e-4)


def test_a_layer_is_itself_again_after_an_error():
    model = build(_FAMILIES["roberta"][0])
    layer = model.classifier.out_proj
    wide = widened(model, "classifier.out_proj", np.ones((2, 16)), np.zeros(2))
    wide.__enter__()
    assert logits_of(model).shape == (2, NUM_LABELS + 2)
    assert not wide.__exit__(KeyboardInterrupt, None, None)
    assert model.classifier.out_proj is layer


@pytest.mark.parametrize("family", _FAMILIES)
def test_looking_for_the_layer_changes_nothing(family):
    model = build(_FAMILIES[family][0]).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_logit_layer(model, TOKEN_IDS)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_is_known_by_name_kind_and_shape():
    model = build(_FAMILIES["bert"][0])
    assert has_layer(model, "classifier", (3, 16))
    assert not has_layer(model, "classifier", (2, 16))
    assert not has_layer(model, "score", (3, 16))
    assert not has_layer(model, "bert.embeddings.word_embeddings", (60, 16))


def test_a_bias_is_told():
    assert has_bias(build(_FAMILIES["bert"][0]), "classifier")
    assert not has_bias(build(_FAMILIES["gpt2"][0]), "score")


def test_other_layers_of_as_many_outputs_are_not_taken_for_it():
    """With as many labels as hidden units, every projection has the size of the head."""
    config = BertConfig(**{**_COMMON, "num_labels": 16})
    assert find_logit_layer(build(config), TOKEN_IDS) == "classifier"


def test_the_layer_is_found_under_the_fast_path():
    model = build(_FAMILIES["bert"][0])
    plug_in(model, torch.device("cpu"))
    assert find_logit_layer(model, TOKEN_IDS) == "classifier"


class _Squashed(nn.Module):
    """A head whose linear layer is not the last word."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(hidden))


def test_where_no_linear_layer_gives_the_logits_none_is_found():
    model = build(_FAMILIES["bert"][0])
    model.classifier = _Squashed(model.classifier)
    assert find_logit_layer(model, TOKEN_IDS) is None


def test_a_layer_that_is_not_called_is_not_found():
    model = build(_FAMILIES["bert"][0])
    model.spare = nn.Linear(16, NUM_LABELS)
    assert find_logit_layer(model, TOKEN_IDS) == "classifier"
