"""Profiles of parts: computed once per part, used by many checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bertfit.data.dataset import TextDataset
from bertfit.data.duplicates import fingerprint_texts
from bertfit.data.giveaways import WordCounts
from bertfit.data.near_duplicates import sign_texts
from bertfit.data.words import (
    NumberedWords,
    leave_out_addresses,
    make_vocabulary,
    number_signs,
    number_words,
)


@dataclass(frozen=True, slots=True)
class PartProfile:
    """The n rows of a part, and values computed from them."""

    name: str
    """train, validation or test."""
    rows: TextDataset
    fingerprints: list[bytes]
    """(n,) equal for texts that differ only in white space, case and HTML line breaks."""
    num_words: np.ndarray
    """(n,) words of each text."""
    signatures: np.ndarray | None
    """(n, 64) for near-duplicates; None if there is no other part."""


def profile_part(
    name: str,
    rows: TextDataset,
    vocabulary: defaultdict[str, int],
    *,
    with_signatures: bool,
    counts: WordCounts | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PartProfile:
    """Compute the profile of a part in one pass over its texts, in chunks to bound the memory.

    Args:
        name: train, validation or test.
        rows: Its rows.
        vocabulary: From `make_vocabulary`; extended with new words.
        with_signatures: Compute the signatures for near-duplicates.
        counts: If given, words and signs are counted in it by label.
        on_progress: Called with (done, n).
    """
    num_words, signatures, fingerprints = [], [], list[bytes]()
    sign_vocabulary, signs = make_vocabulary(), list[NumberedWords]()
    chunks_of_signs = number_signs(rows.texts, sign_vocabulary)
    for words in number_words(rows.texts, vocabulary, on_progress=on_progress):
        num_words.append(words.num_words)
        texts = rows.texts[words.start : words.start + len(words.num_words)]
        fingerprints += fingerprint_texts(texts)
        if with_signatures:
            signatures.append(sign_texts(leave_out_addresses(words, texts, vocabulary)))
        if counts is not None:
            counts.add(words)
            signs.append(next(chunks_of_signs))
    if counts is not None:
        _add_signs(counts, signs, sign_vocabulary, vocabulary)
    return PartProfile(
        name=name,
        rows=rows,
        fingerprints=fingerprints,
        num_words=np.concatenate(num_words),
        signatures=np.concatenate(signatures) if signatures else None,
    )


def _add_signs(
    counts: WordCounts,
    chunks: Iterable[NumberedWords],
    signs: Mapping[str, int],
    vocabulary: defaultdict[str, int],
) -> None:
    """Count signs, numbered by `signs`, with ids of the vocabulary that follow its words."""
    word_ids = np.array([vocabulary[sign] for sign in signs], dtype=np.int64)
    for chunk in chunks:
        counts.add(replace(chunk, word_ids=word_ids[chunk.word_ids]))


def choose_comparable(
    profile: PartProfile, *, without: Collection[bytes], least_words: int
) -> list[int]:
    """Return the first row of each text that has enough words and is not in `without`."""
    seen = set(without)
    chosen = []
    for row, fingerprint in enumerate(profile.fingerprints):
        if fingerprint not in seen and profile.num_words[row] >= least_words:
            seen.add(fingerprint)
            chosen.append(row)
    return chosen
