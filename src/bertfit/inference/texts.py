"""Converts whatever a caller passes as texts to strings, before a tokenizer reads them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, KeysView, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from bertfit.data.dataset import Columns
from bertfit.data.readers import iter_rows
from bertfit.data.records import SourceError
from bertfit.data.rows import describe_surrogate
from bertfit.errors import DataError, Fault

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def list_texts(
    texts: Any,  # noqa: ANN401 (as `TextClassifier.predict` takes them)
    columns: Columns,
) -> list[str]:
    """Return a list of texts from a string, an iterable of texts, or a table.

    Args:
        texts: As `TextClassifier.predict` takes them.
        columns: Which column of a table has the texts.

    Raises:
        DataError: `texts` is none of these, or a table without texts.
    """
    if isinstance(texts, str):
        return [_join_tokens(texts, 0)]
    if hasattr(texts, "columns"):
        return list(_read_table(texts, columns))
    if not _holds_many(texts):
        message = f"texts: expected a string, strings or a table, got {_show(texts)}"
        hint = "Give one of its columns, or a table." if isinstance(texts, Mapping) else None
        raise DataError(message, hint=hint)
    listed = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    if listed and all(isinstance(one, Mapping) for one in listed):
        return list(_read_table(listed, columns))
    return [_join_tokens(text, place) for place, text in enumerate(listed)]


def _read_table(table: Any, columns: Columns) -> Iterator[str]:  # noqa: ANN401 (pandas is optional)
    try:
        for row in iter_rows(table, columns, need_label=False):
            if isinstance(row, Fault):
                raise DataError("a row cannot be predicted", faults=[row])
            yield row.text
    except SourceError as error:
        hint = "Or give the texts themselves, such as table['body']."
        raise DataError(error.message, hint=hint) from None


def iter_texts(texts: Any) -> Iterator[str]:  # noqa: ANN401 (whatever a caller passes)
    """Return an iterator over an iterable of texts, each checked when it is reached.

    Raises:
        DataError: At once, if `texts` is not an iterable of texts; while iterating, if one of them
            is not a text.
    """
    if isinstance(texts, str):
        raise DataError(f"texts: expected an iterable of texts, got the string {_show(texts)}")
    # Iterating a table yields its column names, and a Dataset its rows.
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        kind = type(texts).__name__
        raise DataError(
            f"texts: expected an iterable of texts, got a {kind}",
            hint="Give its column of texts.",
        )
    if not _holds_many(texts):
        message = f"texts: expected texts in an order, such as a list, got {_show(texts)}"
        raise DataError(message)
    given = (one.as_py() for one in texts) if hasattr(texts, "to_pylist") else texts
    return (_join_tokens(text, place) for place, text in enumerate(given))


def _holds_many(texts: Any) -> bool:  # noqa: ANN401 (whatever a caller passes)
    """Return whether texts can be iterated in an order; a dict would yield keys, bytes numbers."""
    has_no_order = isinstance(texts, AbstractSet) and not isinstance(texts, KeysView)
    is_single = isinstance(texts, Mapping | bytes | bytearray | memoryview)
    has_one_axis = getattr(texts, "ndim", 1) == 1  # else it is a number, or rows of a table
    return isinstance(texts, Iterable) and has_one_axis and not (is_single or has_no_order)


def _show(value: object) -> str:
    """Return a value as messages show it: a whole data set may have been given."""
    return _SHORT.repr(value)


def _join_tokens(text: Any, place: int) -> str:  # noqa: ANN401 (whatever a caller passes)
    """Return a text as one string; a tokenizer would read a list of two as a pair of texts.

    A tuple is no list of tokens: it may be a row of a table, of a text and its label.
    """
    tokens = text.tolist() if isinstance(text, np.ndarray) else text
    if isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        text = " ".join(tokens)
    if not isinstance(text, str):
        raise DataError(
            f"texts[{place}] is {_show(text)}; a string or a list of strings was expected"
        )
    surrogate = describe_surrogate(text)
    if surrogate is not None:
        raise DataError(f"texts[{place}] has {surrogate}, which no tokenizer takes")
    return text
