"""Label names and their ids: how a value in a file becomes a class, in a fixed order.

Owns the normalisation of label values, the order of label names, and how names that are nearly the
same are found and shown. Does not read files.
"""

from __future__ import annotations

import contextlib
import decimal
import difflib
import itertools
import numbers
import operator
import re
import unicodedata
from collections.abc import Iterable, Sequence

from bertfit.errors import did_you_mean

_UNNAMED = "LABEL_"
"""transformers names a class so, with its number, if it is given no name."""
_SPELLINGS_OF_MISSING = {"nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat"}
"""In lower case. Some are words, too, so that they can be classes: none of these, Namibia."""
_MOST_DIGITS = 640
"""Python converts integers of so many digits whatever its limit (sys.set_int_max_str_digits)."""
_LEAST_UNWRITTEN = 10**_MOST_DIGITS
_MOST_COMPARED = 10
"""Names nearest to a label that are compared with it word by word."""
_MOST_TYPOS = 3
"""Characters of a name that typing mistakes change."""
_MOST_TYPOS_OF_WORD = 2
"""Characters of one word; at most a third of it."""
_JOINING = ",;|\u3001\uff0c\uff1b\uff5c"
"""Signs between several labels of a text, also those of Chinese and Japanese."""
_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), 0x034F)))
"""Marks that are not seen: whether a sign is a picture, and where letters are not joined."""
_ENDS_IN_ZERO = re.compile(r"[+-]?[0-9]+,0")
_MINUS = re.compile(r"(?<!\w)-(?=\d)|(?<=\w)-(?!\w)")
_SIGNS = frozenset("#%&@*")
"""Punctuation that means something in a name."""


def normalize_label(value: object) -> str | None:
    """Convert a label value from a file or a table to its name.

    Strings are stripped; booleans become "false" and "true"; integers, and floats and decimals
    without a fraction (as pandas stores integers if a value is missing, and databases export
    them), become their digits.

    Returns:
        The name, or None if the label is missing (None, NaN, an empty string).

    Raises:
        TypeError: The value cannot be a class (a list, a dict, 0.5, an integer of 5,000 digits).

    Example:
        >>> [normalize_label(value) for value in (" pos ", True, 3, 3.0, float("nan"))]
        ['pos', 'true', '3', '3', None]
    """
    if isinstance(value, str):
        return value.strip() or None
    if is_missing(value):
        return None
    if isinstance(value, bool) or type(value).__name__ in {"bool", "bool_"}:
        return "true" if value else "false"
    whole = _find_whole(value)
    if whole is None:
        name = type(value).__name__
        raise TypeError(f"a label is a string, an integer or a boolean, not this {name}")
    return str(whole)


def _find_whole(value: object) -> int | None:
    """Return the value if it is a whole number of no more digits than Python surely writes."""
    whole = None
    if isinstance(value, numbers.Integral):
        whole = int(value)
    elif isinstance(value, decimal.Decimal):
        if value.is_finite() and value.adjusted() < _MOST_DIGITS and value == int(value):
            whole = int(value)
    elif isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):  # a fraction of huge numbers
            number = float(value)
            whole = int(number) if number.is_integer() else None
    return whole if whole is not None and abs(whole) < _LEAST_UNWRITTEN else None


def is_missing(value: object) -> bool:
    """Return whether a cell of a table is empty: None, NaN, pandas' NA or NaT.

    Example:
        >>> is_missing(None), is_missing(float("nan")), is_missing("")
        (True, True, False)
    """
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    is_nan = isinstance(value, numbers.Real) and value != value  # noqa: PLR0124 (NaN differs from itself)
    return value is None or is_nan or type(value).__name__ in {"NAType", "NaTType"}


def reads_as_missing(label: str) -> bool:
    """Return whether a label is spelt as programs write a missing value, such as str(nan).

    Example:
        >>> [reads_as_missing(label) for label in ("nan", "None", "<NA>", "neg")]
        [True, True, True, False]
    """
    return label.lower() in _SPELLINGS_OF_MISSING


