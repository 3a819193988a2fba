"""Convert the values of a record to a row, or to a fault that explains what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bertfit.data.columns import ChosenColumns, list_names
from bertfit.data.dataset import Row
from bertfit.data.records import Record
from bertfit.errors import Fault, did_you_mean
from bertfit.labels import is_missing, normalize_label

NUM_CHARACTERS_SHOWN = 60
"""Length to which values are shortened in messages; enough to recognise them."""


class _RowError(Exception):
    """A row cannot be used; converted to a Fault by the caller that knows source and line."""

    def __init__(self, message: str, *, value: str = "", kind: str = "") -> None:
        """Keep what the message shows of a value that is not quoted, and how it is told of many."""
        super().__init__(message)
        self.value = value
        self.kind = kind


def make_row(record: Record, chosen: ChosenColumns, *, source: str) -> Row | Fault:
    """Return the row, with its text unchanged and its label normalised, or its first fault."""
    try:
        text = _read_text(_value_of(record.values, chosen.text))
        label = None if chosen.label is None else _read_label(record.values, chosen.label)
        group = None if chosen.group is None else _read_group(record.values, chosen.group)
    except _RowError as error:
        return Fault(source, record.line, str(error), error.value, error.kind)
    slices, kept = (tuple(map(record.values.get, names)) for names in (chosen.slices, chosen.kept))
    return Row(record.line, text, label, group, slices, kept)


def describe_undecodable(error: UnicodeDecodeError, *, place: str) -> str:
    """Return a message with the byte that is not UTF-8, its offset, and what to do about it."""
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} at offset {error.start} of {tell_undecodable(place=place)}"


def tell_undecodable(*, place: str) -> str:
    """Return the part of such a message that is the same for all lines of a file."""
    return f"the {place} is not UTF-8; re-save the file as UTF-8 (it may be in latin-1 or cp1252)"


def describe_surrogate(text: str) -> str | None:
    """Return a description of the first lone surrogate of a text, or None.

    JSON escapes can produce one, and Python decodes bytes that are not UTF-8 to them. Tokenizers
    reject them, and they cannot be encoded as UTF-8.
    """
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"a lone surrogate U+{ord(text[error.start]):04X} at offset {error.start}"
    return None


def _value_of(values: Mapping[str, object], name: str) -> object:
    try:
        return values[name]
    except KeyError:
        names = list_names(values)
        message = f"key {name!r} is missing; the keys are {names}.{did_you_mean(name, values)}"
        raise _RowError(message) from None


def _read_text(value: object) -> str:
    text = _join_tokens(value)
    if not text or text.isspace():
        raise _RowError("the text is empty")
    if "\0" in text:
        kind = "the text has a NUL character"
        raise _RowError(f"{kind} at offset {text.index(chr(0))}", kind=kind)
    return _check_characters(text, "text")


def _join_tokens(value: object) -> str:
    if isinstance(value, str):
        return value
    if is_missing(value):
        raise _RowError("the text is missing")
    if isinstance(value, bytes):
        return _decode(value, "text")
    tokens = value.tolist() if hasattr(value, "tolist") else value  # numpy arrays, from pandas
    if not isinstance(tokens, list | tuple):
        raise _refuse("the text is {}; a string or a list of strings was expected", value)
    return _join_strings(tokens)


def _join_strings(tokens: Sequence[object]) -> str:
    strings = [
        _decode(token, "text") if isinstance(token, bytes) else token
        for token in tokens
        if isinstance(token, str | bytes)
    ]
    if len(strings) < len(tokens):
        odd = next(token for token in tokens if not isinstance(token, str | bytes))
        raise _refuse("the text is a list with {}; all its items must be strings", odd)
    return " ".join(strings)


def _decode(value: bytes, role: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        message, kind = describe_undecodable(error, place=role), tell_undecodable(place=role)
        raise _RowError(message, kind=kind) from None


def _check_characters(value: str, role: str) -> str:
    surrogate = describe_surrogate(value)
    if surrogate is not None:
        raise _RowError(f"the {role} has {surrogate}", kind=f"the {role} has a lone surrogate")
    return value


def _read_label(values: Mapping[str, object], name: str) -> str:
    value = _value_of(values, name)
    try:
        label = _to_name(value, "label")
    except TypeError:
        message = "the label is {}; a string, an integer or a boolean was expected"
        message += "; a text has one label" if hasattr(value, "__len__") else ""
        raise _refuse(message, value) from None
    if label is None:
        raise _RowError(f"the label is missing (column {name!r})")
    return _check_characters(label, "label")


def _read_group(values: Mapping[str, object], name: str) -> str:
    value = _value_of(values, name)
    try:
        group = _to_name(value, "group")
    except TypeError:
        raise _refuse("the group is {}; a string or an integer was expected", value) from None
    if group is None:
        raise _RowError(f"the group is missing (column {name!r})")
    return _check_characters(group, "group")


def _to_name(value: object, role: str) -> str | None:
    """Return the name of a label or group, or None if it is missing."""
    return normalize_label(_decode(value, role) if isinstance(value, bytes) else value)


def _refuse(message: str, value: object) -> _RowError:
    """Return the error whose message has the value's type and beginning in place of {}."""
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        shown = "of too many digits"
    if len(shown) > NUM_CHARACTERS_SHOWN:
        shown = shown[:NUM_CHARACTERS_SHOWN] + "…"
    name = type(value).__name__
    told, kind = message.format(f"{name} {shown}"), message.format(name)
    return _RowError(told, value=shown, kind=kind)
