"""Shorten names to the width of a table's column, such that different names stay different.

Owns where a name is cut. Names come from users; their control characters are escaped first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from rich.cells import cell_len, set_cell_size

from bertfit.reporting.control_characters import put_on_one_line
from bertfit.word_pattern import find_cut

_LEAST_WIDTH = 12
"""In fewer cells there is no room for two parts of a name, or for a number."""


def shorten_apart(names: Iterable[str], width: int) -> dict[str, str]:
    """Return each name as `text.shorten` does, but different names differently.

    Names that would look alike are cut before the part in which they differ; if that does not
    help, they are numbered.

    Args:
        names: Names of one table; repeated ones count once.
        width: Maximum width of each in cells; with less than 12, names may look alike.

    Example:
        >>> list(shorten_apart(["getting_spare_card", "getting_virtual_card"], 13).values())
        ['ge…spare_card', 'ge…virtu…card']
    """
    whole = {name: put_on_one_line(name) for name in names}
    shown = {name: cut_middle(line, width) for name, line in whole.items()}
    if width < _LEAST_WIDTH:
        return shown
    for alike in _group_alike(shown):
        places = _find_differences({whole[name] for name in alike})
        shown |= {name: _cut_before(whole[name], places[whole[name]], width) for name in alike}
    taken = set(shown.values())
    for alike in _group_alike(shown):
        number = 0
        for name in alike:
            while shown[name] in taken:
                number += 1
                end = f" ({number})"
                shown[name] = cut_middle(whole[name], width - len(end)) + end
            taken.add(shown[name])
    return shown


def cut_middle(name: str, width: int) -> str:
    """Return a name of one line with its middle elided, if it is wider than `width` cells."""
    if cell_len(name) <= width:
        return name
    end_width = (width - 1) // 3
    return f"{_take_start(name, width - 1 - end_width)}…{_take_end(name, end_width)}"


def _cut_before(name: str, place: int, width: int) -> str:
    """Return the name cut such that what follows a place is seen, as far as it fits."""
    end_width = (width - 1) // 3
    start_width = (width - 2 - end_width) // 3
    middle_width = width - 2 - end_width - start_width
    if place == 0 or cell_len(name) <= width or cell_len(name[place:]) <= end_width:
        return cut_middle(name, width)
    # Whole words read better.
    word = place - len(re.split(r"[\W_]", name[:place])[-1])
    rest = name[word if place - word <= middle_width // 2 else place :]
    if cell_len(rest) <= width - 1 - start_width:
        return f"{_take_start(name, width - 1 - cell_len(rest))}…{rest.lstrip()}"
    # Its end tells it from names that end in another way, and may be cut at the same place.
    middle = _take_start(rest, middle_width).lstrip()
    return f"{_take_start(name, start_width)}…{middle}…{_take_end(name, end_width)}"


def _take_start(name: str, width: int) -> str:
    return set_cell_size(name, width).rstrip()


def _take_end(name: str, width: int) -> str:
    end = set_cell_size(name[::-1], width)[::-1].lstrip()
    return name[find_cut(name, len(name) - len(end)) :]  # no accent without its letter


def _group_alike(shown: Mapping[str, str]) -> list[list[str]]:
    """Return the names that are shown alike, together."""
    groups: dict[str, list[str]] = {}
    for name, short in shown.items():
        groups.setdefault(short, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _find_differences(names: Iterable[str]) -> dict[str, int]:
    """Return for each name the place from which on no other begins like it."""
    ordered = sorted(names)
    shared = [0, *(_count_shared(*pair) for pair in pairwise(ordered)), 0]
    return {name: max(pair) for name, pair in zip(ordered, pairwise(shared), strict=True)}


def _count_shared(one: str, other: str) -> int:
    """Return how many characters both begin with."""
    differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))
