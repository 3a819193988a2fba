"""Check texts after tokenization: lengths, truncation, and unknown tokens."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bertfit.config import TextCleaning
from bertfit.data.dataset import TextDataset
from bertfit.data.encoding import EncodedTexts, EncodingRule, encode_texts, find_special_tokens
from bertfit.data.findings import Finding, show_rows, tell_rows
from bertfit.word_pattern import joins_before

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LIMITS = (128, 256, 512)
"""Lengths for which the share of longer texts is reported."""
MOST_UNKNOWN = 0.5
"""A text with a larger share of unknown tokens is a finding."""
_SERIOUS_SHARE = 0.1
"""Share of a part's rows from which on texts that a model cannot read are a serious finding, and
those of which it cannot read something one at all."""
_FEWEST_WITH_SIGNS, _MOST_SIGNS, _MOST_SEARCHED = 10, 3, 2000
MOST_SAMPLED = 10_000
"""Rows sampled from larger parts to measure lengths; shares are accurate to about one point."""
_CHUNK_SIZE = 4096
_COUNTED_TOKENS = 512
"""Tokens per text, including special tokens, among which unknown ones are counted at least."""
_LONG_WORD = 50
"""Letters per word on average: words of over 100 letters are unknown to WordPiece."""
_LETTER = re.compile("[a-zA-Z0-9]")
_SEED = 0


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Token counts of k rows of a part."""

    rows: np.ndarray
    """(k,) indices of the counted rows."""
    full_lengths: np.ndarray
    """(k,) tokens of each text before truncation, including special tokens."""
    num_read: np.ndarray
    """(k,) tokens of each text after truncation, excluding special tokens."""
    num_unknown: np.ndarray
    """(k,) number of these that are the unknown token."""
    is_estimated: np.ndarray
    """(k,) whether the full length is an estimate, as it is of long texts."""


