"""Counting with arrays gives the same counts as scikit-learn with strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from bertfit.evaluation import ngrams
from bertfit.evaluation.ngrams import learn_ngrams

LETTERS = r"[a-z]+"
TEXTS = st.lists(st.text(alphabet="abc .", max_size=20), min_size=1, max_size=8)


def sorted_columns(matrix) -> list[tuple[float, ...]]:
    """The columns as a bag, as their order is free."""
    return sorted(map(tuple, np.asarray(matrix.todense()).T.tolist()))


@given(texts=TEXTS, others=TEXTS)
def test_words_are_counted_as_scikit_learn_does(texts: list[str], others: list[str]) -> None:
    theirs = CountVectorizer(ngram_range=(1, 3), token_pattern=LETTERS, dtype=np.float32)
    try:
        theirs.fit(texts)
    except ValueError:  # no words at all
        return
    counter, _ = learn_ngrams(texts)
    for rows in (texts, others):
        assert sorted_columns(counter.count(rows).words) == sorted_columns(theirs.transform(rows))


@given(texts=TEXTS, others=TEXTS)
def test_characters_are_counted_as_scikit_learn_does(texts: list[str], others: list[str]) -> None:
    as_words = [" ".join(text.replace(".", " ").split()) for text in texts]
    theirs = CountVectorizer(analyzer="char_wb", ngram_range=(3, 4), dtype=np.float32)
    try:
        theirs.fit(as_words)
    except ValueError:
        return
    counter, _ = learn_ngrams(texts)
    for rows in (texts, others):
        expected = theirs.transform([row.replace(".", " ") for row in rows])
        assert sorted_columns(counter.count(rows).characters) == sorted_columns(expected)


def test_from_a_thousand_rows_on_ngrams_of_one_row_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ngrams, "MIN_ROWS_FOR_PRUNING", 3)
    texts = ["a b c a b", "a b d", "e e e"]
    theirs = CountVectorizer(ngram_range=(1, 3), token_pattern=LETTERS, min_df=2)
    _, ours = learn_ngrams(texts)
    assert sorted_columns(ours.words) == sorted_columns(theirs.fit_transform(texts))


@given(texts=TEXTS)
def test_the_counts_of_the_learned_texts_are_those_of_counting_them(texts: list[str]) -> None:
    counter, counts = learn_ngrams(texts)
    again = counter.count(texts)
    assert (counts.words != again.words).nnz == 0
    assert counts.num_short == again.num_short
    if counts.characters is None or again.characters is None:
        assert counts.characters is again.characters
    else:
        assert (counts.characters != again.characters).nnz == 0


def test_from_a_thousand_rows_on_characters_of_most_rows_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ngrams, "MIN_ROWS_FOR_PRUNING", 40)
    texts = ["here"] * 36 + ["there"] * 2 + ["where"] * 2
    counter, counts = learn_ngrams(texts)
    assert counts.words.shape[1] == 3  # of words, those of most rows are kept
    assert counts.characters.sum(axis=0).tolist() == [[2.0] * counts.characters.shape[1]]
    for word, is_known in (("here", False), ("there", True), ("where", True)):
        assert (counter.count([word]).characters.sum() > 0) == is_known
    inside = counter.inside_words
    kept = inside.vectorizer.get_feature_names_out()[inside.columns]
    theirs = CountVectorizer(analyzer="char_wb", ngram_range=(3, 4), vocabulary=kept)
    new = ["thereby whereas here"]
    expected = theirs.transform(new).toarray()
    assert counter.count(new).characters.toarray().tolist() == expected.tolist()


def test_characters_of_just_a_tenth_of_the_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "MIN_ROWS_FOR_PRUNING", 20)
    counter, _ = learn_ngrams(["one"] * 2 + ["it"] * 18)
    assert counter.count(["one"]).characters.sum() > 0
    assert counter.count(["it"]).characters.sum() == 0


def test_where_every_ngram_of_characters_is_in_most_rows_none_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ngrams, "MIN_ROWS_FOR_PRUNING", 2)
    counter, counts = learn_ngrams(["on or off"] * 4)
    assert counts.characters is None
    assert counter.count(["on"]).characters is None
    assert counts.words.shape == (4, 6)


def test_short_ngrams_stand_first() -> None:
    counts = learn_ngrams(["a b c"])[0].count(["a b", "c"])
    assert counts.words.shape == (2, 6)
    assert counts.num_short == 5
    assert counts.words[:, :3].sum() == 3


def test_emoji_count_as_words() -> None:
    """The model was said to beat baselines that did not see what the labels hang on."""
    texts = ["good 👍", "good 👎", "👍👍", "❤\ufe0f"]
    _, counts = learn_ngrams(texts, characters=False, max_order=1)
    assert sorted_columns(counts.words) == [(0, 0, 0, 1), (0, 1, 0, 0), (1, 0, 2, 0), (1, 1, 0, 0)]


def test_an_ngram_never_reaches_into_the_next_text() -> None:
    counter, _ = learn_ngrams(["a b", "b a"], characters=False)
    assert counter.count(["a", "b"]).words.sum() == 2


def test_rows_can_be_selected() -> None:
    _, counts = learn_ngrams(["aaa b", "b", "c"])
    chosen = counts.select(np.array([2, 0]))
    assert (chosen.words != counts.words[[2, 0]]).nnz == 0
    assert (chosen.characters != counts.characters[[2, 0]]).nnz == 0


def test_no_text_is_counted_as_no_row() -> None:
    counts = learn_ngrams(["a b"])[0].count([])
    assert counts.words.shape == (0, 3)
