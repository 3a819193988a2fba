"""What is computed once for each part, and used by many checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from bertfit.data.dataset import TextDataset
from bertfit.data.duplicates import fingerprint_texts
from bertfit.data.giveaways import WordCounts
from bertfit.data.near_duplicates import sign_texts
from bertfit.data.words import number_signs, number_words


@dataclass(frozen=True, slots=True)
class PartProfile:
    """The n rows of a part, and what was computed of them."""

    name: str
    """train, validation or test."""
    rows: TextDataset
    fingerprints: list[bytes]
    """(n,) equal for texts that differ in white space and case alone."""
    num_words: np.ndarray
    """(n,) words of each text."""
    signatures: np.ndarray | None
    """(n, 64) for near-duplicates; None where there is no other part."""


def profile_part(
    name: str,
    rows: TextDataset,
    vocabulary: defaultdict[str, int],
    *,
    with_signatures: bool,
    counts: WordCounts | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PartProfile:
    """Go through the words of a part once; memory for them is bounded by a chunk of texts.

    Args:
        name: train, validation or test.
        rows: Its rows.
        vocabulary: From `make_vocabulary`; it grows.
        with_signatures: Compute what near-duplicates are found by.
        counts: Counts the words and signs by label, where that is wanted.
        on_progress: Called with (done, n).
    """
    num_words, signatures = [], []
    for words in number_words(rows.texts, vocabulary, on_progress=on_progress):
        num_words.append(words.num_words)
        if with_signatures:
            signatures.append(sign_texts(words))
        if counts is not None:
            counts.add(words)
    if counts is not None:
        for signs in number_signs(rows.texts, vocabulary):
            counts.add(signs)
    return PartProfile(
        name=name,
        rows=rows,
        fingerprints=fingerprint_texts(rows.texts),
        num_words=np.concatenate(num_words),
        signatures=np.concatenate(signatures) if signatures else None,
    )


def choose_comparable(
    profile: PartProfile, *, without: Collection[bytes], least_words: int
) -> list[int]:
    """Return the first row of each text that has enough words and is not among `without`."""
    seen = set(without)
    chosen = []
    for row, fingerprint in enumerate(profile.fingerprints):
        if fingerprint not in seen and profile.num_words[row] >= least_words:
            seen.add(fingerprint)
            chosen.append(row)
    return chosen
