"""Findings on the labels of one part: missing, spelt alike, joined, rare, unbalanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bertfit.data.findings import NUM_EXAMPLES, Example, Finding, show_rows
from bertfit.data.part_faults import make_finding
from bertfit.data.profiles import PartProfile
from bertfit.data.splits import find_indivisible
from bertfit.labels import find_alike, find_joined, quote_apart, reads_as_missing
from bertfit.wording import format_count, format_share, list_some, shorten_name

FEWEST_ROWS = 10
"""A label with fewer training rows is called rare."""
IMBALANCE_RATIO = 10
"""Ratio of the most frequent to the rarest label from which a part is called unbalanced."""
_MOST_LABELS_NAMED = 5


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
            shown=train,
            message=(
                f"{_count_labels(missing)} no row in {profile.name}: {_name_labels(missing)}."
            ),
            advice=f"Add such rows: {profile.name} says nothing of how well they are recognised.",
        )
    yield from _describe_nulls(profile)
    if profile.name == "train":
        yield from _describe_alike(profile)
        yield from _describe_joined(profile)
        rare = sorted(
            (name for name in counts if counts[name] < FEWEST_ROWS), key=counts.__getitem__
        )
        if rare:
            least = f"fewer than {FEWEST_ROWS} rows to train on"
            shown = (f"{shorten_name(name)} ({counts[name]})" for name in rare)
            named = list_some(shown, _MOST_LABELS_NAMED)
            yield _make_label_finding(
                profile,
                "rare_labels",
                rare,
                message=f"{_count_labels(rare)} {least}: {named}.",
                advice="Add rows, merge labels, or do not rely on these.",
            )
        yield from _describe_imbalance(profile, counts)


def describe_indivisible(profile: PartProfile) -> Iterator[Finding]:
    """Yield a finding on labels that cannot be in both parts if validation rows are split off."""
    found = find_indivisible(profile.rows)
    if found:
        names = [name for name, _ in found]
        more = f" (and {format_count(len(found) - 1, 'more label')})" if len(found) > 1 else ""
        counts = Counter(profile.rows.labels)
        are_single = all(counts[name] == 1 for name in names)
        how = " (train --set min_label_rows=2 does)" if are_single else ""
        yield _make_label_finding(
            profile,
            "indivisible_labels",
            names,
            message=f"train cannot split off validation rows: {found[0][1]}{more}.",
            advice=(
                f"Add rows, merge labels or leave them out{how}, or give validation rows of their "
                "own. "
                "If nearly every row has its own label, another column may be meant."
            ),
        )


def _describe_nulls(profile: PartProfile) -> Iterator[Finding]:
    labels = profile.rows.labels
    rows = [row for row, label in enumerate(labels) if reads_as_missing(label)]
    if rows:
        named = _name_labels(sorted({labels[row] for row in rows}))
        has = "has" if len(rows) == 1 else "have"
        yield make_finding(
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
        told = "; ".join(" and ".join(quote_apart(group)) for group in groups[:_MOST_LABELS_NAMED])
        more = " …" if len(groups) > _MOST_LABELS_NAMED else ""
        yield _make_label_finding(
            profile,
            "alike_labels",
            names,
            message=f"Labels that are alike are classes of their own: {told}{more}.",
            advice="Spell each label one way, or the model learns to tell spellings apart.",
        )


def _describe_joined(profile: PartProfile) -> Iterator[Finding]:
    names = find_joined(profile.rows.labels)
    if names:
        are = "1 label is" if len(names) == 1 else f"{len(names):,} labels are"
        yield _make_label_finding(
            profile,
            "joined_labels",
            names,
            message=f"{are} made of other labels: {_name_labels(names)}.",
            advice=(
                "Each is a class of its own, as a text has one label here. For several labels of a "
                "text, train one model a label, on yes and no."
            ),
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
            f"Labels are unbalanced: {shorten_name(most)!r} has "
            f"{format_share(num_most, num_rows)} of the rows ({num_most:,}), "
            f"{shorten_name(least)!r} has {format_share(num_least, num_rows)} ({num_least:,})."
        ),
        examples=_show_label_rows(profile, [least]),
        advice="Judge by macro F1 and by each class, not by accuracy; add rows of rare labels.",
    )


def _make_label_finding(
    profile: PartProfile,
    kind: str,
    names: Sequence[str],
    *,
    message: str,
    advice: str,
    shown: PartProfile | None = None,
) -> Finding:
    wanted = set(names)
    return Finding(
        kind=kind,
        severity="minor" if kind == "rare_labels" else "serious",
        part=profile.name,
        count=sum(label in wanted for label in profile.rows.labels),
        num_rows=len(profile.rows),
        message=message,
        examples=_show_label_rows(shown or profile, names),
        advice=advice,
    )


def _show_label_rows(profile: PartProfile, names: Sequence[str]) -> tuple[Example, ...]:
    """Return the first rows with any of the labels, each with its label."""
    wanted = set(names)
    rows = [row for row, label in enumerate(profile.rows.labels) if label in wanted]
    notes = [f"label {profile.rows.labels[row]}" for row in rows[:NUM_EXAMPLES]]
    return show_rows(profile.rows, rows, notes=notes)


def _count_labels(names: Sequence[str]) -> str:
    return "1 label has" if len(names) == 1 else f"{len(names):,} labels have"


def _name_labels(names: Sequence[str]) -> str:
    return list_some((repr(shorten_name(name)) for name in names), _MOST_LABELS_NAMED)
