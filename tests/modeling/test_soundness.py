"""A model is tried on two texts before it is used."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    BigBirdConfig,
    ConvBertConfig,
    FNetConfig,
    GPT2Config,
    XLNetConfig,
)

from bertfit import TextClassifier
from bertfit.data.encoding import EncodingRule
from bertfit.errors import ModelError
from bertfit.modeling import soundness
from bertfit.modeling.classifier import LoadedClassifier, load_classifier
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.soundness import (
    explain_failure,
    find_type_fault,
    reads_padding,
    try_model,
)

SMALL = {
    "vocab_size": 100,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
READ_PADDING = {
    "fnet": FNetConfig(**SMALL),
    "xlnet": XLNetConfig(vocab_size=100, d_model=8, n_layer=1, n_head=2, d_inner=8),
    "convbert": ConvBertConfig(**SMALL, embedding_size=8, num_attention_heads=2),
}


@pytest.fixture
def loaded(tiny_model_dir):
    return load_classifier(str(tiny_model_dir), ["neg", "pos"])


def with_model(loaded, config):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    for parameter in model.parameters():  # the weights of a start hardly tell texts apart
        parameter.data.mul_(3)
    return LoadedClassifier(model, loaded.tokenizer, (), is_whole=True, is_encoder=False)


def test_a_model_that_is_tried_stays_as_it_was(loaded):
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for is_training in (True, False):
        loaded.model.train(is_training)
        try_model(loaded, "bert")
        assert loaded.model.training is is_training
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not reads_padding(loaded.model)


def test_a_damaged_weight_is_told_of(loaded):
    with torch.no_grad():
        loaded.model.bert.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    with pytest.raises(ModelError) as caught:
        try_model(loaded, "mine")
    assert str(caught.value) == (
        "the model 'mine' answers a text with numbers that are not finite\n"
        "Some of its weights are damaged. Get a good copy of it, or use another."
    )


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_damaged_weight_of_one_class_is_told_of(loaded, number):
    with torch.no_grad():
        loaded.model.classifier.bias[1] = number
    with pytest.raises(ModelError, match="numbers that are not finite"):
        try_model(loaded, "mine")


def test_a_model_is_tried_with_few_threads_which_concerns_nobody_else(loaded):
    seen, elsewhere, before = [], [], torch.get_num_threads()

    def look(*_):
        seen.append(torch.get_num_threads())
        other = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        other.start()
        other.join()

    loaded.model.register_forward_hook(look)
    try:
        for num_threads in (16, 1):
            torch.set_num_threads(num_threads)
            try_model(loaded, "bert")
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert seen == [4, 4, 1, 1]
    assert elsewhere == [16, 16, 1, 1]


@pytest.mark.parametrize(("difference", "reads_it"), [(1e-6, False), (1e-3, True)])
def test_rounding_is_not_taken_for_padding_where_logits_cancel_out(
    loaded, monkeypatch, difference, reads_it
):
    """A trained model may find both classes equally likely: its logits are then almost 0."""

    def answer(input_ids, **_):
        rows = [[1e-5, -1e-5]] if len(input_ids) == 1 else [[1e-5 + difference, -1e-5], [1, -1]]
        return SimpleNamespace(logits=torch.tensor(rows))

    monkeypatch.setattr(loaded.model, "forward", answer)
    try_model(loaded, "bert")
    assert reads_padding(loaded.model) is reads_it


def test_big_bird_keeps_the_attention_of_its_configuration(loaded):
    """In transformers, a batch of short texts gives it full attention for good."""
    tried = with_model(loaded, BigBirdConfig(**SMALL, num_attention_heads=2))
    try_model(tried, "big_bird")
    assert tried.model.bert.attention_type == "block_sparse"
    (layer,) = tried.model.bert.encoder.layer
    assert type(layer.attention.self).__name__ == "BigBirdBlockSparseAttention"


@pytest.mark.parametrize("kind", READ_PADDING)
def test_a_text_has_one_answer_of_a_model_that_reads_padding(loaded, kind):
    tried = with_model(loaded, READ_PADDING[kind])
    try_model(tried, kind)
    assert reads_padding(copy.deepcopy(tried.model))
    classifier = TextClassifier(
        tried.model,
        tried.tokenizer,
        rule=EncodingRule(max_length=32),
        precision=choose_precision("cpu", "float32"),
    )
    texts = ["good", "a good film", "bad", "the plot of the film was poor " * 3, "fine"]
    alone = np.concatenate([classifier.predict_probabilities([text]) for text in texts])
    again = pickle.loads(pickle.dumps(classifier))  # noqa: S301 (what this test has just made)
    for one in (classifier, again):
        np.testing.assert_allclose(one.predict_probabilities(texts), alone, atol=1e-6)
    assert np.ptp(alone[:, 0]) > 1e-4  # texts do differ


@pytest.mark.parametrize(
    ("named", "token", "kept"), [(7, "[PAD]", 0), (0, "[PAD]", 0), (7, "[MASK]", 4)]
)
def test_a_decoder_looks_for_the_padding_token_of_its_tokenizer(loaded, named, token, kept):
    """Or its head reads padding, also for whoever loads the run and pads by its tokenizer."""
    loaded.tokenizer.pad_token = token
    config = GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=2, pad_token_id=named)
    tried = with_model(loaded, config)
    try_model(tried, "gpt2")
    assert tried.model.config.pad_token_id == kept == loaded.tokenizer.pad_token_id
    assert not reads_padding(tried.model)


@pytest.mark.parametrize("kind", ["fnet", "t5", "nystromformer", "bert"])
def test_only_the_type_is_blamed_for_what_fails_in_it_alone(tiny_model_dir, tmp_path, kind):
    """T5 wants an end in each text; Nystromformer's landmarks fit few lengths, in any type."""
    landmarks = {"num_landmarks": 8, "segment_means_seq_len": 64}
    small = {"vocab_size": 100, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    own = {
        "fnet": {},
        "t5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "decoder_start_token_id": 0, "eos_token_id": 3},
        "nystromformer": landmarks,
        "bert": {},
    }
    config = AutoConfig.for_model(kind, **small, **own[kind], pad_token_id=0, intermediate_size=8)
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    loaded = load_classifier(str(folder), ["neg", "pos"])
    precision = Precision(torch.device("cpu"), torch.bfloat16, "a test")
    fault = find_type_fault(loaded, precision)
    assert (fault is not None) == (kind == "fnet")
    assert all(weight.grad is None for weight in loaded.model.parameters())


@pytest.mark.parametrize("where", ["nowhere", "with dropout", "in the backward pass"])
def test_a_type_that_fails_in_training_alone_is_at_fault(loaded, monkeypatch, where):
    config = GPT2Config(vocab_size=100, n_embd=8, n_layer=1, n_head=2, pad_token_id=0)
    right = soundness.compute_logits

    def fail(_gradient=None):
        raise RuntimeError("not in bfloat16")

    def compute(model, *arguments, precision):
        logits = right(model, *arguments, precision=precision)
        if precision.dtype == torch.bfloat16 and where == "in the backward pass":
            logits.register_hook(fail)
        if precision.dtype == torch.bfloat16 and where == "with dropout" and model.training:
            fail()
        return logits

    monkeypatch.setattr(soundness, "compute_logits", compute)
    precision = Precision(torch.device("cpu"), torch.bfloat16, "a test")
    fault = find_type_fault(with_model(loaded, config), precision)
    assert fault == (None if where == "nowhere" else "RuntimeError: not in bfloat16")


@pytest.mark.parametrize("kind", ["fnet", "bert"])
def test_where_another_padding_token_would_not_help_the_models_own_is_kept(loaded, kind):
    """FNet reads any padding, and BERT none."""
    sizes = SMALL | {"pad_token_id": 3}
    configs = {"fnet": FNetConfig(**sizes), "bert": BertConfig(**sizes, num_attention_heads=2)}
    tried = with_model(loaded, configs[kind])
    try_model(tried, kind)
    assert reads_padding(tried.model) is (kind == "fnet")
    assert tried.model.config.pad_token_id == 3


def test_of_a_long_explanation_the_first_line_is_shown():
    with pytest.raises(ModelError) as caught, explain_failure("bert"):
        raise RuntimeError("\nsizes differ\nset TORCH_TRACE to see more")
    assert caught.value.message == "the model 'bert' cannot be computed: RuntimeError: sizes differ"


def test_what_a_model_itself_raises_is_shown_without_a_traceback(loaded):
    """BART's head looks for the token at which a text ends, which this tokenizer does not give."""
    config = BartConfig(
        vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1, eos_token_id=99
    )
    with pytest.raises(ModelError, match=r"'bart' cannot be computed: .*<eos>") as caught:
        try_model(with_model(loaded, config), "bart")
    assert "encoders such as BERT" in str(caught.value)


def test_a_tokenizer_of_another_model_is_named_as_such(loaded):
    config = BertConfig(**SMALL | {"vocab_size": 6}, num_attention_heads=1)
    with pytest.raises(ModelError, match="but the model has embeddings for 6 tokens"):
        try_model(with_model(loaded, config), "bert")


def test_memory_that_runs_out_is_no_fault_of_the_model(loaded, monkeypatch):
    def run_out(**_):
        raise torch.OutOfMemoryError("for now")

    monkeypatch.setattr(loaded.model, "forward", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        try_model(loaded, "bert")


def test_memory_that_runs_out_is_no_fault_of_the_type(loaded, monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("for now")

    monkeypatch.setattr(soundness, "compute_logits", run_out)
    tried = with_model(loaded, READ_PADDING["fnet"])
    with pytest.raises(torch.OutOfMemoryError):
        find_type_fault(tried, Precision(torch.device("cpu"), torch.bfloat16, "a test"))


def test_trying_a_type_draws_none_of_the_callers_random_numbers(loaded):
    tried = with_model(loaded, XLNetConfig(vocab_size=100, d_model=8, n_layer=1, n_head=2))
    before = torch.get_rng_state()
    find_type_fault(tried, Precision(torch.device("cpu"), torch.bfloat16, "a test"))
    assert torch.equal(torch.get_rng_state(), before)
