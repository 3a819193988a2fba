"""Words of all scripts, with the marks that belong to their letters."""

from __future__ import annotations

import random
import sys
import unicodedata

import pytest

from bertfit.data.words import find_signs
from bertfit.evaluation.ngrams import learn_ngrams
from bertfit.word_pattern import count_words, find_cut, find_words

PICTURES = [
    range(0x2190, 0x2200),
    range(0x2300, 0x2400),
    range(0x2600, 0x27C0),
    range(0x2B00, 0x2C00),
    range(0x1F000, 0x1FB00),
]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में, बहुत", ["हिन्दी", "में", "बहुत"]),
        ("কী সুন্দর", ["কী", "সুন্দর"]),
        ("مُمْتَاز جدا", ["مُمْتَاز", "جدا"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        (unicodedata.normalize("NFD", "naïve café"), ["naïve", "café"]),
        ("İstanbul", ["i\u0307stanbul"]),
        ("ดีมาก", ["ดี", "ม", "า", "ก"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("好电影 ビデオ・ゲーム", ["好", "电", "影", "ビ", "デ", "オ", "ゲ", "ー", "ム"]),
        ("5️⃣ ❤️ ok", ["5", "ok"]),
        ("\u0301 alone", ["alone"]),
    ],
)
def test_marks_stay_with_their_letters(text, words):
    found = find_words(text)
    assert [unicodedata.normalize("NFC", word) for word in found] == [
        unicodedata.normalize("NFC", word) for word in words
    ]


@pytest.mark.parametrize("with_signs", [False, True])
def test_the_words_of_random_characters_are_those_of_the_definition(with_signs):
    generator = random.Random(0)
    every = [chr(number) for number in range(sys.maxunicode + 1)]
    marks = [one for one in every if unicodedata.category(one) in {"Mn", "Mc"}]
    blocks = [every[:0x250], every[0x250:0x3000], every[0x3000:0xD800], every[0x10000:]]
    pools = [*blocks, marks, "a _"]
    for length in range(400):
        text = "".join(generator.choice(generator.choice(pools)) for _ in range(length))
        composed = unicodedata.normalize("NFC", text)
        assert find_words(text, with_signs=with_signs) == spell_out_words(
            composed.lower(), with_signs=with_signs
        )


def test_ascii_words_are_the_same_beside_other_characters():
    text = "".join(map(chr, range(128))) + " It's FILM_12 a\tb\x1fc"
    for with_signs in (False, True):
        alone = find_words(text, with_signs=with_signs)
        assert find_words(text + " é", with_signs=with_signs) == [*alone, "é"]


def spell_out_words(text, *, with_signs):
    """Return the words, found character by character."""
    words, is_open, is_single = [], False, False
    for one in text:
        number = ord(one)
        if unicodedata.category(one) in {"Mn", "Mc"} and 0x300 <= number <= 0x1EFFF:
            if 0xFE00 <= number < 0xFE10:  # variation selectors
                is_open = False
            elif is_open:
                words[-1] += one
        elif one.isalnum() or (with_signs and one == "_"):
            single = any(
                first <= number <= last
                for first, last in (
                    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x312F),
                    (0x3400, 0x9FFF), (0xFF66, 0xFF9F),
                )
            )  # fmt: skip
            if is_open and not single and not is_single:
                words[-1] += one
            else:
                words.append(one)
            is_open, is_single = True, single
        else:
            is_open = False
            if with_signs and any(number in pictures for pictures in PICTURES):
                words.append(one)
    return words


def test_a_word_of_another_script_changes_the_count_of_no_other():
    text = "It's a well-made film - isn't it?"
    assert count_words(text) == 7
    assert count_words(f"{text} é") == 8
    assert count_words(f"{text} 好!") == 7  # one sign more, and no dash that stands alone
    assert count_words("很好good。") == 3


def test_flags_are_not_cut_in_two():
    germany, england = "\U0001f1e9\U0001f1ea", "\U0001f3f4\U000e0067\U000e0062\U000e007f"
    assert [find_cut(germany * 3, at) for at in range(7)] == [0, 2, 2, 4, 4, 6, 6]
    assert find_cut(germany * 50, 67) == 68
    assert {find_cut(england + "!", at) for at in range(1, 5)} == {4}


def test_a_thousand_accents_are_cut():
    assert find_cut("e" + "\u0301" * 1000, 1) == 17


def test_a_mark_is_no_sign():
    assert find_signs("ดี, ❤️ e\u0301!") == {",", "❤", "!"}


def test_baselines_tell_words_apart_that_differ_in_a_vowel_only():
    counter, _ = learn_ngrams(["की", "कि", "का"], max_order=1)
    assert counter.num_ngrams == 3
