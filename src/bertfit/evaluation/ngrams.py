"""Count n-grams of texts with arrays instead of strings, fast enough for 50,000 reviews.

Owns the definition of a token, and the counting. Words are numbered, and longer n-grams are looked
up by the numbers of their prefix and last word, so no strings are built for them. Character n-grams
are counted once per distinct word, because they depend only on the word; a matrix product gives the
counts per text. The classifiers are in lexical.py.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bertfit.evaluation.threads import run_in_threads
from bertfit.word_pattern import find_words

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

MAX_ORDER = 3
"""Words in the longest n-gram."""
SHORT_ORDER = 2
"""Words in the longest n-gram used by TF-IDF."""
CHARACTER_ORDERS = (3, 4)
"""Characters in the shortest and longest n-gram within a word, padded with a blank on each side."""
MIN_ROWS_FOR_PRUNING = 1_000
"""With fewer rows, all n-grams are kept, including those of a single row or of most rows."""
MAX_CHARACTER_SHARE = 0.1
"""Character n-grams in a larger share of the rows say little, and are half of all counts."""

_NO_WORDS = "no words in the texts: n-grams of characters were counted instead"


@dataclass(frozen=True, slots=True)
class Tokens:
    """n texts as word ids, concatenated."""

    words: Sequence[str]
    """The distinct words, by id."""
    word_ids: NDArray[np.int64]
    """(total,)"""
    rows: NDArray[np.int64]
    """(total,) the text of each word, in increasing order."""
    num_rows: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of each learned n-gram in n texts; rows may be empty."""

    words: csr_matrix
    """(n, V) float32: n-grams of words, shorter ones first."""
    num_short: int
    """Number of leading columns with n-grams of up to `SHORT_ORDER` words."""
    characters: csr_matrix | None
    """(n, W) float32: character n-grams; None if they were not learned."""

    def select(self, rows: NDArray[np.int64]) -> Counts:
        """Return the counts of some rows, in that order."""
        characters = None if self.characters is None else self.characters[rows]
        return Counts(self.words[rows], self.num_short, characters)


@dataclass(frozen=True, slots=True)
class _LearnedKeys:
    """The kept n-grams of one order, and where they occur."""

    keys: NDArray[np.int64]
    """(K,) sorted"""
    places: NDArray[np.int64]
    """(total,) index in the keys of the n-gram that starts at each word, -1 for none."""
    counts: csr_matrix
    """(n, K)"""


@dataclass(frozen=True, slots=True)
class InsideWords:
    """The learned character n-grams."""

    vectorizer: CountVectorizer
    columns: NDArray[np.int64]
    """The kept columns of the vectorizer."""
    of_learned: csr_matrix
    """(number of learned words, W) counts in each learned word, so that only new words have to be
    split."""


@dataclass(frozen=True, slots=True)
class NgramCounter:
    """The n-grams of the training texts, ready to be counted in any texts."""

    split: Callable[[str], list[str]]
    columns: dict[str, int]
    """Column of each word."""
    keys: tuple[NDArray[np.int64], ...]
    """For each longer order, the sorted keys (prefix × number of words + last word)."""
    inside_words: InsideWords | None
    """None if character n-grams were not learned."""
    note: str | None
    """What was unusual, in words, or None."""

    @property
    def num_ngrams(self) -> int:
        """Number of word n-grams of all orders; 0 if the texts were empty."""
        return len(self.columns) + sum(map(len, self.keys))

    def count(self, texts: Sequence[str]) -> Counts:
        """Count the learned n-grams in texts."""
        tokens = _tokenize(texts, self.split)
        word_columns = _find_columns(tokens, self.columns)
        places, blocks = word_columns, [_count_known(tokens, word_columns, len(self.columns))]
        for order, keys in enumerate(self.keys, start=2):
            candidates = _extend(tokens, places, word_columns, (order, len(self.columns)))
            places = _look_up(keys, candidates)
            blocks.append(_count_known(tokens, places, len(keys)))
        return _join(blocks, self._count_characters(tokens))

    def _count_characters(self, tokens: Tokens) -> csr_matrix | None:
        from scipy.sparse import vstack

        if self.inside_words is None:
            return None
        inside, places = self.inside_words, _find_words(tokens, self.columns)
        new_places = np.flatnonzero(places < 0)
        new_words = [tokens.words[place] for place in new_places.tolist()]
        of_new = inside.vectorizer.transform(new_words)[:, inside.columns]
        places[new_places] = len(self.columns) + np.arange(len(new_places))
        of_words = vstack([inside.of_learned, of_new], format="csr")[places]
        counts: csr_matrix = _count_words(tokens) @ of_words
        return counts


