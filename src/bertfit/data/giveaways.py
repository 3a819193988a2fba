"""Find words and signs that give the label away: an id, a source, stars, or the label itself.

A model that finds such a word learns nothing else, and its score says nothing about new text. For
each word, the texts that contain it are counted by label. A word is judged by the share of the
uncertainty about one label that its presence removes: mutual information over entropy, in [0, 1].
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
word of IMDB, SST-2 or TREC's coarse labels does; one of Banking77 ('contactless') and one of TREC's
fine labels ('why') do."""
LEAST_PURITY = 0.98
"""Share of the texts with the word that have the label."""
LEAST_RATIO = 4.0
"""Least ratio of the word's share to that of the best remaining word (see `_measure_rest`)."""
_LEAST_ROWS = 10
"""Least number of texts with the word and the label; fewer may be chance."""

_SHIFT = np.int64(1 << 32)


@dataclass(frozen=True, slots=True)
class Giveaway:
    """A word or sign, and the label that it gives away."""

    word: str
    label: str
    told: float
    """Share of the uncertainty about the label that the word removes, in [0, 1]."""
    num_rows: int
    """Texts with the word."""
    coverage: float
    """Share of the label's texts with the word."""
    purity: float
    """Share of the texts with the word that have the label."""


@dataclass(slots=True)
class WordCounts:
    """Number of texts per label and word, counted chunk by chunk."""

    label_ids: np.ndarray
    """(n,) of all texts."""
    keys: list[np.ndarray] = field(default_factory=list)
    """Per chunk, `label_id * 2**32 + word_id`."""
    counts: list[np.ndarray] = field(default_factory=list)
    """Per chunk, number of texts for each key."""

    def add(self, words: NumberedWords) -> None:
        """Count a chunk."""
        seen = np.sort(words.rows * _SHIFT + words.word_ids)  # numpy.unique is five times slower
        seen = seen[np.diff(seen, prepend=-1) > 0]
        labels = self.label_ids[words.start + seen // _SHIFT]
        keys, counts = np.unique(labels * _SHIFT + seen % _SHIFT, return_counts=True)
        self.keys.append(keys)
        self.counts.append(counts)


def find_giveaways(
    counted: WordCounts, vocabulary: Sequence[str], label_names: Sequence[str]
) -> list[Giveaway]:
    """Return the words that give a label away, the most telling first.

    Args:
        counted: Counts of all labelled texts of a part.
        vocabulary: Word of each word id.
        label_names: Name of each label id.
    """
    if not counted.keys:
        return []
    keys, places = np.unique(np.concatenate(counted.keys), return_inverse=True)
    both = np.bincount(places, weights=np.concatenate(counted.counts))
    label_ids, word_ids = keys // _SHIFT, keys % _SHIFT
    with_word = np.bincount(word_ids, weights=both)[word_ids]
    with_label = np.bincount(counted.label_ids, minlength=len(label_names))[label_ids]
    told = measure_told(both, with_word, with_label, num_rows=len(counted.label_ids))
    told[both < _LEAST_ROWS] = 0.0
    purity = both / with_word
    is_giveaway = told >= LEAST_TELLING
    rest = _measure_rest(told, word_ids, len(label_names))
    is_giveaway |= (
        (told >= LEAST_OUTSTANDING) & (purity >= LEAST_PURITY) & (told >= LEAST_RATIO * rest)
    )
    found = np.flatnonzero(is_giveaway)
    return [
        Giveaway(
            word=vocabulary[word_ids[at]],
            label=label_names[label_ids[at]],
            told=float(told[at]),
            num_rows=int(with_word[at]),
            coverage=float(both[at] / with_label[at]),
            purity=float(purity[at]),
        )
        for at in found[np.argsort(-told[found], kind="stable")]
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


def _measure_rest(told: np.ndarray, word_ids: np.ndarray, num_labels: int) -> float:
    """Return the score of the best word after the first `num_labels + 1` words.

    Each label may have a giveaway in its texts, so the first words are not part of the rest.
    """
    best = np.zeros(int(word_ids.max()) + 1)
    np.maximum.at(best, word_ids, told)
    rank = num_labels + 1
    return float(np.sort(best)[-rank - 1]) if rank < len(best) else 0.0
