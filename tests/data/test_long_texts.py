"""Long texts: the ends alone give the tokens that truncation keeps of the whole text."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from bertfit.data import long_texts
from bertfit.data.cleaning import BREAK_PATTERN
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.data.long_texts import cut_ends, join_ends, splits_at_spaces

UNKNOWN = "<unk>"
RULES = ("head", "tail", "head+tail")
PIECES = [
    "a good film",
    " ",
    "  \n \t ",
    " " * 90,
    "\n",
    "<br />",
    " [SEP] ",
    "[MASK]",
    "Schöne Grüße ",
    " \u0301",  # a space with an accent
    "你好电影",
    "supercalifragilistic" * 4,
    "abcdefghij" * 30,
    "don't, 1,000.5! ",
    "\u200b\x00",
    "\u3000",
    "▁",
]


def train_byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, show_progress=False, special_tokens=["[SEP]"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(PIECES, trainer)
    return tokenizer


def train_unigram():
    """Return a tokenizer built like XLM-RoBERTa's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        show_progress=False,
        special_tokens=[UNKNOWN, "[SEP]"],
        unk_token=UNKNOWN,
    )
    tokenizer.train_from_iterator([*PIECES, "abcdefghijklmnopqrstuvwxyz"], trainer)
    return tokenizer


@pytest.fixture(scope="module", params=["word pieces", "byte level", "unigram"])
def tokenizer(request, tiny_model_dir):
    if request.param == "byte level":
        return train_byte_level()
    if request.param == "unigram":
        return train_unigram()
    return Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))


def encode(texts, tokenizer, **rule):
    return encode_texts(texts, tokenizer, EncodingRule(**{"max_length": 12, **rule}))


def encode_whole(texts, tokenizer, **rule):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "_WORTH_CUTTING", 10**9)
        return encode(texts, tokenizer, **rule)