def choose_rows(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return a sample for measuring lengths, and all texts that may have unknown tokens.

    Tokenization is the most expensive part of a check, so not all texts are tokenized. ASCII texts
    are unknown to a model only if nearly all of them are, which the sample shows (see
    `shows_more`). Texts with few ASCII letters, without words, or with very long words are suspects
    and are all tokenized.

    Returns:
        Up to `MOST_SAMPLED` rows, sampled uniformly with a fixed seed; and all suspects.
    """
    sample = np.arange(len(texts))
    if len(texts) > MOST_SAMPLED:
        random = np.random.default_rng(_SEED)
        sample = np.sort(random.choice(len(texts), MOST_SAMPLED, replace=False))
    suspects = [row for row, text in enumerate(texts) if _is_suspect(text)]
    return sample, np.array(suspects, dtype=np.int64)


def _is_suspect(text: str) -> bool:
    num_words = text.count(" ") + 1
    if len(text) > _LONG_WORD * num_words:
        return True
    if text.isascii():
        return _LETTER.search(text) is None
    return 2 * len(text.encode("ascii", "ignore")) < 2 * num_words + len(text)


def count_tokens(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    unknown_id: int | None,
    *,
    rows: np.ndarray,
    cleaning: TextCleaning = "none",
    max_length: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenCounts:
    """Tokenize texts in chunks, keeping only the counts.

    Args:
        texts: n texts.
        tokenizer: From `tokenizers`; its own truncation and padding must be off.
        unknown_id: Id of the unknown token, if there is one.
        rows: (k,) indices of the texts to count; at least one.
        cleaning: The step that a training would apply to them.
        max_length: A limit on which side of which each text is told exactly, as for those up to
            512; beyond, lengths of long texts are estimated.
        on_progress: Called with (done, k) after each chunk.
    """
    num_special = sum(map(len, find_special_tokens(tokenizer)))
    num_read = max(_COUNTED_TOKENS, max_length or 0)
    rule = EncodingRule(max_length=num_read, text_cleaning=cleaning)
    counts = []
    for start in range(0, len(rows), _CHUNK_SIZE):
        chunk = rows[start : start + _CHUNK_SIZE]
        encoded = encode_texts([texts[row] for row in chunk], tokenizer, rule)
        counts.append(count_encoded(encoded, unknown_id, num_special))
        if on_progress is not None:
            on_progress(start + len(chunk), len(rows))
    return TokenCounts(
        rows=rows,
        full_lengths=np.concatenate([count.full_lengths for count in counts]),
        num_read=np.concatenate([count.num_read for count in counts]),
        num_unknown=np.concatenate([count.num_unknown for count in counts]),
        is_estimated=np.concatenate([count.is_estimated for count in counts]),
    )


def count_encoded(encoded: EncodedTexts, unknown_id: int | None, num_special: int) -> TokenCounts:
    """Return the counts of already encoded texts.

    Args:
        encoded: n texts.
        unknown_id: Id of the unknown token, if there is one.
        num_special: Number of special tokens per text.
    """
    is_unknown = encoded.token_ids == (-1 if unknown_id is None else unknown_id)
    before = np.concatenate([[0], np.cumsum(is_unknown)])
    return TokenCounts(
        rows=np.arange(len(encoded)),
        full_lengths=encoded.full_lengths,
        num_read=encoded.lengths - num_special,
        num_unknown=before[encoded.offsets[1:]] - before[encoded.offsets[:-1]],
        is_estimated=np.zeros(len(encoded), bool)
        if encoded.is_estimated is None
        else encoded.is_estimated,
    )


def find_unread(counts: TokenCounts) -> tuple[np.ndarray, np.ndarray]:
    """Return two (k,) masks: texts without any token, and texts of mostly unknown tokens."""
    is_nothing = counts.num_read == 0
    return is_nothing, ~is_nothing & (counts.num_unknown > MOST_UNKNOWN * counts.num_read)


def mark_unread(encoded: EncodedTexts, tokenizer: Tokenizer, unknown_id: int | None) -> np.ndarray:
    """Return a (n,) mask of encoded texts of which a model reads nothing, or mostly unknown tokens.

    Args:
        encoded: n texts.
        tokenizer: With which they were encoded.
        unknown_id: Id of the unknown token, if there is one.
    """
    num_special = sum(map(len, find_special_tokens(tokenizer)))
    is_nothing, is_unknown = find_unread(count_encoded(encoded, unknown_id, num_special))
    unread: np.ndarray = is_nothing | is_unknown
    return unread


def shows_more(counts: TokenCounts, suspects: np.ndarray) -> bool:
    """Return whether a non-suspect has no tokens or mostly unknown ones, so that others may too.

    Args:
        counts: Counts of a sample and the suspects.
        suspects: From `choose_rows`.
    """
    is_nothing, is_unknown = find_unread(counts)
    return bool((~np.isin(counts.rows, suspects) & (is_nothing | is_unknown)).any())


def describe_tokens(
    name: str,
    rows: TextDataset,
    counts: TokenCounts,
    *,
    is_sample: np.ndarray | None = None,
    is_known: Callable[[str], bool] = lambda _sign: False,
) -> Iterator[Finding]:
    """Yield findings on texts without any token, or with many or some that are unknown.

    Args:
        name: Part of the rows.
        rows: All rows of the part.
        counts: Of k of them.
        is_sample: (k,) whether a row was drawn, not suspected; None if none was suspected.
        is_known: From `tell_known_signs`: a sign that is known is not named.
    """
    is_nothing, is_unknown = find_unread(counts)
    advice = (
        "Check that text and model share a language and script; otherwise take another model, such "
        "as bert-base-multilingual-cased."
    )
    for kind, found, what in (
        ("no_tokens", is_nothing, "become no token at all"),
        ("unknown_tokens", is_unknown, "become mostly unknown tokens"),
    ):
        places = np.flatnonzero(found)
        chosen = counts.rows[places].tolist()
        if not chosen:
            continue
        verb = what.replace("become", "becomes") if len(chosen) == 1 else what
        notes = _count_unknown(counts, places)
        yield Finding(
            kind=kind,
            severity="serious" if len(chosen) >= _SERIOUS_SHARE * len(rows) else "minor",
            part=name,
            count=len(chosen),
            num_rows=len(rows),
            message=(
                f"{tell_rows(len(chosen), name, len(rows))} {verb} in this model's vocabulary."
            ),
            examples=show_rows(rows, chosen, notes=notes if kind == "unknown_tokens" else ()),
            advice=advice,
        )
    drawn = np.ones(len(counts.rows), dtype=bool) if is_sample is None else is_sample
    yield from _describe_signs(name, rows, counts, drawn, is_unknown, is_known)


def tell_known_signs(tokenizer: Tokenizer, unknown_id: int | None) -> Callable[[str], bool]:
    """Return a function that tells whether a character alone is not the unknown token."""
    return lambda sign: unknown_id not in tokenizer.encode(sign, add_special_tokens=False).ids


def _describe_signs(
    name: str,
    rows: TextDataset,
    counts: TokenCounts,
    drawn: np.ndarray,
    is_mostly: np.ndarray,
    is_known: Callable[[str], bool],
) -> Iterator[Finding]:
    """Yield a finding if many texts, though not mostly unknown, have something unknown in them."""
    has_unknown, num_drawn = counts.num_unknown > 0, int(drawn.sum())
    places = np.flatnonzero(has_unknown & ~is_mostly & drawn)
    if len(places) < max(_FEWEST_WITH_SIGNS, _SERIOUS_SHARE * num_drawn):
        return
    chosen = counts.rows[places].tolist()
    signs = _guess_signs(rows, chosen, counts.rows[~has_unknown].tolist(), is_known)
    such = f", such as {', '.join(signs)}" if signs else ""
    drawn_of = "" if num_drawn == len(rows) else f", of {num_drawn:,} drawn,"
    told = tell_rows(len(chosen), name, num_drawn)
    yield Finding(
        kind="unread_signs",
        severity="minor",
        part=name,
        count=len(chosen),
        num_rows=num_drawn,
        message=(
            f"{told}{drawn_of} have words or signs that "
            f"this model cannot tell apart{such}: each becomes its unknown token."
        ),
        examples=show_rows(rows, chosen, notes=_count_unknown(counts, places)),
        advice="If they matter, as emojis may, put words in their place, or take another model.",
    )


def _guess_signs(
    rows: TextDataset,
    having: Sequence[int],
    others: Sequence[int],
    is_known: Callable[[str], bool],
) -> list[str]:
    """Return the most frequent characters of texts with unknown tokens that no other text has."""
    signs = Counter(
        sign for row in having[:_MOST_SEARCHED] for sign in sorted(set(rows.texts[row]))
    )
    known = {sign for row in others[:_MOST_SEARCHED] for sign in set(rows.texts[row])}
    frequent = (sign for sign, count in signs.most_common() if count > 1 and sign not in known)
    unread = (sign for sign in frequent if _is_seen(sign) and not is_known(sign))
    return list(itertools.islice(unread, _MOST_SIGNS))


def _is_seen(sign: str) -> bool:
    """Return whether a character is not ASCII, and stands for itself: no mark, joiner or space."""
    is_own = not sign.isascii() and not joins_before(sign)
    return is_own and unicodedata.category(sign)[0] in "LNPS"


def _count_unknown(counts: TokenCounts, places: np.ndarray) -> list[str]:
    return [f"{counts.num_unknown[at]} of {counts.num_read[at]} unknown" for at in places]


def describe_token_lengths(
    full_lengths: np.ndarray, max_length: int | None = None, *, num_estimated: int = 0
) -> dict[str, float | int | dict[str, float]]:
    """Return count, median, p95 and max of the lengths, and the share truncated by each limit.

    Args:
        full_lengths: (n,) tokens, including special tokens.
        max_length: A further limit besides `LIMITS`.
        num_estimated: How many of the lengths are estimates.

    Example:
        >>> describe_token_lengths(np.array([100, 200, 600]))["cut_shares"]
        {'128': 0.666667, '256': 0.333333, '512': 0.333333}
    """
    limits = sorted({*LIMITS, *([] if max_length is None else [max_length])})
    return {
        "num_counted": len(full_lengths),
        "num_estimated": num_estimated,
        "median": round(float(np.median(full_lengths)), 1),
        "p95": round(float(np.percentile(full_lengths, 95)), 1),
        "max": int(full_lengths.max()),
        "cut_shares": {
            str(limit): round(float((full_lengths > limit).mean()), 6) for limit in limits
        },
    }
