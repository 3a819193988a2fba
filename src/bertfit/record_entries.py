"""What the entries of a run's bertfit.json must be, as far as the verbs rely on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

_KINDS = {
    "label_names": list,
    "encoding": dict,
    "settings": dict,
    "training": dict,
    "data": dict,
    "scores": dict,
    "calibration": dict | None,
    "threshold": dict | None,
    "sha256": dict,
}
"""Types of the entries that the verbs read, if they exist."""
_MOST = 2**1000
"""Whole numbers that a float holds are at most a little larger."""
_LONGEST_NAME = 255
_PARTS = ("train", "validation", "test")
_READ_OF_SCORES = {
    "comparison": ("verdict", str),
    "test_without_leaks": ("num_leaked", int),
    "test_without_groups": ("num_leaked", int),
}
"""Further scores, with the name and the type of what other verbs than `report` read of them."""


def find_damaged_entry(record: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the name and the value of the first entry that is of a wrong type, if there is one.

    Example:
        >>> find_damaged_entry({"settings": {"seed": {"value": 0, "origin": "default"}}})
        >>> find_damaged_entry({"settings": {"seed": 0}})
        ('settings.seed', 0)
    """
    of_whole = (
        (name, record[name])
        for name, kind in _KINDS.items()
        if name in record and not isinstance(record[name], kind)
    )
    return next(of_whole, None) or next(_iter_damaged_parts(record), None)


def refuse_huge_numbers(value: object) -> None:
    """Raise ValueError if JSON has a whole number that no float can hold: arithmetic would fail."""
    left = [value]  # no recursion: some Pythons read JSON that is nested deeper than they recurse
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            left.extend(one.values() if isinstance(one, dict) else one)
        elif isinstance(one, int) and abs(one) > _MOST:
            raise ValueError(f"a number of {len(str(abs(one)))} digits is in it")


def _iter_damaged_parts(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is damaged inside of entries that are of the right type themselves."""
    names = record.get("label_names", [])
    if not all(isinstance(name, str) for name in names):
        yield "label_names", names
    yield from _iter_damaged_digests(record)
    for name, entry in record.get("settings", {}).items():
        is_whole = isinstance(entry, dict) and "value" in entry
        if not is_whole or not isinstance(entry.get("origin"), str):
            yield f"settings.{name}", entry
    for entry in ("data", "scores"):
        parts = record.get(entry, {})
        for part in _PARTS:
            if not isinstance(parts.get(part), dict | None):
                yield f"{entry}.{part}", parts[part]
    seeds = record.get("seeds")
    if seeds is not None and not (
        isinstance(seeds, dict) and isinstance(seeds.get("asked", 0), int)
    ):
        yield "seeds", seeds
    scores = record.get("scores", {})
    for part, (name, kind) in _READ_OF_SCORES.items():
        value = scores.get(part)
        if value is not None and not (
            isinstance(value, dict) and isinstance(value.get(name), kind)
        ):
            yield f"scores.{part}", value


def _iter_damaged_digests(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, digest in record.get("sha256", {}).items():
        if not isinstance(digest, str) or len(os.fsencode(name)) > _LONGEST_NAME or "/" in name:
            yield "sha256", {name[:_LONGEST_NAME]: digest}
