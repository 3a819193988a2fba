"""Findings within one part: repeated texts, labels, lengths in words, damaged texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from bertfit.data.duplicates import find_conflicts, find_repeats
from bertfit.data.findings import (
    NUM_EXAMPLES,
    Example,
    Finding,
    count_rows,
    format_share,
    show_row,
    show_rows,
)
from bertfit.data.giveaways import Giveaway
from bertfit.data.profiles import PartProfile
from bertfit.data.text_faults import TextFault, find_text_faults
from bertfit.data.words import find_signs
from bertfit.labels import find_alike, reads_as_missing
from bertfit.word_pattern import find_words
from bertfit.wording import format_count, list_some

FEWEST_ROWS = 10
"""A label with fewer training rows is called rare."""
IMBALANCE_RATIO = 10
"""Ratio of the most frequent to the rarest label from which a part is called unbalanced."""
LENGTH_RATIO = 20
"""A text is short (long) if it has this many times fewer (more) words than the median."""
ONE_WORD_MEDIAN = 10
"""From this median on, a text of one word is also short: among tweets of 12 words no other would
be. Among shorter texts, such as search terms and phrases, one word is nothing unusual."""
_LEAST_LONG_WORDS = 500
_MOST_LABELS_NAMED = 5

_TEXT_FAULTS = {
    "mojibake": (
        "show signs of wrong decoding (such as Ã© for é)",
        "Read the source again in its own encoding, or repair the texts with the package ftfy.",
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
        "Save the file as .csv, or without quoting: in .tsv quotes are ordinary characters.",
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
        yield _make_finding(
            profile,
            "duplicates",
            [row for row, _ in repeats],
            message=f"{verb} the text of an earlier row of {profile.name}.",
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
        yield _make_finding(
            profile,
            "conflicting_labels",
            concerned,
            message=f"hold {texts} with more than one label.",
            notes=[f"label {rows.labels[row]}" for row in concerned],
            advice="Decide which label is right, or leave these texts out.",
        )


def describe_labels(
    profile: PartProfile, label_names: Sequence[str], *, train: PartProfile
) -> Iterator[Finding]:
    """Yield findings on labels that are missing, or read so, spelt alike, rare or unbalanced.

    Args:
        profile: Profile of the part.
        label_names: All labels.
        train: Provides example rows for labels that the part lacks.
    """
    counts = Counter(profile.rows.labels)
    missing = [name for name in label_names if not counts[name]]
    if missing:
        yield _make_label_finding(
            profile,
            "missing_labels",
            missing,
            examples=_show_label_rows(train, missing),
            message=f"No row of {profile.name} has the label {_name_labels(missing)}.",
            advice=f"Add such rows: {profile.name} says nothing of how well they are recognised.",
        )
    yield from _describe_nulls(profile)
    if profile.name == "train":
        yield from _describe_alike(profile)
        rare = sorted(
            (name for name in counts if counts[name] < FEWEST_ROWS), key=counts.__getitem__
        )
        if rare:
            least = f"fewer than {FEWEST_ROWS} rows to train on"
            named = list_some((f"{name} ({counts[name]})" for name in rare), _MOST_LABELS_NAMED)
            yield _make_label_finding(
                profile,
                "rare_labels",
                rare,
                examples=_show_label_rows(profile, rare),
                message=f"{_count_labels(rare)} {least}: {named}.",
                advice="Add rows, merge labels, or do not rely on these.",
            )
        yield from _describe_imbalance(profile, counts)


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
        if len(rows):
            verb = "is" if len(rows) == 1 else "are"
            counts = [format_count(int(profile.num_words[row]), "word") for row in rows]
            yield _make_finding(
                profile,
                kind,
                rows.tolist(),
                message=f"{verb} {what}.",
                notes=counts,
                advice=advice,
            )


def describe_text_faults(profile: PartProfile) -> Iterator[Finding]:
    """Yield findings on damaged texts."""
    for kind, faults in find_text_faults(profile.rows.texts).items():
        if faults:
            message, advice = _TEXT_FAULTS[kind]
            yield _make_fault_finding(profile, kind, faults, message=message, advice=advice)


def describe_giveaway(profile: PartProfile, giveaway: Giveaway) -> Finding:
    """Return the finding for a word or sign that gives a label away."""
    is_word = bool(find_words(giveaway.word))
    find = find_words if is_word else find_signs
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
            f"The {'word' if is_word else 'sign'} {giveaway.word!r} gives away the label "
            f"{giveaway.label!r}: it is in {100 * giveaway.coverage:.0f} % of its rows, "
            f"and {100 * giveaway.purity:.0f} % of the rows with it have this label (it takes "
            f"{100 * giveaway.told:.0f} % of the uncertainty about the label)."
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
    words = ", ".join(repr(giveaway.word) for giveaway in more[:_MOST_LABELS_NAMED])
    labels = len({giveaway.label for giveaway in more})
    yield Finding(
        kind="giveaway",
        severity="serious",
        part=profile.name,
        count=min(giveaway.num_rows for giveaway in more),  # sorts it after the first ones
        num_rows=len(profile.rows),
        message=(
            f"Besides the {num_told} most telling words and signs, {len(more):,} more give away "
            f"{'a label' if labels == 1 else f'one of {labels:,} labels'}: {words}"
            f"{' …' if len(more) > _MOST_LABELS_NAMED else ''}."
        ),
        advice="Look at them as at the first ones.",
    )


def _describe_nulls(profile: PartProfile) -> Iterator[Finding]:
    labels = profile.rows.labels
    rows = [row for row, label in enumerate(labels) if reads_as_missing(label)]
    if rows:
        named = _name_labels(sorted({labels[row] for row in rows}))
        has = "has" if len(rows) == 1 else "have"
        yield _make_finding(
            profile,
            "null_labels",
            rows,
            message=f"{has} a label that reads like a missing value: {named}.",
            notes=[f"label {labels[row]}" for row in rows],
            advice=(
                "Each such label becomes a class. If that is not meant, leave these rows out: in "
                "pandas, dropna() before astype(str)."
            ),
        )


def _describe_alike(profile: PartProfile) -> Iterator[Finding]:
    groups = find_alike(profile.rows.labels)
    if groups:
        names = [name for group in groups for name in group]
        told = "; ".join(" and ".join(map(ascii, group)) for group in groups[:_MOST_LABELS_NAMED])
        more = " …" if len(groups) > _MOST_LABELS_NAMED else ""
        yield _make_label_finding(
            profile,
            "alike_labels",
            names,
            examples=_show_label_rows(profile, names),
            message=f"Labels that are spelt alike are classes of their own: {told}{more}.",
            advice="Spell each label one way, or the model learns to tell spellings apart.",
        )


def _describe_imbalance(profile: PartProfile, counts: Counter[str]) -> Iterator[Finding]:
    ordered = counts.most_common()
    (most, num_most), (least, num_least) = ordered[0], ordered[-1]
    if num_most < IMBALANCE_RATIO * num_least:
        return
    num_rows = len(profile.rows)
    yield Finding(
        kind="imbalance",
        severity="minor",
        part=profile.name,
        count=num_most,
        num_rows=num_rows,
        message=(
            f"Labels are unbalanced: {most!r} has {format_share(num_most, num_rows)} of the rows "
            f"({num_most:,}), {least!r} has {format_share(num_least, num_rows)} ({num_least:,})."
        ),
        examples=_show_label_rows(profile, [least]),
        advice="Judge by macro F1 and by each class, not by accuracy; add rows of rare labels.",
    )


def _make_finding(
    profile: PartProfile,
    kind: str,
    rows: Sequence[int],
    *,
    message: str,
    notes: Sequence[str] = (),
    advice: str,
) -> Finding:
    subject = f"{count_rows(len(rows))} of {profile.name}"
    return Finding(
        kind=kind,
        severity="serious" if kind == "conflicting_labels" else "minor",
        part=profile.name,
        count=len(rows),
        num_rows=len(profile.rows),
        message=f"{subject} ({format_share(len(rows), len(profile.rows))}) {message}",
        examples=show_rows(profile.rows, rows, notes=notes),
        advice=advice,
    )


def _make_fault_finding(
    profile: PartProfile, kind: str, faults: Sequence[TextFault], *, message: str, advice: str
) -> Finding:
    num_rows = len(profile.rows)
    subject = f"{count_rows(len(faults))} of {profile.name}"
    if len(faults) == 1:
        for plural, singular in (("have ", "has "), ("show ", "shows "), ("stand ", "stands ")):
            message = message.replace(plural, singular, 1)
    return Finding(
        kind=kind,
        severity="minor",
        part=profile.name,
        count=len(faults),
        num_rows=num_rows,
        message=f"{subject} ({format_share(len(faults), num_rows)}) {message}.",
        examples=tuple(
            show_row(profile.rows, fault.row, offset=fault.offset)
            for fault in faults[:NUM_EXAMPLES]
        ),
        advice=advice,
    )


def _make_label_finding(
    profile: PartProfile,
    kind: str,
    names: Sequence[str],
    *,
    examples: tuple[Example, ...],
    message: str,
    advice: str,
) -> Finding:
    wanted = set(names)
    return Finding(
        kind=kind,
        severity="minor" if kind == "rare_labels" else "serious",
        part=profile.name,
        count=sum(label in wanted for label in profile.rows.labels),
        num_rows=len(profile.rows),
        message=message,
        examples=examples,
        advice=advice,
    )


def _show_label_rows(profile: PartProfile, names: Sequence[str]) -> tuple[Example, ...]:
    """Return the first rows with any of the labels, each with its label."""
    wanted = set(names)
    rows = [row for row, label in enumerate(profile.rows.labels) if label in wanted]
    notes = [f"label {profile.rows.labels[row]}" for row in rows[:NUM_EXAMPLES]]
    return show_rows(profile.rows, rows, notes=notes)


def _count_words(most: int) -> str:
    if most == 0:
        return "no word at all"
    return "1 word or none" if most == 1 else f"at most {most:,} words"


def _count_labels(names: Sequence[str]) -> str:
    return "1 label has" if len(names) == 1 else f"{len(names):,} labels have"


def _name_labels(names: Sequence[str]) -> str:
    named = " or ".join(repr(name) for name in names[:_MOST_LABELS_NAMED])
    num_more = len(names) - _MOST_LABELS_NAMED
    return f"{named} (and {num_more:,} more)" if num_more > 0 else named
