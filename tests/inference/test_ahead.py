"""Items arrive in order, the next one is prepared in advance, and errors keep their place."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bertfit.inference.ahead import make_ahead


def same(item):
    return item


def test_what_is_made_comes_in_the_order_of_the_items():
    assert list(make_ahead(lambda number: number * 2, range(100))) == list(range(0, 200, 2))
    assert list(make_ahead(same, [])) == []


def test_the_next_one_is_made_while_one_is_used():
    made = {item: threading.Event() for item in ("first", "second")}

    def make(item):
        made[item].set()
        return item

    ahead = make_ahead(make, made)
    assert next(ahead) == "first"
    assert made["second"].wait(timeout=20), "the second was not begun before it was asked for"
    assert next(ahead) == "second"


def test_no_more_than_one_is_made_ahead():
    made = []
    ahead = make_ahead(made.append, range(50))
    next(ahead)
    next(ahead)
    assert len(made) <= 3
    ahead.close()


def test_items_are_asked_for_on_the_callers_thread():
    """A thread that waits for a terminal would outlive Ctrl-C."""

    def items():
        for _ in range(3):
            yield threading.current_thread()

    assert set(make_ahead(same, items())) == {threading.current_thread()}


def fail_second(number):
    if number == 2:
        raise ValueError("the second cannot be made")
    return number


def without_second():
    yield 1
    raise ValueError("the second cannot be made")


@pytest.mark.parametrize(("make", "items"), [(same, without_second()), (fail_second, [1, 2, 3])])
def test_an_error_comes_where_the_result_would_have_come(make, items):
    ahead = make_ahead(make, items)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second cannot be made"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.mark.parametrize(("make", "items"), [(same, without_second()), (fail_second, [1, 2, 3])])
def test_where_no_thread_can_be_started_nothing_is_made_ahead(make, items, monkeypatch):
    """As in a worker thread that outlives the main one, and at Python's exit."""

    def refuse(*_):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    assert list(make_ahead(same, range(3))) == [0, 1, 2]
    ahead = make_ahead(make, items)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second cannot be made"):
        next(ahead)


def test_who_stops_early_leaves_no_thread():
    ahead = make_ahead(same, range(10))
    next(ahead)
    ahead.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("bertfit-ahead")]
