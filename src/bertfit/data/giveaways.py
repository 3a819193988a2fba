"""Find words and signs that give the label away: an id, a source, stars, or the label itself.

A model that finds such a word learns nothing else, and its score says nothing about new text. For
each word, the texts that contain it are counted by label. A word is judged by the share of the
uncertainty about one label that its presence removes: mutual information over entropy, in [0, 1].
Words that stand in the same texts, such as those of a footer or a URL, are one giveaway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bertfit.data.words import NumberedWords

LEAST_TELLING = 0.8
"""A word that removes this share of the uncertainty is a giveaway, regardless of other words."""
LEAST_OUTSTANDING = 0.1
"""So is one that removes this share, has the purity below, and far exceeds all other words. No
word of IMDB, SST-2, TREC, Banking77 or GoEmotions does. Among 2 to 10 labels drawn from TREC or
Banking77, one of some label's own words often does ('many', 'visa')."""
LEAST_PURITY = 0.98
"""Share of the texts with the word that have the label."""
LEAST_RATIO = 4.0
"""Least ratio of the word's share to that of the best other word (see `_measure_rest`)."""
LEAST_SHARED = 0.9
"""Two words are one giveaway if this share of the texts with either have both."""
_LEAST_ROWS = 10
"""Least number of texts with the word and the label; fewer may be chance."""
_LEAST_ROWS_LEFT = 5
"""The same for the other words, which are counted in fewer texts."""
_LEAST_EXPECTED = 5.0
"""Least number of texts of other labels that would have the word by chance: if one label has nearly
all texts, it has nearly all with any word."""

