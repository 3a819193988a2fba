"""Find near-duplicates: MinHash proposes pairs, and an exact comparison decides.

The similarity of two texts is the Jaccard index of their sets of three-word sequences, without the
words of links and mentions: copies of a message differ in these. Signatures and bands only avoid
comparing all pairs of texts: each returned pair was compared in full, so its similarity is exact. A
pair can be missed by chance if it shares no band. Among a thousand other texts of one template it
is missed in a tenth of draws, because each is compared with only a few.

Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman & Ullman
2014, "Mining of Massive Datasets", section 3.4 (bands).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import rensa

from bertfit.data.words import NumberedWords, drop_addresses
from bertfit.word_pattern import find_words

THRESHOLD = 0.8
"""Minimum similarity of near-duplicates.

Source: Lee et al. 2022, arXiv 2107.06499, section 4.2.
"""
SHINGLE_SIZE = 3
"""Consecutive words; longer shingles would miss similar short texts."""

_NUM_BANDS = 16
_BAND_SIZE = 4
"""16 bands of 4 miss 2 in 10,000 pairs with a similarity of 0.8, and fewer than 1 in a million
with 0.9."""
_MOST_PER_BUCKET = 8
"""Maximum number of candidates per row and bucket; bounds the time if thousands of texts share a
template, and each still finds a partner."""
_ESTIMATE_SLACK = 0.2
"""Pairs whose estimated similarity is below the threshold by more than this are not compared."""
_MOST_COMPARED = 3
"""Number of best candidates per row that are compared in full."""
_SEED = 1

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A row, and the most similar row of another part."""

    row: int
    other: int
    similarity: float
    """In [THRESHOLD, 1]; 1 if only case, punctuation, links, mentions or repetitions differ."""


def sign_texts(words: NumberedWords) -> np.ndarray:
    """Return (n, 64) uint32 MinHash signatures; the share of equal entries estimates similarity.

    The signature of a text of fewer than `SHINGLE_SIZE` words is meaningless.

    Args:
        words: Of n texts, after `leave_out_addresses`.
    """
    hashes, offsets = _hash_shingles(words)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), num_perm=_NUM_BANDS * _BAND_SIZE, seed=_SEED
    )
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, _NUM_BANDS * _BAND_SIZE)


def find_near_duplicates(
    texts: Sequence[str],
    others: Sequence[str],
    *,
    signatures: np.ndarray,
    other_signatures: np.ndarray,
    rows: Collection[int],
    other_rows: Collection[int],
) -> list[NearDuplicate]:
    """Return the rows of `texts` with a near-duplicate in `others`, sorted by row.

    Args:
        texts: n texts.
        others: m texts of another part.
        signatures: (n, 64) from `sign_texts`.
        other_signatures: (m, 64) likewise.
        rows: Which of the n to compare; texts of fewer than three words should be excluded.
        other_rows: Which of the m to compare.
    """
    if not rows or not other_rows:
        return []
    kept, kept_others = np.array(sorted(rows)), np.array(sorted(other_rows))
    pairs = _propose_pairs(signatures[kept], other_signatures[kept_others])
    found: dict[int, NearDuplicate] = {}
    shingles_of_row: dict[int, set[tuple[str, ...]]] = {}
    for at, other_at in pairs.tolist():
        row, other = int(kept[at]), int(kept_others[other_at])
        if row not in shingles_of_row:
            shingles_of_row = {row: make_shingles(texts[row])}  # pairs are sorted by row
        similarity = _compare(shingles_of_row[row], make_shingles(others[other]))
        best = found[row].similarity if row in found else 0.0
        if similarity >= THRESHOLD and similarity > best:
            found[row] = NearDuplicate(row, other, similarity)
    return list(found.values())


def make_shingles(text: str) -> set[tuple[str, ...]]:
    """Return the set of sequences of three consecutive words in a text, links and mentions aside.

    Example:
        >>> sorted(make_shingles("@ann To be, or not!"))
        [('be', 'or', 'not'), ('to', 'be', 'or')]
    """
    words = find_words(drop_addresses(text))
    return set(zip(*(words[at:] for at in range(SHINGLE_SIZE)), strict=False))


def _compare(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    num_shared = len(a & b)
    return num_shared / max(len(a) + len(b) - num_shared, 1)


def _hash_shingles(words: NumberedWords) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of each shingle, and the offsets of the texts in them."""
    num_places = max(len(words.word_ids) - SHINGLE_SIZE + 1, 0)
    of_word = _mix(words.word_ids.astype(np.uint64) + np.uint64(1))
    hashes = np.zeros(num_places, dtype=np.uint64)
    for at in range(SHINGLE_SIZE):
        hashes = hashes * _FACTOR + of_word[at : at + num_places]
    rows = words.rows
    within = rows[:num_places] == rows[SHINGLE_SIZE - 1 :]  # drop shingles that span two texts
    counts = np.maximum(words.num_words - SHINGLE_SIZE + 1, 0)
    return _mix(hashes[within]), np.concatenate([[0], np.cumsum(counts)])


def _mix(values: np.ndarray) -> np.ndarray:
    """Mix 64-bit values (the finalizer of splitmix64); overflow is intended."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _propose_pairs(signatures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (p, 2) index pairs that share a band and are similar enough, the best of each row."""
    codes = [
        _join_band(_hash_band(signatures, band), _hash_band(others, band), len(others))
        for band in range(_NUM_BANDS)
    ]
    pairs = np.stack(np.divmod(np.unique(np.concatenate(codes)), len(others)), axis=1)
    agreements = _count_agreements(signatures, others, pairs) / (_NUM_BANDS * _BAND_SIZE)
    is_near = agreements >= THRESHOLD - _ESTIMATE_SLACK
    pairs, agreements = pairs[is_near], agreements[is_near]
    order = np.lexsort((-agreements, pairs[:, 0]))
    pairs = pairs[order]
    starts = np.searchsorted(pairs[:, 0], pairs[:, 0])
    return pairs[np.arange(len(pairs)) - starts < _MOST_COMPARED]


def _hash_band(signatures: np.ndarray, band: int) -> np.ndarray:
    columns = signatures[:, band * _BAND_SIZE : (band + 1) * _BAND_SIZE].astype(np.uint64)
    hashes = np.zeros(len(signatures), dtype=np.uint64)
    for at in range(_BAND_SIZE):
        hashes = _mix(hashes * _FACTOR + columns[:, at])
    return hashes


def _join_band(hashes: np.ndarray, others: np.ndarray, num_others: int) -> np.ndarray:
    """Return `row * num_others + other` for rows with equal hashes, a few per bucket."""
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    starts = np.searchsorted(ordered, hashes, side="left")
    sizes = np.searchsorted(ordered, hashes, side="right") - starts
    sizes = np.minimum(sizes, _MOST_PER_BUCKET)
    rows = np.repeat(np.arange(len(hashes)), sizes)
    steps = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    codes: np.ndarray = rows * num_others + order[starts[rows] + steps]
    return codes


def _count_agreements(signatures: np.ndarray, others: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    agreements = np.zeros(len(pairs), dtype=np.int64)
    for column in range(signatures.shape[1]):  # by column: saves memory if there are many pairs
        agreements += signatures[pairs[:, 0], column] == others[pairs[:, 1], column]
    return agreements
