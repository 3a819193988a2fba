"""The fast path computes the same as the plain modules of transformers, for every family."""

from __future__ import annotations

import copy
import json
from typing import Any

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
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.masking_utils import bidirectional_mask_function

from bertfit.modeling.attention import NAME, make_mask
from bertfit.modeling.dropout import CheapDropout
from bertfit.modeling.fast_path import ATTENTION_FAMILIES, copy_for_work, plan_fast_path, plug_in
from bertfit.modeling.precision import choose_precision
from bertfit.modeling.saving import save_model

pytestmark = pytest.mark.usefixtures("for_logits")

VOCABULARY = 60
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 3,
}
_OF_FAMILY: dict[str, PretrainedConfig] = {
    "bert": BertConfig(**_COMMON),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=4, hidden_dim=24, num_labels=3
    ),
    "roberta": RobertaConfig(**_COMMON),
    "electra": ElectraConfig(**_COMMON, embedding_size=8),
    "albert": AlbertConfig(**_COMMON, embedding_size=8),
    "mpnet": MPNetConfig(**_COMMON),
    "deberta-v2": DebertaV2Config(
        **_COMMON, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8
    ),
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
FAMILIES = tuple(_OF_FAMILY)

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 2, 1, 1])


def make_classifier(
    family: str,
    *,
    dropout: float = 0.0,
    width: int = 16,
    num_layers: int = 2,
    num_heads: int = 4,
) -> PreTrainedModel:
    """Return a random classifier of 3 classes, in train mode, with one rate for every dropout."""
    config = _OF_FAMILY[family].__class__.from_dict(_OF_FAMILY[family].to_dict())
    sizes = dict.fromkeys(("hidden_size", "pooler_hidden_size"), width)
    sizes |= dict.fromkeys(("intermediate_size", "hidden_dim"), width * 3 // 2)
    sizes |= dict.fromkeys(("num_hidden_layers", "n_layers"), num_layers)
    sizes |= dict.fromkeys(("num_attention_heads", "n_heads"), num_heads)
    for name, size in {**sizes, "embedding_size": width // 2}.items():
        if hasattr(config, name):
            setattr(config, name, size)
    if family == "modernbert":
        config.layer_types = (config.layer_types * num_layers)[:num_layers]
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).float()
        with torch.no_grad():  # wide apart, so that every gradient is well above rounding
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.train()


def make_batch(*, padded):
    """Rows of 24 tokens; padded ones end after 24, 17, 9 and 3."""
    generator = torch.Generator().manual_seed(3)
    token_ids = torch.randint(5, VOCABULARY, (4, 24), generator=generator)
    if not padded:
        return {"input_ids": token_ids, "attention_mask": None}
    mask = (torch.arange(24)[None, :] < torch.tensor([24, 17, 9, 3])[:, None]).long()
    return {"input_ids": token_ids * mask, "attention_mask": mask}


def run(model, batch):
    model.zero_grad()
    logits = model(**batch).logits
    cross_entropy(logits, LABELS).backward()
    gradients = {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }
    return logits.detach(), gradients


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_every_gradient_are_those_of_the_plain_model(family, padded):
    plain = make_classifier(family)
    fast = copy.deepcopy(plain)
    plug_in(fast, CPU)
    batch = make_batch(padded=padded)
    expected, expected_gradients = run(plain, batch)
    found, gradients = run(fast, batch)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert sum(g is not None and float(g.abs().max()) > 1e-5 for g in gradients.values()) > 10
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scoring_gives_the_logits_of_the_plain_model(family, padded):
    plain = make_classifier(family).eval()
    fast = copy.deepcopy(plain)
    plug_in(fast, CPU)
    batch = make_batch(padded=padded)
    with torch.inference_mode():
        torch.testing.assert_close(
            fast(**batch).logits, plain(**batch).logits, atol=2e-6, rtol=1e-5
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_company_change_no_logit(family):
    model = make_classifier(family).eval()
    plug_in(model, CPU)
    batch = make_batch(padded=True)
    with torch.no_grad():
        together = model(**batch).logits
        alone = [
            model(input_ids=row[mask.bool()][None]).logits[0]
            for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_served_whole_or_says_what_is_not(family):
    model = make_classifier(family, dropout=0.1)
    fast_path = plug_in(model, CPU)
    assert fast_path == plan_fast_path(model.config, CPU)
    assert not any(type(module) is torch.nn.Dropout for module in model.modules())
    assert any(isinstance(module, CheapDropout) for module in model.modules())
    if family in ATTENTION_FAMILIES:
        assert fast_path.is_whole
        assert model.config._attn_implementation == NAME
    else:
        assert family in {"mpnet", "deberta-v2"}
        assert fast_path.attention == f"transformers' own ({family} does not take another)"
        assert model.config._attn_implementation != NAME


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_acts_in_training_alone(family):
    model = make_classifier(family, dropout=0.3)
    plug_in(model, CPU)
    batch = make_batch(padded=True)
    torch.manual_seed(0)
    with torch.no_grad():
        in_training = [model(**batch).logits for _ in range(2)]
        model.eval()
        in_scoring = [model(**batch).logits for _ in range(2)]
    assert not torch.allclose(*in_training)
    assert torch.equal(*in_scoring)


def test_on_other_devices_nothing_is_exchanged():
    model = make_classifier("bert", dropout=0.1)
    assert not plug_in(model, torch.device("meta")).is_whole
    assert any(type(module) is torch.nn.Dropout for module in model.modules())
    assert model.config._attn_implementation != NAME


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_knows_nothing_of_the_fast_path(family, tmp_path):
    plain = make_classifier(family)
    fast = copy.deepcopy(plain)
    plug_in(fast, CPU)
    for name, model in (("plain", plain), ("fast", fast)):
        save_model(model, tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "fast" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    assert NAME not in json.loads((tmp_path / "fast" / "config.json").read_text()).values()


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_copies_are_near_and_leave_the_weights_alone(family):
    model = make_classifier(family).eval()
    plug_in(model, CPU)
    before = copy.deepcopy(model.state_dict())
    working = copy_for_work(model, choose_precision("cpu", "bfloat16"))
    batch = make_batch(padded=True)
    with torch.no_grad():
        exact, rounded = model(**batch).logits, working(**batch).logits
    assert {p.dtype for p in working.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(rounded.float(), exact, atol=0.15, rtol=0.1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_is_masked_stays_finite_in_bfloat16():
    """A row that is masked everywhere would become NaN with -inf."""
    padding = torch.tensor([[1, 0]])
    mask = make_mask(mask_function=bidirectional_mask_function, attention_mask=padding)
    assert mask.bfloat16().isfinite().all()
    assert (mask == 0).tolist() == [[[[True, False]]]]


def test_frequencies_of_rotary_positions_are_not_rounded():
    model = make_classifier("modernbert")
    working = copy_for_work(model, choose_precision("cpu", "bfloat16"))
    frequencies = dict(model.named_buffers())
    assert any("inv_freq" in name for name in frequencies)
    for name, kept in working.named_buffers():
        assert kept.dtype == frequencies[name].dtype, name
        assert torch.equal(kept, frequencies[name]), name


def test_a_model_of_the_right_type_is_not_copied():
    model = make_classifier("bert")
    assert copy_for_work(model, choose_precision("cpu", "float32")) is model
