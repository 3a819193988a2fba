"""Labels: normalization of values, and the order of names."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertfit.labels import (
    encode_labels,
    find_alike,
    find_joined,
    guess_label,
    match_spelling,
    normalize_label,
    quote_apart,
    sort_label_names,
)

# As text() takes by itself, which takes seconds to find out what UTF-8 can encode.
ANY_CHARACTER = st.characters(exclude_categories=["Cs"])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (" pos ", "pos"),
        ("ünïcode", "ünïcode"),
        (True, "true"),
        (np.bool_(False), "false"),
        (3, "3"),
        (-1, "-1"),
        (np.int64(7), "7"),
        (3.0, "3"),
        (np.float32(2.0), "2"),
        (Decimal(12345678901234567890), "12345678901234567890"),
        (Decimal("1.00"), "1"),
        (None, None),
        ("", None),
        ("  ", None),
        (float("nan"), None),
        (Decimal("sNaN"), None),
        (pd.NA, None),
        (pd.NaT, None),
    ],
)
def test_a_value_becomes_its_name(value, name):
    assert normalize_label(value) == name


@pytest.mark.parametrize(
    "value",
    [
        *(0.5, ["pos"], {"a": 1}, float("inf"), Decimal("0.5"), Decimal("Infinity")),
        *(pytest.param(10**5000, id="huge"), pytest.param(-(10**5000), id="huge and negative")),
        *(Decimal("1E+5000"), Decimal("1E+999999"), Fraction(10**400)),
    ],
)
def test_what_cannot_be_a_class_is_refused(value):
    with pytest.raises(TypeError) as caught:
        normalize_label(value)
    expected = "a label is a string, an integer or a boolean, not this "
    assert str(caught.value) == f"{expected}{type(value).__name__}"


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (["True", "False"], ["false", "true"], ["true", "false"]),
        (["true", "false"], ["False", "True"], ["True", "False"]),
        (["0.0", "1.0", "1"], ["0", "1"], ["0", "1", "1"]),
        (["1", "-2"], ["-2.0", "1.0"], ["1.0", "-2.0"]),
        (["True", "maybe"], ["false", "true"], ["true", "maybe"]),
        (["1.5", "1.00", "POS"], ["1", "pos"], ["1.5", "1.00", "POS"]),
        (["01", "+2", "-03.0"], ["1", "2", "-3"], ["1", "2", "-3"]),
        (["1", "0"], ["01", "00"], ["01", "00"]),
        (["1"], ["01", "001"], ["1"]),
        (["TRUE"], ["True", "true"], ["TRUE"]),  # which of them is meant, nobody knows
        (["cafe\u0301"], ["caf\u00e9"], ["caf\u00e9"]),
        (["cafe\u0301"], ["caf\u00e9", "cafe\u0301"], ["cafe\u0301"]),
        (["1,0", "-2,0"], ["-2", "1"], ["1", "-2"]),  # a spreadsheet's numbers
        (["1,0", "2"], ["0", "1", "2"], ["1,0", "2"]),  # two labels, maybe
        (["toxic,0", "mild,0"], ["0", "mild", "toxic"], ["toxic,0", "mild,0"]),
    ],
)
def test_the_same_value_may_be_spelt_otherwise(labels, names, expected):
    assert match_spelling(labels, names) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["01", "1"],
        ["+1", "1"],
        ["-007", "-7.0"],
        ["+0", "-0", "0", "000"],
        ["Yes", "yes"],
        ["1", "\uff11"],
        ["\u2764", "\u2764\ufe0f"],
        ["\u0130yi", "iyi"][::-1],
        ["SIKICI", "s\u0131k\u0131c\u0131"],
        ["01" + "0" * 9000, "1" + "0" * 9000],  # more digits than `int` reads
    ],
)
def test_names_of_one_value_are_alike(names):
    assert find_alike(names) == [names]


@pytest.mark.parametrize(
    "names",
    [
        ["1", "10", "100"],
        ["1", "-1"],
        ["1", "1.5", "1.00"],
        ["-1", "+-1"],
        ["01a", "1a"],
        ["0", ".0"],
        ["kir", "k\u0131r"],
    ],
)
def test_names_of_different_values_are_not_alike(names):
    assert find_alike(names) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["GEBÜHR für", "Gebühr für"], ["'GEBÜHR für'", "'Gebühr für'"]),
        (["Ä müll", "Ä mu\u0308ll"], ["'Ä m\\xfcll'", "'Ä mu\\u0308ll'"]),
        (["Müll", "m\xfcll", "mu\u0308ll"], ["'Müll'", "'m\\xfcll'", "'mu\\u0308ll'"]),
        (["für", "für\u200b"], ["'für'", "'für\\u200b'"]),
        (["a ü", "a\xa0ü"], ["'a ü'", "'a\\xa0ü'"]),
        (["1", "\uff11"], ["'1'", "'\\uff11'"]),
        (["it's ü", "it's u\u0308"], ['"it\'s \\xfc"', '"it\'s u\\u0308"']),
        (["yes", "Yes"], ["'yes'", "'Yes'"]),
    ],
)
def test_only_what_tells_names_apart_and_is_not_seen_is_escaped(names, expected):
    assert quote_apart(names) == expected


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("lable", "label"),
        ("poss", "pos"),
        ("ps", "pos"),
        ("possitive", "Positive"),
        ("nuetral", "neutral"),
        ("POS", "pos"),
        ("topup_failed", "top_up_failed"),
        ("Sci Tech", "sci/tech"),
        ("pending_top_upp", "pending_top_up"),
        ("transfer_not_recieved_by_recipeint", "transfer_not_received_by_recipient"),
        ("sttar 3", "star 3"),
        ("Gebuhr", "Gebühr"),
    ],
)
def test_a_name_is_guessed_from_a_typing_mistake(label, name):
    assert guess_label(label, ["other", name, "card_arrival"]) == f" Did you mean {name!r}?"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("transfer_fee_charged", "card_payment_fee_charged"),
        ("virtual_card_not_working", "card_not_working"),
        ("card_not_working", "card_working"),
        ("get_physical_card", "order_physical_card"),
        ("top_up_by_card_charge", "top_up_by_cash_charge"),
        ("not_entailment", "entailment"),
        ("traansfer_feee_chargedd_nowe", "transfer_fee_charged_now"),  # too many mistakes
        ("star 3", "star 1"),
        ("100", "101"),
        ("-1", "1"),
        ("c++", "c+"),
        ("fine", "pos"),
    ],
)
def test_a_label_that_differs_in_a_word_or_a_number_is_no_typing_mistake(label, name):
    assert not guess_label(label, ["other", name])


def test_of_several_names_the_nearest_is_guessed():
    assert guess_label("card_arival", ["card_rival", "card_arrival"]).endswith("'card_arrival'?")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pos", "neg", "pos"], ["neg", "pos"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["true", "false"], ["false", "true"]),
        (["2", "02"], ["02", "2"]),
        (["²", "1"], ["1", "²"]),
        (["9" * 5000, "9", "10"], ["10", "9", "9" * 5000]),  # too many digits to be converted
        ([], []),
    ],
)
def test_names_stand_in_their_order(names, expected):
    assert sort_label_names(names) == expected


@given(st.lists(st.text(ANY_CHARACTER, max_size=3) | st.integers().map(str)), st.randoms())
def test_the_order_of_names_never_depends_on_the_order_of_rows(
    names: list[str], order: random.Random
):
    shuffled = order.sample(names, len(names))
    assert sort_label_names(shuffled) == sort_label_names(names)


def test_the_id_of_a_label_is_its_place():
    assert encode_labels(["pos", "neg", "pos"], ["neg", "pos"]) == [1, 0, 1]


def test_a_label_without_a_name_is_an_error():
    with pytest.raises(KeyError, match="other"):
        encode_labels(["other"], ["neg", "pos"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a|b", "c", "a|b,c"], ["a|b,c"]),
        (["a", "b;c", "a,b;c", "b", "c"], ["a,b;c", "b;c"]),
        (["a", "a|b"], []),
        (["好", "坏", "好\u3001坏", "好\uff0c坏"], ["好\u3001坏", "好\uff0c坏"]),
    ],
)
def test_labels_joined_by_any_sign_are_found(names, expected):
    assert find_joined(names) == expected


def test_classes_without_names_are_known_by_number_in_any_order():
    names = sort_label_names([f"LABEL_{number}" for number in range(12)])
    assert names[2] == "LABEL_10"
    assert list(match_spelling(["10", "2", "12"], names)) == ["LABEL_10", "LABEL_2", "12"]
