"""Faults of texts after tokenization."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from bertfit.data import token_faults
from bertfit.data.dataset import Columns
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.data.readers import read_dataset
from bertfit.data.token_faults import (
    choose_rows,
    count_encoded,
    count_tokens,
    describe_token_lengths,
    describe_tokens,
    shows_more,
    tell_known_signs,
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))


TEXTS = ["a good film", "好 电 影 film", "这 是 a film", "\u200b\u200b", "good"]


def count(tokenizer, texts=TEXTS):
    unknown_id = tokenizer.token_to_id("[UNK]")
    return count_tokens(texts, tokenizer, unknown_id, rows=np.arange(len(texts)))


def test_tokens_are_counted_without_special_ones(tokenizer):
    counts = count(tokenizer)
    assert counts.full_lengths.tolist() == [5, 6, 6, 2, 3]
    assert counts.num_read.tolist() == [3, 4, 4, 0, 1]
    assert counts.num_unknown.tolist() == [0, 3, 2, 0, 0]


def test_encoded_texts_give_the_same_counts(tokenizer):
    encoded = encode_texts(TEXTS, tokenizer, EncodingRule(max_length=512))
    counts = count_encoded(encoded, tokenizer.token_to_id("[UNK]"), 2)
    assert counts.num_unknown.tolist() == count(tokenizer).num_unknown.tolist()


def test_texts_are_counted_chunk_by_chunk(tokenizer, monkeypatch):
    monkeypatch.setattr(token_faults, "_CHUNK_SIZE", 2)
    heard = []
    counts = count_tokens(
        TEXTS,
        tokenizer,
        tokenizer.token_to_id("[UNK]"),
        rows=np.array([4, 1, 3]),
        on_progress=lambda done, total: heard.append((done, total)),
    )
    assert counts.rows.tolist() == [4, 1, 3]
    assert counts.full_lengths.tolist() == [3, 6, 2]
    assert counts.num_read.tolist() == [1, 4, 0]
    assert counts.num_unknown.tolist() == [0, 3, 0]
    assert heard == [(2, 3), (3, 3)]


def test_of_a_long_text_unknown_tokens_are_counted_as_far_as_models_read(tokenizer):
    counts = count(tokenizer, ["好 " * 600])
    assert (counts.full_lengths.tolist(), counts.num_read.tolist()) == ([602], [510])
    assert counts.num_unknown.tolist() == [510]


def test_texts_of_no_or_mostly_unknown_tokens_are_found(tokenizer):
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in TEXTS], Columns())
    nothing, unknown = describe_tokens("train", rows, count(tokenizer))
    assert (nothing.kind, nothing.count, nothing.examples[0].line) == ("no_tokens", 1, 4)
    assert (unknown.kind, unknown.count, unknown.examples[0].line) == ("unknown_tokens", 1, 2)
    assert unknown.examples[0].note == "3 of 4 unknown"
    assert "another model" in unknown.advice
    assert unknown.message == (
        "1 row of train (20.0 %) becomes mostly unknown tokens in this model's vocabulary."
    )


def test_more_than_half_of_the_tokens_is_mostly(tokenizer):
    texts = ["好 a", "好 影 a", "好 影 电 a film"]
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    (found,) = describe_tokens("train", rows, count(tokenizer, texts))
    assert [example.line for example in found.examples] == [2, 3]
    assert found.message == (
        "2 rows of train (66.7 %) become mostly unknown tokens in this model's vocabulary."
    )


def test_texts_of_known_tokens_give_no_finding(tokenizer):
    rows, _ = read_dataset([{"text": "a good film", "label": "x"}], Columns())
    assert not list(describe_tokens("train", rows, count(tokenizer, rows.texts)))


def test_a_tokenizer_without_unknown_token_knows_all(tokenizer):
    counts = count_tokens(["[PAD] a", *TEXTS], tokenizer, None, rows=np.arange(6))
    assert tokenizer.token_to_id("[PAD]") == 0  # no id stands for the token that is not there
    assert counts.num_unknown.sum() == 0


@pytest.mark.parametrize(("max_length", "num_read"), [(None, 510), (128, 510), (600, 598)])
def test_tokens_are_counted_up_to_a_limit_that_is_larger_than_usual(
    tokenizer, max_length, num_read
):
    options = {"rows": np.arange(1), "max_length": max_length}
    counts = count_tokens(["好 " * 700], tokenizer, tokenizer.token_to_id("[UNK]"), **options)
    assert (counts.num_read.tolist(), counts.num_unknown.tolist()) == ([num_read], [num_read])


def test_texts_are_counted_as_a_training_would_clean_them(tokenizer):
    text, options = "a<br />film", {"unknown_id": None, "rows": np.arange(1)}
    lengths = [
        count_tokens([text], tokenizer, cleaning=cleaning, **options).full_lengths.tolist()
        for cleaning in ("none", "html_breaks")
    ]
    assert lengths[0] > lengths[1] == [4]


def test_of_long_texts_it_is_known_that_their_lengths_are_estimates(tokenizer):
    texts = ["a film", "a film " * 9000]
    encoded = encode_texts(texts, tokenizer, EncodingRule(max_length=64))
    for counts in (count(tokenizer, texts), count_encoded(encoded, None, 2)):
        assert counts.is_estimated.tolist() == [False, True]


def test_the_rows_that_were_counted_are_those_that_are_named(tokenizer):
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in TEXTS], Columns())
    unknown_id = tokenizer.token_to_id("[UNK]")
    counts = count_tokens(TEXTS, tokenizer, unknown_id, rows=np.array([1, 3, 4]))
    nothing, unknown = describe_tokens("train", rows, counts)
    assert (nothing.examples[0].line, unknown.examples[0].line) == (4, 2)


@pytest.mark.parametrize(
    ("text", "expected"), [("good", False), ("好电影", False), ("12 34", True)]
)
def test_an_unsuspected_text_of_unknown_tokens_shows_that_there_may_be_more(
    tokenizer, text, expected
):
    """Digits are no suspects, but this vocabulary has none."""
    texts = ["a film", text]
    assert shows_more(count(tokenizer, texts), choose_rows(texts)[1]) is expected


def test_an_unsuspected_text_without_tokens_shows_that_there_may_be_more(tokenizer):
    counts = count(tokenizer, ["a film", "\u200b\u200b"])
    assert not shows_more(counts, np.array([1]))
    assert shows_more(counts, np.array([], dtype=np.int64))


def test_a_small_part_is_counted_whole():
    sample, suspects = choose_rows(["a film", "!!", "x" * 200, "好电影", "naïve film"])
    assert sample.tolist() == [0, 1, 2, 3, 4]
    assert suspects.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x" * 50, False),
        ("x" * 51, True),
        (f"{'x' * 50} {'x' * 49}", False),
        (f"{'x' * 50} {'x' * 50}", True),
        ("abcé", False),  # three of four letters are in ASCII
        ("abéé", True),
        ("abcd ééf", False),
        ("abcd éé", True),
        ("12", False),
        ("!?", True),
    ],
)
def test_what_may_be_unknown_is_suspected(text, expected):
    assert choose_rows([text])[1].tolist() == [0][: int(expected)]


def test_of_a_large_part_a_sample_and_all_suspects_are_counted(monkeypatch):
    monkeypatch.setattr(token_faults, "MOST_SAMPLED", 50)
    texts = ["a good film"] * 500 + ["好电影"]
    sample, suspects = choose_rows(texts)
    assert len(sample) == 50
    assert sample.tolist() == sorted(set(sample.tolist()))
    assert 10 < (sample < 250).sum() < 40
    assert suspects.tolist() == [500]
    assert sample.tolist() == choose_rows(texts)[0].tolist()


def test_a_text_of_just_the_limit_is_not_cut():
    described = describe_token_lengths(np.array([128, 129, 300, 512]), 300)
    assert described["cut_shares"] == {"128": 0.75, "256": 0.5, "300": 0.25, "512": 0.0}


def test_lengths_are_described_at_the_usual_limits_and_at_ones_own():
    described = describe_token_lengths(np.array([100, 130, 300, 601]), 200)
    assert described["cut_shares"] == {"128": 0.75, "200": 0.5, "256": 0.5, "512": 0.25}
    assert (described["median"], described["max"], described["num_counted"]) == (215.0, 601, 4)
    assert described["p95"] == 555.8  # 555.85


def test_signs_that_become_the_unknown_token_are_named(tokenizer):
    """The model gave the same answer to each emoji, and nothing said why."""
    texts = [f"a good film {sign}" for sign in "★☹" * 10] + ["a film , a film"] * 60
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    (found,) = describe_tokens("train", rows, count(tokenizer, texts))
    assert (found.kind, found.severity, found.count) == ("unread_signs", "minor", 20)
    assert found.message == (
        "20 rows of train (25.0 %) have words or signs that this model cannot tell apart, such as "
        "★, ☹: each becomes its unknown token."
    )
    assert found.examples[0].note == "1 of 4 unknown"


def test_signs_that_only_stand_beside_unknown_ones_are_not_named(tokenizer):
    """Nor are invisible ones, which the model does not read at all, and the tones of others."""
    texts = ["a good film 好 é\u200d \U0001f3fd"] * 20 + ["a film"] * 60
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # the others go on with theirs
    tokenizer.add_tokens(["é"])
    is_known = tell_known_signs(tokenizer, tokenizer.token_to_id("[UNK]"))
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    (found,) = describe_tokens("train", rows, count(tokenizer, texts), is_known=is_known)
    assert "such as 好: each" in found.message


def test_few_rows_with_a_sign_are_no_finding(tokenizer):
    for texts in (["a ★"] * 9 + ["a"], ["a good film ★"] * 10 + ["a film"] * 91):
        rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
        assert not [
            one
            for one in describe_tokens("train", rows, count(tokenizer, texts))
            if one.kind == "unread_signs"
        ]


def test_a_tenth_of_the_rows_with_a_sign_are_a_finding(tokenizer):
    texts = ["a good film ★"] * 10 + ["a film"] * 90
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    (found,) = describe_tokens("train", rows, count(tokenizer, texts))
    assert (found.kind, found.count) == ("unread_signs", 10)


def test_a_sign_of_a_single_row_is_not_named(tokenizer):
    texts = ["a good film ★"] * 19 + ["a good film ☹"] + ["a film"] * 60
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    (found,) = describe_tokens("train", rows, count(tokenizer, texts))
    assert "such as ★: each" in found.message


def test_many_texts_of_another_script_are_serious(tokenizer):
    texts = ["好 影 a"] * 2 + ["a film"] * 18
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    (found,) = describe_tokens("train", rows, count(tokenizer, texts))
    assert found.severity == "serious"
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts[1:]], Columns())
    (found,) = describe_tokens("train", rows, count(tokenizer, texts[1:]))
    assert found.severity == "minor"


def test_the_share_of_rows_with_signs_is_that_of_the_rows_drawn(tokenizer):
    """Rows that are suspected have such signs more often."""
    texts = ["a ★"] * 30 + ["a film"] * 70
    rows, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    for drawn, expected in ((np.arange(100) >= 25, []), (np.arange(100) >= 15, [15])):
        found = describe_tokens("train", rows, count(tokenizer, texts), is_sample=drawn)
        assert [one.count for one in found if one.kind == "unread_signs"] == expected
    assert (
        "15 rows of train (17.6 %), of 85 drawn, have words"
        in next(describe_tokens("train", rows, count(tokenizer, texts), is_sample=drawn)).message
    )