def sort_label_names(label_names: Iterable[str]) -> list[str]:
    """Return the distinct names in an order that does not depend on the order of rows.

    If all are whole numbers of up to 640 characters, they are sorted numerically, else by their
    characters.

    Example:
        >>> sort_label_names(["pos", "neg", "pos"]), sort_label_names(["10", "9", "-1"])
        (['neg', 'pos'], ['-1', '9', '10'])
    """
    distinct = set(label_names)
    if all(_is_whole_number(name) and len(name) <= _MOST_DIGITS for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def match_spelling(labels: Sequence[str], label_names: Sequence[str]) -> Sequence[str]:
    r"""Return the labels, with true, false and whole numbers spelt as in `label_names`.

    The same table can have two spellings in two file formats: pandas writes True and 1.0 to CSV,
    and spreadsheets 1,0, to each label of a column. And 1 is the class LABEL_1 of a model whose
    classes were given no names. An accent may be a character of its own.

    Example:
        >>> match_spelling(["False", "true", "neg"], ["false", "true"])
        ['false', 'true', 'neg']
        >>> match_spelling(["1.0", "01", "2"], ["0", "1"])
        ['1', '1', '2']
        >>> match_spelling(["1", "2", "neg"], ["LABEL_0", "LABEL_1"])
        ['LABEL_1', '2', 'neg']
        >>> match_spelling(["1,0", "0,0"], ["0", "1"]), match_spelling(["1,0", "0"], ["0", "1"])
        (['1', '0'], ['1,0', '0'])
        >>> match_spelling(["cafe\u0301"], ["caf\xe9"]) == ["caf\xe9"]
        True
    """
    known = set(label_names)
    if are_unnamed(label_names):
        names = {name.removeprefix(_UNNAMED): name for name in label_names}
    else:
        names = {_find_value(name): name for name in label_names}
    if known.issuperset(labels) or len(names) < len(known):
        return labels
    distinct = set(labels)
    end = ",0" if all(map(_ENDS_IN_ZERO.fullmatch, distinct)) else ""  # else 1 and 0, joined
    spelt = {
        label: names.get(_find_value(label.removesuffix(end)), label) for label in distinct - known
    }
    return [spelt.get(label, label) for label in labels]


def respell(label_names: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Return, for each name, how it is spelt among others, if it is; by `match_spelling`.

    Example:
        >>> respell(["LABEL_0", "LABEL_1"], ["0", "1"]), respell(["1.0", "x"], ["0", "1"])
        ({'LABEL_0': '0', 'LABEL_1': '1'}, {'1.0': '1', 'x': 'x'})
    """
    there = dict(zip(label_names, match_spelling(label_names, others), strict=True))
    back = dict(zip(match_spelling(others, label_names), others, strict=True))
    return {name: back.get(name, spelt) for name, spelt in there.items()}


def are_unnamed(label_names: Sequence[str]) -> bool:
    """Return whether the names are those that transformers gives to classes without names."""
    return set(label_names) == {f"{_UNNAMED}{number}" for number in range(len(label_names))}


def find_alike(label_names: Iterable[str]) -> list[list[str]]:
    r"""Return names that differ only in case, spaces, Unicode form, or invisible characters.

    Spellings of one whole number are alike too: with leading zeros, a plus or a fraction of zero;
    and so are true and 1, false and 0.

    Example:
        >>> find_alike(["yes", "Yes", "no", "1", "1.0", "01", "pos", "pos\u200b"])
        [['01', '1', '1.0'], ['pos', 'pos\u200b'], ['Yes', 'yes']]
        >>> find_alike(["0", "1", "true"])
        [['1', 'true']]
    """
    groups: dict[str, list[str]] = {}
    names = sorted(set(label_names))
    # Turkish has two letters, \u0131 and i; of their capitals, other languages know only I.
    dotless = "i" if any({"I", "\u0130"} & set(name) for name in names) else "\u0131"
    for name in names:
        seen = " ".join(_find_look(name).casefold().split())
        seen = seen.replace("i\u0307", "i").replace("\u0131", dotless)
        value = _find_value(seen)
        groups.setdefault({"true": "1", "false": "0"}.get(value, value), []).append(name)
    alike = (names for names in groups.values() if len(names) > 1)
    return sorted(alike, key=lambda names: names[0].casefold())


def quote_apart(label_names: Sequence[str]) -> list[str]:
    r"""Return names in quotes, with escapes for what tells those apart that look the same.

    Example:
        >>> print(*quote_apart(["MÜLL", "m\u00fcll für", "mu\u0308ll für"]))
        'MÜLL' 'm\xfcll für' 'mu\u0308ll für'
    """
    alike: dict[str, list[str]] = {}
    for name in label_names:
        alike.setdefault(_find_look(name), []).append(name)
    return [_quote_apart(name, alike[_find_look(name)]) for name in label_names]


def guess_label(label: str, label_names: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` if a label is one of the names but for typing mistakes, or "".

    Example:
        >>> guess_label("card_arival", ["card_arrival", "card_linking"])
        " Did you mean 'card_arrival'?"
        >>> guess_label("card_arrival_date", ["card_arrival", "card_linking"])
        ''
    """
    names = {name.lower(): name for name in label_names}
    near = difflib.get_close_matches(label.lower(), names, n=_MOST_COMPARED)
    return did_you_mean(label, [names[one] for one in near if _may_be_typo(label, one)])


def find_joined(label_names: Iterable[str]) -> list[str]:
    """Return names that are others joined by commas, semicolons or bars: several labels of a text.

    Example:
        >>> find_joined(["joy", "anger", "joy,anger", "joy; anger", "yes, or no", "a|b"])
        ['joy,anger', 'joy; anger']
    """
    names = set(label_names)
    joined = {
        name
        for name in names
        for sign in _JOINING
        if sign in name and names.issuperset(part.strip() for part in name.split(sign))
    }
    return sorted(joined)


def encode_labels(labels: Sequence[str], label_names: Sequence[str]) -> list[int]:
    """Return the id of each label, which is its index in `label_names`.

    Raises:
        KeyError: A label is not among `label_names`; the data checks find this first.
    """
    id_of_name = {name: label_id for label_id, name in enumerate(label_names)}
    return [id_of_name[label] for label in labels]


def _find_value(label: str) -> str:
    """Return the canonical spelling of true, false or a whole number; other labels in NFC."""
    if label.lower() in {"true", "false"}:
        return label.lower()
    whole = label.removesuffix(".0").removeprefix("+")
    if not _is_whole_number(whole) or label.startswith("+-"):
        return unicodedata.normalize("NFC", label)
    digits = whole.removeprefix("-").lstrip("0") or "0"
    return f"-{digits}" if whole.startswith("-") and digits != "0" else digits


def _find_look(name: str) -> str:
    """Return what is seen of a name: not its Unicode form, and no invisible characters."""
    normal = unicodedata.normalize("NFKC", name)
    seen = (sign for sign in normal if unicodedata.category(sign) != "Cf")
    return "".join(sign for sign in seen if sign not in _SELECTORS)


def _quote_apart(name: str, others: Sequence[str]) -> str:
    hidden = {
        sign
        for other in others
        for tag, start, end, *_ in difflib.SequenceMatcher(None, name, other).get_opcodes()
        if tag != "equal"
        for sign in name[start:end]
        if not sign.isascii()
    }
    return "".join(ascii(sign)[1:-1] if sign in hidden else sign for sign in repr(name))


def _may_be_typo(label: str, name: str) -> bool:
    """Return whether a few characters differ: no whole word, no number and no sign."""
    if not any(map(str.isalpha, label)):
        return False
    words, others = _split_words(label), _split_words(name)
    if len(words) != len(others):  # a space more or less
        return "".join(words) == "".join(others)
    num_typos = 0
    for word, other in zip(words, others, strict=True):
        num_of_word = _count_typos(word, other)
        longest = max(len(word), len(other))
        if num_of_word > (min(longest // 3, _MOST_TYPOS_OF_WORD) if word[0].isalpha() else 0):
            return False
        num_typos += num_of_word
    return num_typos <= _MOST_TYPOS


def _split_words(name: str) -> list[str]:
    """Return the words, numbers and other signs of a name, without case and what divides them."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    folded = _MINUS.sub("\u2212", folded)  # a sign, where others divide words
    kinds = [
        "S" if sign in _SIGNS else unicodedata.category(sign)[0].replace("M", "L")
        for sign in folded
    ]
    runs = itertools.groupby(zip(kinds, folded, strict=True), key=operator.itemgetter(0))
    return ["".join(sign for _, sign in run) for kind, run in runs if kind in "LNS"]


def _count_typos(word: str, other: str) -> int:
    """Return how many characters have no match in the other word; of two that swapped, one."""
    if word == other:
        return 0
    matches = difflib.SequenceMatcher(None, word, other).get_matching_blocks()
    return max(len(word), len(other)) - sum(match.size for match in matches)


def _is_whole_number(name: str) -> bool:
    digits = name.removeprefix("-")
    return digits.isascii() and digits.isdigit()