_NUM_BITS = 32
_LOW = np.int64((1 << _NUM_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Giveaway:
    """A word or sign, and the label that it gives away."""

    word: str
    """The most telling one, if there are several."""
    label: str
    told: float
    """Share of the uncertainty about the label that the word removes, in [0, 1]."""
    num_rows: int
    """Texts with the word."""
    coverage: float
    """Share of the label's texts with the word."""
    purity: float
    """Share of the texts with the word that have the label."""
    companions: tuple[str, ...] = ()
    """Other telling words and signs of the same texts."""


@dataclass(slots=True)
class WordCounts:
    """Which words each of n texts has, added chunk by chunk."""

    label_ids: np.ndarray
    """(n,) of all texts."""
    pairs: list[np.ndarray] = field(default_factory=list)
    """Per chunk, `row * 2**32 + word_id`, sorted; each once."""

    def add(self, words: NumberedWords) -> None:
        """Add a chunk."""
        seen = np.sort(((words.start + words.rows) << _NUM_BITS) | words.word_ids)
        self.pairs.append(seen[np.diff(seen, prepend=-1) > 0])  # numpy.unique is 5 times slower

    def find_rows(self, word_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the texts with any of these words, and for each the index of the word.

        Args:
            word_ids: (k,) different words.

        Returns:
            (p,) rows and (p,) indexes into `word_ids`: one pair for each word in each text.
        """
        places = np.full(int(word_ids.max()) + 2, -1)  # the last is for all higher ids
        places[word_ids] = np.arange(len(word_ids))
        rows, found = [], []
        for pairs in self.pairs:
            at = places[np.minimum(pairs & _LOW, len(places) - 1)]
            rows.append(pairs[at >= 0] >> _NUM_BITS)
            found.append(at[at >= 0])
        return np.concatenate(rows), np.concatenate(found)


@dataclass(frozen=True, slots=True)
class _Scores:
    """How telling each word is of each label of its texts; k pairs."""

    word_ids: np.ndarray
    label_ids: np.ndarray
    both: np.ndarray
    """(k,) texts with the word and the label."""
    with_word: np.ndarray
    with_label: np.ndarray
    told: np.ndarray
    """(k,) from `measure_told`; 0 if too few texts have both."""

    @property
    def purity(self) -> np.ndarray:
        """(k,) share of the texts with the word that have the label."""
        purity: np.ndarray = self.both / self.with_word
        return purity


def find_giveaways(
    counted: WordCounts, vocabulary: Sequence[str], label_names: Sequence[str]
) -> list[Giveaway]:
    """Return the words that give a label away, the most telling first.

    Args:
        counted: The words of all labelled texts of a part.
        vocabulary: Word of each word id.
        label_names: Name of each label id.
    """
    if not counted.pairs:
        return []
    num_labels, num_rows = len(label_names), len(counted.label_ids)
    everywhere = np.ones(num_rows, dtype=bool)
    scores = _score_words(counted, everywhere, num_labels, least_rows=_LEAST_ROWS)
    is_candidate = (scores.told >= LEAST_OUTSTANDING) & (scores.purity >= LEAST_PURITY)
    is_candidate &= num_rows - scores.with_label >= _LEAST_ROWS  # fewer lack a word by chance
    is_candidate |= scores.told >= LEAST_TELLING
    is_candidate &= scores.with_word * (1 - scores.with_label / num_rows) >= _LEAST_EXPECTED
    candidates = np.flatnonzero(is_candidate)
    if not len(candidates):
        return []
    candidates = candidates[np.argsort(-scores.told[candidates], kind="stable")]
    phrases = _join_words(counted, scores, candidates)
    first = phrases[: num_labels + 1]  # each label may have one
    rest = _measure_rest(
        counted,
        scores.word_ids[np.concatenate(first)],
        num_labels,
        num_skipped=num_labels + 1 - len(first),
    )
    told = scores.told
    others = phrases[len(first) :]  # of a topic, as a rule: it has several, each in other texts
    rest = max([rest, *(told[phrase[0]] for phrase in others)])
    return [
        Giveaway(
            word=vocabulary[scores.word_ids[at]],
            label=label_names[scores.label_ids[at]],
            told=float(told[at]),
            num_rows=int(scores.with_word[at]),
            coverage=float(scores.both[at] / scores.with_label[at]),
            purity=float(scores.purity[at]),
            companions=tuple(vocabulary[scores.word_ids[one]] for one in companions),
        )
        for at, *companions in phrases
        if told[at] >= LEAST_TELLING or told[at] >= LEAST_RATIO * rest
    ]


def measure_told(
    both: np.ndarray, with_word: np.ndarray, with_label: np.ndarray, *, num_rows: int
) -> np.ndarray:
    """Return I(word present; label) / H(label), or 0 if the word is evidence against the label.

    Args:
        both: (k,) texts with the word and the label.
        with_word: (k,) texts with the word.
        with_label: (k,) texts with the label.
        num_rows: Number of texts.

    Source: Shannon 1948, "A Mathematical Theory of Communication", section 12.

    Example:
        >>> measure_told(np.array([5.0]), np.array([5.0]), np.array([5.0]), num_rows=10).round(3)
        array([1.])
    """
    present = with_word / num_rows
    doubt = _entropy(with_label / num_rows)
    left = present * _entropy(both / with_word)
    left += (1 - present) * _entropy((with_label - both) / np.maximum(num_rows - with_word, 1))
    told = (doubt - left) / np.maximum(doubt, np.finfo(float).tiny)
    return np.where(both * num_rows > with_word * with_label, told, 0.0)


def _entropy(shares: np.ndarray) -> np.ndarray:
    from scipy.special import entr

    entropies: np.ndarray = entr(shares) + entr(1 - shares)
    return entropies


def _score_words(
    counted: WordCounts, is_kept: np.ndarray, num_labels: int, *, least_rows: int
) -> _Scores:
    """Count the words of some texts by label, and score them.

    Args:
        counted: The words of n texts.
        is_kept: (n,) whether a text counts.
        num_labels: Number of labels.
        least_rows: Texts with the word and the label from which on a word has a score.
    """
    keys, counts = [], []
    for pairs in counted.pairs:
        rows = pairs >> _NUM_BITS
        of_chunk = (counted.label_ids[rows] << _NUM_BITS) | (pairs & _LOW)
        different, times = np.unique(of_chunk[is_kept[rows]], return_counts=True)
        keys.append(different)
        counts.append(times)
    merged, places = np.unique(np.concatenate(keys), return_inverse=True)
    both = np.bincount(places, weights=np.concatenate(counts))
    label_ids, word_ids = merged >> _NUM_BITS, merged & _LOW
    num_rows = int(is_kept.sum())
    with_word = np.bincount(word_ids, weights=both)[word_ids]
    with_label = np.bincount(counted.label_ids[is_kept], minlength=num_labels)[label_ids]
    told = measure_told(both, with_word, with_label, num_rows=num_rows)
    told[both < least_rows] = 0.0
    return _Scores(word_ids, label_ids, both, with_word, with_label, told)


def _join_words(counted: WordCounts, scores: _Scores, candidates: np.ndarray) -> list[np.ndarray]:
    """Join candidates for one label that stand in the same texts, and return the groups.

    Args:
        counted: The words of all texts.
        scores: Their scores.
        candidates: (c,) indexes into `scores`, the most telling first; this order is kept.
    """
    from scipy.sparse import csr_array

    word_ids, which = np.unique(scores.word_ids[candidates], return_inverse=True)
    rows, words = counted.find_rows(word_ids)
    shape = len(counted.label_ids), len(word_ids)
    words_of = csr_array((np.ones(len(rows), dtype=np.int8), (rows, words)), shape=shape)
    texts_of = words_of.tocsc()
    sizes, labels = scores.with_word[candidates], scores.label_ids[candidates]
    is_left = np.ones(len(candidates), dtype=bool)
    groups = []
    for at in range(len(candidates)):
        if is_left[at]:
            texts = texts_of.indices[slice(*texts_of.indptr[[which[at], which[at] + 1]])]
            shared = np.bincount(words_of[texts].indices, minlength=len(word_ids))[which]
            is_same = is_left & (labels == labels[at])
            is_same &= shared >= LEAST_SHARED * (sizes + sizes[at] - shared)
            groups.append(candidates[is_same])
            is_left &= ~is_same
    return groups


def _measure_rest(
    counted: WordCounts, word_ids: np.ndarray, num_labels: int, *, num_skipped: int
) -> float:
    """Return the score of the best other word, in the texts that have none of these words.

    A footer also makes its ordinary words telling ("from", "my"): only elsewhere do they count as
    in any text.

    Args:
        counted: The words of all texts.
        word_ids: Words that may be giveaways.
        num_labels: Number of labels.
        num_skipped: Best other words that may be giveaways as well.
    """
    is_kept = np.ones(len(counted.label_ids), dtype=bool)
    is_kept[counted.find_rows(word_ids)[0]] = False
    scores = _score_words(counted, is_kept, num_labels, least_rows=_LEAST_ROWS_LEFT)
    if not len(scores.told):
        return 0.0
    # If hardly a text has the label, or another one, almost any word tells much by chance.
    fewest = np.minimum(scores.with_label, is_kept.sum() - scores.with_label)
    best = np.zeros(int(scores.word_ids.max()) + 1)
    np.maximum.at(best, scores.word_ids, np.where(fewest < _LEAST_ROWS, 0.0, scores.told))
    return float(np.sort(best)[-num_skipped - 1]) if num_skipped < len(best) else 0.0
