"""Findings within one part: repeated texts, lengths in words, damaged texts, giveaways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bertfit.data.duplicates import find_conflicts, find_repeats
from bertfit.data.findings import (
    NUM_EXAMPLES,
    Example,
    Finding,
    show_row,
    show_rows,
    tell_rows,
)
from bertfit.data.giveaways import Giveaway
from bertfit.data.profiles import PartProfile
from bertfit.data.text_faults import (
    TextFault,
    find_swallowed_rows,
    find_text_faults,
    is_number_or_code,
)
from bertfit.data.words import find_signs
from bertfit.word_pattern import find_words
from bertfit.wording import format_count, format_share, list_some

LENGTH_RATIO = 20
"""A text is short (long) if it has this many times fewer (more) words than the median."""
ONE_WORD_MEDIAN = 10
"""From this median on, a text of one word is also short: among tweets of 12 words no other would
be. Among shorter texts, such as search terms and phrases, one word is nothing unusual."""
_LEAST_LONG_WORDS = 500
_MOST_NUMBERS = 0.5
"""Share of texts that are numbers or codes from which on another column may be meant."""
_MOST_WORDS_NAMED = 3
"""Words of one finding: of a long footer, the first tell which it is."""

_SERIOUS = {"conflicting_labels", "number_texts", "swallowed_rows"}
_DECODING, _MANY = {"mojibake", "replacement_characters", "c1_characters"}, 0.1
"""Serious from this share of the rows on: the file was read in another encoding than its own."""
_TEXT_FAULTS = {
    "mojibake": (
        "show signs of wrong decoding (such as Ã© for é)",
        "Read the source again in its own encoding, or repair the texts with the package ftfy.",
    ),
    "swallowed_rows": (
        "hold several lines with a label in them, as if other rows had been read as text",
        "Look for a quotation mark that opens a text and is not closed, or is not doubled, there.",
    ),
    "replacement_characters": (
        "have U+FFFD, which stands for bytes that could not be decoded",
        "Read the source again in its own encoding: this file has lost what was there.",
    ),
    "c1_characters": (
        "have control characters of U+0080 to U+009F",
        "Most are cp1252 read as latin-1 (U+0096 was a dash): read the source again as cp1252.",
    ),
    "control_characters": (
        "have control characters below U+0020, or U+007F",
        "Remove them: no tokenizer makes anything of them.",
    ),
    "csv_quotes": (
        'stand in quotation marks, with those inside doubled ("so ""good"""), as in a CSV file',
        "Read the source as CSV (name the file .csv); in .tsv quotes are ordinary characters.",
    ),
    "html_tags": (
        "have HTML tags or entities other than line breaks",
        "Remove them if they are not part of the text, here and in what will be predicted.",
    ),
    "html_breaks": (
        "have HTML line breaks (<br />)",
        "train reads them as spaces if 1 % of its rows have them; the setting is text_cleaning.",
    ),
}


def describe_repeats(profile: PartProfile) -> Iterator[Finding]:
    """Yield findings on texts that occur more than once."""
    rows = profile.rows
    repeats = find_repeats(profile.fingerprints)
    conflicts = find_conflicts(profile.fingerprints, rows.labels)
    if repeats:
        kept = ", except for texts with two labels" if conflicts else ""  # as `drop_duplicates`
        verb = "repeats" if len(repeats) == 1 else "repeat"
        num_exact = len(rows.texts) - len(set(rows.texts))
        share = f", {num_exact:,} of them exactly" if num_exact != len(repeats) else ""
        if not num_exact:
            share = ", if not to the letter"
        yield make_finding(
            profile,
            "duplicates",
            [row for row, _ in repeats],
            message=f"{verb} the text of an earlier row of {profile.name}{share}.",
            notes=[f"as line {rows.lines[first]}" for _, first in repeats],
            advice=(
                f"Keep one of each; bertfit train --drop-duplicates does that{kept}."
                if profile.name == "train"
                else "A repeated text counts twice. Leave an official set as it is, but say so."
            ),
        )
    if conflicts:
        concerned = [row for group in conflicts for row in group]
        texts = format_count(len(conflicts), "text")
        yield make_finding(
            profile,
            "conflicting_labels",
            concerned,
            message=f"hold {texts} with more than one label.",
            notes=[f"label {rows.labels[row]}" for row in concerned],
            advice="Decide which label is right, or leave these texts out.",
        )


def describe_lengths(profile: PartProfile) -> Iterator[Finding]:
    """Yield findings on texts that are far shorter or longer than the others."""
    median = float(np.median(profile.num_words))
    shortest = max(int(median / LENGTH_RATIO), int(median >= ONE_WORD_MEDIAN))
    longest = max(median * LENGTH_RATIO, _LEAST_LONG_WORDS)
    for kind, rows, what, advice in (
        (
            "short_texts",
            np.flatnonzero(profile.num_words <= shortest),
            f"very short: {_count_words(shortest)}, where the median is {median:g}",
            "Check that they can be labelled at all; empty texts are refused in any case.",
        ),
        (
            "long_texts",
            np.flatnonzero(profile.num_words > longest),
            f"very long: over {longest:g} words, where the median is {median:g}",
            "Check whether several texts were merged; what exceeds max_length is not read.",
        ),
    ):
        if len(rows) and (kind == "long_texts" or median > 0):  # else they are all of emoji
            verb = "is" if len(rows) == 1 else "are"
            counts = [format_count(int(profile.num_words[row]), "word") for row in rows]
            yield make_finding(
                profile,
                kind,
                rows.tolist(),
                message=f"{verb} {what}.",
                notes=counts,
                advice=advice,
            )


