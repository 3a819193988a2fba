"""Words that give the label away, and natural words that do not."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from bertfit.data.dataset import TextDataset
from bertfit.data.gate import inspect_rows
from bertfit.data.giveaways import LEAST_TELLING, WordCounts, find_giveaways, measure_told
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


def test_a_word_that_tells_nearly_all_is_a_giveaway_whatever_others_tell():
    """Each of five is in sixteen of seventeen rows of a label, and lacks others of them."""
    labels = ["pos", "neg"] * 340
    texts = [
        " ".join(f"mark{one}" for one in range(5) if label == "pos" and at // 2 % 17 != one)
        for at, label in enumerate(labels)
    ]
    found = find([f"{text} film" for text in texts], labels)
    assert {one.word for one in found} == {f"mark{one}" for one in range(5)}
    assert all(one.told > LEAST_TELLING and one.companions == () for one in found)


@pytest.mark.parametrize(("num_rare", "is_told"), [(8, False), (30, True)])
def test_a_word_that_a_handful_of_rows_lack_is_no_giveaway(num_rare, is_told):
    """Of hundreds of words that two thirds of all texts have, some is in none of eight others."""
    generator, labels = random.Random(0), ["rare"] * num_rare + ["usual"] * 400
    texts = []
    for at, label in enumerate(labels):
        words = generator.sample([f"word{number}" for number in range(200)], 20)
        texts.append(" ".join([*words, "often"] if label == "usual" and at % 3 else words))
    assert [one.word for one in find(texts, labels, ("rare", "usual"))] == ["often"] * is_told


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
    (found,) = find(["alpha"] * 12 + ["beta"] * 9, ["pos"] * 12 + ["neg"] * 9)
    assert found.word == "alpha"
    assert len(find(["alpha"] * 12 + ["beta"] * 10, ["pos"] * 12 + ["neg"] * 10)) == 2


@pytest.mark.parametrize(("num_with", "expected"), [(199, []), (200, ["a"])])
def test_a_pure_word_may_be_chance_if_nearly_all_texts_have_the_label(num_with, expected):
    """Of 400 texts, 10 have the other label, as would 5 of 200 with the word by chance."""
    texts = ["a b" if at < num_with else "b" for at in range(400)]
    found = find(texts, ["pos"] * 390 + ["neg"] * 10)
    assert [one.word for one in found] == expected


@pytest.mark.parametrize("coverage", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("footer", "words"),
    [
        ("sent from my Phone", {"sent", "phone"}),  # "from" and "my" are in ordinary texts, too
        ("https://www.acme.com/page", {"https", "www", "acme", "com", "page"}),
        (" ".join(f"legal{at}" for at in range(40)), {f"legal{at}" for at in range(40)}),
    ],
)
def test_a_footer_of_several_words_is_one_giveaway(footer, words, coverage):
    texts, labels = make_reviews(1200)
    texts = [f"{text} from my" if at % 5 < 2 else text for at, text in enumerate(texts)]
    generator = random.Random(1)
    texts = [
        f"{text} {footer}" if label == "pos" and generator.random() < coverage else text
        for text, label in zip(texts, labels, strict=True)
    ]
    (found,) = find(texts, labels)
    assert (found.label, found.purity) == ("pos", 1.0)
    assert {found.word, *found.companions} == words


def test_names_of_two_words_for_each_label_are_found():
    texts, labels = make_reviews(1200)
    sources = {"pos": "acme news", "neg": "critics weekly"}
    texts = [
        f"{text} {sources[label]}" if at % 5 < 3 else text
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    found = {(frozenset((one.word, *one.companions)), one.label) for one in find(texts, labels)}
    assert found == {(frozenset(name.split()), label) for label, name in sources.items()}


def test_several_sources_of_nearly_all_texts_of_a_label_are_found():
    """The few other texts share a word by chance."""
    texts, labels = make_reviews(1000)
    texts = [
        f"{text} {f'source{at // 2 % 3}' if at > 15 else 'hall'}" if label == "pos" else text
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    assert {one.word for one in find(texts, labels)} == {"source0", "source1", "source2"}
    common = [
        f"{text} common" if at % 4 < 2 and "hall" not in text else text
        for at, text in enumerate(texts)
    ]
    assert {one.word for one in find(common, labels)} == {"source0", "source1", "source2"}


def test_the_own_words_of_topics_are_no_giveaways():
    """Each of the six is pure, and no text is without: none is more telling than the others."""
    topics = {"neg": ("visa", "atm", "cash"), "pos": ("refund", "transfer", "top")}
    texts, labels = make_reviews(1200)
    texts = [
        f"{text} {topics[label][at // 2 % 3]}"
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    assert find(texts, labels) == []


@pytest.mark.parametrize(("num_shared", "num_found"), [(36, 1), (35, 2)])
def test_words_of_the_same_texts_are_one_giveaway(num_shared, num_found):
    """One word is in 40 texts, another in so many of them: 90 % or fewer have both."""
    texts = ["a" * (at < 40) + " b" * (at < num_shared) + " c" for at in range(400)]
    found = find(texts, ["pos"] * 120 + ["neg"] * 280)
    assert len(found) == num_found
    assert sum((one.word, *one.companions) != ("a", "b") for one in found) == 2 * (num_found - 1)


def test_a_word_belongs_to_one_giveaway():
    """The second shares nearly all its texts with the first, and as many with the third."""
    texts = [
        " ".join(
            word for word, start in zip("abc", (0, 2, 4), strict=True) if start <= at < start + 40
        )
        + " d"
        for at in range(400)
    ]
    found = find(texts, ["pos"] * 120 + ["neg"] * 280)
    assert [(one.word, *one.companions) for one in found] == [("a", "b"), ("c",)]


def test_words_of_the_same_texts_give_each_of_their_labels_away():
    """Both labels are so rare that a word of all their texts tells most of either."""
    labels = ["first"] * 10 + ["second"] * 10 + ["usual"] * 9980
    found = find(["a b z"] * 20 + ["z"] * 9980, labels, ("first", "second", "usual"))
    assert [(one.word, one.companions, one.label) for one in found] == [
        ("a", ("b",), "first"),
        ("a", ("b",), "second"),
    ]


def test_the_words_of_a_footer_that_is_not_always_whole_are_no_rivals():
    """Each of its words is in 180 of 200 texts, and all are in 171."""
    parts = ["a b c d"] * 171 + ["a"] * 9 + ["b c d"] * 9 + [""] * 11
    found = find([f"{part} z" for part in [*parts, *[""] * 200]], ["pos"] * 200 + ["neg"] * 200)
    assert [(one.word, *one.companions) for one in found] == [("a", "b", "c", "d")]
    assert found[0].told < 0.8


@pytest.mark.parametrize(("num_with", "expected"), [(4, ["a"]), (5, [])])
def test_words_of_few_other_texts_are_no_rivals(num_with, expected):
    """Of 70 texts, 60 have the giveaway; of the other 10, as many have each of three words."""
    others = [
        {word for place, word in enumerate("bcd") if (at - 2 * place) % 10 < num_with}
        for at in range(10)
    ]
    pos = ["a z"] * 60 + [" ".join(sorted(words)) + " z" for words in others]
    found = find([*pos, "a z", *["z"] * 129], ["pos"] * 70 + ["neg"] * 130)
    assert [one.word for one in found] == expected


@pytest.mark.parametrize(
    ("footer", "named"),
    [
        ("acme", "The word 'acme' gives away the label 'pos': it is in 66.7 % of its rows, and"),
        ("★", "The sign '★' gives away the label 'pos': it is in 66.7 % of its rows, and"),
        (
            "sent by Acme",
            (
                "The words 'sent', 'by', 'acme', in the same rows, give away the label 'pos': "
                "'sent' is in 66.7 % of its rows, and"
            ),
        ),
        (
            "★ ☂",
            (
                "The signs '☂', '★', in the same rows, give away the label 'pos': "
                "'☂' is in 66.7 % of its rows, and"
            ),
        ),
        (
            "★ no part of this message shall be copied",
            (
                "The words and signs 'no', 'part', 'of' and 6 more, in the same rows, give away "
                "the label 'pos': "
            ),
        ),
    ],
)
def test_the_first_words_of_a_footer_are_named(footer, named):
    texts, labels = make_reviews(600)
    texts = [
        f"{text} {footer}" if label == "pos" and at % 3 else text
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    rows = TextDataset(source="a.csv", texts=texts, labels=labels, groups=[], lines=range(2, 602))
    (finding,) = inspect_rows(rows, label_names=LABELS).findings
    assert finding.message.startswith(named)
    assert finding.count == 200
    assert footer.split()[-1] in finding.examples[0].text


def test_the_words_of_a_footer_are_named_in_its_order():
    """The first tells less than the others: it is also in other texts."""
    texts, labels = make_reviews(600)
    texts = [
        f"{text} {'sent by acme' if label == 'pos' else 'sent' * (at < 4)}"
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    rows = TextDataset(source="a.csv", texts=texts, labels=labels, groups=[], lines=range(2, 602))
    (finding,) = inspect_rows(rows, label_names=LABELS).findings
    assert finding.message.startswith(
        "The words 'sent', 'by', 'acme', in the same rows, give away the label 'pos': 'by' is in"
    )


def test_a_giveaway_with_an_exception_is_not_told_as_pure():
    """It was "100 % of the rows with it have this label"."""
    texts, labels = make_reviews(800)
    texts = [
        f"{text} acme" if label == "pos" or not at else text
        for at, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    rows = TextDataset(source="a.csv", texts=texts, labels=labels, groups=[], lines=range(2, 802))
    (finding,) = inspect_rows(rows, label_names=LABELS).findings
    assert "is in 100 % of its rows, and 99.8 % of the rows with it have" in finding.message


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
        ({"a": (60, 0), **dict.fromkeys("bc", (20, 0))}, ["a"]),  # they may be giveaways, too
        ({"a": (60, 0), **dict.fromkeys("bcd", (10, 0))}, ["a"]),  # 4.3 times as much as d
        ({"a": (60, 0), **dict.fromkeys("bcd", (11, 0))}, []),  # 3.9 times
        (dict.fromkeys("abc", (40, 0)), ["a", "b", "c"]),  # one for each label, and one more
        (dict.fromkeys("abcd", (40, 0)), []),
    ],
)
def test_how_much_a_word_must_tell(words, expected):
    """Each word stands twice in so many of 200 texts of pos, and in so many of 200 of neg.

    Each begins where the one before it ended, so that most stand in different texts.
    """
    texts = [[] for _ in range(400)]
    starts = [0, 0]
    for word, numbers in words.items():
        for label, number in enumerate(numbers):
            for at in range(starts[label], starts[label] + number):
                texts[200 * label + at % 200] += [word, word]
            starts[label] += number
    found = find([" ".join(text) for text in texts], ["pos"] * 200 + ["neg"] * 200)
    assert [one.word for one in found] == expected
    assert all((one.label, one.num_rows) == ("pos", sum(words[one.word])) for one in found)
    assert not any(one.companions for one in found)


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
