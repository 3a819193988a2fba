"""Near-duplicates: similarities are exact, and no near-duplicate is missed."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest

from bertfit.data.near_duplicates import (
    THRESHOLD,
    find_near_duplicates,
    make_shingles,
    sign_texts,
)
from bertfit.data.words import leave_out_addresses, make_vocabulary, number_words

WORDS = [f"w{number}" for number in range(3000)]


def sign(texts, vocabulary):
    chunks = number_words(texts, vocabulary)
    own = [
        leave_out_addresses(words, texts[words.start :][: len(words.num_words)], vocabulary)
        for words in chunks
    ]
    return np.concatenate([sign_texts(words) for words in own])


def find(texts, others):
    vocabulary = make_vocabulary()
    return find_near_duplicates(
        texts,
        others,
        signatures=sign(texts, vocabulary),
        other_signatures=sign(others, vocabulary),
        rows=range(len(texts)),
        other_rows=range(len(others)),
    )


def jaccard(a, b):
    a, b = make_shingles(a), make_shingles(b)
    return len(a & b) / len(a | b)


@pytest.fixture(scope="module")
def texts():
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=100)) for _ in range(300)]


def change(text, num_words, generator):
    words = text.split()
    for at in generator.sample(range(len(words)), num_words):
        words[at] = "changed"
    return " ".join(words)


def test_all_pairs_above_the_threshold_are_found_and_none_below(texts):
    generator = random.Random(1)
    others = [change(text, at % 8, generator) for at, text in enumerate(texts)]
    expected = {
        at
        for at, (text, other) in enumerate(zip(texts, others, strict=True))
        if jaccard(text, other) >= THRESHOLD
    }
    found = find(others, texts)
    assert {one.row for one in found} == expected
    assert 50 < len(expected) < 290


def test_the_similarity_is_exact_and_the_partner_the_right_one(texts):
    generator = random.Random(2)
    others = [change(text, 2, generator) for text in texts[:20]]
    for one in find(others, texts):
        assert one.other == one.row
        assert one.similarity == jaccard(others[one.row], texts[one.other])


def test_four_fifths_in_common_are_enough(texts):
    words = texts[0].split()[:11]  # 9 sequences, 8 of 10 in common with the last word changed
    (found,) = find([" ".join([*words[:-1], "changed"])], [" ".join(words)])
    assert found.similarity == THRESHOLD


def test_punctuation_and_case_alone_give_one():
    (found,) = find(["Is there an auto top-up, or not?"], ["is there an AUTO top up or not"])
    assert found.similarity == 1.0


@pytest.mark.parametrize(
    "copy",
    [
        "RT @ann: This film is far too long for me",
        "@ann @bob_2 this film is far too long for me",
        "This film is far too long for me https://t.co/Ab3dE5",
        "This film HTTP://t.co/x?y=1&z=2 is far too long (@ann) for me www.a-film.org/now",
    ],
)
def test_links_and_mentions_are_not_compared(texts, copy):
    """A copy of a message has others: in short ones they are a third of the words."""
    (found,) = find([texts[0], copy], ["This film is far too long for me http://t.co/q1", texts[1]])
    assert (found.row, found.other, found.similarity) == (1, 0, 1.0)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("@ann @bob https://a.org/this/one/film", "@ann @bob https://a.org/this/one/film?x"),
        ("write to ann@home.org or to me", "write to bob@work.com or to me"),
        ("such a film RT so they say", "such a film, so they say"),
    ],
)
def test_nothing_but_links_and_mentions_is_left_out(text, other):
    assert find([text], [other]) == []


def test_unlike_texts_are_not_near(texts):
    assert find(texts[:150], texts[150:]) == []


def test_the_most_similar_of_several_is_named(texts):
    generator = random.Random(3)
    others = [change(texts[0], num_words, generator) for num_words in (3, 4, 5, 4, 1, 5, 4)]
    (found,) = find([texts[0]], [*others, texts[5]])
    assert found.other == 4


def test_among_eight_texts_of_one_template_nearly_all_partners_are_found():
    """They differ in a word, so the candidate that seems the most similar is often another one."""
    generator = random.Random(0)
    templates = [" ".join(generator.choices(WORDS, k=60)) for _ in range(25)]
    own = [generator.choice(WORDS) for _ in range(200)]
    texts = [f"{templates[at // 8]} {word}" for at, word in enumerate(own)]
    others = [f"{change(templates[at // 8], 2, generator)} {word}" for at, word in enumerate(own)]
    assert all(jaccard(a, b) >= THRESHOLD for a, b in zip(texts, others, strict=True))
    assert len(find(others, texts)) > 190


def test_a_template_of_thousands_stays_quick_and_finds_partners():
    template = "the quick brown fox jumps over the lazy dog and runs home again to sleep until"
    texts = [f"{template} {number}" for number in range(3000)]
    found = find(texts, texts[::-1])
    assert len(found) == 3000


def test_rows_that_are_left_out_are_neither_found_nor_taken_for_others(texts):
    generator = random.Random(4)
    others, changed = texts[:6], [change(text, 1, generator) for text in texts[:6]]
    vocabulary = make_vocabulary()
    found = find_near_duplicates(
        changed,
        others,
        signatures=sign(changed, vocabulary),
        other_signatures=sign(others, vocabulary),
        rows=[1, 2, 4],
        other_rows=[0, 2, 3, 4, 5],
    )
    assert [(one.row, one.other) for one in found] == [(2, 2), (4, 4)]


def test_no_rows_give_nothing(texts):
    signatures = sign(texts[:2], make_vocabulary())
    nothing = find_near_duplicates(
        texts[:2],
        texts[:2],
        signatures=signatures,
        other_signatures=signatures,
        rows=[],
        other_rows=[0],
    )
    assert nothing == []


def test_signatures_do_not_depend_on_the_chunk(texts):
    """Else a text would not resemble itself in another part."""
    vocabulary = make_vocabulary()
    together = sign(texts, vocabulary)
    alone = sign(texts[7:8], vocabulary)
    np.testing.assert_array_equal(together[7], alone[0])


def test_texts_whose_accents_are_characters_of_their_own_are_near_duplicates():
    text = "la fin du film était très réussie, et la première scène dévoile déjà l'énigme"
    other = unicodedata.normalize("NFD", text)
    assert other != text
    (found,) = find([text], [other])
    assert found.similarity == 1.0
