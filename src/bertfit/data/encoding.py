"""Text to token ids: clean, encode, truncate by a rule, and store in flat arrays.

Owns truncation: training, evaluation and prediction all call `encode_texts` with the same
`EncodingRule`, which is saved in the run. Special tokens are placed as by the tokenizer's own
post-processor, so a text that is not truncated has the same ids as in transformers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.data.cleaning import clean_text, cleans_itself
from bertfit.data.long_texts import cut_ends, join_ends, splits_at_spaces
from bertfit.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bertfit.config import TextCleaning, Truncation

_CHUNK_SIZE = 1024
_CHUNK_CHARACTERS = 2**22
"""Fewer texts are tokenized at once if they are long: a token takes some 80 bytes meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingRule:
    """How text becomes token ids; stored in the run."""

    max_length: int
    """Tokens per text, including special tokens."""
    truncation: Truncation = "head"
    head_fraction: float = 0.25
    """With head+tail, the share of the kept tokens that comes from the head.

    Source: Sun et al. 2019, arXiv 1905.05583, section 5.3.1 (128 of 510 tokens from the head).
    """
    text_cleaning: TextCleaning = "none"


@dataclass(frozen=True, eq=False)  # without slots, which cached properties cannot have
class EncodedTexts:
    """Token ids of n texts, concatenated; equal only if they are the same.

    Row i is `token_ids[offsets[i]:offsets[i + 1]]`.
    """

    token_ids: np.ndarray
    """(total,) int32."""
    offsets: np.ndarray
    """(n + 1,) int64."""
    full_lengths: np.ndarray
    """(n,) int32: tokens of each text before truncation, including special tokens; estimated for
    texts of which only the ends were read."""
    is_estimated: np.ndarray | None = None
    """(n,) bool: whether the full length is an estimate; None if that is not known any more."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.full_lengths)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of each text after truncation."""
        return np.diff(self.offsets)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Return the concatenated token ids of these rows."""
        starts, ends = self.offsets[indices], self.offsets[indices + 1]
        return np.concatenate(
            [self.token_ids[start:end] for start, end in zip(starts, ends, strict=True)]
        )

    @property
    def is_truncated(self) -> np.ndarray:
        """(n,) bool: whether the text lost tokens to truncation."""
        return self.full_lengths > self.lengths

    @property
    def num_truncated(self) -> int:
        """Number of truncated texts."""
        return int(self.is_truncated.sum())


def encode_texts(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    rule: EncodingRule,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> EncodedTexts:
    """Encode texts in parallel (the tokenizers library uses all cores).

    A text that would have no token is read as a space. Of texts much longer than `rule.max_length`,
    only the ends are read, which gives the same tokens.

    Args:
        texts: n texts.
        tokenizer: From `tokenizers`; its own truncation and padding must be off.
        rule: Cleaning and truncation.
        on_progress: Called with (done, n) after each chunk.

    Raises:
        ModelError: The special tokens leave no room for text within `rule.max_length`, or the
            tokenizer has no token for a word, not even one for unknown words.
    """
    prefix, suffix = find_special_tokens(tokenizer)
    room = rule.max_length - len(prefix) - len(suffix)
    if room < 1:
        raise ModelError(
            f"max_length {rule.max_length} leaves no room for text beside "
            f"{len(prefix) + len(suffix)} special tokens"
        )
    # What is left of a broken-up tag could be another, so texts are cleaned once, as in training.
    cleaning: TextCleaning = "none" if cleans_itself(tokenizer) else rule.text_cleaning
    # Without special tokens an empty text has no token at all, which no model can read.
    blank = [] if prefix or suffix else tokenizer.encode(" ").ids[:1] or [0]
    pieces: list[np.ndarray] = []
    lengths = np.empty(len(texts), dtype=np.int64)
    full_lengths = np.empty(len(texts), dtype=np.int32)
    is_estimated = np.zeros(len(texts), dtype=bool)
    row = 0
    for chunk in cut_chunks(texts, _CHUNK_SIZE, _CHUNK_CHARACTERS):
        cleaned = [clean_text(text, cleaning) for text in chunk]
        for found, estimate in _tokenize(cleaned, tokenizer, room, rule.truncation):
            ids = found or blank
            kept = [*prefix, *truncate(ids, room, rule), *suffix]
            pieces.append(np.asarray(kept, dtype=np.int32))
            lengths[row] = len(kept)
            full_lengths[row] = max(estimate, len(ids)) + len(prefix) + len(suffix)
            is_estimated[row] = estimate > 0
            row += 1
        if on_progress is not None:
            on_progress(row, len(texts))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    token_ids = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    return EncodedTexts(token_ids, offsets, full_lengths, is_estimated)


def cut_chunks(texts: Iterable[str], most_texts: int, most_characters: int) -> Iterator[list[str]]:
    """Yield chunks of texts as they come, each of so many texts, or fewer if they are long.

    Example:
        >>> list(cut_chunks(["a", "long", "b", "c"], most_texts=2, most_characters=4))
        [['a', 'long'], ['b', 'c']]
        >>> list(cut_chunks(["long", "b", "c"], most_texts=2, most_characters=4))
        [['long'], ['b', 'c']]
    """
    chunk: list[str] = []
    num_characters = 0
    for text in texts:
        chunk.append(text)
        num_characters += len(text)
        if len(chunk) == most_texts or num_characters >= most_characters:
            yield chunk
            chunk, num_characters = [], 0
    if chunk:
        yield chunk


def _tokenize(
    texts: Sequence[str], tokenizer: Tokenizer, room: int, truncation: Truncation
) -> Iterator[tuple[list[int], int]]:
    """Yield the ids of each text, and 0; or of its ends, and an estimate of how many it has."""
    may_cut = splits_at_spaces(tokenizer)
    parts = [cut_ends(text, room, truncation) if may_cut else [text] for text in texts]
    ids = iter(_list_ids([part for of_text in parts for part in of_text], tokenizer))
    found: list[tuple[list[int], int] | None] = []
    for text, of_text in zip(texts, parts, strict=True):
        of_parts = [next(ids) for _ in of_text]
        if of_text[0] is text:
            found.append((of_parts[0], 0))
            continue
        joined = join_ends(of_parts, room, truncation)
        per_character = sum(map(len, of_parts)) / sum(map(len, of_text))
        estimate = round(per_character * len(text))
        found.append(None if joined is None else (joined, max(estimate, len(joined))))
    left = [text for text, one in zip(texts, found, strict=True) if one is None]
    whole = iter(_list_ids(left, tokenizer))
    return ((next(whole), 0) if one is None else one for one in found)


def _list_ids(texts: list[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    with _explaining():
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return (encoding.ids for encoding in encodings)


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Turn what the tokenizers library raises for a text into a ModelError with a hint."""
    try:
        yield
    except BaseException as error:
        # The library's errors have no class of their own, and panics only one that has no module.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"the tokenizer cannot encode a text: {error}",
            hint="Its files do not fit together, or are damaged. Get a good copy of the model.",
        ) from error


