"""Words that give the label away, and natural words that do not."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from bertfit.data.giveaways import WordCounts, find_giveaways, measure_told
from bertfit.data.words import make_vocabulary, number_words

LABELS = ("neg", "pos")


def find(texts, labels, names=LABELS):
    vocabulary = make_vocabulary()
    counts = WordCounts(np.array([names.index(label) for label in labels]))
    for words in number_words(texts, vocabulary):
        counts.add(words)
    return find_giveaways(counts, list(vocabulary), names)


def make_reviews(num_rows, *, seed=0):
    """Reviews in which some words are more frequent in one label, as in real ones."""
    generator = random.Random(seed)
    common = [f"word{number}" for number in range(300)]
    labels = [LABELS[at % 2] for at in range(num_rows)]
    texts = []
    for label in labels:
        words = generator.choices(common, k=30)
        leaning = "bad" if (label == "neg") == (generator.random() < 0.75) else "great"
        if generator.random() < 0.4:
            words.append(leaning)
        texts.append(" ".join(words))
    return texts, labels


def test_natural_words_are_no_giveaways():
    assert find(*make_reviews(2000)) == []


def test_a_label_left_in_the_text_is_found():
    texts, labels = make_reviews(400)
    texts = [f"{text} ({label})" for text, label in zip(texts, labels, strict=True)]
    found = find(texts, labels)
    assert {(one.word, one.label) for one in found[:2]} == {("neg", "neg"), ("pos", "pos")}
    assert found[0].told == pytest.approx(1.0)
    assert (found[0].coverage, found[0].purity, found[0].num_rows) == (1.0, 1.0, 200)


def test_the_label_in_an_id_is_found():
    texts, labels = make_reviews(400)
    texts = [f"{label}_{at} {text}" for at, (text, label) in enumerate(zip(texts, labels))]  # noqa: B905 (equal)
    assert {one.word for one in find(texts, labels)} == {"neg", "pos"}


def test_a_source_named_in_a_third_of_one_label_is_found():
    texts, labels = make_reviews(1200)
    texts = [
        f"{text} acme" if label == "pos" and at % 3 == 0 else text
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    (found,) = find(texts, labels)
    assert (found.word, found.label, found.purity) == ("acme", "pos", 1.0)


def test_signs_that_tell_equally_much_are_in_the_same_order_in_every_process():
    code = """
from bertfit.data.words import make_vocabulary, number_signs
vocabulary = make_vocabulary()
list(number_signs(["* ~ # ^", "% + ="], vocabulary))
print(*vocabulary)
"""
    orders = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert orders == {"# * ^ ~ % + =\n"}


def test_few_rows_may_be_chance():
    texts = ["alpha one", "beta two"] * 4
    assert find(texts, ["pos", "neg"] * 4) == []
    (found,) = find(["alpha"] * 10 + ["beta"] * 9, ["pos"] * 10 + ["neg"] * 9)
    assert found.word == "alpha"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"a": (200, 15)}, ["a"]),  # removes 80.4 % of the uncertainty
        ({"a": (200, 16)}, []),  # 79.4 %
        ({"a": (200, 15), "b": (200, 8)}, ["b", "a"]),
        ({"a": (38, 0)}, ["a"]),  # 10.2 %
        ({"a": (37, 0)}, []),  # 9.9 %
        ({"a": (98, 2)}, ["a"]),  # a purity of 98 %
        ({"a": (98, 3)}, []),
        ({"a": (44, 0), "b": (12, 0), "c": (12, 0)}, ["a"]),
        ({"a": (44, 0), "b": (12, 0), "c": (12, 0), "d": (12, 0)}, []),  # 3.9 times as much as d
        ({"a": (45, 0), "b": (12, 0), "c": (12, 0), "d": (12, 0)}, ["a"]),  # 4.004 times
        ({**dict.fromkeys("abc", (45, 0)), **dict.fromkeys("de", (12, 0))}, ["a", "b", "c"]),
    ],
)
def test_how_much_a_word_must_tell(words, expected):
    """Each word stands twice in so many of 200 texts of pos, and in so many of 200 of neg."""
    labels = ["pos"] * 200 + ["neg"] * 200
    texts = [
        " ".join(word for word, (pos, neg) in words.items() if at < (pos, 200 + neg)[at >= 200])
        for at in range(400)
    ]
    found = find([f"{text} {text}" for text in texts], labels)
    assert [one.word for one in found] == expected
    assert all((one.label, one.num_rows) == ("pos", sum(words[one.word])) for one in found)


def test_a_word_that_speaks_against_a_label_is_told_of_the_other():
    texts, labels = make_reviews(400)
    texts = [
        f"{text} acme" if label == "pos" else text
        for text, label in zip(texts, labels, strict=True)
    ]
    assert {one.label for one in find(texts, labels)} == {"pos"}


def test_what_is_told_is_mutual_information_over_entropy():
    generator = np.random.default_rng(0)
    has_word, has_label = generator.integers(0, 2, (2, 200)).astype(bool)
    has_label |= has_word & (generator.random(200) < 0.5)
    told = measure_told(
        np.array([(has_word & has_label).sum()]),
        np.array([has_word.sum()]),
        np.array([has_label.sum()]),
        num_rows=200,
    )
    expected = mutual_info_score(has_word, has_label) / mutual_info_score(has_label, has_label)
    assert told[0] == pytest.approx(expected)