def learn_ngrams(
    texts: Sequence[str], *, characters: bool = True, max_order: int = MAX_ORDER
) -> tuple[NgramCounter, Counts]:
    """Learn the n-grams of the texts.

    From 1,000 rows on, n-grams that occur in one row are dropped, and character n-grams that occur
    in more than a tenth of the rows. An n-gram is kept only if its prefix is, which loses nothing,
    because the prefix is at least as frequent. If no text has a word, single characters replace
    words.

    Args:
        texts: n training texts.
        characters: Also learn character n-grams within words.
        max_order: Words in the longest n-gram, at least 1.

    Returns:
        A counter for other texts, and the counts in these texts.
    """
    split, note = _split_into_words, None
    tokens = _tokenize(texts, split)
    if not len(tokens.words):
        split, note = _split_into_characters, _NO_WORDS
        tokens = _tokenize(texts, split)
    min_rows = 2 if len(texts) >= MIN_ROWS_FOR_PRUNING else 1
    learned = _learn_words(tokens, min_rows=min_rows)
    if not len(learned.keys):  # no word occurs in two rows
        min_rows = 1
        learned = _learn_words(tokens, min_rows=min_rows)
    columns = {tokens.words[word_id]: place for place, word_id in enumerate(learned.keys.tolist())}
    tasks: list[Callable[[], Any]] = [
        functools.partial(_learn_longer, tokens, learned, min_rows=min_rows, max_order=max_order)
    ]
    if characters and split is _split_into_words:
        tasks.append(functools.partial(_learn_characters, tokens, learned.keys, min_rows=min_rows))
    longer, *beside = run_in_threads(tasks)
    inside_words, of_characters = beside[0] if beside else (None, None)
    if not len(tokens.words):
        note = "the texts are empty"
    counter = NgramCounter(split, columns, tuple(one.keys for one in longer), inside_words, note)
    blocks = [learned.counts, *(one.counts for one in longer)]
    return counter, _join(blocks, of_characters)


def _split_into_words(text: str) -> list[str]:
    return find_words(text, with_signs=True)


def _split_into_characters(text: str) -> list[str]:
    return [character for character in text.lower() if not character.isspace()]


def _tokenize(texts: Sequence[str], split: Callable[[str], list[str]]) -> Tokens:
    # The first look-up of a word assigns the next id.
    id_of_word: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    pieces = [
        np.fromiter(map(id_of_word.__getitem__, split(text)), dtype=np.int64) for text in texts
    ]
    word_ids = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
    rows = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    return Tokens(list(id_of_word), word_ids, rows, len(pieces))


def _learn_words(tokens: Tokens, *, min_rows: int) -> _LearnedKeys:
    """Return the words that occur in at least `min_rows` rows; their keys are the word ids."""
    return _keep_frequent(tokens, np.arange(len(tokens.words)), tokens.word_ids, min_rows=min_rows)


def _learn_longer(
    tokens: Tokens, words: _LearnedKeys, *, min_rows: int, max_order: int
) -> list[_LearnedKeys]:
    """Return the n-grams of each order from 2 on."""
    orders = [words]
    for order in range(2, max_order + 1):
        shape = (order, len(words.keys))
        starts = _extend(tokens, orders[-1].places, words.places, shape)
        keys, places = np.unique(starts, return_inverse=True)
        if len(keys) and keys[0] < 0:
            keys, places = keys[1:], places - 1
        orders.append(_keep_frequent(tokens, keys, places, min_rows=min_rows))
    return orders[1:]


