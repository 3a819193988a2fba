"""Items come in order, the next one is made meanwhile, and errors keep their place."""

from __future__ import annotations

import threading

import pytest

from bertfit.inference.ahead import make_ahead


def test_items_come_in_their_order():
    assert list(make_ahead(iter(range(100)))) == list(range(100))
    assert list(make_ahead(iter([]))) == []


def test_the_next_item_is_made_while_one_is_used():
    made = threading.Event()

    def items():
        yield "first"
        made.set()
        yield "second"

    ahead = make_ahead(items())
    assert next(ahead) == "first"
    assert made.wait(timeout=20), "the second item was not begun before it was asked for"
    assert next(ahead) == "second"


def test_no_more_than_one_item_is_made_ahead():
    made = []
    ahead = make_ahead(made.append(number) or number for number in range(50))
    next(ahead)
    next(ahead)
    assert len(made) <= 3
    ahead.close()


def test_an_error_comes_where_its_item_would_have_come():
    def items():
        yield 1
        raise ValueError("the second cannot be made")

    ahead = make_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second cannot be made"):
        next(ahead)


def test_who_stops_early_leaves_no_thread():
    ahead = make_ahead(iter(range(10)))
    next(ahead)
    ahead.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("bertfit-ahead")]
