"""Encoding: the same ids as transformers, and truncation that keeps the stated tokens."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bertfit.data.cleaning import fold_cleaning
from bertfit.data.encoding import (
    EncodingRule,
    encode_texts,
    find_special_tokens,
    join_encoded,
    truncate,
)
from bertfit.errors import ModelError
from bertfit.modeling.tokenizer_files import fast_tokenizer
from tests.test_labels import ANY_CHARACTER

TEXTS = [
    "a good film",
    "the plot was awful, poor and bad. " * 4,
    "",
    " ",
    "Schöne Grüße 你好 🎬",
    "supercalifragilistic",
    "not [SEP] good [MASK]",
    "</s> the <s>",
    "a\tgood\n\nfilm <br /> the end",
]


def make_bert_tokenizer(model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


def make_roberta_tokenizer():
    """Give a byte-level BPE that puts <s> and </s> around a text, as RoBERTa's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = ("bos", "eos", "cls", "sep", "pad", "unk", "mask")
    tokens = ("<s>", "</s>", "<s>", "</s>", "<pad>", "<unk>", "<mask>")
    special = {f"{name}_token": token for name, token in zip(names, tokens, strict=True)}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def tokenizer(request, tiny_model_dir):
    if request.param == "roberta":
        return make_roberta_tokenizer()
    return make_bert_tokenizer(tiny_model_dir)


@pytest.fixture(scope="module")
def bert(tiny_model_dir):
    return make_bert_tokenizer(tiny_model_dir)


def encode(texts, tokenizer, *, on_progress=None, **rule):
    rule = EncodingRule(**{"max_length": 64, **rule})
    return encode_texts(texts, fast_tokenizer(tokenizer), rule, on_progress=on_progress)


def rows_of(encoded) -> list[list[int]]:
    """Return each text's ids."""
    offsets = encoded.offsets
    return [encoded.token_ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


@pytest.mark.parametrize("max_length", [4, 8, 16, 64, 1000])
def test_head_truncation_gives_the_ids_of_transformers(tokenizer, max_length):
    encoded = encode(TEXTS, tokenizer, max_length=max_length)
    expected = tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]
    fast_tokenizer(tokenizer)  # transformers had switched truncation on in the same object
    assert rows_of(encoded) == expected


@given(text=st.text(ANY_CHARACTER, max_size=40), max_length=st.integers(3, 20))
def test_any_text_gives_the_ids_of_transformers(tokenizer, text, max_length):
    expected = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    assert rows_of(encode([text], tokenizer, max_length=max_length)) == [expected]


@pytest.mark.parametrize("truncation", ["head", "tail", "head+tail"])
def test_every_rule_keeps_the_special_tokens(tokenizer, truncation):
    encoded = encode(TEXTS, tokenizer, max_length=6, truncation=truncation)
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert {(row[0], row[-1]) for row in rows_of(encoded)} == {(first, last)}


def test_tail_truncation_keeps_the_end(bert):
    (row,) = rows_of(encode(["good a the is bad"], bert, max_length=4, truncation="tail"))
    assert bert.convert_ids_to_tokens(row) == ["[CLS]", "is", "bad", "[SEP]"]


def test_head_and_tail_truncation_keeps_both_ends(bert):
    rule = {"max_length": 6, "truncation": "head+tail", "head_fraction": 0.25}
    (row,) = rows_of(encode(["good a the is was of bad"], bert, **rule))
    assert bert.convert_ids_to_tokens(row) == ["[CLS]", "good", "was", "of", "bad", "[SEP]"]


def test_a_text_that_fits_is_the_same_under_every_rule(bert):
    rows = [
        rows_of(encode(["a good film"], bert, max_length=5, truncation=truncation))
        for truncation in ("head", "tail", "head+tail")
    ]
    assert rows[0] == rows[1] == rows[2]


@given(
    num_ids=st.integers(0, 40),
    room=st.integers(1, 30),
    truncation=st.sampled_from(["head", "tail", "head+tail"]),
    head_fraction=st.floats(0.01, 0.99),
)
def test_truncation_keeps_as_much_as_there_is_room_for(num_ids, room, truncation, head_fraction):
    """No token twice, none out of order, and all of a text that fits."""
    rule = EncodingRule(max_length=99, truncation=truncation, head_fraction=head_fraction)
    kept = list(truncate(range(num_ids), room, rule))
    assert len(kept) == min(num_ids, room)
    assert kept == sorted(set(kept))


def test_the_share_of_the_head_is_rounded():
    """To 128 of 510 tokens, as in the source of the default."""
    kept = truncate(range(1000), 510, EncodingRule(max_length=512, truncation="head+tail"))
    assert list(kept) == [*range(128), *range(618, 1000)]


@given(num_ids=st.integers(10, 40), room=st.integers(2, 9), head_fraction=st.floats(0.01, 0.99))
def test_head_and_tail_both_keep_something_where_two_fit(num_ids, room, head_fraction):
    rule = EncodingRule(max_length=99, truncation="head+tail", head_fraction=head_fraction)
    kept = truncate(list(range(num_ids)), room, rule)
    assert (kept[0], kept[-1]) == (0, num_ids - 1)


def test_full_lengths_are_those_before_truncation(bert):
    encoded = encode(["a good film", "a a a a a a"], bert, max_length=5)
    assert encoded.full_lengths.tolist() == [5, 8]
    assert encoded.lengths.tolist() == [5, 5]
    assert encoded.num_truncated == 1


