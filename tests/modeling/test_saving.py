"""A model replaces an earlier one as a whole, and older releases read its configuration, too."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    ModernBertConfig,
    PhiConfig,
)

from bertfit.modeling.saving import save_model
from tests.modeling.test_forward import SIZES as TINY

SIZES = TINY | {"max_position_embeddings": 64, "num_labels": 2}
OF_LAYERS = {
    "full_attention": {"rope_type": "default", "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 777.0},
}
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SLIDING = {"sliding_window": 8, "layer_types": list(OF_LAYERS), "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("kind", "own", "rotary", "expected"),
    [
        (BertConfig, {}, None, {}),
        (
            PhiConfig,
            {"num_key_value_heads": 2},
            {"rope_type": "default", "rope_theta": 3e4, "partial_rotary_factor": 0.25},
            {"rope_theta": 3e4, "partial_rotary_factor": 0.25},
        ),
        (
            GPTNeoXConfig,
            {},
            {"rope_type": "default", "rope_theta": 4321.0, "partial_rotary_factor": 0.5},
            {"rotary_emb_base": 4321.0, "rotary_pct": 0.5},
        ),
        (
            GPTNeoXConfig,
            {},
            {
                "rope_type": "linear",
                "factor": 4.0,
                "rope_theta": 4321.0,
                "partial_rotary_factor": 0.5,
            },
            {
                "rotary_emb_base": 4321.0,
                "rotary_pct": 0.5,
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            },
        ),
        (
            LlamaConfig,
            {"num_key_value_heads": 2},
            {**SCALED, "rope_theta": 5e5},
            {"rope_theta": 5e5, "rope_scaling": SCALED},
        ),
        (
            ModernBertConfig,
            {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
            OF_LAYERS,
            {"global_rope_theta": 5e5, "local_rope_theta": 777.0},
        ),
        (
            Gemma3TextConfig,
            {"head_dim": 8, **SLIDING},
            OF_LAYERS,
            {"rope_theta": 5e5, "rope_local_base_freq": 777.0},
        ),
    ],
    ids=["bert", "phi", "gpt_neox", "gpt_neox scaled", "llama3", "modernbert", "gemma3"],
)
def test_rotary_positions_are_also_named_as_in_transformers_4(
    tmp_path, kind, own, rotary, expected
):
    """Without these names, 4.57 and exports to ONNX give other probabilities, silently."""
    config = kind(**SIZES, **own, **({} if rotary is None else {"rope_parameters": rotary}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config).eval()
    save_model(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    names = ("rope_theta", "partial_rotary_factor", "rope_scaling", "global_rope_theta")
    names += ("local_rope_theta", "rope_local_base_freq", "rotary_emb_base", "rotary_pct")
    assert {name: written[name] for name in names if name in written} == expected
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32)
    token_ids = torch.arange(3, 39).reshape(2, 18)
    with torch.no_grad():
        both = [one(input_ids=token_ids).logits for one in (model, loaded.eval())]
    assert torch.equal(*both)


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(BertConfig(**SIZES))


def read_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_earlier_model_stays_until_the_next_one_is_written(model, tmp_path):
    save_model(model, tmp_path)
    earlier, seen = read_files(tmp_path), []
    assert set(earlier) == {"config.json", "model.safetensors"}
    with torch.no_grad():
        model.classifier.bias += 1.0
    save_model(
        model,
        tmp_path,
        before=lambda: seen.append((tmp_path / "model.safetensors").read_bytes()),
    )
    assert seen == [earlier["model.safetensors"]]
    later = read_files(tmp_path)
    assert set(later) == set(earlier)
    assert later["model.safetensors"] != earlier["model.safetensors"]


def test_a_model_that_cannot_be_written_leaves_the_earlier_one_and_nothing_else(model, tmp_path):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    save_model(model, tmp_path)
    earlier = read_files(tmp_path)
    with torch.no_grad():
        model.classifier.bias += 1.0
    with pytest.raises(OSError, match="No space left") as caught:
        save_model(model, tmp_path, before=fail)
    assert caught.value.filename == str(tmp_path)
    assert read_files(tmp_path) == earlier