def _keep_frequent(
    tokens: Tokens, keys: NDArray[np.int64], places: NDArray[np.int64], *, min_rows: int
) -> _LearnedKeys:
    """Return the sorted keys that occur in at least `min_rows` rows.

    `places` (total,) is the index of the key that starts at each word, -1 for none.
    """
    counts = _count_known(tokens, places, len(keys))
    kept = np.flatnonzero(np.bincount(counts.indices, minlength=len(keys)) >= min_rows)
    new_places = np.full(len(keys) + 1, -1, dtype=np.int64)  # the last entry maps -1 to -1
    new_places[kept] = np.arange(len(kept))
    return _LearnedKeys(keys[kept], new_places[places], counts[:, kept])


def _learn_characters(
    tokens: Tokens, learned_words: NDArray[np.int64], *, min_rows: int
) -> tuple[InsideWords | None, csr_matrix | None]:
    """Return the character n-grams and their counts in the texts; None if none is kept.

    `learned_words` are the ids of the learned words, in the order of their columns.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        analyzer="char_wb", ngram_range=CHARACTER_ORDERS, lowercase=False, dtype=np.float32
    )
    ngrams_of_word = vectorizer.fit_transform(tokens.words)
    counts = _count_words(tokens) @ ngrams_of_word
    num_rows = np.bincount(counts.indices, minlength=counts.shape[1])
    is_kept = num_rows >= min_rows
    if tokens.num_rows >= MIN_ROWS_FOR_PRUNING:
        is_kept &= num_rows <= MAX_CHARACTER_SHARE * tokens.num_rows
    if not is_kept.any():
        return None, None
    kept = np.flatnonzero(is_kept)
    return InsideWords(vectorizer, kept, ngrams_of_word[learned_words][:, kept]), counts[:, kept]


def _find_columns(tokens: Tokens, columns: dict[str, int]) -> NDArray[np.int64]:
    """Return (total,) the column of each word, -1 if it was not learned."""
    found: NDArray[np.int64] = _find_words(tokens, columns)[tokens.word_ids]
    return found


def _find_words(tokens: Tokens, columns: dict[str, int]) -> NDArray[np.int64]:
    """Return the column of each distinct word, -1 if it was not learned."""
    return np.array([columns.get(word, -1) for word in tokens.words], dtype=np.int64)


def _extend(
    tokens: Tokens,
    places: NDArray[np.int64],
    word_columns: NDArray[np.int64],
    shape: tuple[int, int],
) -> NDArray[np.int64]:
    """Return (total,) the key of the n-gram that starts at each word, -1 for none.

    `places` is the index of the n-gram of the next lower order that starts at each word; `shape` is
    (order, number of learned words).
    """
    order, num_words = shape
    keys = np.full(len(places), -1, dtype=np.int64)
    starts = np.flatnonzero(places[: max(0, len(places) - order + 1)] >= 0)
    ends = starts + order - 1
    is_one = (tokens.rows[starts] == tokens.rows[ends]) & (word_columns[ends] >= 0)
    starts, ends = starts[is_one], ends[is_one]
    keys[starts] = places[starts] * num_words + word_columns[ends]
    return keys


def _look_up(keys: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of each candidate in the sorted keys, -1 if it is not among them."""
    if not len(keys):
        return np.full(len(candidates), -1, dtype=np.int64)
    # The search is four times as fast for sorted candidates, because of cache locality.
    distinct, inverse = np.unique(candidates, return_inverse=True)
    places = np.minimum(np.searchsorted(keys, distinct), len(keys) - 1)
    found: NDArray[np.int64] = np.where(keys[places] == distinct, places, -1)[inverse]
    return found


def _count_known(tokens: Tokens, columns: NDArray[np.int64], num_columns: int) -> csr_matrix:
    """Return (n, num_columns) the counts of each column in each text; -1 is ignored."""
    from scipy.sparse import csr_matrix

    is_known = columns >= 0
    ones = np.ones(int(is_known.sum()), dtype=np.float32)
    cells = (tokens.rows[is_known], columns[is_known])
    return csr_matrix((ones, cells), shape=(tokens.num_rows, num_columns))


def _join(blocks: Sequence[csr_matrix], characters: csr_matrix | None) -> Counts:
    from scipy.sparse import hstack

    num_short = sum(block.shape[1] for block in blocks[:SHORT_ORDER])
    return Counts(hstack(blocks, format="csr"), num_short, characters)


def _count_words(tokens: Tokens) -> csr_matrix:
    return _count_known(tokens, tokens.word_ids, len(tokens.words))
