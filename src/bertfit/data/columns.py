"""Choose the columns of a source that hold the text, the label, the group and the slices."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from bertfit.data.dataset import Columns, ReadColumn
from bertfit.data.records import RecordStream, SourceError
from bertfit.errors import did_you_mean
from bertfit.wording import shorten_name

USUAL_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": ("text", "sentence", "review", "content"),
        "label": ("label", "sentiment", "category", "target", "class"),
    }
)
"""Case-insensitive names to look for if none is given; the first match wins."""

NUM_NAMES_SHOWN = 20
"""Wide tables have hundreds of columns; a message that lists them all is unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenColumns:
    """The names of the chosen columns in one source."""

    text: str
    label: str | None
    """None if no label is needed."""
    group: str | None
    slices: tuple[str, ...]
    kept: tuple[str, ...]
    read: Mapping[str, ReadColumn]
    """By "text" and, if there is one, "label": the column, and the alternatives to it."""

    def names(self) -> list[str]:
        """Return the names of the columns to read, without duplicates."""
        names = (self.text, self.label, self.group, *self.slices, *self.kept)
        return list(dict.fromkeys(name for name in names if name is not None))


def choose_columns(stream: RecordStream, columns: Columns, *, need_label: bool) -> ChosenColumns:
    """Find the columns in a source by the given names, otherwise by the usual ones.

    Raises:
        SourceError: A column does not exist, or one column would have two roles.
    """
    asked = columns
    given = {"group": columns.group, "label": columns.label, "text": columns.text}
    taken = {name: role for role, name in given.items() if name is not None}
    columns = _prefer_trained(columns, [name for name in stream.names if name not in taken])
    text = _find(stream, "text", columns.text, taken=taken)
    taken[text] = "text"
    label = None
    if need_label or asked.label is not None:
        label = _find(stream, "label", columns.label, taken=taken)
    group = None
    if columns.group is not None:
        group = _find(stream, "group", columns.group, taken={})
    for role, name in (("label", label), ("group", group)):
        if name == text:
            message = f"column {text!r} cannot be both text and {role}"
            raise SourceError(stream.source, message)
    if group is not None and group == label:
        message = f"column {label!r} cannot be both label and group"
        raise SourceError(stream.source, message)
    slices, kept = (
        tuple(_find(stream, role, name, taken={}) for name in dict.fromkeys(names))
        for role, names in (("slice", columns.slices), ("kept", columns.kept))
    )
    if text in slices:
        message = f"column {text!r} is the text; slices are cut by a column of few different values"
        raise SourceError(stream.source, message)
    return ChosenColumns(
        text=text,
        label=label if need_label else None,
        group=group,
        slices=slices,
        kept=kept,
        read=_describe_read(stream, asked, text=text, label=label, taken={group, *slices}),
    )


def _describe_read(
    stream: RecordStream,
    asked: Columns,
    *,
    text: str,
    label: str | None,
    taken: Collection[str | None],
) -> dict[str, ReadColumn]:
    """Return the column of each role, with the alternatives to it; `taken` have other roles."""
    taken = {text, label, *taken}
    read = {}
    for role, name, given in (("text", text, asked.text), ("label", label, asked.label)):
        if name is not None:
            others = () if given is not None else _list_usual(stream.names, role, taken)
            read[role] = ReadColumn(name=name, is_given=given is not None, others=tuple(others))
    return read


def _prefer_trained(columns: Columns, names: Collection[str]) -> Columns:
    text, label = (_match(name, names) for name in (columns.trained_text, columns.trained_label))
    return replace(
        columns,
        text=text if columns.text is None else columns.text,
        label=label if columns.label is None else columns.label,
    )


def list_names(names: Collection[str]) -> str:
    """Return the first names joined by commas, and the number of further names.

    Example:
        >>> list_names(["a", "b"])
        'a, b'
        >>> list_names(["a", "b, c", ""])
        "a, 'b, c', ''"
    """
    # A file without a header has a row of data there.
    listed = [shorten_name(str(name)) for name in names][:NUM_NAMES_SHOWN] or ["none"]
    shown = [repr(name) if "," in name or not name.strip() else name for name in listed]
    num_hidden = len(names) - len(shown)
    return ", ".join(shown) + (f" … and {num_hidden} more" if num_hidden > 0 else "")


