"""Names of encodings, and which can be decoded line by line."""

from __future__ import annotations

import pytest

from bertfit.text_encoding import find_encoding_problem, is_line_wise


@pytest.mark.parametrize("name", ["utf-8", "UTF8", "cp1252", "latin-1", "shift_jis", "gb18030"])
def test_encodings_with_plain_ascii_are_read_line_by_line(name):
    assert find_encoding_problem(name) is None
    assert is_line_wise(name)


@pytest.mark.parametrize("name", ["utf-16", "utf-16-le", "utf-32", "cp037"])
def test_other_encodings_are_known_too(name):
    assert find_encoding_problem(name) is None
    assert not is_line_wise(name)


@pytest.mark.parametrize("name", ["", " ", "rot13", "base64", "idna", "x\0y", "no such", "ü"])
def test_what_is_no_encoding_of_text_is_refused(name):
    assert find_encoding_problem(name) == (
        f"expected the name of an encoding, such as cp1252 or utf-16, got {name!r}"
    )


def test_a_near_name_is_offered():
    assert str(find_encoding_problem("cp125")).endswith("Did you mean 'cp1252'?")
