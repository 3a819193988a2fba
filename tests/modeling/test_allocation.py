"""Freed memory is kept while there are users, and malloc is reset after the last one."""

from __future__ import annotations

import pytest

from bertfit.modeling import allocation
from bertfit.modeling.allocation import (
    Fragments,
    can_keep_freed_memory,
    keep_freed_memory,
    return_freed_memory,
)
from tests.limits import holds_in_fork


class Libc:
    """Stands for glibc, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def mallopt(self, parameter, value):
        self.asked.append((parameter, value))
        return 1

    def malloc_trim(self, pad):
        self.asked.append("trim")
        return 1


@pytest.fixture
def libc(monkeypatch):
    libc = Libc()
    monkeypatch.setattr(allocation, "_find_glibc", lambda: libc)
    monkeypatch.setattr(allocation, "_holders", allocation._Holders())
    monkeypatch.setattr(allocation, "measure_resident", lambda: None)
    return libc


def hold_while_memory_grows(libc, monkeypatch, sizes):
    """Return whether memory was returned after each hold.

    Sizes are in MiB: those found before a hold, after it, and once memory was returned.
    """
    trims = []
    for of_one in sizes:
        measured = iter([2**20 * size for size in of_one])
        monkeypatch.setattr(allocation, "measure_resident", lambda m=measured: next(m))
        libc.asked.clear()
        with keep_freed_memory():
            pass
        trims.append("trim" in libc.asked)
    return trims


def test_malloc_is_set_once_and_set_back_by_the_last_holder(libc):
    with keep_freed_memory():
        assert libc.asked == [(-4, 0), (-1, 2**31 - 1)]
        with keep_freed_memory():
            pass
        assert "trim" not in libc.asked
    assert libc.asked[2:] == [(-4, 65536), (-1, 131072), "trim"]


def test_an_error_sets_it_back_too(libc):
    with pytest.raises(RuntimeError, match="in between"), keep_freed_memory():
        raise RuntimeError("in between")
    assert libc.asked[-1] == "trim"


def test_little_memory_is_left_to_the_next_holder(libc, monkeypatch):
    sizes = [(500, 600), (600, 628), (628, 629, 500)]
    assert hold_while_memory_grows(libc, monkeypatch, sizes) == [False, False, True]


def test_growth_is_counted_since_memory_was_returned_and_from_the_least(libc, monkeypatch):
    sizes = [(500, 900, 850), (900, 970), (970, 979, 850), (300, 400), (400, 429, 400)]
    found = hold_while_memory_grows(libc, monkeypatch, sizes)
    assert found == [True, False, True, False, True]


def test_a_forked_process_has_no_holders(libc):
    with keep_freed_memory():
        assert holds_in_fork(lambda: allocation._holders.num == 0)
    assert libc.asked[-1] == "trim"


def test_what_is_free_can_be_returned_in_between(libc):
    with keep_freed_memory():
        return_freed_memory()
        assert libc.asked == [(-4, 0), (-1, 2**31 - 1), "trim"]


def test_memory_is_returned_when_it_has_grown_by_half(libc, monkeypatch):
    sizes = iter([100, 149, 151, 200, 299, 301])
    monkeypatch.setattr(allocation, "measure_resident", lambda: next(sizes))
    fragments = Fragments()
    trims = []
    for _ in range(6):
        fragments.look()
        trims.append(libc.asked.count("trim"))
    assert trims == [0, 0, 1, 1, 1, 2]


def test_memory_in_use_is_measured_where_the_system_tells(monkeypatch, tmp_path):
    measured = allocation.measure_resident()
    assert measured is None or 2**20 < measured < 2**40
    monkeypatch.setattr(allocation, "_STATM", tmp_path / "none")
    assert allocation.measure_resident() is None


def test_where_it_is_not_told_memory_is_returned_at_each_look(libc, monkeypatch):
    monkeypatch.setattr(allocation, "measure_resident", lambda: None)
    Fragments().look()
    assert libc.asked == ["trim"]


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocation, "_find_glibc", lambda: None)
    with keep_freed_memory():
        return_freed_memory()
    assert not can_keep_freed_memory()


def test_this_process_can_be_asked_where_it_has_glibc():
    libc = allocation._find_glibc()
    if libc is None:
        pytest.skip("this C library has no mallopt")
    assert libc.mallopt(-1, 131072) == 1
