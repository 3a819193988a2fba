"""Whole encoders with compiled operators compute what the plain modules do, as near as bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from bertfit.modeling.fast_path import ATTENTION_FAMILIES, copy_for_work, plug_in
from bertfit.modeling.operators import attention, layers, loading
from bertfit.modeling.precision import choose_precision

CPU = torch.device("cpu")
VOCABULARY = 60
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 3,
}
CONFIGS = {
    "bert": BertConfig(**_COMMON),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=64, n_layers=3, n_heads=2, hidden_dim=96, num_labels=3
    ),
    "roberta": RobertaConfig(**_COMMON),
    "electra": ElectraConfig(**_COMMON, embedding_size=32),
    "albert": AlbertConfig(**_COMMON, embedding_size=32),
    "mpnet": MPNetConfig(**_COMMON),
    "deberta-v2": DebertaV2Config(**_COMMON),
    "modernbert": ModernBertConfig(
        **_COMMON,
        local_attention=8,
        global_attn_every_n_layers=2,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    "xlm-roberta": XLMRobertaConfig(**_COMMON),
}
FAMILIES = tuple(CONFIGS)


def make_classifier(family):
    """Return a random classifier whose weights are whole in bfloat16, without dropout."""
    config = copy.deepcopy(CONFIGS[family])
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
            parameter.copy_(parameter.to(torch.bfloat16))
    return model.train()


def make_batch():
    generator = torch.Generator().manual_seed(3)
    token_ids = torch.randint(5, VOCABULARY, (6, 40), generator=generator)
    lengths = torch.tensor([40, 33, 32, 17, 9, 3])
    mask = (torch.arange(40)[None, :] < lengths[:, None]).long()
    return {"input_ids": token_ids * mask, "attention_mask": mask}


def run(model):
    logits = model(**make_batch()).logits.float()
    cross_entropy(logits, LABELS).backward()
    gradients = {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), gradients


def measure_error(gradients, exact):
    """Return the distance of all gradients together from the exact ones, as a share of these."""
    away = sum(float((gradients[name] - exact[name]).square().sum()) for name in exact)
    return (away / sum(float(of.square().sum()) for of in exact.values())) ** 0.5


@pytest.fixture
def called(monkeypatch):
    """Names of the operators that were called."""
    names = set()

    def call(name, *arguments):
        names.add(name)
        return loading.call(name, *arguments)

    monkeypatch.setattr(attention, "call", call)
    monkeypatch.setattr(layers, "call", call)
    return names


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_every_gradient_are_as_near_as_the_plain_ones_in_bfloat16(family, called):
    exact = make_classifier(family)
    plain = copy.deepcopy(exact).to(torch.bfloat16)
    fast = copy.deepcopy(exact)
    plug_in(fast, CPU)
    fast = copy.deepcopy(fast).to(torch.bfloat16)
    expected, of_exact = run(exact)
    logits_of_plain, of_plain = run(plain)
    logits, gradients = run(fast)
    assert {"linear_forward", "linear_backward_weight", "norm_forward"} <= called
    assert ("attention_backward" in called) == (family in ATTENTION_FAMILIES)
    assert set(gradients) == set(of_plain)
    assert measure_error(gradients, of_exact) <= 1.3 * measure_error(of_plain, of_exact)
    away, away_of_plain = ((x - expected).abs().max() for x in (logits, logits_of_plain))
    assert float(away) <= max(3 * float(away_of_plain), 0.02)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("family", FAMILIES)
def test_scoring_and_training_give_the_same_logits(family):
    model = make_classifier(family)
    plug_in(model, CPU)
    model = model.to(torch.bfloat16)
    in_training = model(**make_batch()).logits
    model.eval()
    with torch.inference_mode():
        assert torch.equal(model(**make_batch()).logits, in_training)


def test_without_operators_the_exchanged_modules_are_the_plain_ones():
    for family in FAMILIES:
        plain = make_classifier(family).eval()
        fast = copy.deepcopy(plain)
        plug_in(fast, CPU)
        with torch.inference_mode():
            expected, found = plain(**make_batch()).logits, fast(**make_batch()).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("operators")
def test_float32_does_without_them(called):
    model = make_classifier("bert")
    plug_in(model, CPU)
    working = copy_for_work(model, choose_precision("cpu", "float32"))
    run(working)
    assert not called