def join_encoded(pieces: Sequence[EncodedTexts]) -> EncodedTexts:
    """Concatenate the texts of all pieces, in order."""
    lengths = np.concatenate([np.zeros(1, dtype=np.int64), *(piece.lengths for piece in pieces)])
    return EncodedTexts(
        np.concatenate([np.empty(0, dtype=np.int32), *(piece.token_ids for piece in pieces)]),
        np.cumsum(lengths),
        np.concatenate([np.empty(0, dtype=np.int32), *(piece.full_lengths for piece in pieces)]),
    )


def truncate(ids: Sequence[int], room: int, rule: EncodingRule) -> Sequence[int]:
    """Return at most `room` of the ids: from the head, the tail, or both.

    Example:
        >>> rule = EncodingRule(max_length=6, truncation="head+tail", head_fraction=0.25)
        >>> truncate([1, 2, 3, 4, 5, 6], 4, rule)
        [1, 4, 5, 6]
    """
    if len(ids) <= room:
        return ids
    if rule.truncation == "head":
        return ids[:room]
    if rule.truncation == "tail":
        return ids[-room:]
    num_head = min(max(round(room * rule.head_fraction), 1), room - 1) if room > 1 else 1
    num_tail = room - num_head
    return [*ids[:num_head], *ids[len(ids) - num_tail :]]


def find_special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a single text.

    Raises:
        ModelError: The tokenizer has neither a token for "a" nor the one that it names for unknown
            words.
    """
    with _explaining():
        with_specials = tokenizer.encode("a", add_special_tokens=True)
    is_special = with_specials.special_tokens_mask
    ids = with_specials.ids
    inner = [index for index, special in enumerate(is_special) if not special]
    if not inner:  # this vocabulary has neither "a" nor an unknown token: suppose one on each side
        middle = len(ids) // 2
        return ids[:middle], ids[middle:]
    return ids[: inner[0]], ids[inner[-1] + 1 :]