@pytest.mark.parametrize(("vocabulary", "blank"), [({"a": 0, "\u0120": 1}, 1), ({"a": 0}, 0)])
def test_every_text_has_a_token_where_there_are_no_special_ones(vocabulary, blank):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoded = encode_texts(["a", "", "\u200b", "aa"], tokenizer, EncodingRule(max_length=4))
    assert rows_of(encoded) == [[0], [blank], [blank], [0, 0]]
    assert encoded.num_truncated == 0


def test_no_texts_give_no_rows(bert):
    encoded = encode([], bert)
    assert (len(encoded), encoded.token_ids.tolist(), encoded.num_truncated) == (0, [], 0)


def test_arrays_are_as_compact_as_they_are_documented(bert):
    encoded = encode(["a"], bert)
    types = (encoded.token_ids.dtype, encoded.offsets.dtype, encoded.full_lengths.dtype)
    assert types == (np.int32, np.int64, np.int32)


def test_many_texts_are_encoded_in_chunks_and_in_order(bert):
    texts = ["a " * (number % 7) for number in range(2500)]
    seen = []
    encoded = encode(texts, bert, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1024, 2500), (2048, 2500), (2500, 2500)]
    assert encoded.lengths.tolist() == [2 + number % 7 for number in range(2500)]


def test_joined_pieces_are_as_if_encoded_at_once(bert):
    whole = encode(TEXTS, bert, max_length=6)
    joined = join_encoded([encode(some, bert, max_length=6) for some in (TEXTS[:2], TEXTS[2:])])
    for name in ("token_ids", "offsets", "full_lengths"):
        expected, found = getattr(whole, name), getattr(joined, name)
        assert (found.tolist(), found.dtype) == (expected.tolist(), expected.dtype)


def test_a_vocabulary_without_the_token_for_unknown_words_is_an_error(bert):
    settings = json.loads(fast_tokenizer(bert).to_str())
    settings["model"] |= {"unk_token": "[NONE]"}
    damaged = Tokenizer.from_str(json.dumps(settings))
    rule = EncodingRule(max_length=6)
    assert len(encode_texts(["the"], damaged, rule)) == 1
    with pytest.raises(ModelError, match=r"cannot encode a text: .*Missing \[UNK\]") as caught:
        encode_texts(["the", "漢"], damaged, rule)
    assert "Get a good copy of the model." in caught.value.hint
    settings["model"]["vocab"].pop("a", None)
    with pytest.raises(ModelError, match="cannot encode a text"):
        find_special_tokens(Tokenizer.from_str(json.dumps(settings)))


def test_a_text_on_which_a_tokenizer_panics_is_an_error(bert, capfd):
    """Panics are of a class of their own, which is no Exception."""
    settings = json.loads(fast_tokenizer(bert).to_str())
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    settings["pre_tokenizer"] = {**endless, "invert": False}
    rule, damaged = EncodingRule(max_length=6), Tokenizer.from_str(json.dumps(settings))
    encode_texts(["the"], damaged, rule)
    with pytest.raises(ModelError, match="cannot encode a text"):
        encode_texts(["a" * 40 + "!"], damaged, rule)
    assert "panicked" in capfd.readouterr().err


def test_what_is_no_text_is_not_blamed_on_the_tokenizer(bert):
    with pytest.raises(TypeError):
        encode([b"the film"], bert)


def test_no_room_for_text_is_an_error(bert):
    with pytest.raises(ModelError) as caught:
        encode(["a"], bert, max_length=2)
    assert str(caught.value) == "max_length 2 leaves no room for text beside 2 special tokens"


def test_special_tokens_are_found_where_the_tokenizer_puts_them(tokenizer):
    found = find_special_tokens(fast_tokenizer(tokenizer))
    assert found == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])


@pytest.mark.parametrize(
    ("template", "unknown", "expected"),
    [
        ("[CLS] $A [SEP]", "[UNK]", ([1], [2])),
        ("$A [SEP]", "[UNK]", ([], [2])),
        ("[CLS] $A", "[UNK]", ([1], [])),
        ("[CLS] $A [SEP]", None, ([1], [2])),
    ],
)
def test_special_tokens_are_found_though_the_probe_is_unknown(template, unknown, expected):
    """The probe is "a", which a vocabulary of another script may not have."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "你": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    assert find_special_tokens(tokenizer) == expected


def test_encoding_applies_the_rules_cleaning(bert):
    dirty = encode(["a<br />film"], bert, text_cleaning="html_breaks")
    assert rows_of(dirty) == rows_of(encode(["a film"], bert))


def test_a_tokenizer_that_cleans_by_itself_gets_the_text_as_it_is(bert, tiny_model_dir, tmp_path):
    """What is left of a tag that had another within it would else be cleaned as well."""
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    fold_cleaning(folder)
    folded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rule = EncodingRule(max_length=64, text_cleaning="html_breaks")
    texts = ["a<br />film", "a<<br>br>film"]
    expected = encode(texts, bert, text_cleaning="html_breaks")
    assert rows_of(encode_texts(texts, folded, rule)) == rows_of(expected)
    assert expected.lengths[0] < expected.lengths[1]


def test_a_probe_of_several_tokens_has_no_special_ones_among_them():
    """As of a vocabulary that has the mark of a space and "a" only apart."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "▁": 3, "a": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    assert find_special_tokens(tokenizer) == ([1], [2])
