"""What values and words a setting takes, and what it is for, read from its field."""

from __future__ import annotations

import ast
import functools
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal


@functools.cache
def read_types(dataclass: type) -> Mapping[str, Any]:
    """Return {field: type}, read once: a training checks its settings a dozen times."""
    return typing.get_type_hints(dataclass)


@functools.cache
def read_descriptions(dataclass: type) -> Mapping[str, tuple[str, str]]:
    """Return {field: (default, docstring)}, read from the source of a dataclass, once."""
    body = ast.parse(inspect.getsource(dataclass)).body[0]
    assert isinstance(body, ast.ClassDef)
    described = {}
    for field, docstring in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr):
            default = ast.unparse(field.value or ast.Constant(None))
            text = typing.cast("ast.Constant", docstring.value).value
            described[ast.unparse(field.target)] = (default.strip("'"), str(text))
    return described


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
