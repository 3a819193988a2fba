"""Profiles of parts: what is counted, in which order, and how far it is."""

from __future__ import annotations

from collections import Counter

import numpy as np

from bertfit.data import profiles, words
from bertfit.data.dataset import TextDataset
from bertfit.data.giveaways import WordCounts


def profile(texts, **options):
    """Return the vocabulary and the counts of a part with these texts."""
    rows = TextDataset("rows", texts, ["neg"] * len(texts), (), list(range(len(texts))))
    vocabulary, counts = words.make_vocabulary(), WordCounts(np.zeros(len(texts), dtype=np.int64))
    options = {"with_signatures": False, "counts": counts, **options}
    profiles.profile_part("train", rows, vocabulary, **options)
    return vocabulary, counts


def test_rows_are_counted_once_nothing_of_their_profile_is_left(monkeypatch):
    """Else the last row would be told long before the end of what is done row by row."""
    made, heard = Counter(), []

    def count(name, function, length):
        def call(given):
            made[name] += length(given)
            return function(given)

        return call

    monkeypatch.setattr(words, "find_signs", count("signs", words.find_signs, lambda _: 1))
    fingerprint = count("fingerprints", profiles.fingerprint_texts, len)
    monkeypatch.setattr(profiles, "fingerprint_texts", fingerprint)
    profile(
        [f"text {row}!" for row in range(3000)],
        on_progress=lambda done, _: heard.append((done, made["signs"], made["fingerprints"])),
    )
    assert heard == [(done, done, done) for done in (1024, 2048, 3000)]
    assert made == {"signs": 3000, "fingerprints": 3000}


def test_of_equal_texts_the_first_of_enough_words_is_compared():
    texts = ["so good", "A good film", "a  good film", "one more film", "a good film"]
    rows = TextDataset("rows", texts, ["neg"] * 5, (), list(range(5)))
    made = profiles.profile_part("test", rows, words.make_vocabulary(), with_signatures=False)
    assert profiles.choose_comparable(made, without=(), least_words=3) == [1, 3]
    assert profiles.choose_comparable(made, without=made.fingerprints[3:4], least_words=2) == [0, 1]


def test_what_only_modifies_a_letter_is_no_sign():
    assert words.find_signs("हिन्दी! cafe\u0301") == {"!"}


def test_signs_are_numbered_after_all_words():
    """Of two that tell as much, the word is told, wherever the sign stands."""
    texts = ["first!", *["first"] * 1500, "second?"]
    vocabulary, counts = profile(texts)
    assert list(vocabulary) == ["first", "second", "!", "?"]
    found_rows, found = counts.find_rows(np.array([1, 2, 3]))
    assert sorted(zip(found_rows.tolist(), found.tolist(), strict=True)) == [
        (0, 1),
        (1501, 0),
        (1501, 2),
    ]
