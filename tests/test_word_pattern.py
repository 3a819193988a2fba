"""Words of all scripts, with the marks that belong to their letters."""

from __future__ import annotations

import unicodedata

import pytest

from bertfit.data.words import find_signs
from bertfit.evaluation.ngrams import learn_ngrams
from bertfit.word_pattern import find_words


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


def test_a_mark_is_no_sign():
    assert find_signs("ดี, ❤️ e\u0301!") == {",", "❤", "!"}


def test_baselines_tell_words_apart_that_differ_in_a_vowel_only():
    counter, _ = learn_ngrams(["की", "कि", "का"], max_order=1)
    assert counter.num_ngrams == 3
