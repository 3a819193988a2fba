"""Cut the middle out of texts much longer than a model reads, which truncation would drop anyway.

To tokenize all of a report of 100,000 characters takes longer than to classify it, and 80 bytes of
memory a token. Owns which tokenizers allow it, and where a text is cut: the tokens that truncation
keeps are those of the whole text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertfit.data.cleaning import FOLDED_PATTERNS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bertfit.config import Truncation

LEAST_READ = 512
"""Tokens that are read of each end however few are kept: lengths up to here are counted exactly."""
_SLACK = 64
"""Tokens next to a cut that are not used: a special token or a tag that it divides is in them."""
_CHARACTERS_PER_TOKEN = 8
"""More than a token has in most texts; one whose ends have too few tokens is read whole."""
_WORTH_CUTTING = 4
"""Least length of a text that is cut, in times of the length of an end."""
_SPLITTING = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace"}
"""Pre-tokenizers that split at spaces, the last two if they are set to."""
_HARMLESS = {"Digits", "Punctuation"}
_LOCAL = {
    *("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Lowercase", "Prepend", "Strip", "StripAccents"),
}
"""Normalizers that change a letter or a few at a time, or an end of the text."""


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether no token depends on what is far from its word, beyond spaces.

    Where words are not split before they become tokens, as in LLaMA's files, it might, and where a
    step is not known.
    """
    normalizers = _list_steps(tokenizer.normalizer, "normalizers")
    steps = _list_steps(tokenizer.pre_tokenizer, "pretokenizers")
    return (
        all(map(_is_local, normalizers))
        and all(step["type"] in {*_SPLITTING, *_HARMLESS} for step in steps)
        and any(map(_splits, steps))
    )


def _list_steps(step: Any, name: str) -> list[Mapping[str, Any]]:  # noqa: ANN401 (of any kind)
    """Return a tokenizer's normalizers or pre-tokenizers as their files have them."""
    state = None if step is None else json.loads(step.__getstate__())
    return [] if state is None else list(_flatten(state, name))


def _flatten(step: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    if step["type"] != "Sequence":
        yield step
        return
    for inner in step[name]:
        yield from _flatten(inner, name)


def _is_local(normalizer: Mapping[str, Any]) -> bool:
    """Return whether what a normalizer does to a word depends on it and its neighbours alone."""
    if normalizer["type"] != "Replace":
        return normalizer["type"] in _LOCAL
    pattern = normalizer["pattern"]
    return "String" in pattern or pattern.get("Regex") in {*FOLDED_PATTERNS, r"\s+", " {2,}"}


def _splits(step: Mapping[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return bool(step.get("use_regex", True))
    if step["type"] == "Metaspace":
        return bool(step.get("split", True))
    return step["type"] in _SPLITTING


def _choose_size(num_tokens: int) -> int:
    """Return how many characters of an end are read."""
    return _CHARACTERS_PER_TOKEN * (max(num_tokens, LEAST_READ) + _SLACK)


def cut_ends(text: str, num_tokens: int, truncation: Truncation) -> list[str]:
    """Return the ends of a long text that hold what truncation keeps, or the text alone.

    Args:
        text: A text, cleaned.
        num_tokens: The most tokens that are kept.
        truncation: Which end is kept; for head+tail, both are returned.
    """
    size = _choose_size(num_tokens)
    if len(text) < _WORTH_CUTTING * size:
        return [text]
    ends = []
    if truncation != "tail":
        ends.append(text[: text.find(" ", size)].rstrip())
    if truncation != "head":
        tail = text[text.rfind(" ", 0, -size) :]
        ends.append(tail[max(len(tail) - len(tail.lstrip()) - 1, 0) :])  # with one space before
    # Where there is no space, nearly all of the text is left, or one letter.
    are_ends = all(size // 2 < len(end) < len(text) // 2 for end in ends)
    return ends if are_ends else [text]


def join_ends(
    ends: Sequence[Sequence[int]], num_tokens: int, truncation: Truncation
) -> list[int] | None:
    """Return ids from which truncation keeps what it would of the whole text, or None.

    Args:
        ends: Token ids of each end that `cut_ends` returned, without special tokens.
        num_tokens: The most tokens that are kept.
        truncation: As for `cut_ends`.

    Returns:
        More than `num_tokens` and `LEAST_READ` ids; None if the ends have too few.
    """
    if min(map(len, ends)) <= max(num_tokens, LEAST_READ) + _SLACK:
        return None
    joined: list[int] = []
    if truncation != "tail":
        joined += ends[0][:-_SLACK]
    if truncation != "head":
        joined += ends[-1][_SLACK:]
    return joined