def describe_numbers(profile: PartProfile, *, train: PartProfile) -> Iterator[Finding]:
    """Yield a finding if most texts are no words, as those of a column of ids are not.

    It is told of the training rows alone if they are such texts as well.
    """
    found = _find_numbers(profile)
    if found and (profile is train or not _find_numbers(train)):
        yield make_finding(
            profile,
            "number_texts",
            found,
            message="are numbers, codes or addresses, not words.",
            advice="Check that the right column is read; if so, a BERT has little to read in them.",
        )


def _find_numbers(profile: PartProfile) -> list[int]:
    """Return the rows whose texts are numbers or codes, if these are at least half of all."""
    texts = profile.rows.texts
    found = [row for row, text in enumerate(texts) if is_number_or_code(text)]
    return found if len(found) >= _MOST_NUMBERS * len(texts) else []


def describe_text_faults(profile: PartProfile, label_names: Sequence[str]) -> Iterator[Finding]:
    """Yield findings on damaged texts."""
    texts = profile.rows.texts
    swallowed = {"swallowed_rows": find_swallowed_rows(texts, label_names)}
    for kind, faults in (swallowed | find_text_faults(texts)).items():
        if faults:
            message, advice = _TEXT_FAULTS[kind]
            yield _make_fault_finding(profile, kind, faults, message=message, advice=advice)


def describe_giveaway(profile: PartProfile, giveaway: Giveaway) -> Finding:
    """Return the finding for a word or sign that gives a label away, or for several together."""
    find = find_words if find_words(giveaway.word) else find_signs
    texts = enumerate(profile.rows.texts)
    first = next((row for row, text in texts if giveaway.word in find(text)), 0)
    text = profile.rows.texts[first]
    offset = max(text.lower().find(giveaway.word), 0)
    note = f"label {profile.rows.labels[first]}"
    return Finding(
        kind="giveaway",
        severity="serious",
        part=profile.name,
        count=giveaway.num_rows,
        num_rows=len(profile.rows),
        message=(
            f"The {_name_words(giveaway, text)} the label {giveaway.label!r}: "
            f"{repr(giveaway.word) if giveaway.companions else 'it'} is in "
            f"{format_share(giveaway.coverage)} of its rows, "
            f"and {format_share(giveaway.purity)} of the rows with it have this label (it takes "
            f"{format_share(giveaway.told)} of the uncertainty about the label)."
        ),
        examples=(show_row(profile.rows, first, note=note, offset=offset),),
        advice=(
            "If new texts will not have it (an id, a source, the label itself), remove it; "
            "otherwise all is well, and a list of words would do."
        ),
    )


def describe_more_giveaways(
    profile: PartProfile, more: Sequence[Giveaway], *, num_told: int
) -> Iterator[Finding]:
    """Yield one finding for all words beyond the `num_told` that have their own."""
    if not more:
        return
    words = {giveaway.word for giveaway in more}
    has_any = (
        not words.isdisjoint([*find_words(text), *find_signs(text)]) for text in profile.rows.texts
    )
    labels = len({giveaway.label for giveaway in more})
    named = list_some((repr(giveaway.word) for giveaway in more), _MOST_WORDS_NAMED)
    yield Finding(
        kind="more_giveaways",
        severity="serious",
        part=profile.name,
        count=sum(has_any),
        num_rows=len(profile.rows),
        message=(
            f"Besides the {num_told} most telling words and signs, {len(more):,} more give away "
            f"{'a label' if labels == 1 else f'one of {labels:,} labels'}: {named}."
        ),
        advice="Look at them as at the first ones.",
    )


def make_finding(
    profile: PartProfile,
    kind: str,
    rows: Sequence[int],
    *,
    message: str,
    notes: Sequence[str] = (),
    examples: tuple[Example, ...] | None = None,
    advice: str,
) -> Finding:
    """Return the finding on some rows of a part; the message goes on from their number."""
    num_rows = len(profile.rows)
    is_ruined = kind in _DECODING and len(rows) >= _MANY * num_rows
    return Finding(
        kind=kind,
        severity="serious" if kind in _SERIOUS or is_ruined else "minor",
        part=profile.name,
        count=len(rows),
        num_rows=num_rows,
        message=f"{tell_rows(len(rows), profile.name, num_rows)} {message}",
        examples=show_rows(profile.rows, rows, notes=notes) if examples is None else examples,
        advice=advice,
    )


def _name_words(giveaway: Giveaway, text: str) -> str:
    """Return the first words in the order of a text that has them, then the signs, and a verb."""
    order = find_words(text)
    words = [giveaway.word, *giveaway.companions]
    is_word = [bool(find_words(word)) for word in words]
    noun = "word" if all(is_word) else "sign"
    if not giveaway.companions:
        return f"{noun} {giveaway.word!r} gives away"
    nouns = f"{noun}s" if all(is_word) or not any(is_word) else "words and signs"
    words.sort(key=lambda word: order.index(word) if word in order else len(order))
    return f"{nouns} {list_some(map(repr, words), _MOST_WORDS_NAMED)}, in the same rows, give away"


def _make_fault_finding(
    profile: PartProfile, kind: str, faults: Sequence[TextFault], *, message: str, advice: str
) -> Finding:
    if len(faults) == 1:
        verb, _, rest = message.partition(" ")
        message = f"{'has' if verb == 'have' else f'{verb}s'} {rest}"
    return make_finding(
        profile,
        kind,
        [fault.row for fault in faults],
        message=f"{message}.",
        examples=tuple(
            show_row(profile.rows, fault.row, offset=fault.offset)
            for fault in faults[:NUM_EXAMPLES]
        ),
        advice=advice,
    )


def _count_words(most: int) -> str:
    if most == 0:
        return "no word at all"
    return "1 word or none" if most == 1 else f"at most {most:,} words"