def _find(stream: RecordStream, role: str, given: str | None, *, taken: Mapping[str, str]) -> str:
    """Return the column of a role; `taken` maps columns to the roles they already have."""
    if given is None:
        usual = _usual(stream.names, role, taken)
        if usual is None:
            raise _no_usual_column(stream, role, taken)
        return usual
    found = _match(given, stream.names)
    if found is None:
        present = list_names(stream.names)
        guess = did_you_mean(given, stream.names)
        message = f"no {role} column {given!r}: columns are {present}.{guess}{_header_note(stream)}"
        raise SourceError(stream.source, message)
    return found


def _match(given: str | None, names: Collection[str]) -> str | None:
    """Return the name that is meant; its accents may be characters of their own, as on macOS."""
    if given is None or given in names:
        return given
    composed = unicodedata.normalize("NFC", given)
    same = [name for name in names if unicodedata.normalize("NFC", name) == composed]
    return same[0] if len(same) == 1 else None


def _list_usual(names: Sequence[str], role: str, taken: Collection[str | None]) -> list[str]:
    """Return the columns with usual names that have no other role."""
    return [
        name for name in names if name not in taken and name.strip().lower() in USUAL_NAMES[role]
    ]


def _usual(names: Sequence[str], role: str, taken: Collection[str]) -> str | None:
    by_folded_name: dict[str, str] = {}
    for name in names:
        if name not in taken:
            by_folded_name.setdefault(name.strip().lower(), name)
    found = (by_folded_name[name] for name in USUAL_NAMES[role] if name in by_folded_name)
    return next(found, None)


def _no_usual_column(stream: RecordStream, role: str, taken: Mapping[str, str]) -> SourceError:
    separator = _find_separator(stream)
    if separator is not None:
        is_csv = separator in {"commas", "semicolons"}
        mend = "name the file .csv" if is_csv else "save the file with commas, or with tabs as .tsv"
        return SourceError(
            stream.source,
            f"no {role} column: columns are {list_names(stream.names)}. They seem to be separated "
            f"by {separator}; {mend}",
        )
    used = _usual(stream.names, role, ())
    if used is not None:  # otherwise it would have been found
        how, instead = (
            "" if stream.is_in_memory else f" with --{one}-column" for one in (role, taken[used])
        )
        return SourceError(
            stream.source,
            f"no {role} column: {used!r} is the {taken[used]} column already; columns are "
            f"{list_names(stream.names)}. Name another {role} column{how}, or another "
            f"{taken[used]} column{instead}",
        )
    others = {usual for one, names in USUAL_NAMES.items() if one != role for usual in names}
    free = [
        name for name in stream.names if name not in taken and name.strip().lower() not in others
    ]
    guesses = (did_you_mean(name, free, least=0.7) for name in USUAL_NAMES[role])
    guess = next((guess for guess in guesses if guess), "")
    mend = (
        f"Rename the column to {role!r}, or give its name: to train as {role}_column=…, elsewhere "
        f"as columns=bertfit.Columns({role}=…)"
        if stream.is_in_memory
        else f"Name it with --{role}-column"
    )
    return SourceError(
        stream.source,
        f"no {role} column: columns are {list_names(stream.names)}; one of "
        f"{', '.join(USUAL_NAMES[role])} was expected.{guess}{_header_note(stream)} {mend}",
    )


def _find_separator(stream: RecordStream) -> str | None:
    """Return, in words, what seems to separate the columns of a file, or None.

    A tab in a name is one; other signs are only if the file was read as one column.
    """
    if not stream.has_header_line:
        return None
    if any("\t" in name for name in stream.names):
        return "tabs"
    if len(stream.names) != 1:
        return None
    known = {"|": "bars"}
    if stream.source.lower().endswith((".tsv", ".tsv.gz")):
        known |= {";": "semicolons", ",": "commas"}
    return next((told for sign, told in known.items() if sign in stream.names[0]), None)


def _header_note(stream: RecordStream) -> str:
    return " (The first line is read as the header.)" if stream.has_header_line else ""
