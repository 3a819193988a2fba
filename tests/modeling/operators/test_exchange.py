"""Encoders with compiled operators equal the plain modules within bfloat16 precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification

from bertfit.modeling.attention import NAME, register
from bertfit.modeling.fast_path import ATTENTION_FAMILIES, copy_for_work, plug_in
from bertfit.modeling.operators import attention, encoder, exchange, layers, loading
from bertfit.modeling.operators.layer import pass_layer
from bertfit.modeling.precision import choose_precision
from tests.modeling import test_fast_path
from tests.modeling.test_fast_path import CPU, FAMILIES, VOCABULARY

pytestmark = pytest.mark.usefixtures("for_logits")

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
OF_BERT = ("bert", "roberta", "electra", "xlm-roberta")


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch):
    """Let the operators be used for as few tokens as tests have."""
    monkeypatch.setattr(exchange, "_MIN_ROWS", 1)


def make_classifier(family):
    """Return a random classifier wide enough for the operators, with weights whole in bfloat16."""
    model = test_fast_path.make_classifier(family, width=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return model


def make_fast(family):
    """Return such a classifier in bfloat16, with the fast path."""
    model = make_classifier(family)
    plug_in(model, CPU)
    return model.to(torch.bfloat16)


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

    for module in (attention, encoder, layers):
        monkeypatch.setattr(module, "call", call)
    return names


def register_attention():
    register()
    return NAME


def score(model, **options):
    with torch.inference_mode():
        return model.eval()(**make_batch(), **options)


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
def test_scoring_and_training_give_the_same_logits(family, called):
    model = make_fast(family)
    in_training = model(**make_batch()).logits
    called.clear()
    assert torch.equal(score(model).logits, in_training)
    assert ("encoder_forward" in called) == (family in OF_BERT)


WITH_PARTS_OF_BERT = {
    "mobilebert": {
        "embedding_size": 64,
        "true_hidden_size": 64,
        "hidden_act": "gelu",
        "normalization_type": "layer_norm",
        "use_bottleneck": False,
    },
    "xmod": {"languages": ("en_XX",), "default_language": "en_XX"},
}
"""Families with an output block that has the parts of BERT's and computes something else."""


def build_small(kind, *, intermediate_size=96, num_layers=2, **special):
    """Return a classifier with random weights."""
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        intermediate_size=intermediate_size,
        max_position_embeddings=64,
        num_labels=3,
        **special,
    )
    torch.manual_seed(5)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("kind", WITH_PARTS_OF_BERT)
def test_a_block_with_the_parts_of_bert_that_computes_otherwise_is_left_alone(kind):
    plain = build_small(kind, **WITH_PARTS_OF_BERT[kind])
    with torch.no_grad():  # a norm of weight 1 would change nothing if it were applied twice
        for parameter in plain.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    fast = copy.deepcopy(plain)
    plug_in(fast, CPU)
    expected = score(plain).logits
    away = (score(fast.to(torch.bfloat16)).logits - expected).abs().max()
    away_of_plain = (score(plain.to(torch.bfloat16)).logits - expected).abs().max()
    assert float(away) <= 3 * float(away_of_plain)


@pytest.mark.usefixtures("operators")
def test_a_feed_forward_whose_width_no_block_divides_is_left_to_torch(called):
    """The last of its columns would be left as the memory was, and its gradients would be wrong."""
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    exact = build_small("bert", intermediate_size=100, **rates).to(torch.bfloat16).float()
    plain, fast = copy.deepcopy(exact).to(torch.bfloat16), copy.deepcopy(exact)
    plug_in(fast, CPU)
    of_exact, of_plain = run(exact)[1], run(plain)[1]
    of_fast = run(fast.to(torch.bfloat16))[1]
    assert "attention_backward" in called
    assert measure_error(of_fast, of_exact) <= 1.3 * measure_error(of_plain, of_exact)


@pytest.mark.usefixtures("operators")
def test_an_encoder_without_layers_is_left_alone():
    plain = build_small("bert", num_layers=0).to(torch.bfloat16)
    fast = copy.deepcopy(plain)
    plug_in(fast, CPU)
    torch.testing.assert_close(score(fast).logits, score(plain).logits, atol=2e-2, rtol=2e-2)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("num_tokens", [3, 32, 40, 300])
