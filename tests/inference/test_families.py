"""A text gets transformers' own answer from models of many families, alone or among others.

Families differ in what can go wrong: some read padding, some have no padding token of their own,
some number positions from elsewhere, some are decoders.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from bertfit import TextClassifier
from bertfit.inference.micro_batches import iter_logits
from bertfit.modeling.fast_path import copy_for_work

pytestmark = pytest.mark.slow

TEXTS = [
    "good",
    "the plot of the film was poor and the acting was awful",
    "a good film",
    "bad",
    "fine acting and a fine plot " * 2,
]
SIZES = {
    "hidden_size": 32,
    "d_model": 32,
    "dim": 32,
    "emb_dim": 32,
    "n_embd": 32,
    "embedding_size": 32,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "n_head": 2,
    "n_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "head_dim": 16,
    "d_kv": 16,
    "intermediate_size": 64,
    "hidden_dim": 64,
    "d_ff": 64,
    "d_inner": 64,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "vocab_size": 100,
}
"""Sizes under the names that the families give them; each takes those that it knows."""
OWN_SIZES = {
    "funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "vocab_size": 100},
    "t5": {"decoder_start_token_id": 0, "eos_token_id": 3},
    "bart": {"eos_token_id": 3},
}
FAMILIES = (
    "albert",
    "bert",
    "big_bird",
    "camembert",
    "convbert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "eurobert",
    "flaubert",
    "fnet",
    "funnel",
    "ibert",
    "longformer",
    "megatron-bert",
    "mobilebert",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "nystromformer",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roformer",
    "squeezebert",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xlnet",
    "yoso",
    "bart",
    "t5",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "modernbert-decoder",
    "opt",
    "qwen3",
)
"""Encoders, then encoder-decoders, then decoders."""


def make_config(kind):
    known = AutoConfig.for_model(kind)
    sizes = {name: size for name, size in SIZES.items() if getattr(known, name, None) is not None}
    if kind == "xlnet":  # it has no limit, and says so by -1
        del sizes["max_position_embeddings"]
    own = OWN_SIZES.get(kind, {})
    sizes = own if kind == "funnel" else sizes | own
    return AutoConfig.for_model(kind, **sizes, pad_token_id=0, num_labels=3)


@pytest.fixture
def folder(request, tiny_model_dir, tmp_path):
    """Give a folder with a model of this family, whose weights tell texts apart."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(make_config(request.param))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)
    shutil.copytree(tiny_model_dir, tmp_path / "model", ignore=lambda *_: {"config.json"})
    (tmp_path / "model" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_a_text_among_others_gets_the_answer_of_transformers(folder):
    classifier = TextClassifier.load(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = []
    for text in TEXTS:
        inputs = classifier.tokenizer(text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
        expected.append(logits.softmax(dim=1)[0].numpy())
    found = classifier.predict_probabilities(TEXTS)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(found, axis=0).max() > 1e-3


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("folder", [one for one in FAMILIES if one != "fnet"], indirect=True)
def test_gradients_in_bfloat16_are_finite_with_what_is_plugged_in(folder):
    """FNet is left out: on a CPU, its Fourier transform cannot be computed in bfloat16."""
    classifier = TextClassifier.load(folder, dtype="bfloat16")
    working = copy_for_work(classifier.model, classifier.precision).train()
    encoded = classifier.encode(TEXTS * 60)  # operators are for 512 tokens or more
    for _, logits in iter_logits(
        working,
        encoded,
        range(len(encoded)),
        max_tokens=4096,
        pad_id=classifier.pad_id,
        precision=classifier.precision,
    ):
        logits.square().sum().backward()
    gradients = [weight.grad for weight in working.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
