"""What values and words a setting takes, read from the type of its field."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal


def list_words(hint: Any) -> tuple[str, ...]:  # noqa: ANN401 (a type, a union or a Literal)
    """Return the words that a setting takes besides values of its types.

    Example:
        >>> list_words(int | Literal["auto"])
        ('auto',)
    """
    literals = [kind for kind in typing.get_args(hint) if typing.get_origin(kind) is Literal]
    return tuple(word for literal in literals for word in typing.get_args(literal))


def list_kinds(hint: Any) -> tuple[type, ...]:  # noqa: ANN401 (as above)
    """Return the types of a setting's values, apart from words.

    Example:
        >>> list_kinds(int | Literal["auto"])
        (<class 'int'>,)
    """
    kinds = typing.get_args(hint) or (hint,)
    return tuple(kind for kind in kinds if typing.get_origin(kind) is not Literal)


def stands_for_none(value: object, hint: Any) -> bool:  # noqa: ANN401 (as above)
    """Return whether a value is the word none, for a setting that can be None."""
    is_none = isinstance(value, str) and value.lower() == "none"
    return is_none and types.NoneType in typing.get_args(hint)


def parse_value(text: str, hint: Any) -> Any:  # noqa: ANN401 (as above; a setting is of any type)
    """Return a value as the type of its setting, or the text itself if it is none of such a type.

    Example:
        >>> [parse_value(text, int | None) for text in ("3", "none", "x")]
        [3, None, 'x']
    """
    kinds = typing.get_args(hint) or (hint,)
    if stands_for_none(text, hint):
        return None
    if bool in kinds and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text
