"""A model is tried on two texts before it is used."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BartConfig, BertConfig, FNetConfig

from bertfit.errors import ModelError
from bertfit.modeling.classifier import LoadedClassifier, load_classifier
from bertfit.modeling.soundness import check_sound

SMALL = {
    "vocab_size": 100,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


@pytest.fixture
def loaded(tiny_model_dir):
    return load_classifier(str(tiny_model_dir), ["neg", "pos"])


def with_model(loaded, config):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    return LoadedClassifier(model, loaded.tokenizer, (), is_whole=True, is_encoder=False)


def test_a_sound_model_stays_as_it_was(loaded):
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for is_training in (True, False):
        loaded.model.train(is_training)
        check_sound(loaded, "bert")
        assert loaded.model.training is is_training
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_model_without_an_attention_mask_is_refused(loaded):
    with pytest.raises(ModelError, match="'fnet' reads padding: expected the same"):
        check_sound(with_model(loaded, FNetConfig(**SMALL)), "fnet")


def test_what_a_model_itself_raises_is_shown_without_a_traceback(loaded):
    """BART's head looks for the token at which a text ends, which this tokenizer does not give."""
    config = BartConfig(
        vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1, eos_token_id=99
    )
    with pytest.raises(ModelError, match=r"'bart' cannot be computed: .*<eos>") as caught:
        check_sound(with_model(loaded, config), "bart")
    assert "encoders such as BERT" in str(caught.value)


def test_a_tokenizer_of_another_model_is_named_as_such(loaded):
    config = BertConfig(**SMALL | {"vocab_size": 6}, num_attention_heads=1)
    with pytest.raises(ModelError, match="but the model has embeddings for 6 tokens"):
        check_sound(with_model(loaded, config), "bert")


def test_memory_that_runs_out_is_no_fault_of_the_model(loaded, monkeypatch):
    def run_out(**_):
        raise torch.OutOfMemoryError("for now")

    monkeypatch.setattr(loaded.model, "forward", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        check_sound(loaded, "bert")
