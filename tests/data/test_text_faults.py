"""Damaged texts, and texts that only look odd."""

from __future__ import annotations

import tracemalloc

import pytest

from bertfit.data import text_faults
from bertfit.data.text_faults import find_swallowed_rows, find_text_faults, is_number_or_code
from bertfit.word_pattern import find_words


def kinds(text):
    return {kind for kind, faults in find_text_faults([text]).items() if faults}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("the cafÃ© is open", "mojibake"),
        ("I donâ€™t know", "mojibake"),
        ("Ð\u00b4Ð° is yes", "mojibake"),
        ("I don\xe2\x80\x99t know", "mojibake"),
        ("L'\xc3\x89t\xc3\xa9", "mojibake"),
        ("\xe2\x80\x9cquoted\xe2\x80\x9d \xe2\x80\x94 good", "mojibake"),
        ("good \xf0\x9f\x98\x80", "mojibake"),
        ("\xe4\xb8\x80", "mojibake"),
        ("it\ufffds", "replacement_characters"),
        ("\ufffdit", "replacement_characters"),
        ("a dash \x96 here", "c1_characters"),
        ("next\x85line", "c1_characters"),
        ("\x84Spa\xdf\x93 und caf\xe9\x85\x94", "c1_characters"),
        ("a bell\x07", "control_characters"),
        ("an escape \x1b[31m", "control_characters"),
        ("deleted\x7f", "control_characters"),
        ("one<br>two", "html_breaks"),
        ("one<BR />two", "html_breaks"),
        ("a <i>word</i>", "html_tags"),
        ('<a href="x">link</a>', "html_tags"),
        ("fish &amp; chips", "html_tags"),
        ("it&#39;s", "html_tags"),
        ('"a ""good"" film"', "csv_quotes"),
        ('"""good"" film"', "csv_quotes"),
        ('"a ""film"""', "csv_quotes"),
    ],
)
def test_a_fault_is_found_and_named(text, kind):
    assert kinds(text) == {kind}


@pytest.mark.parametrize(
    "text",
    [
        "plain text, with 1 < 2 > 0 & more; <3 you",
        "two\nlines\r\nand\ta tab",
        "naïve café, Größe, año, NÃO, SÃO PAULO",
        "« É » and “quotes” … – —",
        "Это хороший фильм",
        "这是一部好电影",
        "good 😀👍🏽",
        "AT&T and R&D; <break> is no tag",
        "where a <b and b <i are all true",
        '"good" they said, and "bad"',
        '"good, they said"',
        '"good, ""they"" said',
        'good, ""they"" said"',
        '"good" was said, ""bad"" was meant, "so it goes"',
    ],
)
def test_what_only_looks_odd_is_no_fault(text):
    assert kinds(text) == set()


def test_places_are_those_of_the_whole_text():
    text = "don\xe2\x80\x99t \x96"  # what is wrongly decoded is no control character
    (fault,) = find_text_faults([text])["c1_characters"]
    assert fault.offset == text.index("\x96")
    rows = "so long\nand so dull\nso good,pos\nso bad,neg"
    (swallowed,) = find_swallowed_rows([rows], ["neg", "pos"])
    assert swallowed.offset == rows.index(",pos")


def test_the_first_place_is_told():
    (fault,) = find_text_faults(["", "abc<br>def"])["html_breaks"]
    assert (fault.row, fault.offset) == (1, 3)


@pytest.mark.parametrize("text", ["caf\xc3\xa9 don\xe2\x80\x99t", "don\xe2\x80\x99t caf\xc3\xa9"])
def test_the_first_place_of_either_kind_of_mojibake_is_told(text):
    """One is found by its C1 characters, the other by what ftfy knows."""
    (fault,) = find_text_faults([text])["mojibake"]
    assert fault.offset < 5


def test_long_texts_in_other_scripts_are_not_kept_in_memory():
    """They were a second copy of the texts, up to 131,072 of them, as long as the process ran."""
    texts = [f"No. {chr(0x4E00 + number)}{'好电影' * 1000}" for number in range(50)]
    find_text_faults(texts[:1])  # loads ftfy
    tracemalloc.start()
    try:
        assert not any(find_text_faults(texts).values())
        num_kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_kept < sum(map(len, texts)) / 10


def test_words_of_scripts_without_spaces_are_characters():
    assert find_words("好电影 Film_12") == ["好", "电", "影", "film", "12"]


@pytest.mark.parametrize(
    "text",
    [
        "good,pos\nbad,neg\nso-so",
        "good;pos\r\nbad;neg\r\nso-so",
        'good","pos"\n"bad","neg"\n"so-so',
        "good\npos,bad\nneg,so-so",  # the label comes first
        "good,pos,7,2011\n12,bad,neg,8,2012\n13,so-so",  # and in the middle
        "good,a.b*\nbad,a.b*",
    ],
)
def test_rows_that_were_read_as_one_text_are_found(text):
    (fault,) = find_swallowed_rows(["fine", text, "good"], ["neg", "pos", "a.b*"])
    assert fault.row == 1


def test_rows_read_as_one_text_are_found_at_once_whatever_the_labels_are():
    """Labels may be texts, if the wrong column was named, and one text may be a whole file."""
    names = [f"{number} {'a long label ' * 50}" for number in range(5000)]
    texts = ["no label,here\n" * 100_000, "good,pos\n" * 100_000]
    (fault,) = find_swallowed_rows(texts, [*names, "pos"])
    assert (fault.row, fault.offset) == (1, 4)


@pytest.mark.parametrize(
    "text",
    [
        "good,pos\nand the rest",  # once may be chance
        "good,pos and bad,neg",  # of one line
        "it was good, pos\nand bad, neg\n",  # prose has a space there
        "pos\nneg\npos\n",
        "good,positive\nbad,negative",
        "Of the 3,000 people:\n1,200 were women\n1,800 were men",
        "1,5 Prozent\n1.5,0",
    ],
)
def test_lines_of_prose_are_not_taken_for_rows(text):
    assert find_swallowed_rows([text], ["neg", "pos", "0", "1"]) == []


def test_labels_that_are_digits_are_found_too():
    (fault,) = find_swallowed_rows(["1,so good\n0,so bad\n1,so-so"], ["0", "1"])
    assert fault.offset == 0
    assert find_swallowed_rows(["so good,1,2\nso bad,0,5\nso-so"], ["0", "1"])


def test_a_long_line_of_labels_is_read_once(monkeypatch):
    """For each label of it, the whole line was looked through again."""
    seen = []
    monkeypatch.setattr(text_faults, "_is_label", lambda field, _: bool(seen.append(field)) or True)
    assert find_swallowed_rows(["x\n" + "pos," * 10_000], ["pos"]) == []
    assert len(seen) == 1


@pytest.mark.parametrize("start", [" ", "-", "1", "1 "])
def test_a_long_text_is_soon_found_to_be_no_number(start):
    """Searched again from each place, it would take hours."""
    assert not is_number_or_code(f"{start * 10**6} é")
