"""The forward pass: padding does not change the result, for every family."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers

from bertfit.modeling.classifier import find_last_linear
from bertfit.modeling.fast_path import copy_for_work
from bertfit.modeling.forward import compute_logits, mark_token_types
from bertfit.modeling.precision import choose_precision

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
FAMILIES = {
    "bert": ("BertConfig", {}),
    "distilbert": ("DistilBertConfig", {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 24}),
    "roberta": ("RobertaConfig", {"type_vocab_size": 1}),
    "electra": ("ElectraConfig", {"embedding_size": 8}),
    "albert": ("AlbertConfig", {"embedding_size": 8}),
    "mpnet": ("MPNetConfig", {}),
    "deberta-v2": ("DebertaV2Config", {"relative_attention": True, "pos_att_type": "p2c|c2p"}),
    "modernbert": ("ModernBertConfig", {"cls_token_id": 2, "sep_token_id": 3}),
    "xlm-roberta": ("XLMRobertaConfig", {"type_vocab_size": 1}),
}
LENGTHS = (3, 9, 5, 14)
PAD_ID = 1


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    name, changes = FAMILIES[request.param]
    sizes = SIZES if request.param != "distilbert" else {"vocab_size": 40, "pad_token_id": 1}
    config = getattr(transformers, name)(**(sizes | changes), num_labels=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = transformers.AutoModelForSequenceClassification.from_config(config)
        for parameter in made.parameters():  # larger than at the start, so that all matters
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return made.eval()


@pytest.fixture(scope="module")
def precision():
    return choose_precision("cpu", "float32")


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    return [generator.integers(4, 40, size=length) for length in LENGTHS]


def pad(rows):
    token_ids = np.full((len(rows), max(map(len, rows))), PAD_ID, dtype=np.int64)
    mask = np.zeros_like(token_ids)
    for index, row in enumerate(rows):
        token_ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return token_ids, mask


@torch.no_grad()
def test_a_padded_row_has_the_logits_that_it_has_alone(model, precision, rows):
    padded = compute_logits(model, *pad(rows), precision=precision)
    alone = torch.cat([compute_logits(model, row[None], None, precision=precision) for row in rows])
    torch.testing.assert_close(padded, alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padded_rows_are_computed_together(model, precision, rows):
    """One by one they have the same logits, but take several times as long."""
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _model, _arguments, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    compute_logits(model, *pad(rows), precision=precision)
    hook.remove()
    assert sizes == [len(rows)]


@torch.no_grad()
def test_no_mask_is_a_mask_of_ones(model, precision, rows):
    """Leaving the mask out is for speed alone."""
    row = rows[1][None]
    without = compute_logits(model, row, None, precision=precision)
    masked = compute_logits(model, row, np.ones_like(row), precision=precision)
    torch.testing.assert_close(without, masked, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_float32_in_any_arithmetic(rows, dtype):
    config = transformers.BertConfig(**SIZES)
    model = transformers.BertForSequenceClassification(config).eval()
    logits = compute_logits(model, rows[0][None], None, precision=choose_precision("cpu", dtype))
    assert logits.dtype == torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_logits_of_scoring_are_not_rounded_to_the_type_of_the_arithmetic(model):
    """Of eight bits many would be equal, and the order of the labels would decide."""
    rounded_model = copy.deepcopy(model).eval().to(torch.bfloat16)
    token_ids = torch.randint(5, 40, (64, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = compute_logits(
            rounded_model,
            token_ids.numpy(),
            None,
            precision=choose_precision("cpu", "bfloat16"),
        )
        rounded = rounded_model(input_ids=token_ids).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    torch.testing.assert_close(logits, rounded.float(), rtol=2**-7, atol=2**-8)


def test_the_last_layer_of_a_working_copy_has_the_weights_of_the_model(model):
    """In it, a calibration is folded to the last digit."""
    precision = choose_precision("cpu", "bfloat16")
    working = copy_for_work(model, precision).eval()
    token_ids = torch.randint(5, 40, (8, 9), generator=torch.Generator().manual_seed(0)).numpy()
    layer, layer_copy = map(find_last_linear, (model, working))
    read = []
    hook = layer_copy.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    with torch.inference_mode():
        logits = compute_logits(working, token_ids, None, precision=precision)
        hook.remove()
        exact = torch.nn.functional.linear(read[0].float(), layer.weight, layer.bias)
        rounded = torch.nn.functional.linear(
            read[0].float(), layer_copy.weight.float(), layer.bias.bfloat16().float()
        )
    assert layer_copy.weight.dtype == torch.bfloat16
    torch.testing.assert_close(logits, exact, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(logits, rounded, rtol=1e-5, atol=1e-5)
    assert working.state_dict().keys() == model.state_dict().keys()


@torch.no_grad()
def test_nor_are_those_of_a_decoder_which_scores_every_token(rows):
    config = transformers.GPT2Config(
        **{**SIZES, "n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 32}, num_labels=3
    )
    torch.manual_seed(0)
    model = transformers.GPT2ForSequenceClassification(config).eval().to(torch.bfloat16)
    token_ids, mask = pad(rows)
    precision = choose_precision("cpu", "bfloat16")
    logits = compute_logits(model, token_ids, mask, precision=precision)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    inputs = {"input_ids": token_ids, "attention_mask": mask}
    rounded = model(**{name: torch.from_numpy(of) for name, of in inputs.items()}).logits
    torch.testing.assert_close(logits, rounded.float(), rtol=2**-7, atol=2**-8)


@pytest.mark.parametrize("names", [["input_ids"], ["input_ids", "token_type_ids"]])
def test_gpt2_gets_token_types_if_its_tokenizer_names_them(tiny_model_dir, precision, names):
    """As from transformers: Chinese GPT-2 has BERT's tokenizer, and type 0 is the token 0 to it."""
    sizes = {"vocab_size": 100, "n_embd": 8, "n_layer": 1, "n_head": 2, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes)).eval()
    model.transformer.wte.weight.data[0] = 1.0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_dir, model_input_names=names)
    mark_token_types(model, tokenizer)
    inputs = tokenizer("a good film", return_tensors="pt")
    token_ids = inputs["input_ids"].numpy()
    with torch.no_grad():
        found, plain = (
            compute_logits(one, token_ids, None, precision=precision)
            for one in (model, copy.deepcopy(model))
        )
        assert torch.equal(found, plain)
        torch.testing.assert_close(found, model(**inputs).logits)