def test_any_number_of_texts_goes_through_all_layers_at_once(num_tokens, called):
    """One text or several are taken at a time; the last layer, kept whole here, is among them."""
    model = make_classifier("bert").to(torch.bfloat16).eval().base_model
    exchange.exchange_modules(model)
    model.set_attn_implementation(register_attention())
    hidden = torch.randn(7, num_tokens, 64).to(torch.bfloat16)
    mask = torch.zeros(7, 1, 1, num_tokens)
    mask[:, :, :, num_tokens // 2 :] = -1e30
    mask[2] = 0.0
    expected = model.encoder(hidden, mask).last_hidden_state
    assert "encoder_forward" not in called
    before = hidden.clone()
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            assert torch.equal(model.encoder(hidden, mask).last_hidden_state, expected)
            whole = model.encoder(hidden, None).last_hidden_state
    finally:
        torch.set_num_threads(num_threads)
    assert "encoder_forward" in called
    assert torch.equal(whole[2], expected[2])
    assert torch.equal(hidden, before)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("place", [0, 1])
def test_layers_that_differ_are_not_taken_for_one_another(place, called):
    model = make_classifier("bert").to(torch.bfloat16).eval().base_model
    exchange.exchange_modules(model)
    model.set_attn_implementation(register_attention())
    model.encoder.layer[place].attention.output.LayerNorm.eps = 0.5
    inner = model.encoder.layer[place].intermediate.dense = torch.nn.Linear(64, 32)
    outer = model.encoder.layer[place].output.dense = torch.nn.Linear(32, 64)
    for module in (inner.to(torch.bfloat16), outer.to(torch.bfloat16)):
        exchange.exchange_modules(module)
    hidden = torch.randn(3, 50, 64).to(torch.bfloat16)
    expected = model.encoder(hidden).last_hidden_state
    with torch.inference_mode():
        assert torch.equal(model.encoder(hidden).last_hidden_state, expected)
    assert "encoder_forward" in called


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("needs_input", [True, False])
@pytest.mark.parametrize("with_mask", [True, False])
def test_a_layer_as_one_function_is_its_modules_one_by_one(monkeypatch, with_mask, needs_input):
    """The same seeds drop the same numbers; residual gradients alone are rounded once less."""
    model = test_fast_path.make_classifier("bert", dropout=0.2, width=64).to(torch.bfloat16)
    plug_in(model, CPU)
    layer = model.base_model.encoder.layer[0]
    mask = torch.zeros(6, 1, 1, 40).masked_fill(torch.arange(40) > 30, -1e30) if with_mask else None
    values, slopes = (torch.randn(6, 40, 64).to(torch.bfloat16) for _ in range(2))
    passed = []
    monkeypatch.setattr(exchange, "_pass", lambda *a: passed.append(a) or pass_layer(*a))

    def run_layer():
        torch.manual_seed(7)
        layer.zero_grad()
        hidden = values.clone().requires_grad_(needs_input)
        output = layer(hidden, mask)
        output.backward(slopes, retain_graph=True)
        gradients = [p.grad.float() for p in layer.parameters()]
        layer.zero_grad()
        output.backward(slopes)  # once more, out of what was kept
        for of, once_more in zip(gradients, layer.parameters(), strict=True):
            assert torch.equal(of, once_more.grad.float())
        return output, gradients + ([hidden.grad.float() / 2] if needs_input else [])

    together, gradients = run_layer()
    assert len(passed) == 1
    monkeypatch.setattr(exchange, "_asks_for_no_more", lambda *_: False)
    apart, of_apart = run_layer()
    assert len(passed) == 1
    assert torch.equal(together, apart)
    found, expected = (torch.cat([of.flatten() for of in way]) for way in (gradients, of_apart))
    assert float((found - expected).norm()) <= 0.005 * float(expected.norm())


@pytest.mark.usefixtures("operators")
def test_layers_are_left_to_their_parts_where_more_is_asked_than_the_last_one_gives(called):
    model = make_fast("bert")
    plain = score(model)
    called.clear()
    model.config.output_hidden_states = True
    seen = score(model)
    assert "encoder_forward" not in called
    assert len(seen.hidden_states) > len(model.base_model.encoder.layer)
    assert torch.equal(seen.logits, plain.logits)
    model.config.output_hidden_states = False


@pytest.mark.usefixtures("operators")
def test_layers_that_were_changed_or_are_watched_are_left_to_their_parts(called):
    model = make_fast("bert")
    plain = score(model)
    output = model.base_model.encoder.layer[0].output
    watched = []
    handle = output.dense.register_forward_hook(lambda *_: watched.append(1))
    called.clear()
    assert torch.equal(score(model).logits, plain.logits)
    assert watched
    assert "encoder_forward" not in called
    handle.remove()
    score(model)
    assert "encoder_forward" in called
    called.clear()
    output.dense = torch.nn.Sequential(output.dense)
    assert torch.equal(score(model).logits, plain.logits)
    assert "encoder_forward" not in called


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
