"""Cut the middle out of texts much longer than a model reads, which truncation would drop anyway.

To tokenize all of a report of 100,000 characters takes longer than to classify it, and 80 bytes of
memory a token. Owns which tokenizers allow it, and where a text is cut: the tokens that truncation
keeps are those of the whole text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether no token depends on what is beyond the spaces around its word.

    Where words are not split before they become tokens, as in LLaMA's files, it might.
    """
    if tokenizer.pre_tokenizer is None:
        return False
    return any(map(_splits, _list_steps(json.loads(tokenizer.pre_tokenizer.__getstate__()))))


def _list_steps(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if step["type"] != "Sequence":
        yield step
        return
    for inner in step["pretokenizers"]:
        yield from _list_steps(inner)


def _splits(step: Mapping[str, Any]) -> bool:
    always = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
    return (
        step["type"] in always
        or (step["type"] == "ByteLevel" and step.get("use_regex", True))
        or (step["type"] == "Metaspace" and step.get("split", True))
    )


def is_long(text: str, num_tokens: int) -> bool:
    """Return whether only the ends of a text are read if so many tokens are kept."""
    return len(text) >= _WORTH_CUTTING * _choose_size(num_tokens)


def count_long(texts: Sequence[str], tokenizer: Tokenizer, num_tokens: int) -> int:
    """Return of how many texts only the ends are read if so many tokens are kept."""
    return sum(is_long(text, num_tokens) for text in texts) if splits_at_spaces(tokenizer) else 0


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
    if not is_long(text, num_tokens):
        return [text]
    size = _choose_size(num_tokens)
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