def test_a_text_with_another_end_of_text_in_it_is_computed_beside_others(precision):
    """BART's head refuses rows that have that token a different number of times."""
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    config = transformers.BartConfig(
        **sizes, vocab_size=40, decoder_ffn_dim=16, encoder_attention_heads=2, num_labels=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BartForSequenceClassification(config).eval()
    rows = [[0, 9, 10, 11, 2], [0, 9, 2, 2], [0, 12, 2]]
    pad_id = config.pad_token_id
    token_ids = np.array([row + [pad_id] * (5 - len(row)) for row in rows])
    mask = (token_ids != pad_id).astype(np.int64)
    found = compute_logits(model, token_ids, mask, precision=precision)
    found.sum().backward()
    assert model.classification_head.out_proj.weight.grad is not None
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([row])).logits for row in rows])
    torch.testing.assert_close(found, expected)


def test_threads_may_share_a_big_bird(precision):
    """Its attention is exchanged for each length; another thread's text then had the wrong one."""
    config = transformers.BigBirdConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=16,
        num_attention_heads=2,
        block_size=4,
        num_random_blocks=1,
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    rows = np.random.default_rng(0).integers(5, 40, (2, 44))
    texts = [rows[:1], rows[1:, :7]]

    @torch.no_grad()
    def score(text):
        return compute_logits(model, text, None, precision=precision)

    expected = [score(text) for text in texts]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(score, texts * 30))
    for one, right in zip(found, expected * 30, strict=True):
        torch.testing.assert_close(one, right)


@pytest.mark.parametrize("kind", ["BigBird", "BigBirdPegasus"])
def test_big_birds_answer_to_a_text_does_not_depend_on_the_texts_before_it(precision, kind):
    """transformers gives it full attention for good with the first text of 28 tokens or less."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16, "sep_token_id": 3}
    if kind == "BigBirdPegasus":
        sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
        sizes |= {"decoder_attention_heads": 2, "encoder_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, vocab_size=40, num_attention_heads=2, block_size=4, num_random_blocks=1
    )
    ids = np.random.default_rng(0).integers(5, 40, (4, 44))
    rows = [[*row[:length], config.eos_token_id] for row, length in zip(ids, (40, 6, 32, 40))]  # noqa: B905 (of one length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5)
    expected = torch.cat(
        [copy.deepcopy(model)(torch.tensor([row])).logits.detach() for row in rows]
    )
    token_ids = np.array([row + [0] * (41 - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (41 - len(row)) for row in rows])
    for _ in range(2):
        found = compute_logits(model, token_ids, mask, precision=precision)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    full = copy.deepcopy(model)
    with torch.no_grad():
        full(torch.tensor([rows[1]]))
        changed = full(torch.tensor([rows[0]])).logits[0]
    assert (changed - expected[0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["XLMConfig", "FlaubertConfig"])
def test_a_padding_token_that_a_text_has_is_no_padding(name, precision):
    """Without a mask, these two families take it for that, and only beside longer texts not."""
    sizes = {"vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "pad_index": PAD_ID}
    config = getattr(transformers, name)(**sizes, pad_token_id=PAD_ID, num_labels=3)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
        text, longer = np.array([[5, PAD_ID, 7]]), np.array([[5, 6, 7, 8, 9]])
        beside = np.concatenate([np.pad(text, [(0, 0), (0, 2)], constant_values=PAD_ID), longer])
        mask = np.array([[1, 1, 1, 0, 0], [1] * 5])
        alone = compute_logits(model, text, None, precision=precision)
        padded = compute_logits(model, beside, mask, precision=precision)[:1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-5)
