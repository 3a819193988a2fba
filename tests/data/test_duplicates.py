"""Equal texts: how they are found, and that only training rows are dropped."""

from __future__ import annotations

import pytest

from bertfit.data.dataset import Columns
from bertfit.data.duplicates import Dropped, drop_duplicates, find_shared, fingerprint_texts
from bertfit.data.readers import read_dataset
from bertfit.errors import DataError


def rows(*pairs):
    dataset, _ = read_dataset([{"text": text, "label": label} for text, label in pairs], Columns())
    return dataset


def test_white_space_and_case_do_not_make_texts_differ():
    fingerprints = fingerprint_texts([" A\tgood\n\nFILM", "a good film", "STRASSE", "straße"])
    assert fingerprints[0] == fingerprints[1]
    assert fingerprints[2] == fingerprints[3]


def test_invisible_characters_do_not_make_texts_differ():
    """Copies of one page have them or not, and no tokenizer of BERT sees them."""
    texts = ["so\u00adft film", "\ufeffsoft\u200b film", "soft\u2060 film\u200e", "SOFT FILM"]
    assert len(set(fingerprint_texts(texts))) == 1
    joined = fingerprint_texts(["\U0001f469\u200d\U0001f4bb", "\U0001f469\U0001f4bb"])
    assert joined[0] != joined[1]  # one emoji, or two


def test_punctuation_and_order_do():
    assert len(set(fingerprint_texts(["a film", "film a", "a film.", "afilm"]))) == 4


def test_signs_that_stand_for_others_do():
    assert len(set(fingerprint_texts(["x\u00b2 + 1", "x2 + 1", "\uff582 + 1"]))) == 3


def test_a_shared_text_is_named_by_its_first_row_in_the_other_part():
    assert find_shared([b"x"], [b"y", b"x", b"x"]) == [(0, 1)]


def test_repeats_and_leaks_are_dropped_and_counted_apart():
    train = rows(("a", "x"), ("b", "y"), ("A ", "x"), ("c", "y"), ("d", "x"), ("c", "y"))
    rest, dropped = drop_duplicates(train, (None, rows(("c", "y"))))
    assert rest.texts == ["a", "b", "d"]
    assert rest.lines == [1, 2, 5]
    assert dropped == Dropped(duplicates=1, in_other_parts=2)


def test_other_parts_stay_as_they_are():
    test = rows(("c", "y"), ("c", "y"))
    drop_duplicates(rows(("a", "x"), ("b", "y"), ("c", "y")), (test,))
    assert len(test) == 2


def test_a_text_with_two_labels_keeps_a_row_of_each():
    rest, dropped = drop_duplicates(rows(("a", "x"), ("a", "y"), ("a", "x"), ("b", "y")), ())
    assert list(zip(rest.texts, rest.labels, strict=True)) == [("a", "x"), ("a", "y"), ("b", "y")]
    assert dropped.duplicates == 1


def test_a_label_that_would_vanish_is_refused():
    train = rows(("a", "x"), ("b", "y"), ("c", "x"))
    with pytest.raises(DataError) as caught:
        drop_duplicates(train, (rows(("b", "y")),))
    assert str(caught.value).splitlines() == [
        "duplicates cannot be dropped from the training rows",
        "  rows: label 'y': no row is left after dropping those whose text is also in another part",
        "Train on other rows than those of the validation and the test.",
    ]
