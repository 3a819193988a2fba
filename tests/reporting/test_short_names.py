"""Names that were shortened to fit a column can still be told apart."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bertfit.reporting.control_characters import put_on_one_line
from bertfit.reporting.short_names import cut_middle, shorten_apart
from bertfit.reporting.text import shorten

BANK = "balance_not_updated_after_bank_transfer, by phone / weekday shift"
CHEQUE = "balance_not_updated_after_cheque_or_cash_deposit, by phone / weekday shift"


@pytest.mark.parametrize(
    ("names", "width", "expected"),
    [
        (["getting_spare_card", "get"], 13, ["getting_…card", "get"]),
        (["getting_spare_card", "getting_virtual_card"], 13, ["ge…spare_card", "ge…virtu…card"]),
        (
            ["top_up_by_bank_transfer_charge", "top_up_by_card_charge"],
            13,
            ["to…bank_…arge", "to…card_…arge"],
        ),
        (
            [BANK, CHEQUE],
            32,
            ["balanc…bank_transfer,…kday shift", "balanc…cheque_or_cash…kday shift"],
        ),
        (
            ["refund_of_the_weekday_shift_at_noon", "refund_of_the_weekend_shift_at_noon"],
            20,
            ["refu…weekday_…t_noon", "refu…weekend_…t_noon"],
        ),
        (["a" * 20, "a" * 21], 13, ["aaaaaa…aa (1)", "aaaaaa…aa (2)"]),
        (["two lines", "two\nlines", "one"], 13, ["two lines (1)", "two lines (2)", "one"]),
        (["getting_…card", "getting_spare_card"], 13, ["getting_…card", "ge…spare_card"]),
    ],
)
def test_names_that_would_look_alike_are_cut_where_they_differ(
    names: list[str], width: int, expected: list[str]
) -> None:
    """bertfit compare showed two answers that differed as the same one."""
    assert list(shorten_apart(names, width).values()) == expected


def test_ends_that_differ_are_kept_where_the_cut_moves() -> None:
    names = [name.replace("week", kind) for name in (BANK, CHEQUE) for kind in ("week", "holi")]
    shown = shorten_apart([*names, BANK.replace("weekday", "weekend")], 32)
    assert len(set(shown.values())) == 5
    assert not any("(" in short for short in shown.values())


PARTS = ("a name that is long", "a", "b", "_", " ", "\n", "这", "…", " (1)", "with its end")
NAMES = st.lists(st.lists(st.sampled_from(PARTS), max_size=5).map("".join), max_size=30)


@given(names=NAMES, width=st.integers(12, 40))
def test_different_names_stay_different_within_their_width(names: list[str], width: int) -> None:
    shown = shorten_apart(names, width)
    assert list(shown) == list(dict.fromkeys(names))
    assert len(set(shown.values())) == len(shown)
    assert max(map(cell_len, shown.values()), default=0) <= width
    usual = [shorten(name, width) for name in shown]
    for name, short in zip(shown, usual, strict=True):
        assert usual.count(short) > 1 or shown[name] == short
    assert shown == shorten_apart(names * 2, width)


@given(names=NAMES, width=st.integers(1, 11))
def test_narrow_columns_are_kept_to(names: list[str], width: int) -> None:
    shown = shorten_apart(names, width)
    assert shown == {name: shorten(name, width) for name in names}


def test_a_thousand_names_with_nothing_to_show_are_numbered() -> None:
    names = ["a" * 40 + "b" * (30 + at) for at in range(1000)]
    shown = shorten_apart(names, 16)
    assert len(set(shown.values())) == 1000
    assert put_on_one_line(shown[names[7]]) == shown[names[7]]


@pytest.mark.parametrize("name", ["cafe\u0301" * 9, "\u0e23\u0e49\u0e32\u0e19\u0e2d" * 9])
def test_the_end_of_a_name_begins_with_no_mark(name):
    for width in range(7, 30):
        start, end = cut_middle(name, width).split("…")
        assert name.startswith(start)
        assert name.endswith(end)
        assert not unicodedata.category(end[:1] or "x").startswith("M")
