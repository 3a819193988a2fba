"""Convert texts to word ids, in chunks, for counting and comparing texts.

Ids are only meaningful with the vocabulary that assigned them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertfit.word_pattern import find_words, is_mark

_CHUNK_SIZE = 1024
_ADDRESS = re.compile(r"\bhttps?://\S+|\bwww\.\S+|(?:\bRT\s+)?(?<!\w)@\w+:?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NumberedWords:
    """The word ids of n texts, concatenated.

    Text i has `word_ids[offsets[i]:offsets[i + 1]]`.
    """

    start: int
    """Index of the first of these texts among all."""
    word_ids: np.ndarray
    """(total,) int64 ids of lower-cased words, in order."""
    offsets: np.ndarray
    """(n + 1,) int64."""

    @property
    def num_words(self) -> np.ndarray:
        """(n,) number of words of each text."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """(total,) index of each word's text among these n."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.num_words)


def make_vocabulary() -> defaultdict[str, int]:
    """Return an empty mapping that assigns the next id to each new word."""
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__
    return vocabulary


def find_signs(text: str) -> set[str]:
    """Return the characters of a text that are neither alphanumeric nor white space.

    Example:
        >>> sorted(find_signs("★ It's 5!"))
        ['!', "'", '★']
    """
    others = {character for character in set(text) if not character.isalnum()}
    return {sign for sign in others if not sign.isspace() and not is_mark(sign)}


def number_signs(
    texts: Sequence[str], vocabulary: defaultdict[str, int]
) -> Iterator[NumberedWords]:
    """Yield the signs of all texts, in chunks; each once per text, by code point.

    In the order of a set, their ids would differ between processes, and so would findings.

    Args:
        texts: n texts.
        vocabulary: From `make_vocabulary`; extended with new signs.
    """
    for start in range(0, len(texts), _CHUNK_SIZE):
        signs = [sorted(find_signs(text)) for text in texts[start : start + _CHUNK_SIZE]]
        numbers = [vocabulary[sign] for of_text in signs for sign in of_text]
        offsets = np.cumsum([0, *map(len, signs)])
        yield NumberedWords(start, np.array(numbers, dtype=np.int64), offsets)


def number_words(
    texts: Sequence[str],
    vocabulary: defaultdict[str, int],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[NumberedWords]:
    """Yield the words of all texts, in chunks of texts.

    Args:
        texts: n texts.
        vocabulary: From `make_vocabulary`; extended with new words.
        on_progress: Called with (done, n) after each chunk.
    """
    for start in range(0, len(texts), _CHUNK_SIZE):
        pieces = [_number(text, vocabulary) for text in texts[start : start + _CHUNK_SIZE]]
        yield _join(start, pieces)
        if on_progress is not None:
            on_progress(start + len(pieces), len(texts))


def leave_out_addresses(
    words: NumberedWords, texts: Sequence[str], vocabulary: defaultdict[str, int]
) -> NumberedWords:
    """Return a chunk of words without those of links and mentions, in which copies differ.

    Args:
        words: From `number_words`.
        texts: The n texts of the chunk.
        vocabulary: That numbered the words.
    """
    found = [at for at, text in enumerate(texts) if _may_have_address(text)]
    if not found:
        return words
    pieces = np.split(words.word_ids, words.offsets[1:-1])
    for at in found:
        pieces[at] = _number(drop_addresses(texts[at]), vocabulary)
    return _join(words.start, pieces)


def drop_addresses(text: str) -> str:
    """Return a text without its links and mentions, and without the RT of a text passed on.

    Example:
        >>> drop_addresses("RT @ann: so good http://t.co/x1, me@home.org")
        ' so good  me@home.org'
    """
    return _ADDRESS.sub("", text) if _may_have_address(text) else text


def _may_have_address(text: str) -> bool:
    return "@" in text or "://" in text or "www." in text  # far faster than the pattern


def _number(text: str, vocabulary: defaultdict[str, int]) -> np.ndarray:
    words = find_words(text)
    return np.fromiter(map(vocabulary.__getitem__, words), np.int64, len(words))


def _join(start: int, pieces: Sequence[np.ndarray]) -> NumberedWords:
    return NumberedWords(start, np.concatenate(pieces), np.cumsum([0, *map(len, pieces)]))