@contextmanager
def short_ends():
    """Make texts of a few hundred characters long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_texts, "LEAST_READ", 8)
        patch.setattr(long_texts, "_SLACK", 16)
        patch.setattr(long_texts, "_CHARACTERS_PER_TOKEN", 4)
        yield


@pytest.mark.parametrize("truncation", RULES)
def test_a_long_text_has_the_tokens_of_the_whole_and_about_as_many(tokenizer, truncation):
    texts = ["a good film, not a bad one. " * 2_000, "short", "the [SEP] plot " * 3_000]
    rule = {"max_length": 100, "truncation": truncation}
    found, whole = encode(texts, tokenizer, **rule), encode_whole(texts, tokenizer, **rule)
    assert found.token_ids.tolist() == whole.token_ids.tolist()
    assert found.offsets.tolist() == whole.offsets.tolist()
    np.testing.assert_allclose(found.full_lengths, whole.full_lengths, rtol=0.01)


@given(
    drawn=st.lists(st.sampled_from(PIECES), min_size=20, max_size=150),
    truncation=st.sampled_from(RULES),
    max_length=st.integers(4, 40),
)
def test_the_ends_of_any_text_have_the_tokens_of_the_whole(
    tokenizer, drawn, truncation, max_length
):
    texts = ["".join(drawn), " ".join(drawn)]
    rule = {"max_length": max_length, "truncation": truncation}
    with short_ends():
        found, whole = encode(texts, tokenizer, **rule), encode_whole(texts, tokenizer, **rule)
    assert found.token_ids.tolist() == whole.token_ids.tolist()
    assert found.is_truncated.tolist() == whole.is_truncated.tolist()


def test_lengths_that_decide_what_is_cut_are_exact_on_both_sides(tokenizer):
    """A limit of up to 512 tokens is passed or not, whatever is kept."""
    texts = ["a good film " * count for count in (20, 150, 180, 400, 2_000, 40_000)]
    found, whole = encode(texts, tokenizer), encode_whole(texts, tokenizer)
    for limit in (12, 128, 256, 512):
        assert ((found.full_lengths > limit) == (whole.full_lengths > limit)).all()


@pytest.mark.parametrize(
    ("normalizer", "splits"),
    [
        (normalizers.Lowercase(), True),
        (normalizers.Sequence([normalizers.NFC(), normalizers.Replace("a", "b")]), True),
        (normalizers.Replace(Regex(BREAK_PATTERN), " "), True),
        (normalizers.Replace(Regex("(?m)<!--.*?-->"), " "), False),
    ],
)
def test_texts_are_cut_only_if_what_changes_a_word_is_near_it(normalizer, splits):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, UNKNOWN: 1}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizers.Whitespace(), normalizer
    assert splits_at_spaces(tokenizer) == splits


def test_a_text_that_is_read_whole_has_no_estimated_length(tokenizer):
    texts = ["a good film " * 4_000, ("good" + " " * 400) * 90, "short"]
    found, whole = encode(texts, tokenizer), encode_whole(texts, tokenizer)
    assert found.is_estimated.tolist() == [True, False, False]
    assert found.full_lengths[1:].tolist() == whole.full_lengths[1:].tolist()


@pytest.mark.parametrize("text", ["film" * 9_000, " " * 40_000, "\u200b " * 20_000])
@pytest.mark.parametrize("truncation", RULES)
def test_a_text_without_spaces_or_words_at_its_ends_is_read_whole(tokenizer, text, truncation):
    rule = {"max_length": 100, "truncation": truncation}
    found, whole = encode([text], tokenizer, **rule), encode_whole([text], tokenizer, **rule)
    assert found.token_ids.tolist() == whole.token_ids.tolist()


@pytest.mark.parametrize("truncation", RULES)
@pytest.mark.parametrize("num_kept", [3, 8, 20])
def test_ends_of_too_few_tokens_are_not_joined(num_kept, truncation):
    """However few are kept, so that the length of a short text is counted, not estimated."""
    num_ends = 2 if truncation == "head+tail" else 1
    too_few = max(num_kept, 8) + 16  # those next to the cut are not used
    enough = range(too_few + 1)
    with short_ends():
        ends = [enough] * (num_ends - 1) + [range(too_few)]
        assert join_ends(ends, num_kept, truncation) is None
        joined = join_ends([enough] * num_ends, num_kept, truncation)
    assert joined is not None
    assert len(joined) == num_ends * (too_few + 1 - 16)


def test_only_the_ends_of_a_long_text_are_tokenized(tiny_model_dir):
    """Else this would take gigabytes: it is two thousand times as long as what is read."""
    lengths = []

    class Watched:
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

        def __getattr__(self, name):
            return getattr(self.tokenizer, name)

        def encode_batch_fast(self, texts, **options):
            lengths.extend(map(len, texts))
            return self.tokenizer.encode_batch_fast(texts, **options)

    tokenizer = Watched(Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json")))
    text = "a good film, not a bad one. " * 400_000
    assert encode([text], tokenizer, truncation="head+tail").num_truncated == 1
    assert len(lengths) == 2
    assert max(lengths) < len(text) / 2_000


def test_ends_are_cut_where_words_end():
    text = "one two\n\n  three " * 3_000
    (head,) = cut_ends(text, 128, "head")
    (tail,) = cut_ends(text, 128, "tail")
    assert text.startswith((f"{head}\n", f"{head} "))
    assert head == head.rstrip()
    assert tail[0] == " " != tail[1]
    assert text.endswith(tail)
    assert cut_ends(text, 128, "head+tail") == [head, tail]


@pytest.mark.parametrize(
    ("steps", "splits"),
    [
        (None, False),
        (pre_tokenizers.BertPreTokenizer(), True),
        (pre_tokenizers.ByteLevel(), True),
        (pre_tokenizers.ByteLevel(use_regex=False), False),
        (pre_tokenizers.Metaspace(), True),
        (pre_tokenizers.Metaspace(split=False), False),
        (pre_tokenizers.Digits(), False),
        (pre_tokenizers.Split(" ", "isolated"), False),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Split("a", "isolated"), pre_tokenizers.ByteLevel()]
            ),
            False,
        ),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits()]), False),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(), pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])]
            ),
            True,
        ),
    ],
)
def test_texts_are_cut_only_where_words_become_tokens_by_themselves(steps, splits):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, UNKNOWN: 1}, unk_token=UNKNOWN))
    if steps is not None:
        tokenizer.pre_tokenizer = steps
    assert splits_at_spaces(tokenizer) == splits
    texts = ["a " * 20_000, "a a"]
    found = encode(texts, tokenizer)
    assert found.is_estimated.tolist() == [splits, False]
    assert found.token_ids.tolist() == (encode_whole(texts, tokenizer).token_ids.tolist())
